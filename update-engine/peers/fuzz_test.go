package peers

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/fleet-init/fleet/update-engine/payload"
)

// FuzzHandler asks for frames that may or may not be: what is given has the hash that was asked for, and nothing else is ever read or kept.
func FuzzHandler(f *testing.F) {
	o := &origin{file: []byte("a frame of a file that the origin has")}
	good := payload.Sum(o.file[2:7]).String()
	f.Add("GET", "/frames/"+good, "file=f&off=2&len=5")
	f.Add("GET", "/frames/"+good, "file=f&off=2&len=6")
	f.Add("GET", "/frames/"+good, "file=../f&off=-1&len=9223372036854775807")
	f.Add("PUT", "/frames/../"+good, "")
	f.Fuzz(func(t *testing.T, method, path, query string) {
		asked := bounded{o}
		s := &Share{Origin: asked, Hosts: func() []Host { return nil }, Self: "m", Cache: Cache{Dir: t.TempDir(), Max: 1 << 20}}
		req, err := http.NewRequest(method, "http://m/", nil)
		if err != nil {
			return // no client can send it
		}
		req.URL = &url.URL{Scheme: "http", Host: "m", Path: path, RawQuery: query}
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, req)
		if w.Code >= 500 {
			t.Errorf("%d %s", w.Code, w.Body)
		}
		if w.Code == http.StatusOK && method == http.MethodGet && w.Header().Get("Content-Type") == "application/octet-stream" {
			var want payload.Hash
			if err := want.UnmarshalText([]byte(req.PathValue("sum"))); err != nil || payload.Sum(w.Body.Bytes()) != want {
				t.Errorf("%s?%s gives %q", path, query, w.Body)
			}
		}
	})
}

// bounded is an origin that says no to what it does not have, as a web server does.
type bounded struct{ *origin }

func (b bounded) Fetch(ctx context.Context, file string, spans []payload.Span, take func(int, []byte) error) error {
	for _, s := range spans {
		if s.Off < 0 || s.Len <= 0 || s.Len > maxFrame {
			panic("a span that cannot be")
		}
		if s.Off > int64(len(b.file)) || s.Len > int64(len(b.file))-s.Off {
			return errors.New("416 Range Not Satisfiable")
		}
	}
	return b.origin.Fetch(ctx, file, spans, take)
}

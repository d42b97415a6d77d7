package omaha

import (
	"context"
	"encoding/xml"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// anyDecider answers by the version that the client says.
type anyDecider struct{}

func (anyDecider) Decide(_ context.Context, c Client) (Verdict, error) {
	switch {
	case c.AppID == "":
		return Verdict{}, ErrUnknownApp
	case c.Version == "":
		return Verdict{}, errors.New("the store is away")
	case c.Version < "2":
		return Verdict{Release: &Release{Version: "2.0.0", CodeBases: []string{"https://a"}, File: "u.gz", Size: 5, SHA256: sum()}}, nil
	}
	return Verdict{Poll: time.Minute}, nil
}

func (anyDecider) Happened(_ context.Context, c Client, _ Event) error {
	if c.MachineID == "" {
		return errors.New("who are you")
	}
	return nil
}

// FuzzHandler sends anything to the server: the answer is a refusal in words, or a document with one answer for each app that our own client
// can read, the app's name in it as it was sent.
func FuzzHandler(f *testing.F) {
	h := Host{AppID: "{e96281a6-d1af-4bde-9a0a-97b76e56dc57}", Version: "1.0.0", Track: "stable", Board: "amd64-usr", MachineID: "m", BootID: "b1"}
	for _, r := range []Request{h.Ask(true, Complete("0.9.0")), h.Ask(false, DownloadStarted())} {
		b, err := xml.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add("POST", b)
	}
	f.Add("POST", []byte(`<request protocol="3.0"><app appid="&#x1;"/><app><updatecheck/></app></request>`))
	f.Add("GET", []byte(nil))
	handler := Handler(anyDecider{})
	f.Fuzz(func(t *testing.T, method string, body []byte) {
		req, err := http.NewRequest(method, "http://fleet/v1/update/", strings.NewReader(string(body)))
		if err != nil {
			return // no client can send it
		}
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, req)
		if w.Code != http.StatusOK {
			if w.Code >= 500 || w.Body.Len() == 0 {
				t.Errorf("%d %q", w.Code, w.Body)
			}
			return
		}
		var asked Request
		if err := xml.Unmarshal(body, &asked); err != nil {
			t.Fatalf("%q was answered: %v", body, err)
		}
		r, err := ParseResponse(w.Body.Bytes())
		if err != nil || len(r.Apps) != len(asked.Apps) {
			t.Fatalf("%d apps, answered with %s: %v", len(asked.Apps), w.Body, err)
		}
		for i, a := range r.Apps {
			if a.ID != asked.Apps[i].ID || len(a.Events) != len(asked.Apps[i].Events) {
				t.Errorf("app %q with %d events is answered as %q with %d", asked.Apps[i].ID, len(asked.Apps[i].Events), a.ID, len(a.Events))
			}
		}
	})
}

package reboot

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/fleet-init/fleet/internal/kv"
)

// FuzzFleetLock sends anything as a FleetLock client, with anything in the store: an answer is 200, or says what kind of refusal it is; and never do
// more machines get a permit than there are.
func FuzzFleetLock(f *testing.F) {
	const body = `{"client_params":{"id":"m1","group":"default"}}`
	f.Add("POST", "/v1/pre-reboot", body, "true", "")
	f.Add("POST", "/v1/steady-state", body, "true", `{"v":1,"max":1,"holders":[{"id":"m1"}]}`)
	f.Add("POST", "/v1/pre-reboot", `{"client_params":{"id":"m1","group":"../x"}}`, "true", `{"v":9}`)
	f.Add("POST", "/v1/pre-reboot", `[]`, "", `{"v":1,"holders":null,"max":-1}`)
	f.Fuzz(func(t *testing.T, method, path, body, header, stored string) {
		p := Permits{Store: kv.NewMemory(time.Now), Prefix: "/fleet/"}
		if stored != "" {
			if _, _, err := p.Store.Txn(t.Context(), nil, []kv.Op{{Key: "/fleet/reboot/default", Value: []byte(stored)}}); err != nil {
				t.Fatal(err)
			}
		}
		h := FleetLock(p, func(context.Context) (Cluster, []kv.Guard, error) { return Cluster{}, nil, nil })
		send := func(method, path, body, header string) int {
			req, err := http.NewRequest(method, "http://fleet", strings.NewReader(body))
			if err != nil {
				return 0 // no client can send it
			}
			req.URL.Path = path
			if header != "" {
				req.Header["Fleet-Lock-Protocol"] = []string{header}
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, req)
			var said struct{ Kind, Value string }
			if strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") && (json.Unmarshal(w.Body.Bytes(), &said) != nil || said.Kind == "" || said.Value == "") {
				t.Errorf("%s %s %q: %d %s", method, path, body, w.Code, w.Body)
			}
			return w.Code
		}
		before, _ := p.Get(t.Context(), "default")
		send(method, path, body, header)
		held := 0
		for _, id := range []string{"one", "two"} {
			if send("POST", "/v1/pre-reboot", `{"client_params":{"id":"`+id+`","group":"default"}}`, "true") == http.StatusOK {
				held++
			}
		}
		s, err := p.Get(t.Context(), "default")
		if err != nil {
			if held > 0 || !strings.Contains(err.Error(), "/fleet/reboot/default") {
				t.Errorf("%d hold permits of a semaphore that reads %v", held, err)
			}
			return
		}
		// What was stored may hold more than there are; none is added to that.
		if most := max(s.Limit(0), len(before.Holders)); len(s.Holders) > most {
			t.Errorf("%d hold permits, of %d", len(s.Holders), most)
		}
	})
}

package authority

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/pki"
)

// FuzzRecords puts anything where a record of the CA, the seats, a token or a certificate is: nobody gets a certificate by it that the token does
// not name, the others' tokens go on working as long as the CA is whole, and every error says what was read.
func FuzzRecords(f *testing.F) {
	f.Add("ca", `{"v":1,"generation":1}`)
	f.Add("ca", `{"v":1,"bundle":["-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"],"key":"x","cross":"y"}`)
	f.Add("seats", `{"v":1,"seats":null}`)
	f.Add("tokens/bad", `{"v":1,"id":"bad","role":"voter","uses":-1,"keys":["a b"]}`)
	f.Add("issued/"+h2, `{"v":1,"role":"host","notAfter":"9999-01-01T00:00:00Z","key":"x"}`)
	f.Add("issued/", `[]`)
	f.Add("held/x", `{"v":1,"name":"ann","role":"viewer","serial":"1","notAfter":"9999-01-01T00:00:00Z"}`)
	f.Add("revoked/x", `{"v":1,"name":"bob","role":"viewer","at":"9999-01-01T00:00:00Z","until":"9999-01-01T00:00:00Z"}`)
	f.Add("revoked/y", `{"v":1,"key":"x","until":"x"}`)
	f.Fuzz(func(t *testing.T, key, value string) {
		r := newRig(t)
		token := r.token(Token{Role: pki.Viewer, Name: "ann", Uses: 3}, time.Hour)
		if key == "tokens/"+token.ID {
			return
		}
		if _, _, err := r.store.Txn(t.Context(), nil, []kv.Op{{Key: "/fleet/pki/" + key, Value: []byte(value)}}); err != nil {
			return // no key that can be
		}
		named := func(what string, err error) {
			if err != nil && strings.TrimSpace(err.Error()) == "" {
				t.Errorf("%s: an error without words", what)
			}
		}
		_, err := r.State(t.Context())
		named("state", err)
		whole := err == nil
		g, err := r.join(token, "", request(t))
		if key != "ca" && !strings.HasPrefix(key, "revoked/") && err != nil {
			t.Errorf("%s=%q: ann cannot join: %v", key, value, err)
		}
		if err == nil && (!whole || g.Identity != pki.Identity{Role: pki.Viewer, Name: "ann"}) {
			t.Errorf("%s=%q: joined as %v", key, value, g.Identity)
		}
		_, err = r.Tokens(t.Context())
		named("tokens", err)
		_, err = r.Certificates(t.Context())
		named("certificates", err)
		_, err = r.RevokeCertificate(t.Context(), "ann", pki.Identity{Role: pki.Admin, Name: "eve"}, "admin eve", false)
		named("revoke", err)
		_, _, err = r.Late(t.Context(), 1, []string{h1})
		named("late", err)
		_, _, err = r.Seat(t.Context(), pki.Identity{Role: pki.Host, Name: h2}, request(t), "10.0.0.2", []string{"10.0.0.1"}, 3)
		named("seat", err)
		_, err = r.Rotate(t.Context())
		named("rotate", err)
		_, err = r.Finish(t.Context(), []string{h1}, true)
		named("finish", err)
	})
}

// FuzzSeed reads the files seed.json and ca.json: what is taken can sign and is written back as it was.
func FuzzSeed(f *testing.F) {
	s, _, err := NewSeed(time.Now(), 3, time.Hour, []string{"10.0.0.1:2378"})
	if err != nil {
		f.Fatal(err)
	}
	text, err := json.Marshal(s)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"v":1,"ca":"","key":"","tokens":[null]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var s Seed
		if json.Unmarshal(text, &s) != nil {
			return
		}
		ca, tokens, err := s.Parse()
		if err != nil {
			if !strings.Contains(err.Error(), "seed") {
				t.Errorf("%v does not say what was read", err)
			}
			return
		}
		if len(tokens) != len(s.Tokens) {
			t.Errorf("%d tokens of %d", len(tokens), len(s.Tokens))
		}
		r, err := pki.ParseRequest(request(t))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ca.Issue(r, pki.Identity{Role: pki.Admin, Name: "ann"}, time.Now()); err != nil {
			t.Logf("it cannot sign: %v", err) // a key of another CA, say
		}
	})
}

// FuzzJoin comes with anything in the place of a token and a request: nobody gets in who does not hold the secret.
func FuzzJoin(f *testing.F) {
	f.Add("id", "secret", []byte("-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n"), h2, int64(0))
	f.Add("", "", []byte(nil), "", int64(1)<<62)
	f.Fuzz(func(t *testing.T, id, secret string, text []byte, machine string, clock int64) {
		r := newRig(t)
		r.token(Token{Role: pki.Admin, Uses: 1}, time.Hour)
		for _, text := range [][]byte{text, request(t)} {
			_, err := r.Join(t.Context(), Join{ID: id, Secret: secret, Request: text, Machine: machine, Clock: time.Unix(clock, 0)})
			if err == nil {
				t.Fatalf("%q joined with secret %q", id, secret)
			}
			if !errors.Is(err, fleet.ErrForbidden) && !errors.Is(err, fleet.ErrInvalid) {
				t.Errorf("%v is neither a refusal nor the asker's mistake", err)
			}
		}
	})
}

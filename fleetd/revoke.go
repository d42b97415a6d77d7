package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/authority"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/pki"
)

// What the API says of certificates that were issued, and that are revoked.

func (o office) certificates(w http.ResponseWriter, r *http.Request, _ string) error {
	list, err := o.authority.Certificates(r.Context())
	if err != nil {
		return err
	}
	out := api.Certificates{Certificates: []api.IssuedCertificate{}}
	for _, c := range list {
		out.Certificates = append(out.Certificates, wireCertificate(c))
	}
	api.Reply(w, http.StatusOK, out)
	return nil
}

func wireCertificate(c authority.Certificate) api.IssuedCertificate {
	return api.IssuedCertificate{Serial: c.Serial, Key: c.Key, Role: api.Role(c.Role), Name: c.Name, Token: c.Token, Issued: c.At, Until: c.Until, Revoked: c.Revoked, By: c.By}
}

func (o office) revokeCertificate(w http.ResponseWriter, r *http.Request, word string) error {
	api.Noted(r.Context(), "revoke certificate "+word)
	who := api.CallerOf(r.Context())
	revoke := func(word string) ([]pki.Revoked, error) {
		return o.authority.RevokeCertificate(r.Context(), word, pki.Identity{Role: pki.Role(who.Role), Name: who.Name}, who.String(), r.URL.Query().Get("force") == "true")
	}
	list, err := revoke(word)
	if errors.Is(err, fleet.ErrNotFound) {
		// Certificates name machines by their ID, people call them by name.
		machines, merr := o.registry.Machines(r.Context())
		if merr != nil {
			return merr
		}
		for _, m := range machines {
			if m.Name == word {
				list, err = revoke(string(m.ID))
			}
		}
	}
	if err != nil {
		return err
	}
	for _, g := range list {
		o.log.Info("certificate revoked", "of", fmt.Sprint(g.Role, " ", g.Name), "serial", g.Serial, "by", g.By)
	}
	api.Reply(w, http.StatusOK, api.Revocation{Revoked: wireRevoked(list)})
	return nil
}

func wireRevoked(list []pki.Revoked) []api.RevokedCertificates {
	out := []api.RevokedCertificates{}
	for _, g := range list {
		out = append(out, api.RevokedCertificates{Key: g.Key, Role: api.Role(g.Role), Name: g.Name, Serial: g.Serial, At: g.At, Until: g.Until, By: g.By})
	}
	return out
}

func revokedOf(list []api.RevokedCertificates) []pki.Revoked {
	var out []pki.Revoked
	for _, g := range list {
		out = append(out, pki.Revoked{Key: g.Key, Role: pki.Role(g.Role), Name: g.Name, Serial: g.Serial, At: g.At, Until: g.Until, By: g.By})
	}
	return out
}

// revokedID names a list in a question.
func revokedID(list []pki.Revoked) string {
	if len(list) == 0 {
		return ""
	}
	text, err := json.Marshal(list)
	if err != nil {
		panic(err) // strings, and times that JSON has brought
	}
	return pki.SecretHash(string(text))[:16]
}

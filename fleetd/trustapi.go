package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fleet-init/fleet/fleetd/member"
	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/authority"
	"github.com/fleet-init/fleet/internal/pki"
)

// office answers for the cluster's certificates on the API. It works on hosts that hold the store; elsewhere the store refuses.
type office struct {
	*host
	authority *authority.Authority
}

func (o office) routes() map[string]api.Route {
	return map[string]api.Route{
		"join":        {"POST": o.join},
		"certificate": {"POST": o.renew},
		"seat":        {"POST": o.seat},
		"ca":          {"GET": o.showCA, "POST": o.changeCA},
		"tokens":      {"GET": o.tokens, "POST": o.createToken},
		"tokens/":     {"DELETE": o.revoke},

		"certificates":  {"GET": o.certificates},
		"certificates/": {"DELETE": o.revokeCertificate},

		"whoami": {"GET": o.whoAmI},
		"audit":  {"GET": o.audit},
	}
}

func (o office) join(w http.ResponseWriter, r *http.Request, _ string) error {
	var in api.JoinRequest
	if err := api.ReadJSON(w, r, &in); err != nil {
		return err
	}
	api.Noted(r.Context(), "join by token "+in.ID)
	g, err := o.authority.Join(r.Context(), authority.Join{ID: in.ID, Secret: in.Secret, Request: []byte(in.Request), Machine: in.Machine, Clock: in.Clock})
	if err != nil {
		return err
	}
	api.Noted(r.Context(), fmt.Sprintf("join by token %s as %s", in.ID, g.Identity))
	return o.give(w, r, g)
}

// give answers with a certificate and where to find the voters.
func (o office) give(w http.ResponseWriter, r *http.Request, g authority.Grant) error {
	voters, stores, err := o.voters(r.Context())
	if err != nil {
		return err
	}
	api.Reply(w, http.StatusOK, api.Certificate{
		Chain: string(pki.CertsPEM(g.Chain...)), Bundle: string(pki.CertsPEM(g.Bundle...)), Generation: g.Generation,
		Role: api.Role(g.Identity.Role), Name: g.Identity.Name, Voters: voters, Stores: stores,
	})
	return nil
}

// known is a caller as certificates know it. Who came in by the socket has none.
func known(r *http.Request) (pki.Identity, error) {
	c := api.CallerOf(r.Context())
	if r.TLS == nil {
		return pki.Identity{}, api.Refuse(http.StatusBadRequest, "there is no certificate to renew on this connection")
	}
	return pki.Identity{Role: pki.Role(c.Role), Name: c.Name, NoVote: c.NoVote}, nil
}

func (o office) renew(w http.ResponseWriter, r *http.Request, _ string) error {
	var in api.CertificateRequest
	who, err := known(r)
	if err == nil {
		err = api.ReadJSON(w, r, &in)
	}
	if err != nil {
		return err
	}
	g, err := o.authority.Renew(r.Context(), who, []byte(in.Request))
	if err != nil {
		return err
	}
	return o.give(w, r, g)
}

// seat gives a host a voter's certificate if there is room for one more voter.
func (o office) seat(w http.ResponseWriter, r *http.Request, _ string) error {
	var in api.CertificateRequest
	who, err := known(r)
	if err == nil {
		err = api.ReadJSON(w, r, &in)
	}
	if err != nil {
		return err
	}
	from, _, _ := net.SplitHostPort(r.RemoteAddr)
	g, ok, err := o.authority.Seat(r.Context(), who, []byte(in.Request), unmapped(from), memberAddrs(o.member.Status().Members), o.cfg.ClusterSize)
	if err != nil {
		return err
	}
	if !ok {
		api.Reply(w, http.StatusOK, api.Certificate{})
		return nil
	}
	o.log.Info("a host has a seat among the voters", "machine", who.Name, "from", from)
	return o.give(w, r, g)
}

func unmapped(addr string) string {
	if a, err := netip.ParseAddr(addr); err == nil {
		return a.Unmap().WithZone("").String()
	}
	return addr
}

// memberAddrs are where the members of the store are.
func memberAddrs(members []member.Info) (list []string) {
	for _, m := range members {
		host := ""
		for _, p := range m.Peers {
			if u, err := url.Parse(p); err == nil {
				host = unmapped(u.Hostname())
			}
		}
		list = append(list, host)
	}
	return list
}

// voters are where those that vote serve the API and the store. A host that is on its own has no address for either.
func (o office) voters(ctx context.Context) (apis, stores []string, err error) {
	st := o.member.Status()
	s, err := o.registry.Snapshot(ctx)
	if err != nil {
		return nil, nil, err
	}
	var votes []string
	for _, m := range st.Members {
		for _, c := range m.Clients {
			if u, err := url.Parse(c); err == nil && !m.Learner {
				votes, stores = append(votes, unmapped(u.Hostname())), append(stores, u.Host)
			}
		}
	}
	for _, m := range s.Machines {
		if m.HostAddr.IsValid() && (st.Role == member.External || slices.Contains(votes, m.HostAddr.Addr().Unmap().String())) {
			apis = append(apis, m.HostAddr.String())
		}
	}
	slices.Sort(apis)
	slices.Sort(stores)
	return apis, stores, nil
}

// maxPoll is how long a question for what is new waits for it.
const maxPoll = time.Minute

func (o office) showCA(w http.ResponseWriter, r *http.Request, _ string) error {
	s, err := o.authority.State(r.Context())
	if err != nil {
		return err
	}
	q := r.URL.Query()
	news := func(s authority.State) bool {
		// A host of an older release does not ask for what is revoked, and would come again at once.
		return q.Get("since") != bundleID(string(pki.CertsPEM(s.Bundle...))) || q.Has("revoked") && q.Get("revoked") != revokedID(s.Revoked)
	}
	if q.Get("since") != "" && !news(s) {
		ctx, cancel := context.WithTimeout(r.Context(), maxPoll)
		defer cancel()
		// Its error is that of the time: then the answer is what it was.
		_ = o.authority.Watch(ctx, func(n authority.State) {
			if s = n; news(n) {
				cancel()
			}
		})
	}
	return o.replyCA(w, r, s)
}

func (o office) replyCA(w http.ResponseWriter, r *http.Request, s authority.State) error {
	out := api.CA{Generation: s.Generation, Bundle: string(pki.CertsPEM(s.Bundle...)), Rotating: s.Rotating,
		Revoked: wireRevoked(s.Revoked), RevokedID: revokedID(s.Revoked)}
	if api.CallerOf(r.Context()).Role == api.AsHost {
		for i := range out.Revoked {
			out.Revoked[i].By = "" // the hosts' affair is who is out, not who said so
		}
	}
	ctx := context.WithoutCancel(r.Context())
	var err error
	if out.Voters, _, err = o.voters(ctx); err != nil {
		return err
	}
	if !s.Rotating.IsZero() && api.CallerOf(r.Context()).Role != api.AsHost {
		machines, err := o.machines(ctx)
		if err != nil {
			return err
		}
		if out.Late, out.People, err = o.authority.Late(ctx, s.Generation, machines); err != nil {
			return err
		}
	}
	api.Reply(w, http.StatusOK, out)
	return nil
}

func (o office) machines(ctx context.Context) (list []string, err error) {
	s, err := o.registry.Snapshot(ctx)
	for id := range s.Machines {
		list = append(list, string(id))
	}
	return list, err
}

func (o office) changeCA(w http.ResponseWriter, r *http.Request, _ string) error {
	var in api.CAChange
	if err := api.ReadJSON(w, r, &in); err != nil {
		return err
	}
	api.Noted(r.Context(), map[bool]string{false: "begin to rotate the CA", true: "finish to rotate the CA"}[in.Finish])
	var s authority.State
	machines, err := o.machines(r.Context())
	if err == nil && in.Finish {
		s, err = o.authority.Finish(r.Context(), machines, in.Force)
	} else if err == nil {
		s, err = o.authority.Rotate(r.Context())
	}
	if err != nil {
		return err
	}
	return o.replyCA(w, r, s)
}

func (o office) tokens(w http.ResponseWriter, r *http.Request, _ string) error {
	list, err := o.authority.Tokens(r.Context())
	if err != nil {
		return err
	}
	out := api.Tokens{Tokens: []api.Token{}}
	for _, t := range list {
		out.Tokens = append(out.Tokens, wireToken(t, ""))
	}
	api.Reply(w, http.StatusOK, out)
	return nil
}

func (o office) createToken(w http.ResponseWriter, r *http.Request, _ string) error {
	var in api.TokenRequest
	if err := api.ReadJSON(w, r, &in); err != nil {
		return err
	}
	ttl := authority.DefaultTTL
	if in.TTL != "" {
		var err error
		if ttl, err = time.ParseDuration(in.TTL); err != nil {
			return api.Refuse(http.StatusBadRequest, fmt.Sprintf("ttl %q: use a time such as 24h", in.TTL))
		}
	}
	voters, _, err := o.voters(r.Context())
	if err != nil {
		return err
	}
	printed, t, err := o.authority.Create(r.Context(), authority.Token{
		Role: pki.Role(in.Role), Name: in.Name, Uses: max(in.Uses, 1), NoVote: in.NoVote, By: api.CallerOf(r.Context()).String(),
	}, ttl, voters)
	if err != nil {
		return err
	}
	api.Noted(r.Context(), fmt.Sprintf("create join token %s for %s", t.ID, strings.TrimSpace(string(t.Role)+" "+t.Name)))
	api.Reply(w, http.StatusCreated, wireToken(t, printed.String()))
	return nil
}

func wireToken(t authority.Token, printed string) api.Token {
	return api.Token{Printed: printed, ID: t.ID, Role: api.Role(t.Role), Name: t.Name, NoVote: t.NoVote, Uses: t.Uses, Used: t.Used,
		Expires: t.Expires, Created: t.Created, By: t.By}
}

func (o office) revoke(w http.ResponseWriter, r *http.Request, id string) error {
	api.Noted(r.Context(), "revoke join token "+id)
	if err := o.authority.Revoke(r.Context(), id); err != nil {
		return err
	}
	return o.tokens(w, r, "")
}

func (o office) whoAmI(w http.ResponseWriter, r *http.Request, _ string) error {
	c := api.CallerOf(r.Context())
	api.Reply(w, http.StatusOK, api.WhoAmI{Role: c.Role, Name: c.Name, From: c.From})
	return nil
}

func (o office) audit(w http.ResponseWriter, r *http.Request, _ string) error {
	n, err := strconv.Atoi(r.URL.Query().Get("lines"))
	if err != nil || n < 1 {
		n = 100
	}
	list, err := o.deeds.Newest(r.Context(), n)
	if err != nil {
		return err
	}
	api.Reply(w, http.StatusOK, api.Deeds{Deeds: list})
	return nil
}

// caller says who makes a request: by certificate on a port, by the kernel's word on a socket.
func (h *host) caller(r *http.Request) api.Caller {
	if r.TLS != nil {
		return h.byCertificate(r.TLS, r.RemoteAddr)
	}
	if p, ok := api.PeerOf(r.Context()); ok {
		name := "uid " + strconv.Itoa(int(p.UID))
		if u, err := user.LookupId(strconv.Itoa(int(p.UID))); err == nil {
			name = u.Username
		}
		return api.Caller{Role: api.Admin, Name: name, From: fmt.Sprintf("socket, pid %d", p.PID)}
	}
	return api.Caller{Role: api.Admin, From: r.RemoteAddr} // insecure=true, or a socket without such words
}

// byCertificate checks anew at each request what the handshake has seen: a connection may be older than the end of a certificate, or of its CA.
func (h *host) byCertificate(s *tls.ConnectionState, from string) api.Caller {
	c := api.Caller{From: from}
	if len(s.PeerCertificates) == 0 || h.trust == nil {
		return c
	}
	if err := h.trust.holder.Verify(s.PeerCertificates); err != nil {
		if errors.Is(err, pki.ErrRevoked) {
			c.Why = err.Error() // its holder is known, and shall know
		}
		return c
	}
	id, err := pki.IdentityOf(s.PeerCertificates[0])
	if err != nil {
		return c
	}
	c.Role, c.Name, c.NoVote = api.Role(id.Role), id.Name, id.NoVote
	return c
}

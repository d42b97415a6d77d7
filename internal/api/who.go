package api

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Role is what a caller may do. The words are those of certificates.
type Role string

const (
	Nobody   Role = ""         // no certificate
	AsHost   Role = "host"     // a host without a vote: lists, no texts and no logs
	Viewer   Role = "viewer"   // looks at everything
	Operator Role = "operator" // units
	Admin    Role = "admin"    // everything: root and the group fleet on the socket
	Voter    Role = "voter"    // a host that holds the store
)

// rank orders roles: each may do what those below may.
func (r Role) rank() int {
	return slices.Index([]Role{Nobody, AsHost, Viewer, Operator, Admin, Voter}, r)
}

// Caller is who makes a request.
type Caller struct {
	Role   Role
	Name   string // of a person; a host's machine ID; on the socket the user
	From   string // address, or the process on the socket
	NoVote bool   // a host that never votes
	Why    string // of Nobody: what is wrong with the certificate that came; empty: none did
}

func (c Caller) String() string { return strings.TrimSpace(string(c.Role) + " " + c.Name) }

// least is the table: the least role for each route. What is not in it is for admins, so that a new route is shut until somebody has thought
// about it.
func least(method, route string) Role {
	roles := map[string]Role{
		"POST join": Nobody, // comes with a token in place of a certificate

		"GET version": AsHost, "GET whoami": AsHost, "GET discovery": AsHost, "GET machines": AsHost, "GET state": AsHost, "GET state/": AsHost,
		"GET units": AsHost, // without the texts, see authorize
		"GET watch": AsHost, "GET explain": AsHost, "GET network": AsHost, "GET brake": AsHost,
		"GET ca": AsHost, "POST certificate": AsHost, "POST seat": AsHost,

		"GET units/": Viewer, "GET members": Viewer, "GET journal": Viewer, "GET processes/": Viewer, "GET metrics": Viewer,
		"GET updates": Viewer, "GET rollouts": Viewer, "GET reboot": Viewer, "GET reboot/": Viewer,

		"PUT units/": Operator, "DELETE units/": Operator, "POST batch": Operator, "POST restart": Operator, "PATCH machines": Operator,
		"POST updates/": Operator, "POST rollouts/": Operator, "POST reboot/": Operator, "GET audit": Operator, "DELETE brake": Operator,

		"GET tokens": Admin, "POST tokens": Admin, "DELETE tokens/": Admin, "POST ca": Admin, "GET certificates": Admin, "DELETE certificates/": Admin,
	}
	if r, ok := roles[method+" "+route]; ok {
		return r
	}
	return Admin
}

// authorize refuses what the caller's role is too small for.
func (h *handler) authorize(r *http.Request, who Caller, route string) error {
	need := least(r.Method, route)
	if route == "units" && need == AsHost && !whole(r) {
		need = Viewer // texts
	}
	switch {
	case who.Role.rank() >= need.rank():
		return nil
	case who.Role == Nobody:
		if who.Why != "" {
			return refuse(http.StatusUnauthorized, who.Why)
		}
		return refuse(http.StatusUnauthorized, "no certificate of this cluster came with the request: fleetctl context add NAME TOKEN gets one, with a token of fleetctl join-token create --role "+string(need))
	case who.Role == AsHost:
		return refuse(http.StatusForbidden, fmt.Sprintf("the certificate of a host without a vote is not enough for this, it needs role %s: do it on a voter, or with a context of your own (fleetctl context add)", need))
	}
	return refuse(http.StatusForbidden, fmt.Sprintf("%s may not do this, it needs role %s: ask for a token of that role (fleetctl join-token create --role %s)", who, need, need))
}

type callerKey struct{}

// CallerOf is who makes a request, in the handlers of Config.More.
func CallerOf(ctx context.Context) Caller {
	n, _ := ctx.Value(callerKey{}).(*note)
	if n == nil {
		return Caller{Role: Admin}
	}
	return n.who
}

// Deed is one change that somebody made or was refused, for the audit.
type Deed struct {
	At     time.Time `json:"at"`
	Who    string    `json:"who"`  // role and name
	From   string    `json:"from"` // address, or the process on the socket
	Host   string    `json:"host,omitempty"`
	Did    string    `json:"did"` // "start", "destroy", "PUT units/a.service"
	Units  []string  `json:"units,omitempty"`
	Code   int       `json:"code"` // HTTP status
	Reason string    `json:"reason,omitempty"`
}

// note collects a Deed while its request is handled.
type note struct {
	who  Caller
	mu   sync.Mutex // guards deed
	deed Deed
}

// Noted adds to the audit what a request is about, beside its path.
func Noted(ctx context.Context, did string, units ...string) {
	n, _ := ctx.Value(callerKey{}).(*note)
	if n == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if did != "" {
		n.deed.Did = did
	}
	n.deed.Units = append(n.deed.Units, units...)
}

// maxDeedUnits bounds what the audit keeps of one request.
const maxDeedUnits = 50

// begin finds out who calls, and hands that down with the request.
func (h *handler) begin(r *http.Request) (*http.Request, *note) {
	who := Caller{Role: Admin}
	if h.Caller != nil {
		who = h.Caller(r)
	}
	n := &note{who: who, deed: Deed{Who: who.String(), From: who.From}}
	return r.WithContext(context.WithValue(r.Context(), callerKey{}, n)), n
}

// end tells the audit of a change, or of one that was refused for the caller's role. Looking is not told.
func (h *handler) end(r *http.Request, n *note, route, item string, err error) {
	code := http.StatusOK
	if err != nil {
		code = toError(err).Code
	}
	changed := r.Method != http.MethodGet && route != "seat" && route != "certificate"
	// Who has no certificate could fill the audit with nothing, until no deed is left in it.
	unknown := n.who.Role == Nobody && err != nil
	if h.Audit == nil || unknown || code == http.StatusServiceUnavailable || !changed && code != http.StatusForbidden {
		return
	}
	n.mu.Lock()
	d := n.deed
	n.mu.Unlock()
	d.At, d.Code = time.Now().UTC(), code
	if d.Did == "" {
		d.Did = r.Method + " " + route + item
	}
	if len(d.Units) > maxDeedUnits {
		d.Units = append(slices.Clone(d.Units[:maxDeedUnits]), fmt.Sprintf("and %d more", len(d.Units)-maxDeedUnits))
	}
	if err != nil {
		d.Reason = err.Error()
	}
	h.Audit(d)
}

// LogDeed writes a change to a log, for the journal.
func LogDeed(log *slog.Logger, d Deed) {
	log.Info("audit", "who", d.Who, "from", d.From, "did", d.Did, "unit", strings.Join(d.Units, " "), "code", d.Code)
}

package omaha

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// ErrAnswer: the server's answer is not one that a client can go by.
var ErrAnswer = errors.New("bad Omaha answer")

// maxBody bounds a document in either direction.
const maxBody = 1 << 20

// Host says who asks.
type Host struct {
	AppID, Version, Track string
	Board                 string // "amd64-usr": Nebraska takes the architecture from what is before the dash
	MachineID             string // 32 hex digits; Nebraska ignores IDs in the form of a UUID
	BootID                string
	OEM                   string
	OnDemand              bool // a person asked
}

// Event is something that happened, as the server's statistics know it.
type Event struct {
	Type, Result, Code int
	Previous           string // version before an update, with UpdateComplete
}

// Below are the events that Nebraska understands. Others it acknowledges and drops.

// DownloadStarted says that the first bytes have come.
func DownloadStarted() Event { return Event{Type: 13, Result: 1} }

// DownloadFinished says that all of them have.
func DownloadFinished() Event { return Event{Type: 14, Result: 1} }

// Installed says that the release will boot next.
func Installed() Event { return Event{Type: 3, Result: 1} }

// Failed ends an update; code is one of update_engine's.
func Failed(code int) Event { return Event{Type: 3, Result: 0, Code: code} }

// Complete says that the release runs, and which one ran before.
func Complete(previous string) Event { return Event{Type: 3, Result: 2, Previous: previous} }

// RolledBack is the code with Failed of a release that came back.
const RolledBack = 44

// name must never be "CoreOSUpdateEngine-0.1.0.0": Nebraska takes that for another Nebraska.
const name = "fleet-update-engine-1.0"

// Ask makes a request. check asks for an update beside the ping; events come along.
func (h Host) Ask(check bool, events ...Event) Request {
	r := Request{Protocol: "3.0", Version: name, UpdaterVersion: name, InstallSource: "scheduler", IsMachine: "1",
		OS: OS{Version: "Fleet", Platform: "Fleet", SP: h.Version}}
	if h.OnDemand {
		r.InstallSource = "ondemandupdate"
	}
	a := AppRequest{ID: h.AppID, Version: h.Version, Track: h.Track, BootID: "{" + h.BootID + "}", OEM: h.OEM, MachineID: h.MachineID, Lang: "en-US",
		Board: h.Board, DeltaOK: "false"}
	if check {
		a.Ping, a.UpdateCheck = &Ping{Active: "1"}, &CheckAsk{}
	}
	for _, e := range events {
		w := EventWords{Type: e.Type, Result: e.Result}
		if e.Result != 1 {
			w.ErrorCode = e.Code
		}
		if e.Type == 3 && e.Result == 2 {
			w.PreviousVersion = &e.Previous
		}
		a.Events = append(a.Events, w)
	}
	r.Apps = []AppRequest{a}
	return r
}

// Offer is what the server wants the host to take.
type Offer struct {
	Version string
	URLs    []string // of the first package
	Size    int64
	SHA256  []byte
}

// Answer is the server's answer to a check: an offer, nothing new, or not now.
type Answer struct {
	Offer *Offer
	Hold  string // why not now; "" = simply nothing new
	Poll  time.Duration
}

// Post sends a request.
func Post(ctx context.Context, client *http.Client, server string, r Request) (Response, error) {
	u, err := url.Parse(server)
	if err != nil {
		return Response{}, err
	}
	if u.Path == "" {
		u.Path = "/v1/update/"
	}
	body, err := xml.Marshal(r)
	if err != nil {
		return Response{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(append([]byte(xml.Header), body...)))
	if err != nil {
		return Response{}, err
	}
	req.Header.Set("Content-Type", "text/xml")
	resp, err := client.Do(req)
	if err != nil {
		return Response{}, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return Response{}, fmt.Errorf("%w: %s", ErrAnswer, resp.Status)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return Response{}, err
	}
	return ParseResponse(b)
}

// ParseResponse reads a response. An empty one is an error: it is how Nebraska answers what it could not read, with 200.
func ParseResponse(b []byte) (Response, error) {
	var r Response
	if err := xml.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	if r.Protocol != "3.0" || len(r.Apps) == 0 {
		return r, fmt.Errorf("%w: protocol %q with %d apps", ErrAnswer, r.Protocol, len(r.Apps))
	}
	return r, nil
}

// Check reads the answer to an update check out of a response.
func (r Response) Check() (Answer, error) {
	a := r.Apps[0]
	if a.UpdateCheck == nil {
		// Nebraska leaves it out when it could not even look: unknown application, disabled.
		if hold, ok := held(a.Status); ok {
			return Answer{Hold: hold}, nil
		}
		return Answer{}, fmt.Errorf("%w: status %q and no updatecheck", ErrAnswer, a.Status)
	}
	c := a.UpdateCheck
	out := Answer{Poll: time.Duration(c.PollInterval) * time.Second}
	if c.Status == "noupdate" {
		return out, nil
	}
	if c.Status != "ok" {
		if hold, ok := held(a.Status); ok {
			out.Hold = hold
			return out, nil
		}
		return out, fmt.Errorf("%w: app %q, updatecheck %q", ErrAnswer, a.Status, c.Status)
	}
	offer, err := c.offer()
	out.Offer = offer
	return out, err
}

// held knows the words with which Nebraska says "not now": they are policy, not failure, and must not be reported as one.
func held(status string) (string, bool) {
	why, ok := map[string]string{
		"error-maxUpdatesPerPeriodLimitReached":   "enough hosts have begun in this period",
		"error-maxConcurrentUpdatesLimitReached":  "enough hosts are updating",
		"error-maxTimedOutUpdatesLimitReached":    "the server has stopped: too many hosts did not come back in time",
		"error-updatesDisabled":                   "updates of this group are switched off at the server",
		"error-updateInProgressOnInstance":        "the server thinks that this host is updating",
		"error-noPackageFound":                    "the channel has no package",
		"error-couldNotCheckUpdatesStats":         "the server could not read its statistics",
		"error-failedToRetrieveUpdatePackageInfo": "the server could not read its package",
	}[status]
	return why, ok
}

func (c CheckAnswer) offer() (*Offer, error) {
	if len(c.Manifests) == 0 || len(c.Manifests[0].Packages) == 0 {
		return nil, fmt.Errorf("%w: an update without a package", ErrAnswer)
	}
	m, p := c.Manifests[0], c.Manifests[0].Packages[0]
	o := &Offer{Version: m.Version, Size: p.Size}
	sum := p.SHA256
	for _, a := range m.Actions {
		if a.Event == "postinstall" && a.SHA256 != "" {
			sum = a.SHA256
		}
	}
	var err error
	if o.SHA256, err = digest(sum); err != nil {
		return nil, err
	}
	var places []URL
	if c.URLs != nil {
		places = c.URLs.URL
	}
	for _, u := range places {
		if u.CodeBase != "" {
			o.URLs = append(o.URLs, strings.TrimSuffix(u.CodeBase, "/")+"/"+p.Name)
		}
	}
	if o.Version == "" || p.Name == "" || p.Size <= 0 || len(o.URLs) == 0 {
		return nil, fmt.Errorf("%w: version %q, package %q of %d bytes, %d URLs", ErrAnswer, m.Version, p.Name, p.Size, len(o.URLs))
	}
	return o, nil
}

// digest reads a SHA-256: base64 by go-omaha and Nebraska, hex by Google.
func digest(s string) ([]byte, error) {
	var b []byte
	var err error
	switch len(s) {
	case 44:
		b, err = base64.StdEncoding.DecodeString(s)
	case 64:
		b, err = hex.DecodeString(s)
	}
	if err != nil || len(b) != 32 {
		return nil, fmt.Errorf("%w: sha256 %q", ErrAnswer, s)
	}
	return b, nil
}

package omaha

import (
	"context"
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"
)

// Client is who asks the server.
type Client struct {
	AppID, Version, Track, MachineID, BootID, Arch string
	Alias                                          string
	OnDemand                                       bool
}

// Release is what the server hands out: one file at URLs.
type Release struct {
	Version        string
	CodeBases      []string // folders that hold File
	File           string
	Size           int64
	SHA1, SHA256   string // base64
	DisableBackoff bool
}

// Verdict is the decision about one client. Release nil: nothing now, whether there is nothing new or it is not this host's turn:
// Flatcar's client takes every other answer for a failure and reports it. Poll is when it shall ask again; 0 = as usual.
type Verdict struct {
	Release *Release
	Poll    time.Duration
}

// ErrUnknownApp: the server has nothing for that application at all.
var ErrUnknownApp = errors.New("unknown application")

// Decider is what is behind the handler.
type Decider interface {
	// Decide answers an update check.
	Decide(ctx context.Context, c Client) (Verdict, error)
	// Happened takes an event, before the check that came with it.
	Happened(ctx context.Context, c Client, e Event) error
}

// Handler answers Omaha clients. What it cannot read is 400, not an empty document with 200.
func Handler(d Decider) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			http.Error(w, "use POST", http.StatusMethodNotAllowed)
			return
		}
		b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			http.Error(w, "request too large", http.StatusBadRequest)
			return
		}
		var req Request
		if err := xml.Unmarshal(b, &req); err != nil {
			http.Error(w, "request: "+err.Error(), http.StatusBadRequest)
			return
		}
		if req.Protocol != "3.0" || len(req.Apps) == 0 {
			http.Error(w, "request: want protocol 3.0 and an app", http.StatusBadRequest)
			return
		}
		resp := Response{Protocol: "3.0", Server: "fleet"}
		for _, a := range req.Apps {
			resp.Apps = append(resp.Apps, one(r.Context(), d, req, a))
		}
		out, err := xml.Marshal(resp)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "text/xml")
		// A client that is gone does not need the answer.
		_, _ = w.Write(append([]byte(xml.Header), out...))
	})
}

// one answers one app: events first, then ping, then the check, which may depend on them.
func one(ctx context.Context, d Decider, req Request, a AppRequest) AppResponse {
	c := Client{AppID: strings.Trim(a.ID, "{}"), Version: a.Version, Track: a.Track, MachineID: strings.Trim(a.MachineID, "{}"),
		BootID: strings.Trim(a.BootID, "{}"), Alias: a.MachineAlias, OnDemand: req.InstallSource == "ondemandupdate"}
	if c.Arch, _, _ = strings.Cut(a.Board, "-"); c.Arch == "" {
		c.Arch = req.OS.Arch
	}
	if c.Arch == "" || c.Arch == "x64" {
		c.Arch = "amd64"
	}
	out := AppResponse{ID: a.ID, Status: "ok"}
	for _, w := range a.Events {
		e := Event{Type: w.Type, Result: w.Result, Code: w.ErrorCode}
		if w.PreviousVersion != nil {
			e.Previous = *w.PreviousVersion
		}
		ack := "ok"
		if err := d.Happened(ctx, c, e); err != nil {
			ack = "error-internal"
		}
		out.Events = append(out.Events, Ack{ack})
	}
	if a.Ping != nil {
		out.Ping = &Ping{Status: "ok"}
	}
	if a.UpdateCheck != nil {
		v, err := d.Decide(ctx, c)
		switch {
		case errors.Is(err, ErrUnknownApp):
			out.Status, out.UpdateCheck = "error-unknownApplication", &CheckAnswer{Status: "error-internal"}
		case err != nil:
			// Our trouble is not the client's failure: nothing now, and it asks again.
			out.UpdateCheck = &CheckAnswer{Status: "noupdate"}
		default:
			out.UpdateCheck = v.answer()
		}
	}
	return out
}

func (v Verdict) answer() *CheckAnswer {
	a := &CheckAnswer{Status: "noupdate", PollInterval: int(v.Poll / time.Second)}
	r := v.Release
	if r == nil {
		return a
	}
	a.Status = "ok"
	a.URLs = &URLs{}
	for _, base := range r.CodeBases {
		a.URLs.URL = append(a.URLs.URL, URL{strings.TrimSuffix(base, "/") + "/"})
	}
	a.Manifests = []Manifest{{Version: r.Version, Packages: []Package{{Name: r.File, SHA1: r.SHA1, SHA256: r.SHA256, Size: r.Size, Required: true}},
		Actions: []Action{{Event: "postinstall", SHA256: r.SHA256, DisablePayloadBackoff: r.DisableBackoff}}}}
	return a
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/coreos/go-semver/semver"

	"github.com/fleet-init/fleet/internal/rollout"
	"github.com/fleet-init/fleet/update-engine/omaha"
)

// foreign is one release for Omaha clients that are none of ours (Flatcar's): its bytes lie on some web server, and are signed as those
// clients check it. Who gets it when is the cluster's rollout's affair, as for our own hosts.
type foreign struct {
	App       string   `json:"app"` // application ID, without braces
	Arch      string   `json:"arch"`
	Track     string   `json:"track"`
	Version   string   `json:"version"`
	CodeBases []string `json:"codebases"` // folders that hold File
	File      string   `json:"file"`
	Size      int64    `json:"size"`
	SHA1      string   `json:"sha1,omitempty"`
	SHA256    string   `json:"sha256"` // base64
}

// decider answers Omaha clients by the cluster's rollouts. Their channel is APP.ARCH.TRACK, their group the track.
type decider struct {
	log      *slog.Logger
	rollouts rollout.Rollouts
	releases func() ([]foreign, error) // read at each check: the file may change
	now      func() time.Time
}

// readForeign reads the list of releases.
func readForeign(file string) func() ([]foreign, error) {
	return func() ([]foreign, error) {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var list []foreign
		if err := json.Unmarshal(b, &list); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		for _, r := range list {
			if _, err := semver.NewVersion(r.Version); err != nil || r.File == "" || r.Size <= 0 || r.SHA256 == "" || len(r.CodeBases) == 0 {
				return nil, fmt.Errorf("%s: release %q of %s: version, codebases, file, size and sha256 are needed", file, r.Version, r.App)
			}
		}
		return list, nil
	}
}

func channelOf(c omaha.Client) string { return c.AppID + "." + c.Arch + "." + c.Track }

// Decide implements omaha.Decider. Without a rollout nobody gets anything: a list alone must not send a release to all hosts at once.
func (d *decider) Decide(ctx context.Context, c omaha.Client) (omaha.Verdict, error) {
	list, err := d.releases()
	if err != nil {
		d.log.Error("answer an Omaha client", "err", err)
		return omaha.Verdict{}, err
	}
	r, ok, err := d.rollouts.Get(ctx, channelOf(c))
	if err != nil {
		return omaha.Verdict{}, err
	}
	known := false
	for _, f := range list {
		if f.App != c.AppID {
			continue
		}
		known = true
		if !ok || f.Arch != c.Arch || f.Track != c.Track || f.Version != r.Version || !newer(f.Version, c.Version) {
			continue
		}
		why, may, err := d.allowed(ctx, c, r)
		if err != nil {
			return omaha.Verdict{}, err
		}
		if !may {
			d.log.Debug("not yet", "machine", c.MachineID, "version", r.Version, "reason", why)
			return omaha.Verdict{Poll: 45 * time.Minute}, nil
		}
		return omaha.Verdict{Release: &omaha.Release{Version: f.Version, CodeBases: f.CodeBases, File: f.File, Size: f.Size, SHA1: f.SHA1, SHA256: f.SHA256}}, nil
	}
	if !known {
		return omaha.Verdict{}, omaha.ErrUnknownApp
	}
	return omaha.Verdict{}, nil
}

// allowed lets a host that has begun go on, unless the rollout was paused or has stopped; one that came back waits for people.
func (d *decider) allowed(ctx context.Context, c omaha.Client, r rollout.Rollout) (why string, ok bool, err error) {
	said, err := d.rollouts.Said(ctx, channelOf(c), c.MachineID, r.Version)
	switch {
	case err != nil:
		return "", false, err
	case said == rollout.CameBack:
		return "it came back on this host", false, nil
	case said == rollout.Took && r.Paused == "" && r.Stopped == "":
		return "", true, nil
	}
	why, ok = r.Allows(rollout.Seed(c.MachineID, r.Version), c.Track, d.now())
	return why, ok, nil
}

func newer(a, b string) bool {
	x, err := semver.NewVersion(a)
	y, err2 := semver.NewVersion(b)
	return err == nil && err2 == nil && y.LessThan(*x)
}

// Happened implements omaha.Decider: what a host says counts it in the rollout.
func (d *decider) Happened(ctx context.Context, c omaha.Client, e omaha.Event) error {
	say, version := rollout.Report(""), ""
	r, ok, err := d.rollouts.Get(ctx, channelOf(c))
	if err != nil || !ok {
		return err
	}
	const complete, started, failed, success, reboot = 3, 13, 0, 1, 2
	switch {
	case e.Type == started && e.Result == success:
		say, version = rollout.Took, r.Version
	case e.Type == complete && e.Result == reboot && e.Previous != "" && e.Previous != "0.0.0.0" && c.Version == r.Version:
		say, version = rollout.Proved, r.Version
	case e.Type == complete && e.Result == failed && c.Version != r.Version:
		// Only one that had begun can come back; a check that failed says nothing of the release.
		if said, err := d.rollouts.Said(ctx, channelOf(c), c.MachineID, r.Version); err != nil || said == "" {
			return err
		}
		say, version = rollout.CameBack, r.Version
	default:
		return nil
	}
	return d.rollouts.Tell(ctx, channelOf(c), c.MachineID, version, say, r.Canary != "" && r.Canary == c.Track, fmt.Sprint("Omaha event ", e.Type, "/", e.Result, " code ", e.Code))
}

// serveOmaha answers Omaha clients on an address of its own, when omaha_listen says so. The protocol knows no proof of who asks.
func serveOmaha(ctx context.Context, address string, d *decider) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("omaha_listen: %w: choose another port, or end what uses it", err)
	}
	s := &http.Server{Handler: omaha.Handler(d), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, BaseContext: func(net.Listener) context.Context { return ctx }}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("omaha_listen: %w", err)
	}
	return nil
}

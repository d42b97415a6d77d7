package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/fleet-init/fleet/internal/reboot"
	"github.com/fleet-init/fleet/internal/rollout"
	"github.com/fleet-init/fleet/update-engine/omaha"
	"github.com/fleet-init/fleet/update-engine/payload"
	"github.com/fleet-init/fleet/update-engine/slot"
	"github.com/fleet-init/fleet/update-engine/trust"
	"github.com/fleet-init/fleet/update-engine/update"
)

// permits is what the host needs of the cluster; cluster.go has the real one.
type permits interface {
	// Take asks for the permit; *reboot.Refusal when there is none now.
	Take(ctx context.Context, from, to string) error
	// Drain has the units moved elsewhere, and then asks whether the permit still holds.
	Drain(ctx context.Context) error
	// GiveBack gives the permit back and takes units again: after a reboot that passed the gate, or without one. No permit is fine.
	GiveBack(ctx context.Context) error
	// Hold is why a release is not for this host yet; "" = it is.
	Hold(ctx context.Context, version string) (string, error)
	// Report counts this host in the rollout of a release.
	Report(ctx context.Context, version string, say rollout.Report, why string) error
	// Reach says whether the cluster can be reached and this host is part of it; errNotJoined when only the latter is missing.
	Reach(ctx context.Context) error
	// Outage says, when Reach has failed, whether it is the cluster that is away and not this host: peers are client URLs of the
	// store's members as they were before.
	Outage(ctx context.Context, peers []string) bool
	// Peers are the client URLs of the store's members.
	Peers(ctx context.Context) ([]string, error)
}

// errNotJoined: the store answers and does not know this host.
var errNotJoined = errors.New("fleetd has not joined the cluster")

// host joins the rooms: it carries out the state machine's actions on this machine.
type host struct {
	cfg     Config
	log     *slog.Logger
	slots   slot.Slots
	permits permits    // nil: strategy without permits
	omaha   *omahaLink // nil: the channel decides
	windows reboot.Windows
	client  *http.Client
	now     func() time.Time
	reboot  func(ctx context.Context, force bool) error
	running string
	share   *sharing // nil: every host for itself
	// ctl asks systemd, as systemctl does; nil: by that program.
	ctl func(ctx context.Context, args ...string) (string, error)
	// logins says what a person here would lose by a reboot; nil: nobody is asked.
	logins func(ctx context.Context) ([]string, error)
	// size of the release that is staged, in bytes; 0 = unknown.
	size atomic.Int64
	// heldUp is since when logins hold this reboot up.
	heldUp time.Time

	// from is a directory named by hand (apply --file); it comes before the mirrors until the daemon ends.
	from      atomic.Pointer[string]
	limitOnce sync.Once
	limit     *rate.Limiter // nil: none

	// staged is what Stage has verified, for Finalize.
	staged staged
}

// do carries out one action.
func (h *host) do(ctx context.Context, a update.Action, tell func(update.Fact)) update.Fact {
	switch a.Do {
	case update.Check:
		h.reportFailed(ctx, a.Failed)
		return h.check(ctx, a.Target)
	case update.Stage:
		h.report(ctx, a.Target.Version, rollout.Took, "")
		h.omaha.tell(ctx, omaha.DownloadStarted())
		f := h.stage(ctx, a.Target, tell)
		if f.Kind == update.StagedOK {
			h.omaha.tell(ctx, omaha.DownloadFinished())
		} else if ctx.Err() == nil {
			const transfer = 9 // update_engine's code
			h.omaha.tell(ctx, omaha.Failed(transfer))
		}
		return f
	case update.AskPermit:
		return h.askPermit(ctx, a.Target.Version)
	case update.Drain:
		return h.drain(ctx)
	case update.Finalize:
		h.remember(ctx)
		if a.Target.Version == "" {
			return update.Fact{Kind: update.Finalized} // it boots what it has
		}
		err := h.finalize(ctx, a.Target)
		if err == nil {
			h.omaha.tell(ctx, omaha.Installed())
		}
		return outcome(err, update.Finalized, update.FinalizeFailed)
	case update.RollBack:
		h.remember(ctx)
		_, err := h.slots.Rollback(false)
		return outcome(err, update.Finalized, update.FinalizeFailed)
	case update.Reboot, update.Reset:
		if err := h.reboot(ctx, a.Do == update.Reset); err != nil && ctx.Err() == nil {
			h.log.Error("reboot", "err", err)
		}
	case update.Gate:
		return h.gate(ctx)
	case update.Bless:
		f := h.log1("mark the slot good", h.bless(a.DropOther), update.Blessed)
		if f.Kind == update.Blessed {
			h.report(ctx, h.running, rollout.Proved, "")
			h.omaha.tell(ctx, omaha.Complete(previous(h.slots)))
		}
		return f
	case update.Release:
		h.reportFailed(ctx, a.Failed)
		return h.log1("give the permit back", h.giveBack(ctx), update.Released)
	case update.Clear:
		if a.Target.Version != "" {
			h.report(ctx, a.Target.Version, rollout.GaveUp, "")
		}
		_ = h.log1("clear the other slot", h.slots.Clear(), "")
		_ = h.log1("give the permit back", h.giveBack(ctx), "")
	}
	return update.Fact{}
}

// report counts this host, if it can: a rollout that is not told holds more back, it lets nobody go too early.
func (h *host) report(ctx context.Context, version string, say rollout.Report, why string) {
	if h.permits == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := h.permits.Report(ctx, version, say, why); err != nil {
		h.log.Warn("count in the rollout", "err", err)
	}
}

// reportFailed says again what has failed here: the first time the store may have been away.
func (h *host) reportFailed(ctx context.Context, failed []update.Failure) {
	for _, f := range failed {
		h.report(ctx, f.Version, rollout.CameBack, f.Reason)
		h.omaha.cameBack(ctx, f.Version)
	}
}

func outcome(err error, good, bad update.Kind) update.Fact {
	if err != nil {
		return update.Fact{Kind: bad, Why: err.Error()}
	}
	return update.Fact{Kind: good}
}

// log1 is for actions that are simply tried again: their failure is a line in the log.
func (h *host) log1(what string, err error, good update.Kind) update.Fact {
	if err != nil {
		h.log.Error(what, "err", err)
		return update.Fact{}
	}
	return update.Fact{Kind: good}
}

// places are the URLs of the directories to read.
func (h *host) places() []string {
	if p := h.from.Load(); p != nil {
		return append([]string{*p}, h.cfg.Mirrors...)
	}
	return h.cfg.Mirrors
}

func (h *host) mirrors() (payload.Mirrors, error) {
	m := payload.Mirrors{Client: h.client, Left: func(u *url.URL, err error) { h.log.Warn("mirror left", "mirror", u.Redacted(), "err", err) }}
	for _, s := range h.places() {
		u, err := url.Parse(s)
		if err != nil {
			return m, err
		}
		m.Base = append(m.Base, u)
	}
	m.Limit = h.limiter()
	return m, nil
}

// limiter is the one of this process: also frames for others count.
func (h *host) limiter() *rate.Limiter {
	h.limitOnce.Do(func() {
		if h.cfg.RateLimit > 0 {
			h.limit = rate.NewLimiter(rate.Limit(h.cfg.RateLimit), max(h.cfg.RateLimit/4, 16<<10))
		}
	})
	return h.limit
}

// open reads the newest signed state from the first mirror that gives it whole.
func (h *host) open(ctx context.Context) (*trust.View, error) {
	root, err := os.ReadFile(h.cfg.Root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read root metadata: %w", err)
	}
	if len(h.places()) == 0 {
		return nil, errors.New("no mirror is configured: set mirrors in update.conf")
	}
	var all error
	for _, m := range h.places() {
		v, err := trust.Client{Root: root, Cache: filepath.Join(h.cfg.StateDir, "trust"), Fetch: fetch(h.client, m)}.Open(ctx, h.now())
		if err == nil {
			return v, nil
		}
		all = errors.Join(all, fmt.Errorf("%s: %w", m, err))
	}
	return nil, all
}

// fetch reads small files of a mirror.
func fetch(client *http.Client, base string) trust.Fetch {
	return func(ctx context.Context, p string, most int64) ([]byte, error) {
		u, err := url.Parse(base)
		if err != nil {
			return nil, err
		}
		if u.Scheme == "file" {
			return os.ReadFile(filepath.Join(u.Path, filepath.FromSlash(p)))
		}
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.JoinPath(p).String(), nil)
		if err != nil {
			return nil, err
		}
		resp, err := client.Do(req)
		if err != nil {
			return nil, err
		}
		defer resp.Body.Close()
		switch resp.StatusCode {
		case http.StatusOK:
			return io.ReadAll(io.LimitReader(resp.Body, most+1))
		case http.StatusNotFound, http.StatusForbidden, http.StatusGone: // object stores say 403 for what is not there
			return nil, fmt.Errorf("%s: %w", p, fs.ErrNotExist)
		}
		return nil, fmt.Errorf("%s: the mirror answers %s", p, resp.Status)
	}
}

func channelPath(product, arch, channel string) string {
	return product + "/" + arch + "/" + channel + ".json"
}

// check reads what is offered. staged is what this host has staged, if it has.
func (h *host) check(ctx context.Context, staged update.Offer) update.Fact {
	offers, err := h.offers(ctx, staged.Version)
	if err != nil {
		return update.Fact{Kind: update.CheckFailed, Why: err.Error()}
	}
	return update.Fact{Kind: update.Offered, Offers: offers}
}

func (h *host) offers(ctx context.Context, staged string) ([]update.Offer, error) {
	v, err := h.open(ctx)
	if err != nil {
		return nil, err
	}
	c, err := h.readChannel(v)
	if err != nil {
		return nil, err
	}
	wanted, hold := "", ""
	if h.omaha != nil {
		if wanted, hold, err = h.omaha.choice(ctx); err != nil {
			return nil, fmt.Errorf("ask the Omaha server: %w", err)
		}
		if hold != "" && staged != "" {
			// Nebraska says so of a host that has told it that it has installed: what was granted stays granted.
			wanted, hold = staged, ""
		}
	}
	var out []update.Offer
	for _, r := range c.Releases {
		if h.omaha != nil && hold == "" && r.Version != wanted {
			continue
		}
		o := update.Offer{Version: r.Version, Manifest: r.Sum.String(), MinFrom: r.MinFrom, Stop: r.Stop}
		if o.Hold = hold; hold == "" && h.permits != nil {
			if o.Hold, err = h.permits.Hold(ctx, r.Version); err != nil {
				// Whether it is this host's turn is not known: it waits.
				o.Hold = err.Error()
			}
		}
		out = append(out, o)
	}
	return out, nil
}

func (h *host) readChannel(v *trust.View) (payload.Channel, error) {
	b, err := v.Read(channelPath(h.cfg.Product, h.cfg.Arch, h.cfg.Channel))
	if err != nil {
		return payload.Channel{}, fmt.Errorf("channel %s of %s for %s: %w", h.cfg.Channel, h.cfg.Product, h.cfg.Arch, err)
	}
	c, err := payload.ParseChannel(b)
	if err == nil && (c.Product != h.cfg.Product || c.Arch != h.cfg.Arch || c.Name != h.cfg.Channel) {
		err = fmt.Errorf("%w: it says that it is %s of %s for %s", payload.ErrManifest, c.Name, c.Product, c.Arch)
	}
	return c, err
}

// askPermit asks for the right to reboot into a version; "" = into the same. It looks at the window first, and again when the permit is there: it may have taken long.
func (h *host) askPermit(ctx context.Context, version string) update.Fact {
	closed := func() *reboot.Refusal { return h.windows.Check(h.now(), 0) }
	if r := closed(); r != nil {
		return update.Fact{Kind: update.Denied, Why: r.Reason, Until: h.windows.Next(h.now())}
	}
	if why := h.people(ctx); why != "" {
		return update.Fact{Kind: update.Denied, Why: why}
	}
	if h.permits != nil {
		if version != "" {
			// The rollout may have been stopped since this host staged the release.
			if why, err := h.permits.Hold(ctx, version); err != nil || why != "" {
				return update.Fact{Kind: update.Denied, Why: errText(err) + why}
			}
		}
		if err := h.permits.Take(ctx, h.running, version); err != nil {
			return update.Fact{Kind: update.Denied, Why: err.Error()}
		}
		if r := closed(); r != nil {
			if err := h.permits.GiveBack(ctx); err != nil {
				h.log.Error("give the permit back", "err", err)
			}
			return update.Fact{Kind: update.Denied, Why: r.Reason, Until: h.windows.Next(h.now())}
		}
	}
	return update.Fact{Kind: update.Granted}
}

// people is who would be disturbed by a reboot now, until user_deadline has passed since they were first found.
func (h *host) people(ctx context.Context) string {
	if h.logins == nil || h.cfg.UserDeadline == 0 {
		return ""
	}
	who, err := h.logins(ctx)
	if err != nil {
		h.log.Debug("who is logged in is not known", "err", err) // no logind: nobody can be
		return ""
	}
	if len(who) == 0 {
		h.heldUp = time.Time{}
		return ""
	}
	if h.heldUp.IsZero() {
		h.heldUp = h.now()
	}
	until := h.heldUp.Add(h.cfg.UserDeadline)
	if !h.now().Before(until) {
		h.log.Warn("the reboot waits no longer", "reason", strings.Join(who, ", "))
		return ""
	}
	return fmt.Sprintf("waiting for %s, until %s at most", strings.Join(who, ", "), until.UTC().Format(time.RFC3339))
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (h *host) drain(ctx context.Context) update.Fact {
	if h.permits != nil {
		ctx, cancel := context.WithTimeout(ctx, h.cfg.DrainTimeout)
		defer cancel()
		if err := h.permits.Drain(ctx); err != nil {
			return update.Fact{Kind: update.DrainFailed, Why: err.Error()}
		}
	}
	return update.Fact{Kind: update.Drained, Shut: h.windows.Check(h.now(), 0) != nil}
}

// bless marks the running slot good as what its entry says, if that is what runs.
func (h *host) bless(dropOther bool) error {
	st, err := h.slots.State()
	if err != nil {
		return err
	}
	r := st.Entries[h.slots.Running].Release
	if r.Version == "" {
		r.Version = h.running
	}
	if r.Version != h.running {
		return fmt.Errorf("slot %s: its entry says %s, %s is running", h.slots.Running, r.Version, h.running)
	}
	if err := h.slots.MarkGood(r); err != nil || !dropOther {
		return err
	}
	return h.slots.Clear()
}

func (h *host) giveBack(ctx context.Context) error {
	if h.permits == nil {
		return nil
	}
	return h.permits.GiveBack(ctx)
}

package sim

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/fleet-init/fleet/fleetd/agent"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/registry"
	"github.com/fleet-init/fleet/internal/unit"
)

func leaseGone(err error) bool { return errors.Is(err, kv.ErrLeaseGone) }

// context is one that does not end: requests end when the step says so.
func (t *task) context() context.Context { return context.Background() }

// backoff is agent's.
func backoff(failures int) time.Duration {
	return min(100*time.Millisecond<<min(failures, 10), 10*time.Second)
}

// runAgent runs the agent on one registration after another, as fleetd/serve.go does.
func (p *process) runAgent(t *task) {
	p.acting = t
	for !p.agentStop {
		if p.present == nil {
			t.await(0, func() bool { return p.present != nil || p.agentStop })
			continue
		}
		p.runAgentAs(t, *p.present)
	}
	p.agentDone = true
}

// runner is agent.Run, step by step: what are goroutines and channels there are tasks and fields here.
type runner struct {
	*process
	ctx      context.Context
	reg      *registry.Registry
	pres     registry.Presence
	sending  bool
	fetching bool
	reported func() // takes in the end of a report
	fetched  func()
	lastSend time.Time
	sendNot  time.Time
	failures int
	sendFail int

	letting bool
	let     func()
	letNot  time.Time
	letFail int

	recalling bool
	recalled  func()
	recallAt  time.Time
}

func (p *process) runAgentAs(t *task, pres registry.Presence) {
	ctx, cancel := context.WithCancel(t.context())
	defer cancel()
	r := &runner{process: p, ctx: ctx, reg: t.registry(), pres: pres}
	if !r.begin(t) {
		return
	}
	r.recallAt = r.h.clock().Add(recallAfter)
	watch := p.spawn("orders", r.watchOrders)
	for !r.replaced() {
		wait := r.turn()
		t.await(wait, r.wakes)
		r.take()
	}
	cancel()
	watch.kill()
	t.await(0, func() bool {
		return (!r.sending || r.reported != nil) && (!r.fetching || r.fetched != nil) && (!r.recalling || r.recalled != nil) &&
			(!r.letting || r.let != nil)
	})
	r.take()
}

// replaced tells whether this registration's run is over. While there is none the agent goes on under the old one's orders.
func (r *runner) replaced() bool {
	return r.agentStop || r.present != nil && *r.present != r.pres
}

func (r *runner) begin(t *task) bool {
	for try := 0; !r.replaced(); try++ {
		told, err := r.reg.Observed(r.ctx, r.pres.Machine)
		if err == nil {
			var o registry.Orders
			if o, err = r.reg.Orders(r.ctx, r.pres); err == nil && r.obeys() {
				r.agent.Begin(told)
				r.setOrders(agent.Orders(o))
				return true
			}
		}
		t.await(backoff(try), r.replaced)
	}
	return false
}

func (r *runner) setOrders(o agent.Orders) {
	if r.h.w.opt.Hasty {
		o.Admitted = true
	}
	r.orders, r.ordersOf = o, r.pres.Rev
	r.agent.SetOrders(o)
	if o.Admitted {
		_ = r.feed.Admitted(r.pres.Rev)
	}
}

// watchOrders stands for registry.WatchOrders: after a change, the newest orders, but as old as the answer takes.
func (r *runner) watchOrders(t *task) {
	reg := t.registry()
	rev := r.orders.Rev
	for {
		t.await(0, func() bool { return !r.h.cut && r.h.w.ordersRev[r.h.id] > rev })
		o, err := reg.Orders(r.ctx, r.pres)
		if err != nil {
			t.sleep(50 * time.Millisecond)
			continue
		}
		rev = o.Rev
		for !r.obeys() {
			t.await(2*time.Second, nil)
		}
		orders := agent.Orders(o)
		r.newOrders = &orders
	}
}

func (r *runner) wakes() bool {
	return r.newOrders != nil || r.fetched != nil || r.reported != nil || r.recalled != nil || r.let != nil || r.replaced() || len(r.h.sys.Wake()) > 0 ||
		len(r.feed.Wake()) > 0
}

// take takes in what the run was woken by.
func (r *runner) take() {
	select {
	case <-r.h.sys.Wake():
	default:
	}
	if r.newOrders != nil {
		r.setOrders(*r.newOrders)
		r.newOrders = nil
	}
	if r.fetched != nil {
		r.fetched()
		r.fetched, r.fetching = nil, false
	}
	if r.reported != nil {
		r.reported()
		r.reported, r.sending = nil, false
	}
	select {
	case <-r.feed.Wake():
		r.agent.LeaseIsBack()
	default:
	}
	if r.let != nil {
		r.let()
		r.let, r.letting = nil, false
	}
	if r.recalled != nil {
		r.recalled()
		r.recalled, r.recalling = nil, false
	}
}

// turn observes, plans and does once, and returns after what time to do so again at the latest.
func (r *runner) turn() time.Duration {
	now := r.h.clock()
	seen, err := r.agent.Observe(r.ctx, now)
	if err != nil {
		r.failures++
		return backoff(r.failures)
	}
	r.failures = 0
	tasks := agent.Plan(r.orders, seen)
	r.agent.Do(r.ctx, now, tasks)
	r.startFetch()
	r.startRecall(now)
	wait := min(r.startReport(now, len(seen.Jobs) > 0), r.startLetGo(now))
	if slices.ContainsFunc(tasks, func(t agent.Task) bool { return t.Kind != agent.Fetch }) {
		return time.Millisecond // what was just done is to be looked at
	}
	if len(seen.Jobs) > 0 {
		wait = min(wait, 250*time.Millisecond)
	}
	if d := r.recallAt.Sub(now); d > 0 {
		wait = min(wait, d)
	}
	for _, until := range seen.Held {
		if d := until.Sub(now); d > 0 {
			wait = min(wait, d)
		}
	}
	return wait
}

// agentCheck is the agent's default time between full checks.
const agentCheck = time.Minute

func (r *runner) startFetch() {
	if r.fetching || len(r.agent.Missing()) == 0 {
		return
	}
	r.fetching = true
	asked := slices.Clone(r.agent.Missing())
	r.spawn("fetch", func(t *task) {
		texts, err := t.registry().Files(r.ctx, asked...)
		r.fetched = func() { r.agent.Fetched(r.h.clock(), asked, texts, err) }
	})
}

func (r *runner) startReport(now time.Time, busy bool) time.Duration {
	if r.sending || r.recalling {
		return agentCheck
	}
	changed, gone := r.agent.Pending()
	if len(changed)+len(gone) == 0 {
		return agentCheck
	}
	if d := r.sendNot.Sub(now); d > 0 {
		return d
	}
	if d := r.lastSend.Add(100 * time.Millisecond).Sub(now); d > 0 && busy {
		return d
	}
	r.sending, r.lastSend = true, now
	r.spawn("report", func(t *task) {
		err := t.registry().Report(r.ctx, r.pres, changed, gone)
		r.reported = func() {
			r.agent.Told(changed, gone, err)
			if r.sendFail++; err == nil {
				r.sendFail = 0
				return
			}
			r.sendNot = r.h.clock().Add(backoff(r.sendFail))
			r.recallAt = r.h.clock().Add(recallAfter)
		}
	})
	return agentCheck
}

// recallAfter is agent's: longer than a request can be on its way.
const recallAfter = 30 * time.Second

// startRecall reads what the registry holds, when a report may have arrived late.
func (r *runner) startRecall(now time.Time) {
	if r.recallAt.IsZero() || now.Before(r.recallAt) || r.sending || r.recalling {
		return
	}
	r.recalling = true
	r.spawn("recall", func(t *task) {
		told, err := t.registry().Observed(r.ctx, r.pres.Machine)
		r.recalled = func() {
			if err != nil {
				r.recallAt = r.h.clock().Add(recallAfter)
				return
			}
			r.recallAt = time.Time{}
			r.agent.SetTold(told)
		}
	})
}

// bus is the agent's way to its host's systemd.
type bus struct{ p *process }

// said is passed after each word, for what systemd does next may be another thing now.
func (b bus) said() { b.p.h.askSystemd() }

func (b bus) Wake() <-chan struct{} { return b.p.h.sys.Wake() }

func (b bus) Take() fleet.SystemdChanges { return b.p.h.sys.Take() }

func (b bus) States(ctx context.Context, names []unit.Name) (map[unit.Name]fleet.UnitStatus, error) {
	b.p.acting.point()
	return b.p.h.sys.States(ctx, names)
}

func (b bus) Load(ctx context.Context, files []fleet.UnitPath) (bool, map[unit.Name]error) {
	b.p.acting.point()
	defer b.said()
	for _, f := range files {
		b.p.h.w.note("load %s", f.Name)
	}
	return b.p.h.sys.Load(ctx, files)
}

func (b bus) Unload(ctx context.Context, names []unit.Name) map[unit.Name]error {
	b.p.acting.point()
	defer b.said()
	for _, n := range names {
		b.p.h.w.note("unload %s", n)
		b.p.h.w.unloading(b.p, n)
	}
	return b.p.h.sys.Unload(ctx, names)
}

func (b bus) Reload(ctx context.Context) error {
	b.p.acting.point()
	defer b.said()
	b.p.h.w.note("reload")
	return b.p.h.sys.Reload(ctx)
}

func (b bus) Start(ctx context.Context, names []unit.Name) map[unit.Name]error {
	b.p.acting.point()
	defer b.said()
	for _, n := range names {
		b.p.h.w.note("start %s", n)
		b.p.h.w.starting(b.p, n)
		b.p.h.w.tokened(b.p, n)
	}
	return b.p.h.sys.Start(ctx, names)
}

func (b bus) Stop(ctx context.Context, names []unit.Name) map[unit.Name]error {
	b.p.acting.point()
	defer b.said()
	for _, n := range names {
		b.p.h.w.note("stop %s", n)
		b.p.h.w.stopping(ctx, b.p, n)
	}
	return b.p.h.sys.Stop(ctx, names)
}

// platter is the agent's way to its host's disk.
type platter struct{ p *process }

func (d platter) Read() (map[unit.Name]agent.OnDisk, error) { return d.p.h.disk.Read() }

func (d platter) Path(n unit.Name) string { return d.p.h.disk.Path(n) }

func (d platter) Write(n unit.Name, f *unit.File) error {
	d.p.acting.point()
	return d.p.h.disk.Write(n, f)
}

func (d platter) Remove(n unit.Name) error {
	d.p.acting.point()
	return d.p.h.disk.Remove(n)
}

func (d platter) Mark(n unit.Name, started unit.Hash, restarted int64) error {
	d.p.acting.point()
	return d.p.h.disk.Mark(n, started, restarted)
}

func (d platter) Token(n unit.Name, token int64) error {
	d.p.acting.point()
	if !d.p.h.w.opt.NoFloor {
		token = max(token, d.p.h.floor)
	}
	return d.p.h.disk.Token(n, token)
}

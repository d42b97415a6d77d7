package sim

import (
	"testing"
	"time"
)

// Without any one of these an exclusive unit comes to be alive twice.
func TestNothingThatKeepsUnitsExclusiveCanBeLeftOut(t *testing.T) {
	for _, m := range []struct {
		name  string
		first uint64 // a seed near which it shows
		left  Options
	}{
		{"process 1 stops what is bound to a guard that ended", 1, Options{NoGuard: true}},
		{"a unit is let go only when it has stopped", 1, Options{LetGoEarly: true}},
		{"the leader waits for a machine that is gone", 1, Options{NoWait: true}},
	} {
		t.Run(m.name, func(t *testing.T) {
			m.left.Focus = true
			shows(t, m.first, "alive twice", m.left)
		})
	}
}

// wayward is a cluster of two with an exclusive unit, and the host that has it.
func wayward(t *testing.T, o Options) (*world, *host) {
	o.Hosts = 2
	w := newWorld(o)
	if err := w.host("h1").submit([]string{"e1.service", "launched", "run,limit=1,Exclusive=yes"}); err != nil {
		t.Fatal(err)
	}
	w.runFor(8 * time.Second)
	for _, h := range w.hosts {
		if _, alive := h.sys.Alive("e1.service"); alive {
			return w, h
		}
	}
	t.Fatal("it runs nowhere", w.bad)
	return nil, nil
}

// The answer to a keep-alive comes late, to a host that was paused, and is cut off after that: were the lease counted from the answer, the
// unit would start there again, while the leader has waited long enough.
func TestKeepAliveCountsFromWhenItWasSent(t *testing.T) {
	for _, answered := range []bool{false, true} {
		w, h := wayward(t, Options{FeedAnswered: answered})
		p := w.task(h.name + ".presence")
		for p.call == nil {
			w.pass(w.since() + time.Millisecond)
			if p.ready() {
				p.resume(goOn{})
			}
		}
		p.resume(goOn{outcome: held})
		h.frozen = true
		w.runFor(20 * time.Second)
		h.frozen = false
		p.resume(goOn{})
		h.cut, h.cutAt = true, w.now
		w.runFor(20 * time.Second)
		if twice := w.bad != nil && w.bad.Rule == "alive twice"; twice != answered {
			t.Errorf("counted from the answer %v: %v", answered, w.bad)
		}
		w.end()
	}
}

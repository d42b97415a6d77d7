package faults

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

const second = Moment(time.Second)

// life is the beats of one run, one a second.
func life(unit, machine, run string, token int64, from, to Moment, end bool) (beats []Beat) {
	for at := from; at <= to; at += second {
		beats = append(beats, Beat{Unit: unit, Machine: machine, Run: run, Token: token, Count: int64(len(beats) + 1), At: at, End: end && at+second > to})
	}
	return beats
}

// good is a history in which an exclusive unit failed over, a unit was handed over, a host lost power and a user stopped a unit.
func good() History {
	return History{
		Exclusive: []string{"x.service"}, Leaving: []string{"leaves.service"}, Close: 90 * second,
		Beats: slices.Concat(
			life("x.service", "a", "x1", 5, 0, 20*second, true), life("x.service", "b", "x2", 9, 40*second, 100*second, false),
			life("moved.service", "a", "m1", 0, 0, 32*second, true), life("moved.service", "b", "m2", 0, 30*second, 100*second, false),
			life("dark.service", "c", "d1", 0, 0, 50*second, false), life("dark.service", "c", "d2", 0, 60*second, 100*second, false),
			life("told.service", "b", "t1", 0, 0, 10*second, true),
			life("leaves.service", "b", "l1", 0, 0, 10*second, true), life("leaves.service", "b", "l2", 0, 30*second, 100*second, false),
		),
		Acts: []Act{
			{Kind: Down, Machine: "c", From: 50*second + 1, To: 58 * second}, {Kind: Ordered, Unit: "told*", From: 9 * second, To: 11 * second},
		},
		Writes: []Write{
			{Key: "k", Value: "1", Call: 1, Return: 10}, {Key: "k", Read: true, Value: "1", Call: 12, Return: 14},
			{Key: "k", Value: "2", Call: 20, Return: 30}, {Key: "k", Value: "3", Call: 21}, {Key: "k", Read: true, Value: "2", Call: 40, Return: 50},
			{Client: 1, Key: "k", Read: true, Call: 2}, {Key: "k", Read: true, Value: "3", Call: 60, Return: 70},
		},
		Found: map[string]string{"k": "3"},
		Permits: []Permit{
			{Group: "g", Holder: "h1", Call: 1, Return: 2}, {Group: "g", Client: 1, Holder: "h2", Full: true, Call: 3, Return: 4},
			{Group: "g", Holder: "h1", Unlock: true, Call: 5, Return: 6}, {Group: "g", Client: 1, Holder: "h2", Call: 7},
			{Group: "g", Holder: "h1", Full: true, Call: 8, Return: 9}, {Group: "g", Client: 1, Holder: "h2", Unlock: true, Call: 10, Return: 11},
			{Group: "g", Holder: "h1", Call: 12, Return: 13}, {Group: "other", Client: 1, Holder: "h2", Call: 12, Return: 13},
		},
		Rests: []Rest{{"a cut", 8 * time.Second, 30 * time.Second}},
	}
}

func TestAGoodHistoryKeepsEveryPromise(t *testing.T) {
	var out bytes.Buffer
	if n := Print(&out, Verdicts(good())); n != 0 {
		t.Errorf("%d are broken:\n%s", n, &out)
	}
	t.Logf("\n%s", &out)
}

// One thing is wrong in each of these, and the judge has to name exactly the promise that it breaks.
func TestTheJudgeCallsBadHistoriesBroken(t *testing.T) {
	const (
		acked, linear, permits, once     = "acknowledged", "register", "semaphore", "twice"
		tokens, converged, healthy, none = "tokens", "converged", "healthy", ""
	)
	for name, c := range map[string]struct {
		bend func(h *History)
		want string
	}{
		"exclusive unit begins before the old run's last beat": {func(h *History) {
			h.Beats = append(h.Beats, life("x.service", "a", "x1", 5, 21*second, 41*second, true)...)
		}, once},
		"exclusive unit has two runs on one machine": {func(h *History) {
			h.Beats = append(h.Beats, life("x.service", "b", "x3", 9, 50*second, 52*second, true)...)
		}, once},
		"one beat of an old run, long after": {func(h *History) {
			h.Beats = append(h.Beats, Beat{Unit: "x.service", Machine: "a", Run: "x1", Token: 5, At: 77 * second})
		}, once},
		"exclusive unit that never ran": {func(h *History) { h.Exclusive = append(h.Exclusive, "y.service") }, once},
		"token lower on the next machine": {func(h *History) {
			h.Beats = append(h.Beats, life("y.service", "a", "y1", 9, 0, 5*second, true)...)
			h.Beats = append(h.Beats, life("y.service", "b", "y2", 8, 10*second, 15*second, true)...)
			h.Exclusive = append(h.Exclusive, "y.service")
		}, tokens},
		"token the same on the next machine": {func(h *History) {
			h.Beats = append(h.Beats, life("y.service", "a", "y1", 9, 0, 5*second, true)...)
			h.Beats = append(h.Beats, life("y.service", "b", "y2", 9, 10*second, 15*second, true)...)
			h.Exclusive = append(h.Exclusive, "y.service")
		}, tokens},
		"token the same when it is started again where it was": {func(h *History) {
			h.Beats = append(h.Beats, life("y.service", "a", "y1", 9, 0, 5*second, true)...)
			h.Beats = append(h.Beats, life("y.service", "a", "y2", 9, 10*second, 15*second, true)...)
			h.Exclusive = append(h.Exclusive, "y.service")
		}, none},
		"token changes within a run": {func(h *History) {
			h.Beats = append(h.Beats, Beat{Unit: "x.service", Machine: "b", Run: "x2", Token: 10, At: 70 * second})
		}, tokens},
		"no token": {func(h *History) {
			h.Beats = append(h.Beats, life("y.service", "a", "y1", 0, 0, 5*second, true)...)
			h.Exclusive = append(h.Exclusive, "y.service")
		}, tokens},
		"acknowledged write is gone":                 {func(h *History) { delete(h.Found, "k") }, acked},
		"older value is back at the end":             {func(h *History) { h.Found["k"] = "1" }, acked},
		"value that nobody wrote":                    {func(h *History) { h.Found["k"] = "7" }, acked},
		"write without an answer may have been done": {func(h *History) { h.Found["k"] = "2" }, none},
		"read of an older value":                     {func(h *History) { h.Writes[6].Value = "1" }, linear},
		"read of nothing after a write":              {func(h *History) { h.Writes[1].Value = "" }, linear},
		"read of a value before it was asked for":    {func(h *History) { h.Writes[1].Value = "2" }, linear},
		"two values in turn, neither being written": {func(h *History) {
			h.Writes = append(h.Writes, Write{Key: "k", Read: true, Value: "2", Call: 80, Return: 90})
		}, linear},
		"nothing was read":                               {func(h *History) { h.Writes = h.Writes[:1]; h.Found["k"] = "1" }, linear},
		"two hold the permit":                            {func(h *History) { h.Permits[1].Full = false }, permits},
		"permit is refused that is free":                 {func(h *History) { h.Permits[6].Full = true }, permits},
		"permit is given back, and still said to be out": {func(h *History) { h.Permits[3].Return = 7; h.Permits[3].Full = true; h.Permits[4].Full = false }, permits},
		"no permit was given":                            {func(h *History) { h.Permits = h.Permits[1:2]; h.Permits[0].Return = 0 }, permits},
		"too late":                                       {func(h *History) { h.Rests[0].Took = time.Minute }, converged},
		"never at rest":                                  {func(h *History) { h.Rests = nil }, converged},
		"unit is stopped for no reason": {func(h *History) {
			h.Beats = append(h.Beats, life("poor.service", "a", "p1", 0, 0, 33*second, true)...)
		}, healthy},
		"unit dies for no reason": {func(h *History) {
			h.Beats = append(h.Beats, life("poor.service", "a", "p1", 0, 0, 33*second, false)...)
		}, healthy},
		"unit is stopped before its new copy runs": {func(h *History) {
			h.Beats = append(h.Beats, life("poor.service", "a", "p1", 0, 0, 33*second, true)...)
			h.Beats = append(h.Beats, life("poor.service", "b", "p2", 0, 34*second, 100*second, false)...)
		}, healthy},
		"unit is started again where it was": {func(h *History) {
			h.Beats = append(h.Beats, life("poor.service", "a", "p1", 0, 0, 33*second, true)...)
			h.Beats = append(h.Beats, life("poor.service", "a", "p2", 0, 34*second, 100*second, false)...)
		}, healthy},
		"unit is stopped as another machine loses power": {func(h *History) {
			h.Beats = append(h.Beats, life("poor.service", "a", "p1", 0, 0, 52*second, true)...)
		}, healthy},
		"unit falls silent long before its machine loses power": {func(h *History) {
			h.Beats = append(h.Beats, life("poor.service", "c", "p1", 0, 0, 10*second, false)...)
		}, healthy},
		"unit is stopped after the order for another one": {func(h *History) {
			h.Acts = append(h.Acts, Act{Kind: Ordered, Unit: "poor.service.d", From: 30 * second, To: 40 * second})
			h.Beats = append(h.Beats, life("poor.service", "a", "p1", 0, 0, 33*second, true)...)
		}, healthy},
		"no unit ran": {func(h *History) { h.Beats = life("x.service", "a", "x1", 5, 0, 20*second, true) }, healthy},
	} {
		t.Run(name, func(t *testing.T) {
			h := good()
			c.bend(&h)
			var broken []string
			for _, v := range Verdicts(h) {
				if len(v.Broken) > 0 {
					broken = append(broken, v.Promise)
				}
			}
			if c.want == none && len(broken) > 0 || c.want != none && (len(broken) != 1 || !strings.Contains(broken[0], c.want)) {
				t.Errorf("broken are %q, want %q", broken, c.want)
			}
		})
	}
}

func TestVerdictsArePrintedOneALine(t *testing.T) {
	var out bytes.Buffer
	many := Verdict{Promise: "pigs do not fly", Seen: "25 pigs"}
	for i := range 25 {
		many.Broken = append(many.Broken, fmt.Sprintf("pig %d flew", i))
	}
	n := Print(&out, []Verdict{{Promise: "the sun rises", Seen: "1 day"}, many})
	lines := strings.Split(out.String(), "\n")
	if n != 1 || lines[0] != "kept    the sun rises (1 day)" || lines[1] != "broken  pigs do not fly (25 pigs)" || !strings.Contains(out.String(), "and 5 more") {
		t.Errorf("%d broken:\n%s", n, &out)
	}
}

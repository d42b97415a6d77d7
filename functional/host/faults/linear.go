package faults

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// Write is one request for a unit's record: its text and target state, written together, or read.
type Write struct {
	Client int
	Key    string // the unit's name
	Read   bool
	Value  string // what was written, or what was read; "": there is no such unit
	Call   Moment
	Return Moment // 0: it is not known whether it was done, and it may be done at any time
}

// Known tells whether the answer came.
func (w Write) Known() bool { return w.Return != 0 }

// Permit is one request for a reboot permit of a group, of which it has one.
type Permit struct {
	Client int
	Group  string
	Holder string
	Unlock bool
	Full   bool // refused, as all permits were taken
	Call   Moment
	Return Moment // 0: it is not known whether it was done
}

// undecided is how long the judge may think about one register or group. Without an answer by then the promise counts as broken: it was not shown.
const undecided = 2 * time.Minute

// registers: each unit's record behaves as one register that everybody uses in turn, whatever host is asked.
func (h History) registers() Verdict {
	v := Verdict{Promise: "each unit's record is one linearizable register"}
	byKey := map[string][]porcupine.Operation{}
	reads := 0
	for _, w := range h.Writes {
		if w.Read && !w.Known() {
			continue // tells nothing
		}
		if w.Read {
			reads++
		}
		byKey[w.Key] = append(byKey[w.Key], porcupine.Operation{ClientId: w.Client, Input: w, Call: int64(w.Call), Return: until(w.Return)})
	}
	for _, key := range slices.Sorted(maps.Keys(byKey)) {
		v.judge(key, register(), byKey[key])
	}
	if reads == 0 {
		v.Broken = append(v.Broken, "nothing was read: nothing was looked at")
	}
	v.Seen = fmt.Sprintf("%d registers, %d requests, %d of them reads", len(byKey), len(h.Writes), reads)
	return v
}

// permits: nobody gets a permit when all are taken, and nobody is told that all are taken when one is free.
func (h History) permits() Verdict {
	v := Verdict{Promise: "reboot permits are linearizable semaphores"}
	byGroup := map[string][]porcupine.Operation{}
	given := 0
	for _, p := range h.Permits {
		if p.Full && !p.Known() {
			continue // tells nothing
		}
		if p.Known() && !p.Full && !p.Unlock {
			given++
		}
		byGroup[p.Group] = append(byGroup[p.Group], porcupine.Operation{ClientId: p.Client, Input: p, Call: int64(p.Call), Return: until(p.Return)})
	}
	for _, group := range slices.Sorted(maps.Keys(byGroup)) {
		v.judge("group "+group, semaphore(1), byGroup[group])
	}
	if given == 0 {
		v.Broken = append(v.Broken, "no permit was given: nothing was looked at")
	}
	v.Seen = fmt.Sprintf("%d groups, %d requests, %d permits given", len(byGroup), len(h.Permits), given)
	return v
}

// Known tells whether the answer came.
func (p Permit) Known() bool { return p.Return != 0 }

func (v *Verdict) judge(what string, m porcupine.Model, ops []porcupine.Operation) {
	switch porcupine.CheckOperationsTimeout(m, ops, undecided) {
	case porcupine.Ok:
	case porcupine.Unknown:
		v.Broken = append(v.Broken, fmt.Sprintf("%s: not decided within %v", what, undecided))
	default:
		v.Broken = append(v.Broken, what+": no order of the requests explains the answers:"+tell(ops))
	}
}

// tell writes a history down for whoever has to find out what went wrong.
func tell(ops []porcupine.Operation) string {
	slices.SortStableFunc(ops, func(a, b porcupine.Operation) int { return int(max(-1, min(1, a.Call-b.Call))) })
	var b strings.Builder
	for _, o := range ops {
		fmt.Fprintf(&b, "\n          %+v", o.Input)
	}
	return b.String()
}

// until is when a request was over, for the judge: one without an answer never is.
func until(m Moment) int64 {
	if m == 0 {
		return math.MaxInt64
	}
	return int64(m)
}

func register() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return "" },
		Step: func(state, input, _ any) (bool, any) {
			w := input.(Write)
			if w.Read {
				return w.Value == state.(string), state
			}
			return true, w.Value
		},
	}
}

// semaphore has n permits. Its state is who holds one, sorted and joined, so that states compare.
func semaphore(n int) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return "" },
		Step: func(state, input, _ any) (bool, any) {
			p, held := input.(Permit), strings.Fields(state.(string))
			i, has := slices.BinarySearch(held, p.Holder)
			switch {
			case p.Full:
				return len(held) >= n && !has, state
			case p.Unlock && has:
				return true, strings.Join(slices.Delete(slices.Clone(held), i, i+1), " ")
			case p.Unlock || has:
				return true, state // both may be repeated
			}
			return len(held) < n || !p.Known(), joined(held, p, i, n)
		},
	}
}

// joined is who holds permits when p has one, too. One that may not have been given is not given when there is none.
func joined(held []string, p Permit, i, n int) string {
	if len(held) >= n {
		return strings.Join(held, " ")
	}
	return strings.Join(slices.Insert(slices.Clone(held), i, p.Holder), " ")
}

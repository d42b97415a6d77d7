package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
)

// shrink leaves out of a script whatever is not needed to break the same rule. Stretches where only the order of everybody's work
// is told become one step "all run".
func shrink(s script, o Options, bad *Bad) (script, *Bad) {
	o.Trace = false
	try := func(steps []step) *Bad {
		_, b, err := play(script{hosts: s.hosts, steps: steps}, o)
		if err != nil || b == nil || class(b) != class(bad) {
			return nil
		}
		return b
	}
	for before := len(s.steps) + 1; len(s.steps) < before; {
		before = len(s.steps)
		for size := (before + 1) / 2; size > 0; size /= 2 {
			for at := 0; at < len(s.steps); {
				end := min(at+size, len(s.steps))
				if b := try(slices.Concat(s.steps[:at], s.steps[end:])); b != nil {
					s.steps, bad = slices.Concat(s.steps[:at], s.steps[end:]), b
					continue
				}
				calm := run(s.steps, at, end)
				if b := try(slices.Concat(s.steps[:at], calm, s.steps[end:])); len(calm) < end-at && b != nil {
					s.steps, bad = slices.Concat(s.steps[:at], calm, s.steps[end:]), b
				}
				at += size
			}
		}
	}
	return s, bad
}

// run is what stands for the steps from at to end when all that matters of them is the time they take.
func run(steps []step, at, end int) []step {
	until := steps[end-1].at
	if end < len(steps) {
		until = steps[end].at
	}
	took := (until - steps[at].at).Truncate(time.Millisecond)
	return []step{{at: steps[at].at, who: "all", verb: "run", args: []string{fmt.Sprint(max(took, time.Millisecond))}}}
}

// class is what is the same when a rule is broken with other units and hosts.
func class(b *Bad) string {
	var words []string
	for _, w := range strings.Fields(b.What) {
		if !strings.ContainsFunc(w, unicode.IsDigit) && !strings.Contains(w, ".") {
			words = append(words, w)
		}
	}
	return b.Rule + ": " + strings.Join(words[:min(len(words), 6)], " ")
}

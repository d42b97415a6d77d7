package faults

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"time"
)

// Verdict says of one promise whether it was kept.
type Verdict struct {
	Promise string
	Seen    string   // what it was judged on, so that "kept" cannot mean "nothing was looked at"
	Broken  []string // how, each with names and moments; empty: kept
}

// Verdicts judges a history. The order is that of docs/reliability.md.
func Verdicts(h History) []Verdict {
	runs := Runs(h.Beats)
	return []Verdict{
		h.acknowledged(), h.registers(), h.permits(), h.onlyOne(runs), h.tokens(runs), h.converged(), h.undisturbed(runs),
	}
}

// Print writes one line for each verdict, and one for each way in which it was broken. It returns how many were.
func Print(w io.Writer, vs []Verdict) (broken int) {
	for _, v := range vs {
		word := "kept"
		if len(v.Broken) > 0 {
			word, broken = "broken", broken+1
		}
		fmt.Fprintf(w, "%-6s  %s (%s)\n", word, v.Promise, v.Seen)
		for i, b := range v.Broken {
			if i == 20 {
				fmt.Fprintf(w, "        … and %d more\n", len(v.Broken)-i)
				break
			}
			fmt.Fprintf(w, "        %s\n", b)
		}
	}
	return broken
}

// onlyOne: a run lives from its first to its last beat, and two lives of an exclusive unit have no moment in common, wherever they are.
func (h History) onlyOne(runs []Run) Verdict {
	v := Verdict{Promise: "no exclusive unit is live twice at one moment"}
	n := 0
	for _, u := range h.Exclusive {
		own := h.runsOf(u, runs)
		n += len(own)
		if len(own) == 0 {
			v.Broken = append(v.Broken, u+" never ran: nothing was looked at")
			continue
		}
		last := own[0] // that lived longest of those before
		for _, r := range own[1:] {
			if r.First <= last.Last {
				v.Broken = append(v.Broken, fmt.Sprintf("%s: run %s on %s lives from %v, when run %s on %s lives until %v",
					u, r.ID, r.Machine, r.First, last.ID, last.Machine, last.Last))
			}
			if r.Last > last.Last {
				last = r
			}
		}
	}
	v.Seen = fmt.Sprintf("%d units, %d runs", len(h.Exclusive), n)
	return v
}

// tokens: each run has one token, at least as high as that of the run before it, and higher on another machine.
func (h History) tokens(runs []Run) Verdict {
	v := Verdict{Promise: "tokens never go back"}
	n := 0
	for _, u := range h.Exclusive {
		own := h.runsOf(u, runs)
		n += len(own)
		for i, r := range own {
			if r.Token == 0 || r.Tokens {
				v.Broken = append(v.Broken, fmt.Sprintf("%s: run %s on %s has no token, or more than one", u, r.ID, r.Machine))
			}
			if i == 0 {
				continue
			}
			if p := own[i-1]; r.Token < p.Token || r.Machine != p.Machine && r.Token == p.Token {
				v.Broken = append(v.Broken, fmt.Sprintf("%s: token %d on %s at %v comes after %d on %s", u, r.Token, r.Machine, r.First, p.Token, p.Machine))
			}
		}
	}
	v.Seen = fmt.Sprintf("%d runs", n)
	return v
}

func (h History) converged() Verdict {
	v := Verdict{Promise: "converged within the stated bound"}
	longest := time.Duration(0)
	for _, r := range h.Rests {
		longest = max(longest, r.Took)
		if r.Took > r.Bound {
			v.Broken = append(v.Broken, fmt.Sprintf("%s: %v, at most %v is stated", r.What, r.Took.Round(time.Millisecond), r.Bound))
		}
	}
	if len(h.Rests) == 0 {
		v.Broken = []string{"it was never at rest"}
	}
	v.Seen = fmt.Sprintf("%d times, at most %v", len(h.Rests), longest.Round(time.Millisecond))
	return v
}

// silent is for how long a run may have said nothing before the power loss that explains its silence: what it had not sent yet is lost with it.
const silent = Moment(30 * time.Second)

// undisturbed: every run that is over is explained by an order of the test, by the loss of its machine, or by another run of the unit that was live when
// it was told to stop (a handover, never before the new copy works).
func (h History) undisturbed(runs []Run) Verdict {
	v := Verdict{Promise: "no healthy unit is stopped by control-plane trouble alone"}
	may := map[string]bool{}
	for _, u := range slices.Concat(h.Exclusive, h.Leaving) {
		may[u] = true
	}
	seen, handed, units := 0, 0, map[string]bool{}
	for _, r := range runs {
		if may[r.Unit] {
			continue
		}
		units[r.Unit] = true
		seen++
		if !r.Ended && r.Last >= h.Close || h.excused(r) {
			continue
		}
		if r.Ended && slices.ContainsFunc(runs, func(o Run) bool {
			return o.Unit == r.Unit && o.Machine != r.Machine && o.First <= r.Last && (o.Last >= r.Last || h.excused(o))
		}) {
			handed++
			continue
		}
		how := "fell silent"
		if r.Ended {
			how = "was told to stop"
		}
		v.Broken = append(v.Broken, fmt.Sprintf("%s on %s %s at %v, and nothing else explains it", r.Unit, r.Machine, how, r.Last))
	}
	if seen == 0 {
		v.Broken = []string{"no unit ran: nothing was looked at"}
	}
	v.Seen = fmt.Sprintf("%d units, %d runs, %d handed over", len(units), seen, handed)
	return v
}

// excused tells whether the test itself ended a run.
func (h History) excused(r Run) bool {
	return slices.ContainsFunc(h.Acts, func(a Act) bool {
		switch {
		case a.Kind == Ordered:
			return a.covers(r.Unit) && a.lasts(r.Last)
		case a.Machine != r.Machine:
			return false
		case r.Ended: // shut down in good order
			return a.lasts(r.Last)
		}
		return a.lasts(r.Last) || a.From > r.Last && a.From-r.Last <= silent
	})
}

// acknowledged: of what was acknowledged, the last word is there at the end, or one that was said later, or whose answer was lost.
func (h History) acknowledged() Verdict {
	v := Verdict{Promise: "acknowledged writes are kept"}
	byKey := map[string][]Write{}
	acked := 0
	for _, w := range h.Writes {
		if !w.Read {
			byKey[w.Key] = append(byKey[w.Key], w)
			if w.Known() {
				acked++
			}
		}
	}
	for _, key := range slices.Sorted(maps.Keys(byKey)) {
		newest := Moment(0) // when the newest acknowledged write began
		for _, w := range byKey[key] {
			if w.Known() {
				newest = max(newest, w.Call)
			}
		}
		if newest == 0 {
			continue
		}
		found, there := h.Found[key]
		ok := there && slices.ContainsFunc(byKey[key], func(w Write) bool {
			return w.Value == found && (!w.Known() || w.Return >= newest)
		})
		if !ok {
			v.Broken = append(v.Broken, fmt.Sprintf("%s holds %q (there: %t), which is none of the last words", key, found, there))
		}
	}
	if acked == 0 {
		v.Broken = []string{"no write was acknowledged: nothing was looked at"}
	}
	v.Seen = fmt.Sprintf("%d writes acknowledged, to %d units", acked, len(byKey))
	return v
}

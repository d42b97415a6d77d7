package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	waves "github.com/fleet-init/fleet/internal/rollout"
)

func updateCommand(ctx context.Context, a *app, args []string) int {
	if len(args) == 0 {
		args = []string{"status"}
	}
	do, word := args[0], ""
	if len(args) > 1 {
		word = args[1]
	}
	if len(args) > 2 {
		return a.usage(fmt.Errorf("update %s: too many words", do), "update")
	}
	kinds := map[string]string{"now": "check now", "reboot": "reboot now", "rollback": "rollback now", "cancel": "cancel", "forget": "forget"}
	switch do {
	case "status":
		return updateStatus(ctx, a)
	case "history":
		return updateHistory(ctx, a, word)
	case "rollout", "pause", "resume", "percent", "end":
		return changeRollout(ctx, a, do, word)
	}
	if kinds[do] == "" || word == "" {
		return a.usage(fmt.Errorf("update %s %s: say what to do, and on which machine", do, word), "update")
	}
	return orderUpdate(ctx, a, kinds[do], word)
}

// orderUpdate sends an order to one machine, or to all that have said how they are.
func orderUpdate(ctx context.Context, a *app, kind, word string) int {
	var ids []string
	if word == "all" {
		hosts, err := updateHosts(ctx, a)
		if err != nil {
			return a.refused("Error reading the hosts", err)
		}
		for _, h := range hosts {
			ids = append(ids, h.Machine)
		}
	} else {
		id, err := machineID(ctx, a, word)
		if err != nil {
			return a.refused("Error finding the machine", err)
		}
		ids = []string{id}
	}
	for _, id := range ids {
		var o waves.Order
		in := waves.Order{Kind: kind, Version: a.opts.os.take, Why: a.opts.os.why}
		if err := a.client.Do(ctx, http.MethodPost, "updates/"+url.PathEscape(id), in, &o); err != nil {
			return a.refused("Error sending the order", err)
		}
		a.printf("%s is told to %s\n", shortID(id, a.opts.full), strings.TrimSuffix(kind, " now"))
	}
	return exitOK
}

func updateHosts(ctx context.Context, a *app) ([]waves.Host, error) {
	var answer struct{ Hosts []waves.Host }
	err := a.client.Do(ctx, http.MethodGet, "updates", nil, &answer)
	return answer.Hosts, err
}

func rollouts(ctx context.Context, a *app) (map[string]waves.Rollout, error) {
	var answer struct{ Rollouts map[string]waves.Rollout }
	err := a.client.Do(ctx, http.MethodGet, "rollouts", nil, &answer)
	return answer.Rollouts, err
}

func updateStatus(ctx context.Context, a *app) int {
	hosts, err := updateHosts(ctx, a)
	if err != nil {
		return a.refused("Error reading the hosts", err)
	}
	all, err := rollouts(ctx, a)
	if err != nil {
		return a.refused("Error reading the rollouts", err)
	}
	if a.opts.json {
		return printValue(a, map[string]any{"hosts": hosts, "rollouts": all})
	}
	code := table(a, []column[waves.Host]{
		{"machine", func(h waves.Host) string { return shortID(h.Machine, a.opts.full) }},
		{"running", func(h waves.Host) string {
			if !h.Good {
				return h.Running + " on trial"
			}
			return h.Running
		}},
		{"slot", func(h waves.Host) string { return h.Slot }},
		{"phase", func(h waves.Host) string {
			if h.Phase == "staging" && h.Frames > 0 {
				return fmt.Sprintf("staging %d %%", 100*h.Done/h.Frames)
			}
			return h.Phase
		}},
		{"target", func(h waves.Host) string { return h.Target }},
		{"channel", func(h waves.Host) string { return h.Channel }},
		{"group", func(h waves.Host) string { return h.Group }},
		{"checked", func(h waves.Host) string { return stamp(h.Checked) }},
		{"said", func(h waves.Host) string { return stamp(h.At) }},
		{"why", func(h waves.Host) string { return h.Why }},
	}, "machine,running,phase,target,group,why", hosts)
	for _, c := range slices.Sorted(maps.Keys(all)) {
		a.printf("\n%s", describeRollout(c, all[c]))
	}
	return code
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// describeRollout is one rollout for people.
func describeRollout(channel string, r waves.Rollout) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s, pace %s since %s\n", channel, r.Version, r.Pace, stamp(r.Start))
	fmt.Fprintf(&b, "  of %d hosts %d have begun, %d have proven it, %d came back\n", r.Hosts, r.Took, r.Proved, r.CameBack)
	if r.Canary != "" {
		fmt.Fprintf(&b, "  canaries %s: %d of %d have proven it\n", r.Canary, r.CanaryDone, r.CanaryGood)
	}
	if r.Refused != "" {
		fmt.Fprintf(&b, "  not taken by anybody, for their rollouts were stopped: %s\n", r.Refused)
	}
	if r.AtLeast > 0 {
		fmt.Fprintf(&b, "  %g %% may begin whatever the waves say\n", r.AtLeast)
	}
	if r.Paused != "" {
		fmt.Fprintf(&b, "  paused: %s\n", r.Paused)
	}
	if r.Stopped != "" {
		fmt.Fprintf(&b, "  stopped by itself: %s\n", r.Stopped)
	}
	return b.String()
}

// updateHistory prints what has happened on one host, or on all, by time.
func updateHistory(ctx context.Context, a *app, word string) int {
	hosts, err := updateHosts(ctx, a)
	if err != nil {
		return a.refused("Error reading the hosts", err)
	}
	type line struct {
		Machine string `json:"machineID"`
		waves.Event
	}
	only := ""
	if word != "" {
		if only, err = machineID(ctx, a, word); err != nil {
			return a.refused("Error finding the machine", err)
		}
	}
	lines := []line{}
	for _, h := range hosts {
		for _, e := range h.History {
			if only == "" || h.Machine == only {
				lines = append(lines, line{h.Machine, e})
			}
		}
	}
	slices.SortStableFunc(lines, func(x, y line) int { return x.At.Compare(y.At) })
	if a.opts.json {
		return printJSON(a, lines)
	}
	for _, l := range lines {
		a.printf("%s  %s  %s\n", stamp(l.At), shortID(l.Machine, a.opts.full), l.Text)
	}
	return exitOK
}

// changeRollout starts, stops or widens a channel's rollout.
func changeRollout(ctx context.Context, a *app, do, word string) int {
	ask := map[string]any{"do": do, "why": a.opts.os.why}
	switch do {
	case "rollout":
		ask["do"], ask["version"], ask["pace"], ask["canary"], ask["percent"] = "start", word, a.opts.os.pace, a.opts.os.canary, a.opts.os.percent
	case "percent":
		n, err := strconv.ParseFloat(word, 64)
		if err != nil {
			return a.usage(fmt.Errorf("update percent %s: give a number", word), "update")
		}
		ask["percent"] = n
	}
	channel, err := chosenChannel(ctx, a, do)
	if err != nil {
		return a.refused("Error finding the channel", err)
	}
	var r waves.Rollout
	if err := a.client.Do(ctx, http.MethodPost, "rollouts/"+url.PathEscape(channel), ask, &r); err != nil {
		return a.refused("Error changing the rollout", err)
	}
	switch {
	case a.opts.json:
		return printValue(a, r)
	case do == "end":
		a.printf("%s: no rollout any more, its releases are free for all\n", channel)
	default:
		a.printf("%s", describeRollout(channel, r))
	}
	return exitOK
}

// chosenChannel is --channel, or the only one that there is.
func chosenChannel(ctx context.Context, a *app, do string) (string, error) {
	if a.opts.os.channel != "" {
		return a.opts.os.channel, nil
	}
	found := map[string]bool{}
	if do != "rollout" {
		all, err := rollouts(ctx, a)
		if err != nil {
			return "", err
		}
		for c := range all {
			found[c] = true
		}
	}
	if len(found) == 0 {
		hosts, err := updateHosts(ctx, a)
		if err != nil {
			return "", err
		}
		for _, h := range hosts {
			found[h.Channel] = true
		}
	}
	list := slices.Sorted(maps.Keys(found))
	switch len(list) {
	case 0:
		return "", errors.New("no host has said which channel it follows: name it with --channel=PRODUCT.ARCH.CHANNEL")
	case 1:
		return list[0], nil
	}
	return "", fmt.Errorf("there are %s: name one with --channel", strings.Join(list, ", "))
}

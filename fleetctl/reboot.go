package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/reboot"
)

// permitGroup is a group of hosts that share reboot permits, as the API shows it.
type permitGroup struct {
	Group string `json:"group"`
	reboot.Semaphore
	Limit int             `json:"limit"`
	Lost  []reboot.Holder `json:"lost"`
}

func rebootCommand(ctx context.Context, a *app, args []string) int {
	if len(args) == 0 {
		args = []string{"status"}
	}
	do, rest := args[0], args[1:]
	if do == "status" && len(rest) == 0 {
		return rebootStatus(ctx, a)
	}
	ask, err := permitAsk(ctx, a, do, rest)
	if err != nil {
		return a.usage(err, "reboot")
	}
	before, err := permitsOf(ctx, a)
	if err != nil {
		return a.refused("Error reading the permits", err)
	}
	var after permitGroup
	if err := a.client.Do(ctx, http.MethodPost, "reboot/"+url.PathEscape(a.opts.os.group), ask, &after); err != nil {
		return a.refused("Error changing the permits", err)
	}
	switch {
	case a.opts.json:
		return printValue(a, after)
	case do == "set-max" || do == "set-percent":
		a.printf("Old-Max: %d\nMax: %d\n", before.Limit, after.Limit) // locksmithctl's words
	}
	return exitOK
}

// permitAsk is the body of the request.
func permitAsk(ctx context.Context, a *app, do string, rest []string) (map[string]any, error) {
	ask := map[string]any{"do": do, "reason": a.opts.os.why}
	word := ""
	if len(rest) > 0 {
		word = rest[0]
	}
	if len(rest) > 1 || word == "" && do != "lock" && do != "unlock" && do != "set-domain" {
		return nil, fmt.Errorf("reboot %s: it takes one word", do)
	}
	switch do {
	case "lock", "unlock":
		id, err := machineID(ctx, a, word)
		if err != nil && do == "unlock" {
			id, err = word, nil // a holder that is none of ours, or gone for good
		}
		ask["id"] = id
		return ask, err
	case "set-max", "set-percent":
		n, err := strconv.Atoi(word)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("reboot %s %s: give a number from 1", do, word)
		}
		ask["number"] = n
	case "set-outage", "set-homeless":
		if word != "yes" && word != "no" {
			return nil, fmt.Errorf("reboot %s %s: say yes or no", do, word)
		}
		ask["allowed"] = word == "yes"
	case "set-domain":
		ask["word"] = word
	default:
		return nil, fmt.Errorf("reboot %s: there is no such thing to do", do)
	}
	return ask, nil
}

// machineID is the ID of the machine that a word names: the begin of its ID, its address or name; without a word this machine's.
func machineID(ctx context.Context, a *app, word string) (string, error) {
	if word == "" {
		b, err := os.ReadFile("/etc/machine-id")
		return strings.TrimSpace(string(b)), err
	}
	machines, err := a.client.Machines(ctx)
	if err != nil {
		return "", err
	}
	var found []string
	for _, m := range machines {
		if strings.HasPrefix(m.ID, word) || m.PrimaryIP == word || m.Name == word {
			found = append(found, m.ID)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", fmt.Errorf("no machine is called %s: fleetctl list-machines shows those there are", word)
	}
	return "", fmt.Errorf("%s could be %s: write more of it", word, strings.Join(found, " or "))
}

func permitsOf(ctx context.Context, a *app) (permitGroup, error) {
	var g permitGroup
	err := a.client.Do(ctx, http.MethodGet, "reboot/"+url.PathEscape(a.opts.os.group), nil, &g)
	return g, err
}

// rebootStatus prints what locksmithctl status does, in its words, and behind each machine what there is to know.
func rebootStatus(ctx context.Context, a *app) int {
	g, err := permitsOf(ctx, a)
	if err != nil {
		return a.refused("Error reading the permits", err)
	}
	if a.opts.json {
		return printValue(a, g)
	}
	a.printf("Available: %d\nMax: %d\n", max(0, g.Limit-len(g.Holders)), g.Limit)
	if g.Domain != "" {
		a.printf("Domain: %s\n", g.Domain)
	}
	if len(g.Holders) > 0 {
		a.printf("\nMACHINE ID\n")
	}
	for _, h := range g.Holders {
		a.printf("%s  since %s  %s\n", h.ID, h.Since.UTC().Format(time.RFC3339), h.Reason)
	}
	a.lostHolders(g, "")
	// An alarm of another group must not be missed for want of its name.
	var all struct{ Groups []permitGroup }
	if err := a.client.Do(ctx, http.MethodGet, "reboot", nil, &all); err != nil {
		return a.refused("Error reading the other groups' permits", err)
	}
	for _, o := range all.Groups {
		if o.Group != a.opts.os.group {
			a.lostHolders(o, " --group="+o.Group)
		}
	}
	return exitOK
}

// lostHolders tells of the holders that are away for too long.
func (a *app) lostHolders(g permitGroup, flag string) {
	for _, h := range g.Lost {
		a.printf("\n%s got its permit at %s and has not come back: the others wait.\n"+
			"Bring it back, or say that it is gone: fleetctl reboot unlock %s%s\n", h.ID, h.Since.UTC().Format(time.RFC3339), h.ID, flag)
	}
}

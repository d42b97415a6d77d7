package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/functional/host"
)

// The tour of the first page is run as it stands there, and prints what it says.
func TestTheTourOfTheFirstPage(t *testing.T) {
	if err := host.Missing(); err != nil {
		if os.Getenv("FLEET_HOSTS") == "required" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	page, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	steps := tour(string(page))
	if len(steps) < 10 {
		t.Fatalf("%d commands found in the tour", len(steps))
	}
	ctx := host.Context(t)
	id := fmt.Sprintf("FLEET_CLUSTER=tour-%d", os.Getpid())
	t.Cleanup(func() {
		// Not ctx: it has ended when the tour has hung.
		if out, err := shell(context.Background(), id, "./build.sh down"); err != nil {
			t.Errorf("down: %v\n%s", err, out)
		}
	})
	if out, err := shell(ctx, id, "./build.sh up"); err != nil {
		t.Fatalf("up: %v\n%s", err, out)
	}
	for _, s := range steps {
		var err error
		if !strings.Contains(s.command, " list-") {
			err = s.run(ctx, id)
		} else {
			// A list shows the cluster as it is, and the page tells of what comes within seconds.
			err = host.WaitFor(ctx, s.command, func(ctx context.Context) error { return s.run(ctx, id) })
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// step is one command of the page and what it prints.
type step struct {
	command string
	want    []string
}

// tour finds the commands in the page's console blocks: lines that begin with "$ ", and what they print below.
func tour(page string) []step {
	var steps []step
	inside := false
	for line := range strings.Lines(page) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "```"):
			inside = line == "```console"
		case !inside:
		case strings.HasPrefix(line, "$ "):
			steps = append(steps, step{command: line[2:]})
		default:
			last := &steps[len(steps)-1]
			last.want = append(last.want, line)
		}
	}
	return steps
}

// run runs the command and compares. A failing one has "[exit N]" as its last line on the page.
func (s step) run(ctx context.Context, env string) error {
	out, err := shell(ctx, env, s.command)
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		out += fmt.Sprintf("[exit %d]\n", exit.ExitCode())
	} else if err != nil {
		return err
	}
	if !s.pattern().MatchString(out) {
		return fmt.Errorf("$ %s\nprinted:\n%s\nthe page says:\n%s", s.command, out, strings.Join(s.want, "\n"))
	}
	return nil
}

// pattern is what the page shows as an expression: … stands for anything, alone on a line for any lines; how many tabs or blanks
// align a column depends on what stands in it.
func (s step) pattern() *regexp.Regexp {
	var p strings.Builder
	p.WriteString(`^`)
	for _, line := range s.want {
		if line == "…" {
			p.WriteString(`(?s:.*\n)?`)
			continue
		}
		text := regexp.QuoteMeta(line)
		text = strings.ReplaceAll(text, "…", ".*")
		p.WriteString(regexp.MustCompile(`[ \t]+`).ReplaceAllString(text, `[ \t]+`) + `\n`)
	}
	return regexp.MustCompile(p.String() + `$`)
}

// shell runs a command line in the folder of the page; both outputs are what a person sees.
func shell(ctx context.Context, env, line string) (string, error) {
	cmd := exec.CommandContext(ctx, "bash", "-c", line)
	cmd.Dir = "../../.."
	cmd.Env = append(os.Environ(), env)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

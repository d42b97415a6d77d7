package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/pflag"

	"github.com/fleet-init/fleet/internal/rollout"
	"github.com/fleet-init/fleet/update-engine/slot"
	"github.com/fleet-init/fleet/update-engine/update"
)

// row is one command.
type row struct {
	name, args, summary string
	run                 func(context.Context, job) error
}

// job is one call of a command.
type job struct {
	command row
	args    []string
	env     []string
	stdout  io.Writer
}

func commands() []row {
	return []row{
		{"status", "[--json]", "what runs, what is under way, what is waited for", status},
		{"metrics", "", "the host's figures as Prometheus reads them, for a textfile collector", showMetrics},
		{"watch", "", "a line for each change until interrupted", watch},
		{"history", "", "what has happened to this host's releases", history},
		{"check", "[--take VERSION]", "look for a release now; --take takes that one whatever happened before", check},
		{"apply", "[--file DIR] [--take VERSION] [--reboot]", "look, stage, and with --reboot ask for the reboot", apply},
		{"reboot", "", "reboot as soon as there is a permit and the units have left: into the staged release, or as it is", tell(update.RebootNow)},
		{"cancel", "", "give up the update under way", tell(update.Cancel)},
		{"rollback", "[--why TEXT]", "boot the other slot again and do not take this release any more", rollback},
		{"mark-good", "", "end the trial of this boot: it is good", tell(update.GatePassed)},
		{"forget", "[VERSION]", "let a release that failed be taken again; without VERSION all", forget},
		{"gate", "", "wait until this boot is good; for update-engine-gate.service", gateCommand},
		{"boot", "SLOTS", "for hosts without a boot loader: choose, count the start, print the slot", boot},
		{"install", "SLOTS --version V --usr FILE --uki FILE …", "write the first release into slot a of a folder or disk image", install},
		{"keys", "new|init|rotate|root …", "make keys and release directories", keys},
		{"publish", "DIR …", "put a release into a directory", publish},
		{"withdraw", "DIR VERSION …", "take a release out of a channel", withdraw},
		{"refresh", "DIR --keys ONLINE", "say again that the directory is the newest, before that expires", refresh},
		{"mirror", "URL DIR --root FILE", "copy a directory, believing only what is signed", mirror},
	}
}

func usage() string {
	var b strings.Builder
	b.WriteString("update-engine [COMMAND]\nWithout a command it is the daemon. Commands:\n")
	w := tabwriter.NewWriter(&b, 2, 8, 2, ' ', 0)
	for _, c := range commands() {
		fmt.Fprintf(w, "  %s %s\t%s\n", c.name, c.args, c.summary)
	}
	_ = w.Flush() // a strings.Builder takes everything
	return b.String() + "\n"
}

// flags are the flags of one command; every command that speaks to the daemon has --socket.
func (j job) flags() (*pflag.FlagSet, *string) {
	f := pflag.NewFlagSet(j.command.name, pflag.ContinueOnError)
	f.SetOutput(io.Discard)
	return f, f.String("socket", "/run/fleet/update-engine.sock", "socket of the daemon")
}

func (j job) parse(f *pflag.FlagSet, least, most int) error {
	err := f.Parse(j.args)
	if err == nil && (f.NArg() < least || f.NArg() > most) {
		err = fmt.Errorf("%d arguments", f.NArg())
	}
	if err != nil {
		return fmt.Errorf("%w\nusage: update-engine %s %s\n%s", err, j.command.name, j.command.args, f.FlagUsages())
	}
	return nil
}

// send sends a command and gives the state after it.
func send(ctx context.Context, socket string, c command) (Status, error) {
	var s Status
	body, err := call(ctx, socket, "POST", "/command", c)
	if err == nil {
		err = errors.Join(json.NewDecoder(body).Decode(&s), body.Close())
	}
	return s, err
}

func status(ctx context.Context, j job) error {
	f, socket := j.flags()
	raw := f.Bool("json", false, "as JSON")
	if err := j.parse(f, 0, 0); err != nil {
		return err
	}
	body, err := call(ctx, *socket, "GET", "/status", nil)
	if err != nil {
		return err
	}
	defer body.Close()
	if *raw {
		_, err := io.Copy(j.stdout, body)
		return err
	}
	var s Status
	if err := json.NewDecoder(body).Decode(&s); err != nil {
		return err
	}
	printStatus(j.stdout, s)
	return nil
}

func showMetrics(ctx context.Context, j job) error {
	f, socket := j.flags()
	if err := j.parse(f, 0, 0); err != nil {
		return err
	}
	body, err := call(ctx, *socket, "GET", "/metrics", nil)
	if err != nil {
		return err
	}
	_, err = io.Copy(j.stdout, body)
	return errors.Join(err, body.Close())
}

func history(ctx context.Context, j job) error {
	f, socket := j.flags()
	if err := j.parse(f, 0, 0); err != nil {
		return err
	}
	body, err := call(ctx, *socket, "GET", "/history", nil)
	if err != nil {
		return err
	}
	defer body.Close()
	var list []rollout.Event
	if err := json.NewDecoder(body).Decode(&list); err != nil {
		return err
	}
	for _, e := range list {
		fmt.Fprintf(j.stdout, "%s  %s\n", e.At.UTC().Format(time.RFC3339), e.Text)
	}
	return nil
}

func printStatus(out io.Writer, s Status) {
	w := tabwriter.NewWriter(out, 2, 8, 2, ' ', 0)
	proven := "on trial"
	if s.Good {
		proven = "good"
	}
	fmt.Fprintf(w, "running\t%s in slot %s, %s\n", s.Running, s.Slots.Running, proven)
	fmt.Fprintf(w, "phase\t%s\n", line(s.State))
	for _, n := range []slot.Name{slot.A, slot.B} {
		fmt.Fprintf(w, "slot %s\t%s\n", n, slotText(s.Slots, n))
	}
	if !s.LastGood.IsZero() {
		fmt.Fprintf(w, "checked\t%s\n", s.LastGood.UTC().Format(time.RFC3339))
	}
	if !s.CheckAt.IsZero() {
		fmt.Fprintf(w, "next check\t%s\n", s.CheckAt.UTC().Format(time.RFC3339))
	}
	for _, x := range s.Failed {
		fmt.Fprintf(w, "not again\t%s: %s (%s)\n", x.Version, x.Reason, x.At.UTC().Format(time.RFC3339))
	}
	_ = w.Flush() // nobody reads any more
}

// line is a state as one line.
func line(s update.State) string {
	text := string(s.Phase)
	if s.Phase == update.Staging {
		text += " " + s.Target.Version
		if s.Frames > 0 {
			text += fmt.Sprintf(" %d %%", 100*s.Done/s.Frames)
		}
	}
	if s.Why != "" {
		text += ": " + s.Why
	}
	return text
}

// follow calls see for each state until it says stop.
func follow(ctx context.Context, socket string, see func(update.State) (stop bool)) error {
	body, err := call(ctx, socket, "GET", "/watch", nil)
	if err != nil {
		return err
	}
	defer body.Close()
	for d := json.NewDecoder(body); ; {
		var s update.State
		if err := d.Decode(&s); err != nil {
			return fmt.Errorf("the daemon is gone: %w", err)
		}
		if see(s) {
			return nil
		}
	}
}

func watch(ctx context.Context, j job) error {
	f, socket := j.flags()
	if err := j.parse(f, 0, 0); err != nil {
		return err
	}
	last := ""
	return follow(ctx, *socket, func(s update.State) bool {
		if l := line(s); l != last {
			last = l
			fmt.Fprintln(j.stdout, l)
		}
		return false
	})
}

func check(ctx context.Context, j job) error {
	f, socket := j.flags()
	take := f.String("take", "", "take this version, though it failed before or is older")
	if err := j.parse(f, 0, 0); err != nil {
		return err
	}
	_, err := send(ctx, *socket, command{Kind: update.CheckNow, Version: *take})
	return err
}

func apply(ctx context.Context, j job) error {
	f, socket := j.flags()
	take := f.String("take", "", "take this version, though it failed before or is older")
	file := f.String("file", "", "take it from this folder, which holds a release directory")
	restart := f.Bool("reboot", false, "then ask for the reboot")
	if err := j.parse(f, 0, 0); err != nil {
		return err
	}
	c := command{Kind: update.CheckNow, Version: *take}
	if *file != "" {
		abs, err := filepath.Abs(*file)
		if err != nil {
			return err
		}
		c.From = "file://" + abs
	}
	before, err := send(ctx, *socket, c)
	if err != nil {
		return err
	}
	if before.Phase != update.Checking && before.Phase != update.Staged {
		return fmt.Errorf("the host is busy: %s", line(before.State))
	}
	last := ""
	var end update.State
	err = follow(ctx, *socket, func(s update.State) bool {
		if l := line(s); l != last {
			last = l
			fmt.Fprintln(j.stdout, l)
		}
		end = s
		return s.Phase != update.Checking && s.Phase != update.Staging
	})
	switch {
	case err != nil:
		return err
	case end.Phase == update.Idle && end.Why != "up to date":
		return errors.New(end.Why)
	case end.Phase == update.Staged && *restart:
		_, err = send(ctx, *socket, command{Kind: update.RebootNow})
	}
	return err
}

// tell is a command without arguments.
func tell(kind update.Kind) func(context.Context, job) error {
	return func(ctx context.Context, j job) error {
		f, socket := j.flags()
		if err := j.parse(f, 0, 0); err != nil {
			return err
		}
		s, err := send(ctx, *socket, command{Kind: kind})
		if err == nil {
			fmt.Fprintln(j.stdout, line(s.State))
		}
		return err
	}
}

func rollback(ctx context.Context, j job) error {
	f, socket := j.flags()
	why := f.String("why", "no reason given", "what is wrong with the running release, for the others")
	if err := j.parse(f, 0, 0); err != nil {
		return err
	}
	s, err := send(ctx, *socket, command{Kind: update.RollbackNow, Why: *why})
	if err != nil {
		return err
	}
	end := s.State
	if end.Phase == update.Finalizing {
		if err := follow(ctx, *socket, func(s update.State) bool { end = s; return s.Phase != update.Finalizing }); err != nil {
			return err
		}
	}
	fmt.Fprintln(j.stdout, line(end))
	if end.Phase != update.Rebooting {
		return errors.New("not rolled back")
	}
	return nil
}

func forget(ctx context.Context, j job) error {
	f, socket := j.flags()
	if err := j.parse(f, 0, 1); err != nil {
		return err
	}
	_, err := send(ctx, *socket, command{Kind: update.Forget, Version: f.Arg(0)})
	return err
}

// boot is the boot loader of hosts that have none: what starts the container calls it and mounts the slot it prints.
func boot(_ context.Context, j job) error {
	f, _ := j.flags()
	if err := j.parse(f, 1, 1); err != nil {
		return err
	}
	info, err := os.Stat(f.Arg(0))
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is no folder of slots", f.Arg(0))
	}
	d := slot.Dir{Root: f.Arg(0)}
	e, err := slot.Slots{Boot: d, Images: d, Running: slot.A}.Start()
	if err == nil {
		fmt.Fprintf(j.stdout, "fleet.slot=%s fleet.version=%s\n", e.Slot, e.Release.Version)
	}
	return err
}

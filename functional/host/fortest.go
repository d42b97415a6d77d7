package host

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// grace is kept between the end of a test's context and go test's deadline: time to read journals and to clear away.
const grace = 30 * time.Second

// ForTest starts a cluster for a test and removes it at the test's end. If the test failed, the end of every host's journal is
// logged, and all of it is written to the folder FLEET_LOGS if that is set. Where hosts cannot be booted the test is
// skipped, except with FLEET_HOSTS=required, as build.sh test sets it.
//
// The hosts of a test that names no tree boot the image's: what is tested is what ships.
func ForTest(t *testing.T, opt Options) *Cluster {
	t.Helper()
	required := os.Getenv("FLEET_HOSTS") == "required"
	if testing.Short() && !required {
		t.Skip("boots hosts: not with -short")
	}
	if err := Missing(); err != nil && !required {
		t.Skip(err)
	}
	if opt.Log == nil {
		opt.Log = t.Logf
	}
	if opt.Tree == "" {
		opt.Tree = Tree(t)
	}
	ctx := Context(t)
	c, err := Start(ctx, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			c.logJournals(t)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// Context ends with the test, and some time before go test gives up, so that clean-up still runs.
func Context(t *testing.T) context.Context {
	deadline, ok := t.Deadline()
	if !ok {
		return t.Context()
	}
	ctx, cancel := context.WithDeadline(t.Context(), deadline.Add(-grace))
	t.Cleanup(cancel)
	return ctx
}

// Must runs a command on the host and fails the test if it fails. It returns stdout without the white space around it.
func (h *Host) Must(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := h.Run(Context(t), name, args...)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return strings.TrimSpace(out)
}

func (c *Cluster) logJournals(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), grace/2) // the test's own context has ended by now
	defer cancel()
	for _, h := range c.Hosts() {
		_ = h.Thaw(ctx) // a frozen host cannot tell
		text, err := h.Journal(ctx, "")
		if err != nil {
			t.Logf("%s has no journal: %v", h.Name, err)
			continue
		}
		t.Logf("the end of %s's journal:\n%s", h.Name, Tail(text, 60))
		if dir := os.Getenv("FLEET_LOGS"); dir != "" {
			path := filepath.Join(dir, strings.ReplaceAll(t.Name(), "/", "."), h.Name+".journal")
			_ = os.MkdirAll(filepath.Dir(path), 0o755)
			_ = os.WriteFile(path, []byte(text), 0o644)
		}
	}
}

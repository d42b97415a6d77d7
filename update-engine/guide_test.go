package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMain lets the test binary be update-engine itself, for the guide.
func TestMain(m *testing.M) {
	if os.Getenv("UPDATE_ENGINE_TEST_PROGRAM") == "1" {
		if err := run(context.Background(), os.Args[1:], os.Environ(), os.Stdout, os.Stderr); err != nil {
			fmt.Fprintln(os.Stderr, "update-engine: "+err.Error())
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestGuide does what docs/update.md tells a newcomer to do, word for word.
func TestGuide(t *testing.T) {
	doc, err := os.ReadFile("../docs/update.md")
	must(t, err)
	script := "set -eu\n"
	for i, part := range strings.Split(string(doc), "```sh\n") {
		if i > 0 {
			code, _, _ := strings.Cut(part, "```")
			script += code
		}
	}
	self, err := os.Executable()
	must(t, err)
	// A socket's path may have 108 bytes only.
	dir, err := os.MkdirTemp("", "guide")
	must(t, err)
	defer os.RemoveAll(dir)
	bin := filepath.Join(dir, "bin")
	must(t, os.MkdirAll(filepath.Join(dir, "work"), 0o755))
	must(t, os.Mkdir(bin, 0o755))
	must(t, os.WriteFile(filepath.Join(bin, "update-engine"), []byte("#!/bin/sh\nUPDATE_ENGINE_TEST_PROGRAM=1 exec "+self+" \"$@\"\n"), 0o755))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, "sh", "-c", script)
	c.Dir = filepath.Join(dir, "work")
	c.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	// A script that fails leaves its daemon behind, in its own process group: end that whatever happens.
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	group := func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.Cancel = group
	out, err := c.CombinedOutput()
	_ = group() // usually nobody is left
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
	if !strings.Contains(string(out), "2.0.0 has proven itself") {
		t.Error("nothing says that 2.0.0 has proven itself")
	}
}

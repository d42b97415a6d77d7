package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
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
	c := exec.CommandContext(t.Context(), "sh", "-c", script)
	c.Dir = filepath.Join(dir, "work")
	c.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
	if !strings.Contains(string(out), "2.0.0 has proven itself") {
		t.Error("nothing says that 2.0.0 has proven itself")
	}
}

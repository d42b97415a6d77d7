package host

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// CacheDir is where trees that are expensive to make are kept between runs.
func CacheDir() string {
	if dir := os.Getenv("FLEET_CACHE"); dir != "" {
		return dir
	}
	return "/var/cache/fleet-build"
}

// ensureTree returns the root tree that hosts start from, and makes it if the cache has none for this script/tree.sh.
func ensureTree(ctx context.Context, log func(string, ...any)) (string, error) {
	script, err := scripts.ReadFile("script/tree.sh")
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(script)
	tree := filepath.Join(CacheDir(), "tree-"+hex.EncodeToString(sum[:6]))
	if _, err := os.Stat(tree); err == nil {
		return tree, nil
	}
	if err := os.MkdirAll(CacheDir(), 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(ctx, tree+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(tree); err == nil {
		return tree, nil // another process made it while we waited
	}
	log("making the hosts' root tree in %s: a minute, once", tree)
	return tree, makeTree(ctx, script, tree)
}

// makeTree fills a folder beside the tree and renames it, so that a tree that exists is a whole one.
func makeTree(ctx context.Context, script []byte, tree string) error {
	fresh := tree + ".new"
	if err := os.RemoveAll(fresh); err != nil { // of a run that was cut short: we hold the lock
		return err
	}
	path := tree + ".sh"
	if err := os.WriteFile(path, script, 0o755); err != nil {
		return err
	}
	defer os.Remove(path)
	cmd := exec.CommandContext(ctx, "sh", path, fresh)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // lets mmdebstrap unmount what it mounted
	cmd.WaitDelay = 20 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return errors.Join(fmt.Errorf("make the hosts' root tree: %w: %s", err, Tail(string(out), 20)), os.RemoveAll(fresh))
	}
	return os.Rename(fresh, tree)
}

// lock waits for the lock on a file, that the kernel gives back when this process ends.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	err = WaitFor(ctx, "another process that holds "+path, func(context.Context) error {
		return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	})
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

package host

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
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

// Tree returns the image's root tree, as build.sh tree makes it: FLEET_HOST_TREE if that is set, else it is made, once for all tests of this process.
func Tree(t *testing.T) string {
	t.Helper()
	if dir := os.Getenv("FLEET_HOST_TREE"); dir != "" {
		return dir
	}
	tree, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

var built = sync.OnceValues(func() (string, error) {
	dir, err := moduleRoot()
	if err != nil {
		return "", err
	}
	cmd := exec.Command(filepath.Join(dir, "build.sh"), "tree")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("build.sh tree: %w: %s", err, Tail(stderr.String(), 20))
	}
	return strings.TrimSpace(string(out)), nil
})

// Debian returns the root tree of a stock Debian, for tests of what is installed on one.
func Debian(t *testing.T) string {
	t.Helper()
	made, err := ensureBeside(Context(t), t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(made, "debian")
}

// ensureBeside returns the folder of what hosts need beside the image's tree, and makes it if the cache has none for this script/tree.sh.
func ensureBeside(ctx context.Context, log func(string, ...any)) (string, error) {
	script, err := scripts.ReadFile("script/tree.sh")
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(script)
	dir := filepath.Join(CacheDir(), "beside-"+hex.EncodeToString(sum[:6]))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	if err := os.MkdirAll(CacheDir(), 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(ctx, dir+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(dir); err == nil {
		return dir, nil // another process made it while we waited
	}
	log("making a Debian and the tools of tests in %s: a minute, once", dir)
	return dir, makeBeside(ctx, script, dir)
}

// makeBeside fills a folder beside the one it is to be and renames it, so that one that exists is whole.
func makeBeside(ctx context.Context, script []byte, dir string) error {
	fresh := dir + ".new"
	if err := os.RemoveAll(fresh); err != nil { // of a run that was cut short: we hold the lock
		return err
	}
	path := dir + ".sh"
	if err := os.WriteFile(path, script, 0o755); err != nil {
		return err
	}
	defer os.Remove(path)
	cmd := exec.CommandContext(ctx, "sh", path, fresh)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // lets mmdebstrap unmount what it mounted
	cmd.WaitDelay = 20 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return errors.Join(fmt.Errorf("make the tools of tests: %w: %s", err, Tail(string(out), 20)), os.RemoveAll(fresh))
	}
	return os.Rename(fresh, dir)
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

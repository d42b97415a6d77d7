package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// tools says at once which programs are missing, and the packages that have them.
func (o options) tools() error {
	want := [][2]string{{"mmdebstrap", "mmdebstrap"}, {"dpkg-deb", "dpkg"}, {"chroot", "coreutils"}}
	if !o.tree {
		want = append(want, [][2]string{{"mkfs.erofs", "erofs-utils"}, {"veritysetup", "cryptsetup-bin"}, {"objcopy", "binutils"},
			{"mkfs.ext4", "e2fsprogs"}, {"zstd", "zstd"}}...)
		if o.key != "" {
			want = append(want, [2]string{"sbsign", "sbsigntool"})
		}
	}
	var missing []string
	for _, w := range want {
		if _, err := lookPath(w[0]); err != nil {
			missing = append(missing, fmt.Sprintf("%s (package %s)", w[0], w[1]))
		}
	}
	if !o.tree {
		if _, err := os.Stat(stub); err != nil {
			missing = append(missing, stub+" (package systemd-boot-efi)")
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("this machine lacks %s", strings.Join(missing, ", "))
	}
	return nil
}

// lookPath also looks where root's programs are.
func lookPath(name string) (string, error) {
	p, err := exec.LookPath(name)
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if err == nil {
			break
		}
		p, err = exec.LookPath(filepath.Join(dir, name))
	}
	return p, err
}

// call runs a program with the build's time in its environment, in English, and with its output in the error.
func (b *builder) call(name string, args ...string) error { return b.callEnv(nil, name, args...) }

func (b *builder) callEnv(env []string, name string, args ...string) error {
	p, err := lookPath(name)
	if err != nil {
		return err
	}
	cmd := exec.Command(p, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC", fmt.Sprintf("SOURCE_DATE_EPOCH=%d", b.epoch), "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	cmd.Env = append(cmd.Env, env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", filepath.Base(name), err, tail(string(out), 15))
	}
	return nil
}

func tail(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// digest hashes words and the content, modes and names of files and folders.
func digest(words []string, paths ...string) (string, error) {
	h := sha256.New()
	for _, w := range words {
		fmt.Fprintf(h, "%q\n", w)
	}
	for _, p := range paths {
		if err := hashTree(h, p); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}

func hashTree(h io.Writer, root string) error {
	return filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, p)
		info, err := e.Info()
		if err != nil {
			return err
		}
		if e.Type()&fs.ModeSymlink != 0 {
			to, err := os.Readlink(p)
			fmt.Fprintf(h, "%q -> %q\n", rel, to)
			return err
		}
		if e.IsDir() {
			return nil
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		fmt.Fprintf(h, "%q %v %d\n", rel, info.Mode(), info.Size())
		_, err = io.Copy(h, f)
		return err
	})
}

// fileSum is the SHA-256 of a file in hex.
func fileSum(p string) (string, error) {
	f, err := os.Open(p)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), err
}

// once makes what is at p by do, which gets a path to fill, and only if it is not there: a file or folder that exists is a whole one.
func once(p string, do func(fresh string) error) error {
	if _, err := os.Stat(p); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	fresh := p + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return err
	}
	if err := do(fresh); err != nil {
		return errors.Join(err, os.RemoveAll(fresh))
	}
	return os.Rename(fresh, p)
}

// used marks a part of the cache as used now; what was copied into it carries the times of where it came from.
func used(p string) error {
	now := time.Now()
	return os.Chtimes(p, now, now)
}

// keep removes all but those few that were used last of what a pattern matches: the cache does not grow with every commit. What somebody holds a
// lock on stays too: containers run on it.
func keep(pattern string, newest int, not ...string) error {
	list, err := filepath.Glob(pattern)
	if err != nil {
		return err
	}
	type aged struct {
		p  string
		at int64
	}
	var all []aged
next:
	for _, p := range list {
		for _, n := range not {
			if p == n {
				continue next
			}
		}
		if info, err := os.Stat(p); err == nil && !held(p) {
			all = append(all, aged{p, info.ModTime().UnixNano()})
		}
	}
	for len(all) > newest {
		old := 0
		for i, a := range all {
			if a.at < all[old].at {
				old = i
			}
		}
		if err := os.RemoveAll(all[old].p); err != nil {
			return err
		}
		all = append(all[:old], all[old+1:]...)
	}
	return nil
}

// held reports whether another process has a lock on a folder.
func held(p string) bool {
	f, err := os.Open(p)
	if err != nil {
		return false
	}
	defer f.Close() // gives back the lock that we may have got
	return errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB), syscall.EWOULDBLOCK)
}

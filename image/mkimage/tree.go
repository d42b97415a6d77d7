package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// lock is packages.lock: when it was made, and name, version and size in KiB of each package, as dpkg-query prints them.
type lock struct {
	epoch    int64
	packages []pkg
}

type pkg struct {
	name, version string
	size          int // KiB
}

func readLock(p string) (lock, error) {
	b, err := os.ReadFile(p)
	if errors.Is(err, fs.ErrNotExist) {
		return lock{epoch: 1}, nil
	}
	if err != nil {
		return lock{}, err
	}
	l, err := parseLock(string(b))
	if err != nil {
		return l, fmt.Errorf("%s: %w", p, err)
	}
	return l, nil
}

const epochLine = "# epoch "

func parseLock(s string) (lock, error) {
	l := lock{epoch: 1}
	n := 0
	for line := range strings.Lines(s) {
		n++
		line = strings.TrimSpace(line)
		if e, ok := strings.CutPrefix(line, epochLine); ok {
			var err error
			if l.epoch, err = strconv.ParseInt(e, 10, 64); err != nil {
				return l, fmt.Errorf("line %d: epoch %q", n, e)
			}
		}
		if line == "" || line[0] == '#' {
			continue
		}
		f := strings.Fields(line)
		if len(f) != 3 {
			return l, fmt.Errorf("line %d: %q: want name, version, KiB", n, line)
		}
		size, err := strconv.Atoi(f[2])
		if err != nil {
			return l, fmt.Errorf("line %d: size %q", n, f[2])
		}
		l.packages = append(l.packages, pkg{f[0], f[1], size})
	}
	return l, nil
}

func (l lock) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Every package of the image with its version and its size in KiB; written by ./build.sh image --relock. All times in the image are:\n%s%d\n",
		epochLine, l.epoch)
	for _, p := range l.packages {
		fmt.Fprintf(&b, "%s %s %d\n", p.name, p.version, p.size)
	}
	return b.String()
}

// differences lists in words what is there otherwise than locked.
func (l lock) differences(got []pkg) []string {
	var out []string
	want := map[string]string{}
	for _, p := range l.packages {
		want[p.name] = p.version
	}
	for _, p := range got {
		if v, ok := want[p.name]; !ok {
			out = append(out, fmt.Sprintf("%s %s is new", p.name, p.version))
		} else if v != p.version {
			out = append(out, fmt.Sprintf("%s is %s instead of %s", p.name, p.version, v))
		}
		delete(want, p.name)
	}
	for n := range want {
		out = append(out, n+" is missing")
	}
	slices.Sort(out)
	return out
}

// debian finds or makes Debian's part: the packages of the list in the versions of the lock.
func (b *builder) debian() error {
	in := func(name string) string { return filepath.Join(b.source, name) }
	locked := in("packages.lock")
	words := []string{os.Getenv("FLEET_MIRROR"), os.Getenv("SUITE"), strconv.FormatInt(b.epoch, 10)}
	if b.relock {
		b.lock = lock{epoch: time.Now().Unix() / 86400 * 86400}
		b.epoch = b.lock.epoch
		locked = os.DevNull
		words = []string{"relock", strconv.FormatInt(time.Now().UnixNano(), 10)}
	}
	key, err := digest(words, in("tree.sh"), in("packages"))
	if err == nil && !b.relock {
		key, err = digest([]string{key}, locked)
	}
	if err != nil {
		return err
	}
	b.base = filepath.Join(b.cache, "debian-"+key)
	if err := once(b.base, func(fresh string) error {
		fmt.Fprintln(b.log, "fetching and unpacking Debian's packages: a minute, once")
		return b.callEnv([]string{"PACKAGES=" + in("packages"), "LOCK=" + locked}, "sh", in("tree.sh"), fresh)
	}); err != nil {
		return err
	}
	if err := errors.Join(used(b.base), keep(filepath.Join(b.cache, "debian-*"), 1, b.base)); err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(b.base, "packages"))
	if err != nil {
		return err
	}
	got, err := parseLock(string(text))
	if err != nil {
		return err
	}
	if b.relock {
		b.lock.packages = got.packages
		return os.WriteFile(in("packages.lock"), []byte(b.lock.text()), 0o644)
	}
	if diff := b.lock.differences(got.packages); len(diff) > 0 {
		err := fmt.Errorf("the package source no longer has all of packages.lock: %s: this image differs from others of the same version; use a snapshot "+
			"as FLEET_MIRROR, or ./build.sh image --relock", strings.Join(diff, ", "))
		if b.locked {
			return errors.Join(err, os.RemoveAll(b.base))
		}
		fmt.Fprintln(b.log, "warning:", err)
	}
	b.lock.packages = got.packages
	return nil
}

// root lays our files over Debian's.
func (b *builder) root() error {
	finish := filepath.Join(b.source, "finish.sh")
	from := []string{b.install, filepath.Join(b.source, "files"), finish}
	if b.trust != "" {
		from = append(from, b.trust)
	}
	key, err := digest([]string{filepath.Base(b.base), b.version, strconv.FormatInt(b.epoch, 10)}, from...)
	if err != nil {
		return err
	}
	b.rootDir = filepath.Join(b.cache, "root-"+key)
	if err := once(b.rootDir, func(fresh string) error {
		if err := b.call("cp", "-a", "--reflink=auto", filepath.Join(b.base, "root"), fresh); err != nil {
			return err
		}
		for _, from := range []string{b.install, filepath.Join(b.source, "files")} {
			if err := b.call("cp", "-r", "--no-preserve=ownership", "--preserve=mode,links", from+"/.", fresh); err != nil {
				return err
			}
		}
		if b.trust != "" {
			if err := b.call("install", "-m", "644", b.trust, filepath.Join(fresh, "usr/share/fleet/root.json")); err != nil {
				return err
			}
		}
		return b.call("sh", finish, fresh, b.version)
	}); err != nil {
		return err
	}
	return errors.Join(used(b.rootDir), keep(filepath.Join(b.cache, "root-*"), 2, b.rootDir))
}

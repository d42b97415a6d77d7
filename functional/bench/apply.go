package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// applying is a folder with releases of one size: the image of one, and a payload of the other kinds against its base.
type applying struct {
	dir, engine string
	size        int64
}

// apply writes releases into a slot with the real update-engine, in turns with dd and zstd -d of the same bytes.
func (b *bench) apply(ctx context.Context) error {
	fmt.Fprintln(b.out, "| image | payload | written and synced | and read back | dd | zstd -d | of the slower, written | and read back | most memory |")
	fmt.Fprintln(b.out, "|--:|---|--:|--:|--:|--:|--:|--:|--:|")
	for _, mib := range b.images {
		if err := b.applyOne(ctx, int64(mib)<<20); err != nil {
			return fmt.Errorf("image of %d MiB: %w", mib, err)
		}
	}
	return nil
}

func (b *bench) applyOne(ctx context.Context, size int64) (err error) {
	// Beside the tree: /tmp may be memory.
	dir, err := os.MkdirTemp(filepath.Dir(b.tree), "apply")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	a := &applying{dir: dir, engine: filepath.Join(b.tree, "usr/bin/update-engine"), size: size}
	if err := a.publish(ctx); err != nil {
		return err
	}
	for _, kind := range []string{"full", "delta"} {
		var written, whole, dd, zstd []time.Duration
		most := 0
		for range b.runs {
			d, err := a.copied(ctx)
			dd = append(dd, d)
			if err != nil {
				return err
			}
			if d, err = a.unpacked(ctx); err != nil {
				return err
			}
			zstd = append(zstd, d)
			w, d, kib, err := a.stage(ctx, kind)
			if err != nil {
				return err
			}
			written, whole, most = append(written, w), append(whole, d), max(most, kib)
		}
		limit, name := max(median(dd), median(zstd)), spread(zstd)
		if kind == "delta" {
			limit, name = median(dd), "–" // what it would have to unpack is almost nothing
		}
		fmt.Fprintf(b.out, "| %d MiB | %s | %s | %s | %s | %s | %.2f | %.2f | %d MiB |\n", size>>20, kind, spread(written), spread(whole), spread(dd), name,
			float64(limit)/float64(median(written)), float64(limit)/float64(median(whole)), most>>10)
	}
	return nil
}

func (a *applying) path(name string) string { return filepath.Join(a.dir, name) }

// publish makes an image of this machine's programs and libraries, a base that differs in places and begins elsewhere, and a release directory.
func (a *applying) publish(ctx context.Context) error {
	if err := a.tar(ctx); err != nil {
		return err
	}
	if err := a.base(); err != nil {
		return err
	}
	for _, line := range [][]string{
		{"keys", "new", "root"}, {"keys", "new", "targets"}, {"keys", "new", "online"},
		{"keys", "init", "releases", "--root", "root", "--targets", "targets", "--online", "online"},
		{"publish", "releases", "--keys", "targets,online", "--version", "2.0.0", "--usr", "image", "--uki", "kernel", "--base", "base"},
	} {
		if _, err := a.run(ctx, a.engine, line...); err != nil {
			return err
		}
	}
	root, err := a.run(ctx, a.engine, "keys", "root", "releases")
	return errors.Join(err, os.WriteFile(a.path("root.json"), []byte(root), 0o644))
}

// tar writes as much of /usr as the image's size, again and again where there is less.
func (a *applying) tar(ctx context.Context) (err error) {
	f, err := os.Create(a.path("image"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(), os.WriteFile(a.path("kernel"), []byte("a kernel"), 0o644)) }()
	for left := a.size; left > 0; {
		ctx, cancel := context.WithCancel(ctx)
		cmd := exec.CommandContext(ctx, "tar", "-C", "/", "--sort=name", "-c", "usr/bin", "usr/lib", "usr/share")
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			cancel()
			return err
		}
		n, err := io.Copy(f, io.LimitReader(out, left))
		cancel()
		_ = cmd.Wait() // it was ended in the middle
		if left -= n; err != nil || n == 0 {
			return fmt.Errorf("make an image of /usr: %d bytes short: %w", left, err)
		}
	}
	return nil
}

// base is the image without its first 100 kB and with a hundredth of its blocks changed.
func (a *applying) base() (err error) {
	from, err := os.Open(a.path("image"))
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.Create(a.path("base"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if _, err := from.Seek(100_000, io.SeekStart); err != nil {
		return err
	}
	block := make([]byte, 400<<10)
	for {
		n, err := io.ReadFull(from, block)
		for i := range min(n, 4096) {
			block[i] ^= 0x55
		}
		if _, werr := to.Write(block[:n]); werr != nil {
			return werr
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (a *applying) run(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = a.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", filepath.Base(name), strings.Join(args, " "), err, out)
	}
	return string(out), err
}

// timed runs a command and says how long it took. What others have left to be written is written first.
func (a *applying) timed(ctx context.Context, name string, args ...string) (time.Duration, error) {
	if _, err := a.run(ctx, "sync"); err != nil {
		return 0, err
	}
	begin := time.Now()
	_, err := a.run(ctx, name, args...)
	return time.Since(begin), err
}

// copied is dd of the image into an empty slot, until it is on disk.
func (a *applying) copied(ctx context.Context) (time.Duration, error) {
	if err := errors.Join(os.RemoveAll(a.path("slot")), os.WriteFile(a.path("slot"), nil, 0o644), os.Truncate(a.path("slot"), a.size)); err != nil {
		return 0, err
	}
	d, err := a.timed(ctx, "dd", "if=image", "of=slot", "bs=1M", "conv=notrunc,fdatasync")
	return d, errors.Join(err, os.Remove(a.path("slot")))
}

// unpacked is zstd -d of the full payload, which is an ordinary zstd file, into nothing.
func (a *applying) unpacked(ctx context.Context) (time.Duration, error) {
	list, err := filepath.Glob(a.path("releases/payloads/*/*/2.0.0/usr-*.zst"))
	if err != nil {
		return 0, err
	}
	full, most := "", int64(-1)
	for _, p := range list {
		if info, err := os.Stat(p); err == nil && info.Size() > most {
			full, most = p, info.Size()
		}
	}
	return a.timed(ctx, "sh", "-c", "zstd -dc "+full+" >/dev/null")
}

// conf is a host that takes what it is told and never reboots.
const conf = `mirrors="file://%[1]s/releases"
root="%[1]s/root.json"
state_dir="%[1]s/state"
socket="%[1]s/socket"
slots="%[1]s/host"
health_dir="%[1]s/none"
health_command=""
strategy=off
interval=0s
gate_time=0s
gate_timeout=1s
dbus=""
reboot_command="true"
reset_command="true"
`

// stage has the daemon take the release: how long until it is written, until it is read back and staged, and the most memory that the daemon had, in KiB.
func (a *applying) stage(ctx context.Context, kind string) (written, whole time.Duration, kib int, err error) {
	base := "kernel" // whoever runs another image gets the full payload
	if kind == "delta" {
		base = "base"
	}
	err = errors.Join(os.RemoveAll(a.path("host")), os.RemoveAll(a.path("state")), os.RemoveAll(a.path("socket")), os.WriteFile(a.path("conf"), fmt.Appendf(nil, conf, a.dir), 0o644))
	if err == nil {
		_, err = a.run(ctx, a.engine, "install", "host", "--version", "1.0.0", "--usr", base, "--uki", "kernel", "--slot-size", fmt.Sprint(a.size+1<<20))
	}
	if err != nil {
		return 0, 0, 0, err
	}
	daemon := exec.CommandContext(ctx, a.engine, "--config="+a.path("conf"), "--slot=a", "--release=1.0.0", "--boot-id=1")
	var log bytes.Buffer
	daemon.Stderr = &log
	daemon.Cancel = func() error { return daemon.Process.Signal(os.Interrupt) }
	if err := daemon.Start(); err != nil {
		return 0, 0, 0, err
	}
	defer func() {
		_ = daemon.Process.Signal(os.Interrupt)
		_ = daemon.Wait() // killed, as we wished
		if err != nil {
			err = fmt.Errorf("%w: %s", err, log.String())
		}
	}()
	for {
		out, err := a.run(ctx, a.engine, "status", "--socket", "socket")
		if err == nil && strings.Contains(out, "idle") {
			break
		}
		if ctx.Err() != nil {
			return 0, 0, 0, fmt.Errorf("the daemon does not settle: %w: %s", ctx.Err(), out)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if _, err := a.run(ctx, "sync"); err != nil {
		return 0, 0, 0, err
	}
	if written, whole, err = a.follow(ctx); err != nil {
		return 0, 0, 0, err
	}
	return written, whole, peak(daemon.Process.Pid), nil
}

// follow runs apply and looks when it says what.
func (a *applying) follow(ctx context.Context) (written, whole time.Duration, err error) {
	cmd := exec.CommandContext(ctx, a.engine, "apply", "--socket", "socket")
	cmd.Dir = a.dir
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, 0, err
	}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return 0, 0, err
	}
	last := ""
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if last = lines.Text(); strings.HasSuffix(last, " 100 %") {
			written = time.Since(begin)
		}
	}
	err = cmd.Wait()
	if err != nil || written == 0 || !strings.HasPrefix(last, "staged") {
		return 0, 0, fmt.Errorf("apply ended with %q: %w", last, err)
	}
	return written, time.Since(begin), nil
}

var resident = regexp.MustCompile(`VmHWM:\s*(\d+) kB`)

// peak is the most memory that a process has had, in KiB, its program's pages included.
func peak(pid int) (kib int) {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if m := resident.FindSubmatch(text); m != nil {
		_, _ = fmt.Sscan(string(m[1]), &kib)
	}
	return kib
}

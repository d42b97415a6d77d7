package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestBackupsAreMadeInTimeAndKeptByCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "backups")
		page := []byte(strings.Repeat("x", 512))
		sum := sha256.Sum256(page)
		var fail, holds atomic.Bool
		b := backups{dir: dir, every: time.Hour, keep: 3, log: slog.New(slog.DiscardHandler), save: func(_ context.Context, w io.Writer) error {
			if fail.Load() {
				return errors.New("no quorum")
			}
			_, err := w.Write(append(page, sum[:]...))
			return err
		}}
		holds.Store(true)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = b.run(ctx, holds.Load) }()
		after := func(d time.Duration, want int) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if got := len(b.list()); got != want {
				t.Errorf("%d backups, want %d", got, want)
			}
		}
		after(2*time.Minute, 1)
		after(time.Hour, 2)
		after(time.Hour, 3)
		oldest := b.list()[0]
		after(time.Hour, 3)
		if b.list()[0] == oldest {
			t.Error("the oldest is still there")
		}
		newest := b.list()[2]
		fail.Store(true)
		after(3*time.Hour, 3)
		fail.Store(false)
		holds.Store(false)
		after(3*time.Hour, 3)
		if b.list()[2] != newest {
			t.Error("one was made of nothing")
		}
		holds.Store(true)
		after(2*time.Minute, 3)
		if left, _ := filepath.Glob(filepath.Join(dir, ".backup-*")); len(left) != 0 {
			t.Errorf("left behind: %v", left)
		}
		if fi, err := os.Stat(b.list()[2]); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("a backup holds keys: %v, %v", fi, err)
		}
		cancel()
		<-done
	})
}

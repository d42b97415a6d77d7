package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fleet-init/fleet/fleetd/member"
	"github.com/fleet-init/fleet/internal/backup"
	"github.com/fleet-init/fleet/internal/pause"
)

// backups saves the store to this host's disk from time to time and keeps the newest few. A disk full of them, or one that cannot be written, is said
// and stops nothing.
type backups struct {
	dir   string
	every time.Duration // 0: never
	keep  int
	save  func(ctx context.Context, w io.Writer) error
	log   *slog.Logger
}

const backupName = "fleet-20060102T150405Z.backup"

// due is when the next is to be made, by the names of those there are.
func (b backups) due() time.Time {
	newest := time.Time{}
	for _, name := range b.list() {
		if at, err := time.Parse(backupName, filepath.Base(name)); err == nil && at.After(newest) {
			newest = at
		}
	}
	return newest.Add(b.every)
}

// list is by age, the oldest first.
func (b backups) list() []string {
	names, _ := filepath.Glob(filepath.Join(b.dir, "fleet-*.backup")) // the pattern is good
	slices.Sort(names)
	return names
}

// once makes one backup and drops those that are too many.
func (b backups) once(ctx context.Context, now time.Time) error {
	if err := os.MkdirAll(b.dir, 0o700); err != nil {
		return err
	}
	// What an earlier process left half done.
	half, _ := filepath.Glob(filepath.Join(b.dir, ".backup-*"))
	for _, f := range half {
		_ = os.Remove(f) // it is in the way of nothing
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(b.save(ctx, w)) }()
	err := backup.Save(filepath.Join(b.dir, now.UTC().Format(backupName)), r, "")
	if err := errors.Join(err, r.Close()); err != nil {
		return err
	}
	names := b.list()
	for len(names) > b.keep {
		if err := os.Remove(names[0]); err != nil {
			return fmt.Errorf("drop an old backup: %w", err)
		}
		names = names[1:]
	}
	return nil
}

// run is for a host that holds the store; holds says whether it does now.
func (b backups) run(ctx context.Context, holds func() bool) error {
	if b.every == 0 {
		return nil
	}
	said := ""
	for pause.For(ctx, min(time.Minute, b.every)) {
		now := time.Now()
		if !holds() || now.Before(b.due()) {
			continue
		}
		try, cancel := context.WithTimeout(ctx, 10*time.Minute)
		err := b.once(try, now)
		cancel()
		switch {
		case err == nil:
			said = ""
			b.log.Debug("store saved", "dir", b.dir)
		case ctx.Err() == nil && said != err.Error():
			said = err.Error()
			b.log.Warn("store not saved", "err", err)
		}
	}
	return nil
}

// runBackups saves on voters: what they hold is on their disk anyway, so a backup beside it gives nothing away that was safe.
func (h *host) runBackups(ctx context.Context) error {
	b := backups{dir: filepath.Join(h.cfg.DataDir, "backups"), every: h.cfg.BackupInterval, keep: h.cfg.BackupKeep, save: h.member.Backup, log: h.log}
	return b.run(ctx, func() bool {
		s := h.member.Status()
		return s.Role == member.Voter && s.Ready && s.Lost == "" && !strings.HasPrefix(s.Doing, "joining")
	})
}

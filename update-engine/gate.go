package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/fleet-init/fleet/update-engine/update"
)

// gate waits until all is well for a while, or gives up. Whether the cluster can be reached is part of being well; when that alone
// is missing, it is an outage and not held against the release.
func (h *host) gate(ctx context.Context) update.Fact {
	begin := h.now()
	var since time.Time // all is well since
	for {
		outage, err := h.healthy(ctx)
		now := h.now()
		switch {
		case ctx.Err() != nil:
			return update.Fact{}
		case err == nil && since.IsZero():
			since = now
		case err != nil:
			since = time.Time{}
		}
		if err == nil && now.Sub(since) >= h.cfg.GateTime {
			return update.Fact{Kind: update.GatePassed}
		}
		if err != nil && now.Sub(begin) >= h.cfg.GateTimeout {
			return update.Fact{Kind: update.GateFailed, Why: err.Error(), Outage: outage}
		}
		if err != nil {
			h.log.Debug("not healthy yet", "err", err)
		}
		t := time.NewTimer(max(min(h.cfg.GateTime/10, 5*time.Second), 10*time.Millisecond))
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

// healthy runs every check once. The host's own checks come first: what is wrong here is wrong whatever the cluster does.
func (h *host) healthy(ctx context.Context) (outage bool, err error) {
	names, err := os.ReadDir(h.cfg.HealthDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	for _, n := range names {
		info, err := os.Stat(filepath.Join(h.cfg.HealthDir, n.Name()))
		if err != nil || info.IsDir() || info.Mode()&0o111 == 0 || strings.HasPrefix(n.Name(), ".") {
			continue // as run-parts does
		}
		cctx, cancel := context.WithTimeout(ctx, 30*time.Second)
		out, err := exec.CommandContext(cctx, filepath.Join(h.cfg.HealthDir, n.Name())).CombinedOutput()
		cancel()
		if err != nil {
			return false, said(fmt.Errorf("health check %s: %w", n.Name(), err), out)
		}
	}
	if h.permits != nil {
		if err := h.permits.Reach(ctx); err != nil {
			return true, err
		}
	}
	return false, nil
}

// said adds the last line that a program printed to its failure.
func said(err error, out []byte) error {
	text := strings.TrimSpace(string(out))
	if text = text[strings.LastIndex(text, "\n")+1:]; text == "" {
		return err
	}
	return fmt.Errorf("%w: %s", err, text)
}

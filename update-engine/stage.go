package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/fleet-init/fleet/update-engine/payload"
	"github.com/fleet-init/fleet/update-engine/slot"
	"github.com/fleet-init/fleet/update-engine/trust"
	"github.com/fleet-init/fleet/update-engine/update"
)

// The images of a release.
const (
	usr = "usr" // the slot's partition
	uki = "uki" // the kernel on the boot file system
)

// staged is what the other slot holds once a release is written.
type staged struct {
	slot.Release
	options string // words for the kernel's command line that the release brings
}

// stage writes a release into the other slot and verifies it. Nothing is written before the manifest is known to be signed.
func (h *host) stage(ctx context.Context, target update.Offer, tell func(update.Fact)) update.Fact {
	r, err := h.write(ctx, target, tell)
	if err != nil {
		final := errors.Is(err, payload.ErrManifest)
		return update.Fact{Kind: update.StageFailed, Why: err.Error(), Final: final}
	}
	h.staged = r
	return update.Fact{Kind: update.StagedOK}
}

// manifest reads the signed manifest of a release, and what the finished slot will hold.
func (h *host) manifest(ctx context.Context, target update.Offer) (payload.Manifest, string, staged, error) {
	var r staged
	v, err := h.open(ctx)
	if err != nil {
		return payload.Manifest{}, "", r, err
	}
	c, err := h.readChannel(v)
	if err != nil {
		return payload.Manifest{}, "", r, err
	}
	for _, l := range c.Releases {
		if l.Version == target.Version && l.Sum.String() == target.Manifest {
			m, err := h.readManifest(v, l)
			if err != nil {
				return m, "", r, err
			}
			im, _ := m.Image(usr)
			h.size.Store(im.Choose(payload.Hash{}).Size)
			r = staged{slot.Release{Version: m.Version, Manifest: l.Sum.String(), Image: im.SHA256.String(), Size: im.Size}, m.Options}
			if !im.RootHash.IsZero() {
				r.RootHash = im.RootHash.String()
			}
			return m, l.Manifest, r, nil
		}
	}
	return payload.Manifest{}, "", r, fmt.Errorf("%s is no longer in channel %s", target.Version, h.cfg.Channel)
}

func (h *host) readManifest(v *trust.View, l payload.Listed) (payload.Manifest, error) {
	b, err := v.Read(l.Manifest)
	if err != nil {
		return payload.Manifest{}, err
	}
	m, err := payload.ParseManifest(b)
	if err != nil {
		return m, err
	}
	_, hasUsr := m.Image(usr)
	_, hasUKI := m.Image(uki)
	switch {
	case payload.Sum(b) != l.Sum:
		err = fmt.Errorf("%w: %s is another manifest than the channel lists", payload.ErrManifest, l.Manifest)
	case m.Product != h.cfg.Product || m.Arch != h.cfg.Arch || m.Version != l.Version:
		err = fmt.Errorf("%w: %s is for %s %s on %s", payload.ErrManifest, l.Manifest, m.Product, m.Version, m.Arch)
	case !hasUsr || !hasUKI:
		err = fmt.Errorf("%w: %s lacks the image %s or %s", payload.ErrManifest, l.Manifest, usr, uki)
	}
	return m, err
}

func (h *host) write(ctx context.Context, target update.Offer, tell func(update.Fact)) (staged, error) {
	m, at, r, err := h.manifest(ctx, target)
	if err != nil {
		return r, err
	}
	if err := h.slots.Clear(); err != nil {
		return r, err
	}
	st, err := h.slots.State()
	if err != nil {
		return r, err
	}
	// The kernel first: that its file system is full is then known before the slot is written.
	for _, name := range []string{uki, usr} {
		im, _ := m.Image(name)
		w := writer{host: h, dir: path.Dir(at), image: im, tell: func(p payload.Progress) {
			if name == usr {
				tell(update.Fact{Kind: update.Progressed, Done: p.Done, Frames: p.Frames})
			}
		}}
		if name == usr {
			// Only the image that runs can be a base, and only if its entry knows what it is.
			_ = w.have.UnmarshalText([]byte(st.Entries[h.slots.Running].Release.Image))
		}
		if err := w.run(ctx); err != nil {
			return r, fmt.Errorf("image %s of %s: %w", name, m.Version, err)
		}
	}
	return r, nil
}

// writer writes one image.
type writer struct {
	host  *host
	dir   string // of the manifest; payload files are relative to it, under payloads/
	image payload.Image
	have  payload.Hash
	tell  func(payload.Progress)
}

func (w writer) run(ctx context.Context) error {
	to, err := w.target()
	if err != nil {
		return err
	}
	err = w.apply(ctx, to, w.image.Choose(w.have))
	if errors.Is(err, payload.ErrBase) {
		// The running slot does not hold what its entry says (a repaired disk, a hand-made image): the full payload needs none.
		w.host.log.Warn("delta does not fit, taking the full payload", "image", w.image.Name, "err", err)
		err = w.apply(ctx, to, w.image.Choose(payload.Hash{}))
	}
	if err == nil && w.image.Name == usr && !w.image.RootHash.IsZero() {
		err = slot.CheckVerity(to, w.image.HashAt, w.image.RootHash.String())
	}
	return errors.Join(err, to.Close())
}

func (w writer) target() (slot.File, error) {
	if w.image.Name == usr {
		return w.host.slots.Image(w.image.Size)
	}
	return w.host.slots.Kernel(w.image.Size)
}

func (w writer) apply(ctx context.Context, to slot.File, f payload.File) error {
	h := w.host
	from, err := h.source(ctx)
	if err != nil {
		return err
	}
	f.Name = path.Join("payloads", w.dir, f.Name)
	x, err := payload.ReadIndex(ctx, from, w.image, f)
	if err != nil {
		return err
	}
	j := payload.Job{File: f.Name, Index: x, From: from, To: to, Tell: w.tell,
		Journal: payload.FileJournal{Path: filepath.Join(h.cfg.StateDir, "journal-"+w.image.Name)}}
	if !f.Base.IsZero() {
		base, err := h.slots.Base()
		if err != nil {
			return err
		}
		defer func() {
			if err := base.Close(); err != nil {
				h.log.Warn("close the running slot", "err", err)
			}
		}()
		j.Base = base
	}
	err = j.Run(ctx)
	if errors.Is(err, payload.ErrContent) {
		// What was written is not what is read: the frames that differ are written once more.
		h.log.Warn("read back differs, writing those frames again", "image", w.image.Name, "err", err)
		err = j.Run(ctx)
	}
	return err
}

// finalize makes what was staged boot next. After a restart of the daemon what was staged is read anew from the signed directory.
func (h *host) finalize(ctx context.Context, target update.Offer) error {
	if h.staged.Version != target.Version || h.staged.Manifest != target.Manifest {
		_, _, r, err := h.manifest(ctx, target)
		if err != nil {
			return err
		}
		h.staged = r
	}
	if err := h.slots.Finalize(h.staged.Release, h.cfg.Tries, strings.TrimSpace(h.staged.options+" "+h.cfg.Options)); err != nil {
		return err
	}
	// The next update begins with another payload; its frames must not be taken as written because an old journal says so.
	for _, name := range []string{usr, uki} {
		if err := (payload.FileJournal{Path: filepath.Join(h.cfg.StateDir, "journal-"+name)}).Forget(); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

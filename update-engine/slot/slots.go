package slot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
)

var (
	// ErrTrial: the running slot has not proven itself; the other one is the way back and must not be touched.
	ErrTrial = errors.New("the running slot is still on trial: the other slot is the way back")
	// ErrNoWayBack: the running slot has no boot entry, so that clearing the other one would leave nothing to boot.
	ErrNoWayBack = errors.New("the running slot has no boot entry of its own: run update-engine mark-good first")
	// ErrSpace: the boot file system or the partition is too small.
	ErrSpace = errors.New("not enough space")
)

// Slots are the two slots of the host that this runs on.
type Slots struct {
	Boot    Boot
	Images  Images
	Running Name // from the kernel's command line: fleet.slot=
}

// State is what the boot file system says.
type State struct {
	Running Name
	Entries map[Name]Entry // the newest of each slot; absent = the slot cannot boot
	Next    Name           // the slot that the next start takes; "" when nothing boots
}

// all reads every entry of ours, newest generation first. One whose text is damaged is there without Release: it counts for what
// boots.
func (s Slots) all() ([]Entry, error) {
	names, err := s.Boot.List(entries)
	if err != nil {
		return nil, fmt.Errorf("list boot entries: %w", err)
	}
	var out []Entry
	for _, n := range names {
		e, ok := parseFile(n)
		if !ok {
			continue
		}
		b, err := s.read(path.Join(entries, n))
		if err != nil {
			return nil, err
		}
		_ = e.parseText(b) // a damaged text is the boot loader's trouble at most; the name is what counts
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b Entry) int { return b.Generation - a.Generation })
	return out, nil
}

func (s Slots) read(p string) ([]byte, error) {
	f, err := s.Boot.Open(p)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", p, err)
	}
	b := make([]byte, f.Size())
	n, err := f.ReadAt(b, 0)
	if err = errors.Join(notEOF(err), f.Close()); err != nil || n < len(b) {
		return nil, fmt.Errorf("read %s: %d of %d bytes: %w", p, n, len(b), err)
	}
	return b, nil
}

func notEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// State reads both slots.
func (s Slots) State() (State, error) {
	list, err := s.all()
	if err != nil {
		return State{}, err
	}
	st := State{Running: s.Running, Entries: map[Name]Entry{}}
	for _, e := range list {
		if _, ok := st.Entries[e.Slot]; !ok {
			st.Entries[e.Slot] = e
		}
	}
	if next, ok := Choose(list); ok {
		st.Next = next.Slot
	}
	return st, nil
}

// Clear takes the bootability from the slot that does not run, so that it may be written. It refuses when the running slot is not
// a sound way back. It may be repeated.
func (s Slots) Clear() error {
	st, err := s.State()
	if err != nil {
		return err
	}
	switch own, ok := st.Entries[s.Running]; {
	case !ok:
		return ErrNoWayBack
	case own.Left != Good:
		return ErrTrial
	}
	return s.drop(func(e Entry) bool { return e.Slot != s.Running })
}

// drop removes the entries that match, oldest first: while one of them is left, the newest is.
func (s Slots) drop(match func(Entry) bool) error {
	list, err := s.all()
	if err != nil {
		return err
	}
	slices.Reverse(list)
	for _, e := range list {
		if match(e) {
			if err := s.remove(path.Join(entries, e.file())); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s Slots) remove(p string) error {
	if err := s.Boot.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", p, err)
	}
	return nil
}

func kernel(n Name) string { return path.Join(kernels, string(n)+".efi") }

// fresh is a name that no boot loader looks at.
const fresh = ".new"

// Image opens the partition of the slot that does not run, for an image of size bytes. Clear must have been called: it refuses
// while the slot can boot.
func (s Slots) Image(size int64) (File, error) {
	if err := s.cleared(); err != nil {
		return nil, err
	}
	f, err := s.Images.Image(s.Running.Other())
	if err != nil {
		return nil, fmt.Errorf("open slot %s: %w", s.Running.Other(), err)
	}
	if f.Size() < size {
		return nil, errors.Join(fmt.Errorf("slot %s has %d bytes, the image %d: %w", s.Running.Other(), f.Size(), size, ErrSpace), f.Close())
	}
	return f, nil
}

func (s Slots) cleared() error {
	st, err := s.State()
	if err != nil {
		return err
	}
	if _, ok := st.Entries[s.Running.Other()]; ok {
		return fmt.Errorf("slot %s can boot: clear it first", s.Running.Other())
	}
	return nil
}

// Base opens the running slot's image for reading.
func (s Slots) Base() (File, error) {
	f, err := s.Images.Image(s.Running)
	if err != nil {
		return nil, fmt.Errorf("open running slot %s: %w", s.Running, err)
	}
	return f, nil
}

// Kernel opens the new kernel of the slot that does not run, under a name that nothing boots. What is there already in the same
// size is opened as it is, so that an interrupted update goes on. The slot's old kernel is removed first: the boot file system
// need hold no third one.
func (s Slots) Kernel(size int64) (File, error) {
	if err := s.cleared(); err != nil {
		return nil, err
	}
	p := kernel(s.Running.Other())
	f, err := s.Boot.Open(p + fresh)
	switch {
	case err == nil && f.Size() == size:
		return f, nil
	case err == nil:
		err = errors.Join(f.Close(), s.remove(p+fresh))
	case errors.Is(err, fs.ErrNotExist):
		err = nil
	}
	if err = errors.Join(err, s.remove(p)); err != nil {
		return nil, err
	}
	free, err := s.Boot.Free()
	if err != nil {
		return nil, err
	}
	// Room for the entry and for directories to grow.
	const slack = 64 << 10
	if free < size+slack {
		return nil, fmt.Errorf("the boot file system has %d bytes free, the kernel needs %d: %w", free, size+slack, ErrSpace)
	}
	return s.Boot.Create(p+fresh, size)
}

// Finalize makes the slot that does not run the one that boots next, with that many tries to prove itself. The image and the
// kernel must be written, synced and checked. Last step first: until the final rename nothing boots differently.
func (s Slots) Finalize(r Release, tries int, options string) error {
	if tries < 1 {
		return fmt.Errorf("finalize with %d tries: want at least 1", tries)
	}
	other := s.Running.Other()
	list, err := s.all()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(list, func(e Entry) bool { return e.Slot == other && e.Release == r && e.Left > 0 }) {
		return nil // done before a crash
	}
	if err := s.cleared(); err != nil {
		return err
	}
	p := kernel(other)
	if f, err := s.Boot.Open(p + fresh); err == nil {
		if err := f.Close(); err != nil {
			return err
		}
		// Both are there only if the old one was never removed; nothing boots it.
		if err := s.remove(p); err != nil {
			return err
		}
		if err := s.Boot.Rename(p+fresh, p); err != nil {
			return fmt.Errorf("put the kernel in place: %w", err)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	} else if f, err := s.Boot.Open(p); err != nil {
		return fmt.Errorf("no kernel for slot %s: %w", other, err)
	} else if err := f.Close(); err != nil {
		return err
	}
	return s.enter(Entry{Slot: other, Generation: s.newest(list) + 1, Left: tries, Release: r, Options: options})
}

func (s Slots) newest(list []Entry) int {
	n := 0
	for _, e := range list {
		n = max(n, e.Generation)
	}
	return n
}

// enter writes an entry: whole and read back under a temporary name, then renamed.
func (s Slots) enter(e Entry) error {
	b, err := e.text()
	if err != nil {
		return fmt.Errorf("boot entry of slot %s: %w", e.Slot, err)
	}
	p := path.Join(entries, e.file())
	if err := s.remove(p + fresh); err != nil {
		return err
	}
	f, err := s.Boot.Create(p+fresh, int64(len(b)))
	if err != nil {
		return fmt.Errorf("write boot entry: %w", err)
	}
	_, err = f.WriteAt(b, 0)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write boot entry: %w", err)
	}
	if got, err := s.read(p + fresh); err != nil || !bytes.Equal(got, b) {
		return fmt.Errorf("boot entry reads back as %q: %w", got, err)
	}
	if err := s.Boot.Rename(p+fresh, p); err != nil {
		return fmt.Errorf("put boot entry in place: %w", err)
	}
	return nil
}

// MarkGood says that the running slot has proven itself. The version must be the one that runs: an entry of another version in
// this slot means that the boot loader has started something else, and blessing it would make a broken release permanent.
// A slot without any entry (first boot of an image written by hand) gets one.
func (s Slots) MarkGood(r Release) error {
	st, err := s.State()
	if err != nil {
		return err
	}
	e, ok := st.Entries[s.Running]
	if !ok {
		list, err := s.all()
		if err != nil {
			return err
		}
		return s.enter(Entry{Slot: s.Running, Generation: s.newest(list) + 1, Left: Good, Release: r})
	}
	if e.Release.Version != r.Version {
		return fmt.Errorf("mark slot %s good: its entry is for %q, %q is running", s.Running, e.Release.Version, r.Version)
	}
	if e.Left != Good {
		good := e
		good.Left, good.Done = Good, 0
		if err := s.Boot.Rename(path.Join(entries, e.file()), path.Join(entries, good.file())); err != nil {
			return fmt.Errorf("mark slot %s good: %w", s.Running, err)
		}
	}
	return s.drop(func(old Entry) bool { return old.Slot == s.Running && old.Generation < e.Generation })
}

// Rollback makes the other slot boot next, for good. It must be there and must have proven itself, unless force: then any entry
// will do.
func (s Slots) Rollback(force bool) (Release, error) {
	st, err := s.State()
	if err != nil {
		return Release{}, err
	}
	e, ok := st.Entries[s.Running.Other()]
	if !ok {
		return Release{}, fmt.Errorf("slot %s holds nothing that boots", s.Running.Other())
	}
	if e.Left != Good && !force {
		return Release{}, fmt.Errorf("slot %s with %s has never proven itself: use --force to boot it all the same", e.Slot, e.Release.Version)
	}
	if st.Next == e.Slot && e.Left == Good {
		return e.Release, nil
	}
	list, err := s.all()
	if err != nil {
		return Release{}, err
	}
	again := e
	again.Generation, again.Left, again.Done = s.newest(list)+1, Good, 0
	if err := s.enter(again); err != nil {
		return Release{}, err
	}
	return e.Release, s.drop(func(old Entry) bool { return old.Slot == e.Slot && old.Generation < again.Generation })
}

// Install makes the slot that does not run the one that boots, as good: what an installer has written is not on trial, there is nothing
// to go back to. The image and the kernel must be written and synced; the kernel under its final name or as Kernel opened it.
func (s Slots) Install(r Release, options string) error {
	if err := s.Finalize(r, 1, options); err != nil {
		return err
	}
	self := s
	self.Running = s.Running.Other()
	return self.MarkGood(r)
}

// Tidy removes what a crash has left: entries under temporary names and older ones of a slot that has a newer. A slot keeps its
// older entry while the newer one is on trial only if they are of different slots, so nothing that boots is lost.
func (s Slots) Tidy() error {
	names, err := s.Boot.List(entries)
	if err != nil {
		return fmt.Errorf("list boot entries: %w", err)
	}
	for _, n := range names {
		if strings.HasPrefix(n, "fleet-") && strings.HasSuffix(n, fresh) {
			if err := s.remove(path.Join(entries, n)); err != nil {
				return err
			}
		}
	}
	st, err := s.State()
	if err != nil {
		return err
	}
	return s.drop(func(e Entry) bool {
		newest := st.Entries[e.Slot]
		return e.Generation < newest.Generation && newest.Left == Good
	})
}

// Start does what systemd-boot does at a start, for hosts without one (nspawn): it chooses, counts the try, and says which slot
// to run.
func (s Slots) Start() (Entry, error) {
	list, err := s.all()
	if err != nil {
		return Entry{}, err
	}
	e, ok := Choose(list)
	if !ok {
		return Entry{}, errors.New("nothing boots: no entry in " + entries)
	}
	if e.Left > 0 {
		next := e
		next.Left, next.Done = e.Left-1, e.Done+1
		if err := s.Boot.Rename(path.Join(entries, e.file()), path.Join(entries, next.file())); err != nil {
			return Entry{}, fmt.Errorf("count the start of slot %s: %w", e.Slot, err)
		}
		return next, nil
	}
	return e, nil
}

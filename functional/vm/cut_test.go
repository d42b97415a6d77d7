package vm

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fleet-init/fleet/update-engine/disk"
	"github.com/fleet-init/fleet/update-engine/slot"
)

// TestFromOneSnapshot boots one machine and then does to copies of it, each from the same moment on, what would else cost a boot each: power cuts
// in the middle of an update, and what resets a host (docs/image.md).
func TestFromOneSnapshot(t *testing.T) {
	t.Parallel()
	r := newRig(t, 0)
	r.publish(second, first, "")
	if err := r.Start(r.ctx, ""); err != nil {
		t.Fatal(err)
	}
	r.login()
	r.until("a cluster of one", `test "$(fleetctl list-machines --no-legend | wc -l)" = 1`)
	r.follow("10m")
	r.must("sync")
	if err := r.Snapshot(r.ctx, "ready"); err != nil {
		t.Fatal(err)
	}
	r.Kill()
	t.Run("power cuts during an update", func(t *testing.T) { r.again(t).cuts() })
	if os.Getenv("FLEET_SOAK") != "" { // minutes of boots and of waiting for time-outs
		t.Run("a kernel image cut short", func(t *testing.T) { r.again(t).shortKernel() })
		t.Run("resets", r.resets)
		t.Run("a unit that hangs on trial", func(t *testing.T) { r.again(t).hangingUnit() })
		t.Run("stuck before systemd", func(t *testing.T) { r.again(t).stuck() })
	}
}

// again is the same machine, as another and for another test. It is off.
func (r *rig) again(t *testing.T) *rig {
	t.Helper()
	s := *r
	s.t, s.VM = t, r.clone(t)
	t.Cleanup(func() { s.Kill() })
	return &s
}

// cuts cuts the power at random moments of an update, and looks at the disk: what boots next must be whole. The last one is booted, and takes
// the update after all.
func (r *rig) cuts() {
	n := 3
	if s := os.Getenv("FLEET_CUTS"); s != "" { // soak has more
		var err error
		if n, err = strconv.Atoi(s); err != nil {
			r.t.Fatal(err)
		}
	}
	seed := uint64(time.Now().UnixNano())
	r.t.Logf("seed %d", seed)
	luck := rand.New(rand.NewPCG(seed, 0))
	original := r.VM
	for i := range n {
		r.VM = original.clone(r.t)
		r.resume()
		r.must("update-engine apply >/run/apply.log 2>&1 &")
		// Up to here is by luck: any moment from before the first write to after the reboot is a good one to look at.
		moment := time.NewTimer(time.Duration(luck.Int64N(int64(20 * time.Second))))
		select {
		case <-moment.C:
		case <-r.ctx.Done():
		}
		r.Kill()
		r.t.Logf("cut %d: %s", i, r.look())
	}
	defer r.Kill()
	if err := r.Start(r.ctx, ""); err != nil {
		r.t.Fatal(err)
	}
	r.login()
	r.arrive()
	r.must(`grep -q 'fleet.slot=b fleet.version=` + second + `' /run/fleet-boot`)
}

// resume goes on from the snapshot.
func (r *rig) resume() {
	r.t.Helper()
	if err := r.Start(r.ctx, "ready"); err != nil {
		r.t.Fatal(err)
	}
}

// arrive waits until the second release has proven itself, wherever the update stood: the host may have staged it, and reboot any moment.
func (r *rig) arrive() {
	r.t.Helper()
	for range 20 {
		_, err := r.Poll(r.ctx, "update-engine at rest", `update-engine status | grep -q '^phase *idle'`)
		switch {
		case errors.As(err, new(errNever)):
			r.await(starts)
			r.login()
			continue
		case err != nil:
			r.t.Fatal(err)
		}
		if out, err := r.Run(r.ctx, "cat /run/fleet-boot"); err == nil && strings.HasPrefix(out, "fleet.slot=b") {
			r.settled()
			return
		}
		_, err = r.Reboot(r.ctx, `update-engine apply >/run/apply.log 2>&1 || { s=$?; cat /run/apply.log; exit $s; }`)
		if errors.Is(err, ErrExit) {
			r.t.Logf("once more: %v", err) // it was busy: it had begun by itself
		} else if err != nil {
			r.t.Fatal(err)
		}
	}
	r.t.Fatal("it does not come to the second release")
}

// clone is another machine that is just like this one, which must be off.
func (v *VM) clone(t *testing.T) *VM {
	t.Helper()
	w := *v
	w.dir = t.TempDir()
	w.Disk = filepath.Join(w.dir, "disk.qcow2")
	for _, n := range []string{"disk.qcow2", "vars.qcow2"} {
		if out, err := exec.CommandContext(t.Context(), "cp", "--sparse=always", "--reflink=auto", v.path(n), w.path(n)).CombinedOutput(); err != nil {
			t.Fatalf("cp: %v: %s", err, out)
		}
	}
	return &w
}

// look reads the disk of a machine that is off and says what would boot; it fails the test if that is not whole.
func (r *rig) look() (says string) {
	r.t.Helper()
	r.offline(func(_ string, fat *disk.FAT, part func(label string) disk.Part) {
		st, err := slot.Slots{Boot: boot{fat}, Running: slot.A}.State()
		if err != nil {
			r.t.Fatal(err)
		}
		if st.Entries[slot.A].Left != slot.Good {
			r.t.Errorf("the way back is gone: %+v", st)
		}
		for n, e := range st.Entries {
			if err := r.whole(fat, part("usr-"+string(n)), e); err != nil {
				r.t.Errorf("slot %s can boot and is not whole: %v", n, err)
			}
		}
		says = fmt.Sprintf("slot %s boots next, %d entries", st.Next, len(st.Entries))
	})
	return says
}

// offline opens a raw copy of the disk of a machine that is off, which is gone afterwards.
func (r *rig) offline(do func(raw string, esp *disk.FAT, part func(label string) disk.Part)) {
	r.t.Helper()
	raw := r.path("disk.raw")
	defer os.Remove(raw)
	if out, err := exec.CommandContext(r.ctx, "qemu-img", "convert", "-O", "raw", r.Disk, raw).CombinedOutput(); err != nil {
		r.t.Fatalf("qemu-img: %v: %s", err, out)
	}
	openDisk(r.t, raw, func(esp *disk.FAT, part func(label string) disk.Part) { do(raw, esp, part) })
}

// openDisk opens a disk in a file, to read and to write.
func openDisk(t *testing.T, raw string, do func(esp *disk.FAT, part func(label string) disk.Part)) {
	t.Helper()
	f, err := os.OpenFile(raw, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		t.Fatal(err)
	}
	table, err := disk.ReadTable(f, size)
	if err != nil {
		t.Fatal(err)
	}
	find := func(label string, typ disk.GUID) disk.Part {
		p, err := table.Find(label, typ)
		if err != nil {
			t.Fatal(err)
		}
		return disk.NewPart(f, p.Off, p.Size)
	}
	esp, err := disk.OpenFAT(find("", disk.TypeESP()))
	if err != nil {
		t.Fatal(err)
	}
	do(esp, func(label string) disk.Part { return find(label, disk.GUID{}) })
}

// whole compares a slot with what was published.
func (r *rig) whole(fat *disk.FAT, usr disk.Part, e slot.Entry) error {
	version := map[slot.Name]string{slot.A: first, slot.B: second}[e.Slot]
	if e.Release.Version != version {
		return fmt.Errorf("it is %q", e.Release.Version)
	}
	hash, at := r.verity(version)
	if e.Release.RootHash != hash {
		return fmt.Errorf("root hash %s", e.Release.RootHash)
	}
	off, err := strconv.ParseInt(at, 10, 64)
	if err != nil {
		return err
	}
	if err := slot.CheckVerity(usr, off, hash); err != nil {
		return err
	}
	k, err := fat.Open("EFI/fleet/" + string(e.Slot) + ".efi")
	if err != nil {
		return err
	}
	want, err := os.ReadFile(filepath.Join(r.images, "fleet-"+version+".efi"))
	if err != nil {
		return err
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(k, 0, k.Size())); err != nil {
		return err
	}
	if sum := sha256.Sum256(want); hex.EncodeToString(h.Sum(nil)) != hex.EncodeToString(sum[:]) {
		return fmt.Errorf("its kernel is another")
	}
	return nil
}

// boot is an ESP as slot wants it, for looking.
type boot struct{ *disk.FAT }

func (b boot) Open(p string) (slot.File, error) {
	f, err := b.FAT.Open(p)
	if err != nil {
		return nil, err
	}
	return f, nil
}

func (b boot) Create(p string, size int64) (slot.File, error) {
	f, err := b.FAT.Create(p, size)
	if err != nil {
		return nil, err
	}
	return f, nil
}

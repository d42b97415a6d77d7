package vm

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/fleet-init/fleet/update-engine/disk"
	"github.com/fleet-init/fleet/update-engine/slot"
)

// TestPowerCutsDuringAnUpdate cuts the power of one and the same machine, from a snapshot, at random moments of an update, and looks at the
// disk: what boots next must be whole. The last one is booted, and takes the update after all.
func TestPowerCutsDuringAnUpdate(t *testing.T) {
	cuts := 5
	if s := os.Getenv("FLEET_CUTS"); s != "" { // soak has more
		var err error
		if cuts, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
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
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	luck := rand.New(rand.NewPCG(seed, 0))
	original := r.VM
	for i := range cuts {
		r.VM = original.clone(t)
		if err := r.Start(r.ctx, "ready"); err != nil {
			t.Fatal(err)
		}
		r.must("update-engine apply >/run/apply.log 2>&1 &")
		// Up to here is by luck: any moment from before the first write to after the reboot is a good one to look at.
		moment := time.NewTimer(time.Duration(luck.Int64N(int64(20 * time.Second))))
		select {
		case <-moment.C:
		case <-r.ctx.Done():
		}
		r.Kill()
		t.Logf("cut %d: %s", i, r.look())
	}
	if err := r.Start(r.ctx, ""); err != nil {
		t.Fatal(err)
	}
	r.login()
	r.until("update-engine at rest", `update-engine status | grep -q '^phase *idle'`)
	if out := r.must("cat /run/fleet-boot"); out == "fleet.slot=a fleet.version="+first {
		r.must(`update-engine apply >/run/apply.log 2>&1 || { cat /run/apply.log; exit 1; }`)
		r.await(starts)
		r.login()
		r.settled()
	}
	r.must(`grep -q 'fleet.slot=b fleet.version=` + second + `' /run/fleet-boot`)
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
func (r *rig) look() string {
	r.t.Helper()
	raw := r.path("disk.raw")
	defer os.Remove(raw)
	if out, err := exec.CommandContext(r.ctx, "qemu-img", "convert", "-O", "raw", r.Disk, raw).CombinedOutput(); err != nil {
		r.t.Fatalf("qemu-img: %v: %s", err, out)
	}
	f, err := os.OpenFile(raw, os.O_RDWR, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	size, err := f.Seek(0, 2)
	if err != nil {
		r.t.Fatal(err)
	}
	table, err := disk.ReadTable(f, size)
	if err != nil {
		r.t.Fatal(err)
	}
	part := func(label string, typ disk.GUID) disk.Part {
		p, err := table.Find(label, typ)
		if err != nil {
			r.t.Fatal(err)
		}
		return disk.NewPart(f, p.Off, p.Size)
	}
	fat, err := disk.OpenFAT(part("", disk.TypeESP()))
	if err != nil {
		r.t.Fatal(err)
	}
	st, err := slot.Slots{Boot: boot{fat}, Running: slot.A}.State()
	if err != nil {
		r.t.Fatal(err)
	}
	if st.Entries[slot.A].Left != slot.Good {
		r.t.Errorf("the way back is gone: %+v", st)
	}
	for n, e := range st.Entries {
		if err := r.whole(fat, part("usr-"+string(n), disk.GUID{}), e); err != nil {
			r.t.Errorf("slot %s can boot and is not whole: %v", n, err)
		}
	}
	return fmt.Sprintf("slot %s boots next, %d entries", st.Next, len(st.Entries))
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

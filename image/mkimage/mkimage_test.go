package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/update-engine/disk"
	"github.com/fleet-init/fleet/update-engine/disk/disktest"
)

func TestOptions(t *testing.T) {
	base := []string{"--install", "i", "--init", "x"}
	for name, c := range map[string]struct {
		args []string
		err  string
	}{
		"what build.sh gives":         {base, ""},
		"nothing":                     {nil, "--install and --init are needed"},
		"a word too many":             {append(base, "all"), `unexpected argument "all"`},
		"a key without certificate":   {append(base, "--sb-key", "k"), "go together"},
		"a line break in the options": {append(base, "--options", "a\nb"), "line break"},
		"an unknown flag":             {append(base, "--what"), "unknown flag"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := parse(c.args, io.Discard); c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
				t.Errorf("%v, want %q", err, c.err)
			}
		})
	}
}

func TestMissingToolsAreNamedWithTheirPackages(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	err := options{key: "k"}.tools()
	if err == nil || !strings.Contains(err.Error(), "sbsign (package sbsigntool)") && !strings.Contains(err.Error(), "mkfs.erofs (package erofs-utils)") {
		t.Errorf("%v", err)
	}
}

func TestLockComesBackAndIsCompared(t *testing.T) {
	l := lock{epoch: 86400, packages: []pkg{{"bash", "5.2-1", 7000}, {"dpkg", "1.21", 6000}, {"gone", "1", 1}}}
	back, err := parseLock(l.text())
	if err != nil || back.epoch != l.epoch || len(back.packages) != 3 || back.packages[1] != l.packages[1] {
		t.Fatalf("%v, %v", back, err)
	}
	got := l.differences([]pkg{{"bash", "5.2-2", 7000}, {"dpkg", "1.21", 6000}, {"new", "3", 1}})
	if diff := cmp.Diff([]string{"bash is 5.2-2 instead of 5.2-1", "gone is missing", "new 3 is new"}, got); diff != "" {
		t.Error(diff)
	}
	for text, want := range map[string]string{"bash 5.2": "line 1", "# epoch soon": "epoch", "\nbash 5.2 big": `line 2: size "big"`} {
		if _, err := parseLock(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestModulesComeWithWhatTheyNeedInOrder(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"modules.dep":     "kernel/a/dm-verity.ko: kernel/a/dm-bufio.ko kernel/b/dm-mod.ko\nkernel/a/dm-bufio.ko: kernel/b/dm-mod.ko\nkernel/b/dm-mod.ko:\nkernel/c/nvme.ko:\n",
		"modules.alias":   "# comment\nalias pci:v1* nvme\nalias fs-ext4 ext4\n",
		"modules.builtin": "kernel/fs/ext4/ext4.ko\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m, err := readModuleDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	take, load, err := m.pick([]string{"dm_verity", "ext4"}, []string{"nvme", "absent"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"dm_bufio", "dm_mod", "dm_verity", "nvme"}, take); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"dm_verity"}, load); diff != "" {
		t.Error(diff)
	}
	deps, aliases := m.lists(take)
	if want := "dm_bufio dm_mod\ndm_mod\ndm_verity dm_mod dm_bufio\nnvme\n"; deps != want {
		t.Errorf("deps %q, want %q", deps, want)
	}
	if aliases != "pci:v1* nvme\n" {
		t.Errorf("aliases %q", aliases)
	}
	if _, _, err := m.pick([]string{"erofs"}, nil); err == nil || !strings.Contains(err.Error(), "no module erofs") {
		t.Errorf("a kernel that cannot boot: %v", err)
	}
}

func TestArchiveIsACpio(t *testing.T) {
	a := archive{epoch: 1}
	a.dir("dev")
	a.device("dev/console", 5, 1)
	a.file("init", []byte("12345"), 0o755)
	b := a.end()
	if len(b)%4 != 0 || !bytes.HasPrefix(b, []byte("070701")) || bytes.Count(b, []byte("070701")) != 4 || !bytes.Contains(b, []byte("init\x00")) {
		t.Errorf("%q", b)
	}
	again := archive{epoch: 1}
	again.dir("dev")
	again.device("dev/console", 5, 1)
	again.file("init", []byte("12345"), 0o755)
	if !bytes.Equal(b, again.end()) {
		t.Error("the same files gave other bytes")
	}
}

// TestESP writes the first release as mkimage does, and looks at it as update-engine would; then into an ESP that is too small.
func TestESP(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, size int64) string {
		p := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(p, []byte("MZ"), 0o644), os.Truncate(p, size)); err != nil {
			t.Fatal(err)
		}
		return p
	}
	b := &builder{options: options{version: "1.2.3", words: "panic=5", esp: 40 * mib}, kernel: file("k", 11*mib), image: file("u", 4096)}
	part := disk.NewPart(disktest.New(b.esp), 0, b.esp)
	slotA := disk.NewPart(disktest.New(mib), 0, mib)
	write := func() error {
		if err := disk.FormatFAT(part, b.esp); err != nil {
			return err
		}
		fat, err := disk.OpenFAT(part)
		if err != nil {
			return err
		}
		for _, d := range []string{"EFI", "EFI/fleet", "loader", "loader/entries"} {
			if err := fat.Mkdir(d); err != nil {
				return err
			}
		}
		return b.first(esp{fat}, slotA)
	}
	// The image is no verity image: it must be refused before it can boot.
	if err := write(); err == nil || !strings.Contains(err.Error(), "verity") && !strings.Contains(err.Error(), "root hash") {
		t.Errorf("an image that does not verify: %v", err)
	}
	b.kernel = file("k", 20*mib)
	if err := write(); err == nil || !strings.Contains(err.Error(), "the ESP of 40 MiB has no room for three kernels of 21 MiB: use --esp-size") {
		t.Errorf("a kernel that fits once: %v", err)
	}
	b.kernel = file("k", 60*mib)
	if err := write(); err == nil || !strings.Contains(err.Error(), "use --esp-size") {
		t.Errorf("a kernel that does not fit: %v", err)
	}
}

func TestOnceKeepsWhatIsWhole(t *testing.T) {
	p := filepath.Join(t.TempDir(), "deep", "thing")
	made := 0
	do := func(fresh string) error {
		made++
		return os.WriteFile(fresh, nil, 0o644)
	}
	broken := errors.New("broken")
	if err := once(p, func(fresh string) error { return errors.Join(do(fresh), broken) }); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	for range 2 {
		if err := once(p, do); err != nil {
			t.Fatal(err)
		}
	}
	if list, _ := os.ReadDir(filepath.Dir(p)); made != 2 || len(list) != 1 {
		t.Errorf("made %d times, %d files", made, len(list))
	}
}

func TestOldTreesGoButNotThoseInUse(t *testing.T) {
	dir := t.TempDir()
	for i, name := range []string{"root-oldest", "root-old", "root-used", "root-new", "root-mine"} {
		p, at := filepath.Join(dir, name), time.Unix(int64(1000*i), 0)
		if err := errors.Join(os.Mkdir(p, 0o755), os.Chtimes(p, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	used, err := os.Open(filepath.Join(dir, "root-old"))
	if err == nil {
		err = syscall.Flock(int(used.Fd()), syscall.LOCK_SH)
	}
	if err == nil {
		err = keep(filepath.Join(dir, "root-*"), 1, filepath.Join(dir, "root-mine"))
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := used.Close(); err != nil {
		t.Fatal(err)
	}
	list, _ := filepath.Glob(filepath.Join(dir, "*"))
	for i, p := range list {
		list[i] = filepath.Base(p)
	}
	if got := strings.Join(list, " "); got != "root-mine root-new root-old" {
		t.Errorf("what is left: %s", got)
	}
}

func TestIdentitiesAreFixedByTheRelease(t *testing.T) {
	a, b := &builder{options: options{version: "1.0.0"}, hash: "x"}, &builder{options: options{version: "1.0.0"}, hash: "y"}
	again := *a
	if a.guid("esp") != again.guid("esp") || a.guid("esp") == a.guid("state") || a.guid("esp") == b.guid("esp") {
		t.Error(a.guid("esp"), a.guid("state"), b.guid("esp"))
	}
	if s := spdxID("go-github.com/a/b+x"); s != "SPDXRef-go-github.com-a-b-x" {
		t.Error(s)
	}
}

func TestAnImageLargerThanASlot(t *testing.T) {
	b := &builder{options: options{slot: 100 * mib}}
	if err := b.fits(100 * mib); err != nil {
		t.Error(err)
	}
	if err := b.fits(134 * mib); err == nil || err.Error() != "the image has 134 MiB, a slot 100 MiB: use --slot-size" {
		t.Error(err)
	}
}

// TestASourceThatHasGoneOn builds Debian's part from a source with other versions than the lock's: the build goes on and says so, unless it was told not
// to; and what was made of other versions is not taken for the locked ones the next time.
func TestASourceThatHasGoneOn(t *testing.T) {
	source, cache := t.TempDir(), t.TempDir()
	for name, text := range map[string]string{
		"packages":      "bash\n",
		"packages.lock": (lock{epoch: 86400, packages: []pkg{{"bash", "5.2-1", 7000}, {"linux-image-6.1.0-1", "6.1", 9}}}).text(),
		// Stands for the real one, which asks the network.
		"tree.sh": "mkdir -p \"$1/root\" && printf 'bash 5.2-2 7000\\nlinux-image-6.1.0-2 6.1 9\\n' >\"$1/packages\"\n",
	} {
		if err := os.WriteFile(filepath.Join(source, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	l, err := readLock(filepath.Join(source, "packages.lock"))
	if err != nil {
		t.Fatal(err)
	}
	build := func(o options) (string, *builder, error) {
		var log strings.Builder
		o.source, o.cache = source, cache
		b := &builder{options: o, log: &log, lock: l}
		err := b.debian()
		return log.String(), b, err
	}
	const want = "the package source no longer has all of packages.lock: bash is 5.2-2 instead of 5.2-1, linux-image-6.1.0-1 is missing, " +
		"linux-image-6.1.0-2 6.1 is new: this image differs from others of the same version; use a snapshot as FLEET_MIRROR, or ./build.sh image --relock"
	for range 2 { // the second time from the cache
		log, b, err := build(options{})
		if err != nil || !strings.Contains(log, "warning: "+want) {
			t.Errorf("%v; %s", err, log)
		}
		if len(b.lock.packages) != 2 || b.lock.packages[0].version != "5.2-2" {
			t.Errorf("the bill of materials would say %v", b.lock.packages)
		}
	}
	if _, b, err := build(options{locked: true}); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("--locked: %v", err)
	} else if _, err := os.Stat(b.base); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what must not be used is kept: %v", err)
	}
	if _, _, err := build(options{relock: true}); err != nil {
		t.Fatal(err)
	}
	if now, err := readLock(filepath.Join(source, "packages.lock")); err != nil || len(now.packages) != 2 || now.packages[1].name != "linux-image-6.1.0-2" {
		t.Errorf("relocked to %v, %v", now, err)
	}
}

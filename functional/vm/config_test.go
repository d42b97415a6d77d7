package vm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/functional/host"
)

// The password that the document of the first boot gives root, and what it is stored as.
const (
	password = "correct horse"
	hashed   = "$6$fleet$KwyKdCGTAggP54pg8Pant9QBKFXZoiOeFHmCgjctMtsFS65ywBKLy77vmVY7r2rvSX57GKUe448TC0rNYsTFm."
)

// TestCloudConfigFromWhatHangsOnTheHost boots a machine with a config drive, which joins a cluster by it, before there is any network but the one
// that the drive describes. Then it gets other drives and a file, each without a boot of its own.
func TestCloudConfigFromWhatHangsOnTheHost(t *testing.T) {
	t.Parallel()
	r := newRig(t, 1)
	r.Drive = filepath.Join(t.TempDir(), "drive")
	r.openStack(fmt.Sprintf(`#cloud-config
hostname: from-drive
ssh_authorized_keys: [ssh-ed25519 AAAAC3 document]
users:
  - {name: root, passwd: %q}
write_files:
  - {path: /etc/hosts, content: %q}
  - {path: /opt/first, permissions: "0600", content: "$private_ipv4"}
fleet:
  addresses: {private_ipv4: %s}
  join: %s
  fleetd: {member_ip: 172.31.80.0/24, metadata: source=drive}
  units:
    - {name: 10-site.network, content: "[Match]\nType=ether\n[Network]\nAddress=%s/24\n"}
    - name: hello.service
      command: start
      content: "[Service]\nExecStart=/bin/sleep infinity\n"
`, hashed, r.config()["/etc/hosts"], other, r.config()["/etc/credstore/fleet.join-token"], other))
	r.timed("power on to joined, by a config drive", func() {
		if err := r.Start(r.ctx, ""); err != nil {
			t.Fatal(err)
		}
		if err := host.WaitFor(r.ctx, "the VM in the cluster", func(ctx context.Context) error { return machines(ctx, r.c.Host(1), 2) }); err != nil {
			t.Fatalf("%v; its console:\n%s", err, host.Tail(r.console.all(), 40))
		}
	})
	if err := r.LoginAs(r.ctx, password); err != nil {
		t.Fatal(err)
	}
	if out := r.c.Host(1).Must(t, "fleetctl", "list-machines", "--no-legend", "--full"); !strings.Contains(out, other) || !strings.Contains(out, "source=drive") {
		t.Errorf("h1 does not see the VM:\n%s", out)
	}
	r.must(`set -e
		test "$(uname -n)" = from-drive
		grep -qx ` + other + ` /opt/first
		! ip -4 -o address | grep -w ` + IP + `
		systemctl is-active hello.service
		grep -q document /etc/ssh/cloud-config/core && grep -q metadata /etc/ssh/cloud-config/core
		cloud-config status | grep 'Source: config drive config-2 at /dev/vdb'
		test "$(stat -c %a /etc/credstore/*join*)" = 600`)
	r.until("a host at rest", `test "$(systemctl is-system-running)" = running || { systemctl list-jobs; systemctl --failed; exit 1; }`)

	r.otherSources()
}

// other is the address that the drive gives, where DHCP would give IP.
const other = "172.31.80.202"

// otherSources puts other documents before the host and has it read them with what a boot starts.
func (r *rig) otherSources() {
	r.t.Helper()
	read := func(want int) string {
		r.t.Helper()
		// The drive's content is another behind the kernel's back.
		return r.must(fmt.Sprintf(`blockdev --flushbufs /dev/vdb; udevadm trigger --settle --action=change /dev/vdb
			systemctl restart cloud-config.service; s=$?; journalctl -q --no-pager -o cat _SYSTEMD_INVOCATION_ID=$(systemctl show -P InvocationID cloud-config.service)
			[ $s = %d ]`, want))
	}
	// NoCloud's layout. What the first document said and this one does not is taken back.
	r.iso("cidata", map[string]string{"user-data": "#cloud-config\nwrite_files:\n  - {path: /opt/second, content: x}\n", "meta-data": "local-hostname: from-seed\n"})
	read(0)
	r.must(`test -e /opt/second && ! test -e /opt/first && test "$(uname -n)" = from-seed`)

	// Nobody wrote a document onto this one: the host says so and goes on to the next source, a file.
	r.iso("cidata", map[string]string{"readme": "empty"})
	r.write("/etc/fleet/cloud-config.yaml", "#cloud-config\nhostname: from-file\n")
	if said := read(0); !strings.Contains(said, "holds neither openstack/latest/user_data nor user-data") {
		r.t.Errorf("of a drive without user-data the host says:\n%s", said)
	}
	r.must(`test "$(uname -n)" = from-file && ! test -e /opt/second && cloud-config status | grep 'Source: file /etc/fleet/cloud-config.yaml'`)

	// Wrong types: the host stays as the last good document said, and the console says which line.
	r.write("/etc/fleet/cloud-config.yaml", "#cloud-config\nhostname: nobody\nusers: core\n")
	r.must("dmesg -n 1; ! systemctl restart cloud-config.service")
	r.says(`file /etc/fleet/cloud-config.yaml: line 3: error: users must be a list, not "core"`)
	r.must(`test "$(uname -n)" = from-file && grep -q 'the document has errors' /run/issue.d/60-cloud-config.issue`)
}

// openStack makes the drive as OpenStack does for a guest that may move: FAT, with a label in small letters.
func (r *rig) openStack(document string) {
	r.t.Helper()
	dir := r.t.TempDir()
	r.files(filepath.Join(dir, "openstack", "latest"), map[string]string{"user_data": document,
		"meta_data.json": `{"hostname": "not-this-one", "public_keys": {"mine": "ssh-ed25519 AAAAC3 metadata\n"}}`})
	r.tool("mkfs.vfat", "-C", "-n", "config-2", r.Drive, fmt.Sprint(driveSize>>10))
	r.tool("mcopy", "-s", "-i", r.Drive, filepath.Join(dir, "openstack"), "::/")
}

// iso makes the drive a CD with these files, as NoCloud's tools do. The file stays the one that the VM has open.
func (r *rig) iso(label string, files map[string]string) {
	r.t.Helper()
	dir, cd := r.t.TempDir(), filepath.Join(r.t.TempDir(), "cd")
	r.files(dir, files)
	r.tool("genisoimage", "-quiet", "-output", cd, "-volid", label, "-joliet", "-rock", dir)
	text, err := os.ReadFile(cd)
	if err != nil || len(text) > driveSize {
		r.t.Fatalf("a CD of %d bytes, %v", len(text), err)
	}
	f, err := os.OpenFile(r.Drive, os.O_WRONLY, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(append(text, make([]byte, driveSize-len(text))...)); err != nil {
		r.t.Fatal(err)
	}
}

const driveSize = 4 << 20

// blank hangs a drive on the host that nobody has written anything to yet.
func (r *rig) blank() {
	r.t.Helper()
	r.Drive = r.path("drive")
	if err := os.WriteFile(r.Drive, make([]byte, driveSize), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) files(dir string, files map[string]string) {
	r.t.Helper()
	for name, text := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			r.t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			r.t.Fatal(err)
		}
	}
}

// tool runs a program out here.
func (r *rig) tool(name string, args ...string) {
	r.t.Helper()
	cmd := exec.CommandContext(r.ctx, name, args...)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if _, err := exec.LookPath(name); err != nil {
		cmd.Path = filepath.Join("/usr/sbin", name)
		cmd.Err = nil
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		r.t.Fatalf("%s: %v: %s", name, err, out)
	}
}

// TestADiskThatIsTooSmall starts the image on a disk that ends before it does.
func TestADiskThatIsTooSmall(t *testing.T) {
	t.Parallel()
	r := newRig(t, 0)
	r.tool("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", filepath.Join(r.images, "fleet-"+first+".raw"), r.Disk, "900M")
	if err := r.Start(r.ctx, ""); err != nil {
		t.Fatal(err)
	}
	if said := r.await("; restarting"); !strings.Contains(said, "disk vda is too small: it has 900 MiB, the image needs ") {
		t.Errorf("the console says:\n%s", said)
	}
	r.await(starts) // and tries again: the disk may have grown
}

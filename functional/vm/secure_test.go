package vm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf16"

	"github.com/fleet-init/fleet/update-engine/disk"
)

// TestSecureBoot boots an image that is signed with a user's key, on firmware that knows no other. There the kernel image's own words count, not those
// of the boot entry: among them is where its cloud-config is, and what it must be. Then the unsigned image, which must not start.
func TestSecureBoot(t *testing.T) {
	t.Parallel()
	const good = "#cloud-config\nhostname: from-url\n"
	const page = "cloud-config.yaml"
	r := rigOf(t, 0, func(r *rig) string {
		r.files(r.releases, map[string]string{page: good + "# not what was meant\n"})
		r.tool("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650", "-subj", "/CN=ours", "-keyout", r.file("db.key"), "-out", r.file("db.pem"))
		return r.mkimage(first, usual+fmt.Sprintf(" cloud-config-url=%s/%s cloud-config-sha256=%x", strings.TrimSuffix(r.url, "/dir"), page, sha256.Sum256([]byte(good))))
	})
	r.enrol(r.file("db.pem"))
	r.Secure = true
	if err := r.Start(r.ctx, ""); err != nil {
		t.Fatal(err)
	}
	r.login()
	r.until("a document that is not the one of the command line", "grep -q 'somebody has changed one of the two' /run/issue.d/60-cloud-config.issue")
	r.says("somebody has changed one of the two")
	r.must(`set -e
		test "$(tail -c 1 /sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c | od -An -tu1 | tr -d ' ')" = 1
		grep -q 'fleet.slot=a fleet.version=` + first + `' /run/fleet-boot
		! grep -q fleet.slot= /proc/cmdline
		uname -n | grep -x 'fleet-[0-9a-f]*'`)
	r.until("a cluster of one", `test "$(fleetctl list-machines --no-legend | wc -l)" = 1`)
	r.files(r.releases, map[string]string{page: good})
	r.must(`systemctl restart cloud-config-network.service && test "$(uname -n)" = from-url && test ! -e /run/issue.d/60-cloud-config.issue && cloud-config status | grep http`)
	if os.Getenv("FLEET_SOAK") != "" { // three boots
		r.signedUpdate()
	}
	r.Kill()

	r.tool("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", filepath.Join(r.images, "fleet-"+first+".raw"), r.Disk)
	r.enrol(r.file("db.pem"))
	if err := r.Start(r.ctx, ""); err != nil {
		t.Fatal(err)
	}
	r.await("Access Denied")
}

// usual is what the kernel of every release is told.
const usual = "console=tty0 console=ttyS0 quiet panic=5 oops=panic no_timer_check rw systemd.gpt_auto=no"

// file is a path in the folder that is not served of the rig's test.
func (r *rig) file(name string) string { return filepath.Join(r.releases, "..", name) }

// signedUpdate takes a release that is signed with the same key, and then one that is not: the firmware refuses that as often as it has tries, and
// starts the boot loader anew by itself each time.
func (r *rig) signedUpdate() {
	r.t.Helper()
	// The host has an owner by now; these words are of the second release.
	signed := r.mkimage(second, usual+" fleet.autologin")
	r.publishKernel(second, first, "", strings.TrimSuffix(signed, ".raw")+".efi")
	r.follow("10m")
	r.apply()
	r.login()
	const proof = `[ "$(tail -c 1 /sys/firmware/efi/efivars/SecureBoot-*)" = "$(printf '\1')" ] && ! grep -q fleet.slot= /proc/cmdline && `
	r.must(proof + `grep -q 'fleet.slot=b fleet.version=` + second + `' /run/fleet-boot`)
	r.settled()

	r.must("sed -i 's/^tries = .*/tries = 3/' /etc/fleet/update.conf && systemctl restart update-engine")
	r.publish("0.3.0", second, "")
	r.apply()
	if said := r.login(); strings.Count(said, `Error loading \EFI\fleet\a.efi`) != 3 {
		r.t.Errorf("the firmware did not refuse an unsigned kernel image three times:\n%s", said)
	}
	r.must(proof + `grep -q 'fleet.slot=b fleet.version=` + second + `' /run/fleet-boot`)
	r.until("a host that remembers", `update-engine status | grep '^not again *0.3.0'`)
}

// mkimage makes a release's disk anew, with other words and signed with the rig's key, and returns its path. The kernel image lies beside it. What is in
// the cache of build.sh is taken from there.
func (r *rig) mkimage(version, words string) string {
	r.t.Helper()
	tool, out := r.file("mkimage"), r.t.TempDir()
	r.tool("go", "build", "-o", tool, "../../image/mkimage")
	for _, name := range []string{"usr-" + version + ".img", ".usr-" + version + ".img.from"} {
		r.tool("cp", "--reflink=auto", "--sparse=always", filepath.Join(r.images, name), out)
	}
	cache := filepath.Dir(r.images)
	r.tool(tool, "--install", os.Getenv("FLEET_INSTALL"), "--init", filepath.Join(cache, "init"), "--source", "../../image", "--cache", cache,
		"--out", out, "--version", version, "--sb-key", r.file("db.key"), "--sb-cert", r.file("db.pem"), "--options", words)
	return filepath.Join(out, "fleet-"+version+".raw")
}

// enrol makes the VM's firmware variables anew, with one certificate as all of its keys, and Secure Boot on.
func (r *rig) enrol(cert string) {
	r.t.Helper()
	text, err := os.ReadFile(cert)
	if err != nil {
		r.t.Fatal(err)
	}
	der, _ := pem.Decode(text)
	store, err := os.ReadFile(vars)
	if err != nil || der == nil {
		r.t.Fatalf("a certificate, and %v", err)
	}
	const global, security, switches = "8be4df61-93ca-11d2-aa0d-00e098032b8c", "d719b2cb-3d3a-4596-a3bc-dad00e67656f", "f0a30bc7-af08-4556-99c4-001009c93a44"
	list := signatures(r.t, der.Bytes)
	// Variables begin behind the headers of the volume and of the store, each at a multiple of four; what is free is 0xFF.
	at := 0x48 + 0x1C
	if store[at] != 0xFF {
		r.t.Fatalf("%s is not empty", vars)
	}
	const lasting, authenticated = 3, 0x27 // kept, and seen by the boot loader; also by the system, and changed only with a signature
	for _, x := range []struct {
		name, vendor string
		attributes   uint32
		data         []byte
	}{{"PK", global, authenticated, list}, {"KEK", global, authenticated, list}, {"db", security, authenticated, list}, {"SecureBootEnable", switches, lasting, []byte{1}}} {
		at += copy(store[at:], variable(r.t, x.name, x.vendor, x.attributes, x.data))
		at = (at + 3) &^ 3
	}
	raw := r.file("vars.fd")
	if err := os.WriteFile(raw, store, 0o600); err != nil {
		r.t.Fatal(err)
	}
	r.tool("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, r.path("vars.qcow2"))
}

// variable is one as EDK II keeps it.
func variable(t *testing.T, name, vendor string, attributes uint32, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	word := utf16.Encode([]rune(name + "\x00"))
	b.Write([]byte{0xAA, 0x55, 0x3F, 0}) // its mark; its state: whole
	put := func(v any) { _ = binary.Write(&b, binary.LittleEndian, v) }
	put(attributes)
	b.Write(make([]byte, 8+16+4)) // count, time, key: of no use here
	put(uint32(2 * len(word)))
	put(uint32(len(data)))
	b.Write(guid(t, vendor))
	put(word)
	b.Write(data)
	return b.Bytes()
}

// signatures is an EFI_SIGNATURE_LIST of one X.509 certificate.
func signatures(t *testing.T, der []byte) []byte {
	t.Helper()
	const x509, owner = "a5c059a1-94e4-4aa7-87b5-ab155c2bf072", "6b0e4a4c-0000-4000-8000-000000000001"
	le := binary.LittleEndian
	b := guid(t, x509)
	b = le.AppendUint32(b, uint32(16+12+16+len(der)))
	b = le.AppendUint32(b, 0)
	b = le.AppendUint32(b, uint32(16+len(der)))
	return append(append(b, guid(t, owner)...), der...)
}

func guid(t *testing.T, s string) []byte {
	t.Helper()
	g, err := disk.ParseGUID(s)
	if err != nil {
		t.Fatal(err)
	}
	return g[:]
}

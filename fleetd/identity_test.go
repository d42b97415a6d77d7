package main

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakeRoot makes an etc and a proc that say who a host is.
func fakeRoot(t *testing.T, machineID, boot, start string) (etc, proc string) {
	t.Helper()
	etc, proc = t.TempDir(), t.TempDir()
	stat := "1 (a name) with) S 0 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 " + start + " 0 0"
	for path, text := range map[string]string{
		filepath.Join(etc, "machine-id"):                 machineID + "\n",
		filepath.Join(proc, "sys/kernel/random/boot_id"): boot + "\n",
		filepath.Join(proc, "1/stat"):                    stat + "\n",
		filepath.Join(etc, "passwd"):                     "", // makes no difference
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return etc, proc
}

const someID = "0123456789abcdef0123456789abcdef"

func TestIdentityStaysOverARestartAndChangesWithTheBoot(t *testing.T) {
	data := filepath.Join(t.TempDir(), "fleet")
	etc, proc := fakeRoot(t, someID, "b1", "77")
	first, err := identify(etc, proc, data)
	if err != nil {
		t.Fatal(err)
	}
	if first.machine != someID || first.boot != "b1-77" || len(first.installation) < 16 {
		t.Errorf("identity %+v", first)
	}
	again, err := identify(etc, proc, data)
	if err != nil || again != first {
		t.Errorf("after a restart %+v, %v; before %+v", again, err, first)
	}
	etc, proc = fakeRoot(t, someID, "b1", "99")
	booted, err := identify(etc, proc, data)
	if err != nil || booted.boot == first.boot || booted.installation != first.installation {
		t.Errorf("a container booted anew on the same kernel: %+v, %v; before %+v", booted, err, first)
	}
}

func TestIdentityRefusesWhatWouldCauseDamage(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct{ name, machineID, data, want string }{
		{"no machine ID yet", "uninitialized", t.TempDir(), "not 32 hex digits: remove it and run systemd-machine-id-setup"},
		{"upper case, which other tools would not find", strings.ToUpper(someID), t.TempDir(), "not 32 hex digits"},
		{"data directory is a file", someID, file, "data_dir"},
	} {
		etc, proc := fakeRoot(t, row.machineID, "b", "1")
		if _, err := identify(etc, proc, row.data); err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v, want %q", row.name, err, row.want)
		}
	}
}

func TestPublicIP(t *testing.T) {
	addrs := []netip.Prefix{
		netip.MustParsePrefix("127.0.0.1/8"), netip.MustParsePrefix("10.1.0.7/16"), netip.MustParsePrefix("192.168.3.4/24"),
	}
	for _, row := range []struct {
		name string
		c    Config
		want string
	}{
		{"what is configured counts, though no interface has it", Config{PublicIP: netip.MustParseAddr("203.0.113.5")}, "203.0.113.5"},
		{"else the member's address", Config{MemberIP: netip.MustParsePrefix("192.168.0.0/16")}, "192.168.3.4"},
	} {
		if got := publicIP(row.c, addrs); got.String() != row.want {
			t.Errorf("%s: %s, want %s", row.name, got, row.want)
		}
	}
}

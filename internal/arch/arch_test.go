// Package arch holds the law of arrows as a test: main → rooms and adapters → vocabulary → standard library. docs/architecture.md
// draws the same picture for people.
package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/fleet-init/fleet/"

// A rule says what the packages under a path may import of ours and of others' code, and why no more. The longest
// matching path counts. "..." ends a path that stands for everything below it.
type rule struct {
	path  string
	ours  []string // allowed packages of this module
	other []string // allowed import path prefixes of other modules; nil = standard library only
	why   string
}

// vocabulary is what all rooms of the cluster speak, and how they wait.
var vocabulary = []string{"internal/fleet", "internal/unit", "internal/kv", "internal/pause"}

var anyModule = []string{""}

func law() []rule {
	etcd := []string{"go.etcd.io/", "google.golang.org/grpc", "go.uber.org/zap"}
	return []rule{
		{"internal/near", nil, nil, "words only: the grammar of units and of settings both stand on it"},
		{"internal/unit", []string{"internal/near"}, nil,
			"unit files mean the same to a client, the engine and an agent: the grammar depends on nothing but words"},
		{"internal/kv", nil, []string{"github.com/google/btree"},
			"the store's vocabulary; its memory store must be usable in any test"},
		{"internal/fleet", []string{"internal/unit"}, nil,
			"values only: whoever imports the vocabulary must not get a client of something with it"},

		{"fleetd/engine", vocabulary, nil,
			"placement is decided from values; a store or a clock in here could not be replayed from a seed"},
		{"fleetd/agent", vocabulary, nil,
			"the agent is tested with a fake systemd and a fake registry: it sees both only through its interfaces"},
		{"fleetd/guard", nil, []string{"golang.org/x/sys"}, "what stops exclusive units must not hang on anything that can fail with fleetd"},
		{"fleetd/fleet-guard", []string{"fleetd/guard", "internal/run"}, nil, "a process of its own, as small as can be"},
		{"fleetd/member", append([]string{"internal/kv/etcd"}, vocabulary...), append([]string{"golang.org/x/sys", "github.com/prometheus/"}, etcd...),
			"the member is the only place that runs etcd; what is stored in it is the registry's affair"},

		{"internal/kv/etcd", []string{"internal/kv"}, append([]string{"golang.org/x/sync"}, etcd...), "the only client of etcd's API besides the member"},
		{"internal/kv/etcd/etcdtest", []string{"internal/kv", "internal/kv/etcd", "internal/kv/kvtest"}, etcd, "etcd servers for tests of whatever stands on a store"},
		{"internal/kv/kvtest", []string{"internal/kv"}, anyModule, "the suite every store passes"},
		{"internal/pki", nil, nil, "certificates, requests and tokens are values; who gets them is authority's affair"},
		{"internal/authority", append([]string{"internal/pki"}, vocabulary...), nil, "who gets which certificate is decided from the store; the wire is not its affair"},
		{"internal/backup", []string{"internal/fleet"}, []string{"filippo.io/age", "go.etcd.io/bbolt", "go.etcd.io/etcd/api", "google.golang.org/protobuf"},
			"the file of a backup, for fleetctl and fleetd; taking and restoring one is the member's affair"},
		{"internal/audit", vocabulary, nil, "keeps what it is told, bounded"},
		{"internal/registry", vocabulary, []string{"golang.org/x/sync"}, "keys and records only, over any store"},
		{"internal/systemd", vocabulary, []string{"github.com/coreos/go-systemd", "github.com/godbus/dbus"},
			"the only place that speaks D-Bus"},
		{"internal/journal", vocabulary, nil, "the only place that runs journalctl; who may read what is the API's affair"},
		{"internal/ssh", nil, []string{"golang.org/x/crypto/ssh", "golang.org/x/term", "github.com/kevinburke/ssh_config"},
			"the only place that speaks SSH; which machine is meant is fleetctl's affair"},
		{"internal/ssh/sshtest", nil, []string{"golang.org/x/crypto/ssh"}, "a server for the tests of ssh and fleetctl"},
		{"internal/api", vocabulary, []string{"golang.org/x/"}, "the wire, not what is behind it: main joins it to the registry and the engine"},
		{"internal/run", nil, []string{"golang.org/x/", "github.com/coreos/go-systemd"}, "how a daemon lives; it knows none of ours"},
		{"internal/man", nil, nil, "pages from tables; only tests import it"},
		{"internal/pause", nil, nil, "how anything waits: time and nothing else"},
		{"internal/conf", []string{"internal/near"}, []string{"github.com/spf13/pflag"}, "how settings are read; it knows none of ours"},
		{"internal/arch", nil, nil, "reads the others as text"},

		{"internal/network", nil, nil,
			"the vocabulary of netd's rooms: values only"},
		{"netd/subnet", []string{"internal/kv", "internal/fleet", "internal/network", "internal/pause"}, nil, "which range a machine gets is decided from the leases that exist"},
		{"netd/overlay", []string{"internal/fleet", "internal/network"}, nil, "what a host's network must look like is a pure function; link makes it so"},
		{"netd/link", []string{"internal/network"}, anyModule, "the only place that speaks netlink, nftables and WireGuard"},

		{"fleetd", []string{"fleetd/...", "internal/..."}, anyModule, "main joins the rooms of its own house"},
		{"fleetctl", []string{"internal/..."}, anyModule, "a client knows the wire, not the daemon"},
		{"netd", []string{"netd/...", "internal/..."}, anyModule, "main joins the rooms of its own house"},
		{"netd/...", []string{"netd/...", "internal/..."}, anyModule, "netd shares little with fleetd"},
		{"update-engine", []string{"update-engine/...", "internal/..."}, anyModule, "main joins the rooms of its own house"},
		{"update-engine/update", nil, []string{"github.com/coreos/go-semver"},
			"when to take, boot, keep and give up a release is decided from values: no clock, disk or network"},
		{"update-engine/payload", nil, []string{"github.com/klauspost/compress", "github.com/cespare/xxhash", "github.com/coreos/go-semver", "golang.org/x/"},
			"bytes into a slot; which release and which slot is not its affair"},
		{"update-engine/slot", nil, []string{"golang.org/x/sys"}, "what boots is decided over files; how they get onto a disk is disk's affair"},
		{"update-engine/disk", nil, nil, "formats on a raw disk, used by slot through an interface"},
		{"update-engine/disk/disktest", nil, nil, "a disk that loses power, for tests"},
		{"update-engine/trust", nil, []string{"github.com/theupdateframework/go-tuf", "github.com/sigstore/sigstore", "github.com/secure-systems-lab"},
			"the only place that knows keys; it must not be able to write a slot"},
		{"update-engine/bus", nil, []string{"github.com/godbus/dbus"}, "another program's D-Bus interface, served: words in, words out"},
		{"update-engine/peers", []string{"update-engine/payload"}, nil, "frames by their hash, between hosts: a payload's source in front of another"},
		{"update-engine/omaha", nil, nil, "another protocol's words for the same things: values to XML and back"},
		{"internal/rollout", []string{"internal/kv", "internal/pause"}, nil,
			"how far a release may go is decided from values; only its record needs the store"},
		{"internal/reboot", []string{"internal/kv"}, nil,
			"who may reboot is decided from values; only the semaphore's record needs the store"},
		{"image/cloudconfig/document", []string{"internal/near"}, []string{"go.yaml.in/yaml/v3"},
			"what a document says is the same on the desk of its author and on a host: no host is looked at in here"},
		{"image/cloudconfig/desired", []string{"image/cloudconfig/document"}, nil,
			"what a host has to do is decided from values; host does it"},
		{"image/cloudconfig/source", []string{"image/cloudconfig/document"}, []string{"go.yaml.in/yaml/v3"}, "where documents come from, not what they say"},
		{"image/cloudconfig/host", []string{"image/cloudconfig/document", "image/cloudconfig/desired"}, []string{"golang.org/x/sys"},
			"the only place that changes a host"},
		{"image/...", []string{"image/...", "internal/..."}, anyModule, "makes the OS image and configures a host"},
		{"image/init", []string{"image/release", "update-engine/disk"}, []string{"golang.org/x/sys"},
			"process 1 of the initramfs: small, and it reads partition tables as whoever writes them does"},
		{"image/mkimage", []string{"image/release", "update-engine/disk", "update-engine/slot"}, []string{"github.com/spf13/pflag"},
			"makes the first slot and the ESP with the code that will keep them up to date"},
		{"image/release", nil, nil, "what the image's builder tells its initramfs: values only"},
		{"functional/...", []string{"..."}, anyModule, "the only place where a test may use more than one room"},
	}
}

// find returns the rule for a package: an exact path before the longest "..." path.
func find(rules []rule, pkg string) (rule, bool) {
	best, ok := rule{}, false
	for _, r := range rules {
		if r.path == pkg {
			return r, true
		}
		if base, tree := strings.CutSuffix(r.path, "..."); tree && strings.HasPrefix(pkg+"/", base) && len(r.path) > len(best.path) {
			best, ok = r, true
		}
	}
	return best, ok
}

func allowed(list []string, pkg string) bool {
	return slices.ContainsFunc(list, func(a string) bool {
		base, tree := strings.CutSuffix(a, "...")
		return a == pkg || tree && strings.HasPrefix(pkg+"/", base)
	})
}

type goPackage struct {
	ImportPath string
	Imports    []string
	Standard   bool
	Name       string
	Dir        string
	GoFiles    []string
}

func list(t *testing.T, args ...string) []goPackage {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-e", "-json=ImportPath,Imports,Standard,Name,Dir,GoFiles"}, args...)...)
	cmd.Dir = filepath.Join("..", "..")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []goPackage
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs
		} else if err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
}

func TestArrowsFollowTheLaw(t *testing.T) {
	rules := law()
	for _, p := range list(t, "./...") {
		name := strings.TrimPrefix(p.ImportPath, module)
		r, ok := find(rules, name)
		if !ok {
			t.Errorf("%s has no rule: say in internal/arch what it may import, and why", name)
			continue
		}
		for _, imp := range p.Imports {
			if ours, is := strings.CutPrefix(imp, module); is {
				if !allowed(r.ours, ours) {
					t.Errorf("%s imports %s: %s", name, ours, r.why)
				}
				continue
			}
			std := !strings.Contains(strings.SplitN(imp, "/", 2)[0], ".")
			if !std && !slices.ContainsFunc(r.other, func(o string) bool { return strings.HasPrefix(imp, o) }) {
				t.Errorf("%s imports %s: %s", name, imp, r.why)
			}
		}
	}
}

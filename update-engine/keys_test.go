package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTwoPeoplePublishOneAfterTheOther(t *testing.T) {
	dir := t.TempDir()
	k := func(names ...string) string {
		var out []string
		for _, n := range names {
			out = append(out, filepath.Join(dir, n))
		}
		return strings.Join(out, ",")
	}
	for _, n := range []string{"ann", "bob", "eve", "online"} {
		ok(t, "keys", "new", k(n))
	}
	repo := k("releases")
	ok(t, "keys", "init", repo, "--root", k("ann", "bob"), "--root-threshold", "2", "--targets", k("ann", "bob"), "--targets-threshold", "2", "--online", k("online"))
	must(t, os.WriteFile(k("usr"), image("2.0.0"), 0o644))
	must(t, os.WriteFile(k("uki"), []byte("kernel"), 0o644))
	if _, err := cmd(t, "keys", "pending", repo); err == nil {
		t.Error("something is pending")
	}
	// Ann has no key but her own.
	ok(t, "publish", repo, "--keys", k("ann"), "--version", "2.0.0", "--usr", k("usr"), "--uki", k("uki"), "--propose")
	if out := ok(t, "keys", "pending", repo); !strings.Contains(out, "1 of 2 signatures, waits") || !strings.Contains(out, "fleet/amd64/2.0.0/manifest.json") || strings.Count(out, "[x]") != 1 {
		t.Error(out)
	}
	for _, bad := range [][]string{{"keys", "commit", repo, "--keys", k("online")}, {"keys", "sign", repo, "--keys", k("eve")}} {
		if _, err := cmd(t, bad...); err == nil {
			t.Errorf("%v went well", bad)
		}
	}
	ok(t, "keys", "sign", repo, "--keys", k("bob"))
	if out := ok(t, "keys", "pending", repo); !strings.Contains(out, "2 of 2 signatures, ready") {
		t.Error(out)
	}
	ok(t, "keys", "commit", repo, "--keys", k("online"))
	root := k("root.json")
	must(t, os.WriteFile(root, []byte(ok(t, "keys", "root", repo)), 0o644))
	if out := ok(t, "mirror", "file://"+repo, k("copy"), "--root", root); out != "fleet 2.0.0 for amd64\n" {
		t.Error(out)
	}
	// Eve takes Bob's place.
	ok(t, "keys", "rotate", repo, "--root", k("ann", "eve"), "--root-threshold", "2", "--targets", k("ann", "eve"), "--targets-threshold", "2", "--online", k("online"), "--propose")
	ok(t, "keys", "sign", repo, "--keys", k("bob"))
	ok(t, "keys", "commit", repo, "--keys", k("online"))
	if out := ok(t, "mirror", "file://"+repo, k("copy"), "--root", root); out != "fleet 2.0.0 for amd64\n" {
		t.Error("a host with the first root metadata does not follow: " + out)
	}
}

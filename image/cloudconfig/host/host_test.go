package host

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/fleet-init/fleet/image/cloudconfig/desired"
	"github.com/fleet-init/fleet/image/cloudconfig/document"
)

// tree is a host in a folder: its files are real, its programs are noted. Who runs the test is its only user.
type tree struct {
	Host
	ran []string
}

func newTree(t *testing.T) *tree {
	tr := &tree{Host: Host{Root: t.TempDir()}}
	tr.Exec = func(_ context.Context, stdin string, argv ...string) (string, error) {
		if argv[0] == "systemctl" && (slices.Contains(argv, "is-enabled") || slices.Contains(argv, "is-active")) {
			return "disabled", errors.New("exit status 1")
		}
		tr.ran = append(tr.ran, strings.Join(argv, " ")+strings.TrimRight(" <"+stdin, "\n <"))
		return "", nil
	}
	tr.put(t, "/etc/passwd", "root:x:0:0::/:/bin/sh\n", 0o644)
	tr.put(t, "/etc/group", "root:x:0:\n", 0o644)
	return tr
}

func (tr *tree) put(t *testing.T, path, text string, mode uint32) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(tr.at(path)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(tr.at(path), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Chmod(tr.at(path), mode); err != nil {
		t.Fatal(err)
	}
}

func file(path, text string, mode uint32) desired.File {
	return desired.File{Path: path, Content: []byte(text), Mode: mode, Owner: "root:root"}
}

// files are all that stand in the tree, with their modes.
func (tr *tree) files(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(tr.Root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel := strings.TrimPrefix(path, tr.Root)
		if target, err := os.Readlink(path); err == nil {
			out[rel] = "-> " + target
			return nil
		}
		data, err := os.ReadFile(path)
		out[rel] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	delete(out, "/etc/passwd")
	delete(out, "/etc/group")
	return out
}

func nothing() error { return nil }

func TestWriteLookRestore(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("files get owners: run the tests as root")
	}
	tr := newTree(t)
	tr.put(t, "/etc/motd", "of the release", 0o640)
	d := desired.Desired{Files: []desired.File{
		file("/etc/motd", "ours", 0o644), file("/opt/deep/down/tool", "#!", 0o4755),
		{Path: "/etc/systemd/system/a.service", Link: "/dev/null", Owner: "root:root", Stage: desired.Units},
	}}
	turn := func(d desired.Desired, was desired.State) ([]desired.Step, desired.State) {
		t.Helper()
		seen, err := tr.Look(t.Context(), d, was)
		if err != nil {
			t.Fatal(err)
		}
		steps, next := desired.Plan(d, was, seen)
		if err := tr.Do(t.Context(), steps, nothing); err != nil {
			t.Fatal(err)
		}
		return steps, next
	}
	_, state := turn(d, desired.State{})
	kept := aside("/etc/motd")
	want := map[string]string{"/etc/motd": "ours", "/opt/deep/down/tool": "#!", "/etc/systemd/system/a.service": "-> /dev/null", kept: "of the release"}
	if diff := cmp.Diff(want, tr.files(t)); diff != "" {
		t.Error(diff)
	}
	var st unix.Stat_t
	if err := unix.Stat(tr.at("/opt/deep/down/tool"), &st); err != nil || st.Mode&0o7777 != 0o4755 {
		t.Errorf("%o %v", st.Mode, err)
	}
	if steps, _ := turn(d, state); len(steps) > 0 {
		t.Errorf("a second time: %v", steps)
	}
	// All of it is taken back, and the folder that was of the release is as it was.
	_, state = turn(desired.Desired{}, state)
	if diff := cmp.Diff(map[string]string{"/etc/motd": "of the release"}, tr.files(t)); diff != "" {
		t.Error(diff)
	}
	if err := unix.Stat(tr.at("/etc/motd"), &st); err != nil || st.Mode&0o7777 != 0o640 {
		t.Errorf("%o %v", st.Mode, err)
	}
	if len(state.Files) > 0 {
		t.Errorf("%v is still ours", state.Files)
	}
}

// A file that cannot be written is found out before the first change.
func TestAllOrNothing(t *testing.T) {
	for _, row := range []struct{ name, bad, want string }{
		{"a folder is a file", "/etc/motd/x", "write /etc/motd/x"},
		{"no such folder can be", "/full/x", "no space left on device"},
	} {
		t.Run(row.name, func(t *testing.T) {
			tr := newTree(t)
			tr.put(t, "/etc/motd", "of the release", 0o644)
			if err := os.Mkdir(tr.at("/full"), 0o755); err != nil {
				t.Fatal(err)
			}
			// Too small for the file below.
			if err := unix.Mount("none", tr.at("/full"), "tmpfs", 0, "size=16k"); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = unix.Unmount(tr.at("/full"), 0) })
			before := tr.files(t)
			saved := false
			err := tr.Do(t.Context(), []desired.Step{
				{Kind: desired.Write, File: file("/etc/new", "new", 0o644)},
				{Kind: desired.AddUser, User: document.User{Name: "ada"}},
				{Kind: desired.Write, File: file(row.bad, strings.Repeat("x", 1<<16), 0o644)},
			}, func() error { saved = true; return nil })
			if err == nil || !strings.Contains(err.Error(), row.want) || !strings.Contains(err.Error(), "nothing was changed") {
				t.Error(err)
			}
			if diff := cmp.Diff(before, tr.files(t)); diff != "" || len(tr.ran) > 0 || saved {
				t.Errorf("%s%v %v", diff, tr.ran, saved)
			}
		})
	}
}

func TestOneFailureStopsNoOther(t *testing.T) {
	tr := newTree(t)
	nobody := file("/etc/a", "a", 0o644)
	nobody.Owner = "nobody-of-that-name:root"
	err := tr.Do(t.Context(), []desired.Step{{Kind: desired.Write, File: nobody}, {Kind: desired.Write, File: file("/etc/b", "b", 0o644)}}, nothing)
	if err == nil || !strings.Contains(err.Error(), `write /etc/a: this host has no user "nobody-of-that-name"`) {
		t.Error(err)
	}
	if diff := cmp.Diff(map[string]string{"/etc/b": "b"}, tr.files(t)); diff != "" {
		t.Error(diff)
	}
}

func TestUsersAndUnitsByTheSystemsTools(t *testing.T) {
	tr := newTree(t)
	ada := document.User{Name: "ada", Gecos: "Ada L.", Passwd: "$6$secret", Groups: []string{"root", "web"}}
	err := tr.Do(t.Context(), []desired.Step{
		{Kind: desired.AddUser, User: ada}, {Kind: desired.Password, User: ada},
		{Kind: desired.AddUser, User: document.User{Name: "job", System: true, NoCreateHome: true, NoUserGroup: true, Shell: "/usr/sbin/nologin", Homedir: "/var/job"}},
		{Kind: desired.Enable, Words: []string{"a.service", "b.service"}}, {Kind: desired.Stop, Words: []string{"c.service"}}, {Kind: desired.Reload},
		{Kind: desired.Tell, Verb: "start", Words: []string{desired.Target}},
	}, nothing)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"groupadd web",
		"useradd --comment Ada L. --create-home --user-group --groups root,web --shell /bin/bash ada",
		"chpasswd -e <ada:$6$secret",
		"useradd --home-dir /var/job --no-create-home --no-user-group --system --shell /usr/sbin/nologin job",
		"systemctl --root=" + tr.Root + " enable a.service b.service",
		"systemctl stop c.service",
		"systemctl daemon-reload",
		"systemctl --no-block start cloud-config.target",
	}
	if diff := cmp.Diff(want, tr.ran); diff != "" {
		t.Error(diff)
	}
}

// What a crash has left under our temporary names, be it a link to somewhere else, is no danger.
func TestLeftoversOfACrash(t *testing.T) {
	tr := newTree(t)
	tr.put(t, "/victim", "untouched", 0o644)
	f := file("/etc/new", "new", 0o644)
	tmp := filepath.Join(tr.at("/etc"), "."+desired.Hash([]byte(f.Path))[:16]+".cloud-config")
	if err := os.Symlink(tr.at("/victim"), tmp); err != nil {
		t.Fatal(err)
	}
	if err := tr.Do(t.Context(), []desired.Step{{Kind: desired.Write, File: f}}, nothing); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"/victim": "untouched", "/etc/new": "new"}, tr.files(t)); diff != "" {
		t.Error(diff)
	}
}

func TestPathsThatAreNoFiles(t *testing.T) {
	tr := newTree(t)
	if err := os.MkdirAll(tr.at("/etc/dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := tr.Look(t.Context(), desired.Desired{Files: []desired.File{file("/etc/dir", "", 0o644)}}, desired.State{})
	if err == nil || !strings.Contains(err.Error(), "/etc/dir: it is no plain file") {
		t.Error(err)
	}
}

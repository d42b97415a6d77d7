package member

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// state is what this host must remember besides etcd's own data, in Dir/member.json. It is written before the step that it
// tells of, so that a start after a crash at any line knows what was meant.
type state struct {
	V int `json:"v"`
	// Cluster this host belongs to, hex; empty until that is known.
	Cluster string `json:"cluster,omitempty"`
	// Hosts are client addresses of members, host:port: where to ask when the configuration names none. A host that knows of
	// others never makes a cluster of its own.
	Hosts []string `json:"hosts,omitempty"`
	// ID of this member, hex, and its client address when it ran last: how a copy of this disk is told from it.
	ID   string `json:"id,omitempty"`
	Self string `json:"self,omitempty"`
	// From are the clusters that this one was restored from, the nearest first; Confirm: by somebody who meant it.
	From    []string `json:"from,omitempty"`
	Confirm bool     `json:"confirm,omitempty"`
	// Fresh: out of a backup, and Config.Stale not yet deleted.
	Fresh bool `json:"fresh,omitempty"`
	// Took is the one of From that worked, and whose members were taken out for this one.
	Took string `json:"took,omitempty"`
}

func stateFile(dir string) string { return filepath.Join(dir, "member.json") }

// etcdDir holds etcd's files.
func etcdDir(dir string) string { return filepath.Join(dir, "etcd") }

func loadState(dir string) (state, error) {
	s := state{V: 1}
	text, err := os.ReadFile(stateFile(dir))
	if errors.Is(err, os.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("read the member's state: %w", err)
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("read %s: %w: remove it; where this host had joined a cluster, set join", stateFile(dir), err)
	}
	if s.V != 1 {
		return s, fmt.Errorf("%s was written by a newer fleetd (version %d of the file): start that one", stateFile(dir), s.V)
	}
	return s, nil
}

// save replaces the file as a whole and returns when it will survive a power loss.
func (s state) save(dir string) error {
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	tmp := stateFile(dir) + ".new"
	if err := writeSync(tmp, append(text, '\n')); err != nil {
		return fmt.Errorf("write the member's state: %w", err)
	}
	if err := os.Rename(tmp, stateFile(dir)); err != nil {
		return fmt.Errorf("write the member's state: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("write the member's state: %w", err)
	}
	defer d.Close()
	return d.Sync()
}

func writeSync(name string, text []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}

// claimDir makes the directories, checks that they can be written, and holds them until release: two members on one set of
// files would destroy it.
func claimDir(dir string) (release func(), err error) {
	advice := func(err error) error {
		return fmt.Errorf("use data_dir %s: %w: make it a directory that fleetd can write, or set another data_dir", dir, err)
	}
	// etcd asks for 0700 on its own directory and warns otherwise.
	if err := os.MkdirAll(etcdDir(dir), 0o700); err != nil {
		return nil, advice(err)
	}
	if err := os.Chmod(etcdDir(dir), 0o700); err != nil {
		return nil, advice(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, advice(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock data_dir %s: %w: another fleetd uses it; stop that one", dir, err)
	}
	// Writable in fact, not by its mode: the disk may be full or read-only.
	probe := filepath.Join(etcdDir(dir), "probe")
	if err := errors.Join(writeSync(probe, []byte("probe")), os.Remove(probe)); err != nil {
		f.Close()
		return nil, advice(err)
	}
	return func() { f.Close() }, nil // the lock goes with the file
}

// hasLog says that etcd has been started in dir: its log is made as a whole, by a rename.
func hasLog(dir string) bool {
	files, err := filepath.Glob(filepath.Join(etcdDir(dir), "member", "wal", "*.wal"))
	return err == nil && len(files) > 0
}

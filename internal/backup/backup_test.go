package backup

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
)

// snapshot makes what etcd would send: pairs of key and value, an empty value deletes.
func snapshot(t testing.TB, pairs ...string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucket([]byte("key"))
		if err != nil {
			return err
		}
		for i := 0; i < len(pairs); i += 2 {
			rev := make([]byte, 17)
			binary.BigEndian.PutUint64(rev, uint64(i/2+2))
			rev[8] = '_'
			if pairs[i+1] == "" {
				rev = append(rev, 't')
			}
			v, err := proto.Marshal(&mvccpb.KeyValue{Key: []byte(pairs[i]), Value: []byte(pairs[i+1])})
			if err != nil {
				return err
			}
			if err := b.Put(rev, v); err != nil {
				return err
			}
		}
		return nil
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(text)
	return append(text, sum[:]...)
}

func TestBackup(t *testing.T) {
	raw := snapshot(t, "/fleet/units/a.service", "{}", "/fleet/units/b.service", "{}", "/fleet/units/a.service", "", "/fleet/machines/m", "{}",
		"/fleet/origin", `{"cluster":"c1","at":"2026-01-02T03:04:05Z"}`, "/other", "x")
	for name, pass := range map[string]string{"plain": "", "encrypted": "a word and another"} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "backup")
			if err := Save(path, bytes.NewReader(raw), pass); err != nil {
				t.Fatal(err)
			}
			r, err := Open(path, pass)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, raw) {
				t.Errorf("it is not what was saved: %d bytes, %v", len(got), err)
			}
			got, err := Inspect(path, pass, "/fleet/")
			if err != nil || got.Encrypted != (pass != "") || got.Revision != 7 || got.Keys != 4 || got.Units != 1 || got.Machines != 1 || got.Cluster != "c1" {
				t.Errorf("inspect: %+v, %v", got, err)
			}
			if pass != "" {
				for _, wrong := range []string{"", "another"} {
					if _, err := Open(path, wrong); !errors.Is(err, ErrPassphrase) {
						t.Errorf("passphrase %q: %v", wrong, err)
					}
				}
			}
			damage(t, path, pass)
		})
	}
}

// damage spoils a backup in ways that must be noticed.
func damage(t *testing.T, path, pass string) {
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	turned := bytes.Clone(whole)
	turned[len(turned)/2] ^= 1
	for name, text := range map[string][]byte{"a bit turned": turned, "cut short": whole[:len(whole)-100], "empty": nil, "something else": []byte(strings.Repeat("x", 1000))} {
		bad := path + ".bad"
		if err := os.WriteFile(bad, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Inspect(bad, pass, "/fleet/"); err == nil {
			t.Errorf("%s: not noticed", name)
		}
	}
}

func TestSaveKeepsNothingOfWhatIsBroken(t *testing.T) {
	dir := t.TempDir()
	raw := snapshot(t, "a", "b")
	if err := Save(filepath.Join(dir, "b"), bytes.NewReader(raw[:len(raw)-1]), ""); err == nil {
		t.Error("half a snapshot was saved")
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

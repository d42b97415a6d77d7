// Package backup is the file that holds the whole store: an etcd snapshot, closed by its SHA-256 as etcd writes it, in an age file when it is encrypted
// by a passphrase. It writes, opens and checks such files and says what is in one; taking and restoring one is the member's affair.
package backup

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"filippo.io/age"
	bolt "go.etcd.io/bbolt"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"github.com/fleet-init/fleet/internal/fleet"
)

// ErrPassphrase: the file is encrypted and the passphrase is missing or wrong.
var ErrPassphrase = errors.New("the backup is encrypted by a passphrase that was not given: name its file with --passphrase-file")

// ageHeader begins every age file.
const ageHeader = "age-encryption.org/v1"

// scryptWork is 2^n rounds to make a key of a passphrase: about a second.
const scryptWork = 18

// Save writes what comes from r into path, whole or not at all, encrypted if passphrase is not empty. It checks the snapshot's own hash: an error
// says that what arrived is not what the store sent.
func Save(path string, r io.Reader, passphrase string) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".backup-")
	if err != nil {
		return fmt.Errorf("make the backup: %w", err)
	}
	defer os.Remove(f.Name()) // after the rename there is nothing of that name
	err = write(f, r, passphrase)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("make the backup %s: %w", path, err)
	}
	return nil
}

func write(f io.Writer, r io.Reader, passphrase string) error {
	check := newTrailer()
	if passphrase == "" {
		if _, err := io.Copy(io.MultiWriter(f, check), r); err != nil {
			return err
		}
		return check.err()
	}
	to, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		return err
	}
	to.SetWorkFactor(scryptWork)
	w, err := age.Encrypt(f, to)
	if err != nil {
		return err
	}
	if _, err := io.Copy(io.MultiWriter(w, check), r); err != nil {
		return err
	}
	return errors.Join(w.Close(), check.err())
}

// trailer computes the hash of all but the last 32 bytes, and compares it with those.
type trailer struct {
	sum  hash.Hash
	last []byte
	n    int64
}

func newTrailer() *trailer { return &trailer{sum: sha256.New()} }

func (t *trailer) Write(p []byte) (int, error) {
	t.n += int64(len(p))
	all := append(t.last, p...)
	keep := max(0, len(all)-sha256.Size)
	t.sum.Write(all[:keep])
	t.last = append([]byte{}, all[keep:]...)
	return len(p), nil
}

func (t *trailer) err() error {
	// A database is whole pages; the hash makes it uneven.
	if t.n%512 != sha256.Size || !bytes.Equal(t.sum.Sum(nil), t.last) {
		return errors.New("it is damaged or cut short: its hash does not fit its content")
	}
	return nil
}

// Open gives the snapshot in a backup, decrypted. The hash is checked while it is read: the last Read returns io.EOF only if it fits.
func Open(path, passphrase string) (io.ReadCloser, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open the backup: %w", err)
	}
	r, err := decrypt(bufio.NewReader(f), passphrase)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the backup %s: %w", path, err), f.Close())
	}
	return &checked{r: r, check: newTrailer(), f: f}, nil
}

func decrypt(b *bufio.Reader, passphrase string) (io.Reader, error) {
	head, err := b.Peek(len(ageHeader))
	if err != nil {
		return nil, errors.New("it is damaged or cut short")
	}
	if string(head) != ageHeader {
		return b, nil
	}
	if passphrase == "" {
		return nil, ErrPassphrase
	}
	id, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		return nil, err
	}
	id.SetMaxWorkFactor(scryptWork + 2)
	r, err := age.Decrypt(b, id)
	if no := (*age.NoIdentityMatchError)(nil); errors.As(err, &no) {
		return nil, ErrPassphrase
	}
	return r, err
}

type checked struct {
	r     io.Reader
	check *trailer
	f     *os.File
}

func (c *checked) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	_, _ = c.check.Write(p[:n]) // a hash takes everything
	if errors.Is(err, io.EOF) {
		if bad := c.check.err(); bad != nil {
			return n, bad
		}
	}
	return n, err
}

func (c *checked) Close() error { return c.f.Close() }

// Info says what is in a backup.
type Info struct {
	Encrypted bool      `json:"encrypted"`
	Size      int64     `json:"size"` // of the snapshot, bytes
	SHA256    string    `json:"sha256"`
	Revision  int64     `json:"revision"`
	Keys      int       `json:"keys"` // that are there at that revision
	Units     int       `json:"units"`
	Machines  int       `json:"machines"`          // registered when it was taken
	Cluster   string    `json:"cluster,omitempty"` // etcd's cluster ID, hex; empty: of a cluster that never wrote it
	Since     time.Time `json:"since,omitzero"`    // when that cluster was made
}

// Inspect checks a backup and counts what it holds under a key prefix such as /fleet/.
func Inspect(path, passphrase, prefix string) (Info, error) {
	r, err := Open(path, passphrase)
	if err != nil {
		return Info{}, err
	}
	defer r.Close()
	tmp, err := os.CreateTemp("", "fleet-backup-")
	if err != nil {
		return Info{}, err
	}
	defer os.Remove(tmp.Name())
	n, err := io.Copy(tmp, r)
	if err := errors.Join(err, tmp.Close()); err != nil {
		return Info{}, fmt.Errorf("read the backup %s: %w", path, err)
	}
	info := Info{Encrypted: r.(*checked).r != nil && encrypted(path), Size: n, SHA256: hex.EncodeToString(r.(*checked).check.last)}
	if err := info.read(tmp.Name(), prefix); err != nil {
		return Info{}, fmt.Errorf("read the backup %s: %w", path, err)
	}
	return info, nil
}

// read counts what a database holds. Where its pages make no sense bbolt panics, or reads behind the end of its mapped file: a hash that fits only says
// that the file is what somebody wrote.
func (i *Info) read(path, prefix string) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("its database is damaged: %v", p)
		}
	}()
	db, err := bolt.Open(path, 0o400, &bolt.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	defer db.Close()
	// Not by View, whose own clean-up waits for the transaction that has panicked.
	tx, err := db.Begin(false)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	return i.count(tx, prefix)
}

func encrypted(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	head := make([]byte, len(ageHeader))
	_, err = io.ReadFull(f, head)
	return err == nil && string(head) == ageHeader
}

// count walks etcd's history of keys, which is in order of revisions, and keeps the newest of each. A revision is 8 bytes, an underscore and 8 bytes of
// the place in its transaction; a deletion has one byte more.
func (i *Info) count(tx *bolt.Tx, prefix string) error {
	keys := tx.Bucket([]byte("key"))
	if keys == nil {
		return errors.New("it is no snapshot of etcd")
	}
	there := map[string][]byte{}
	err := keys.ForEach(func(k, v []byte) error {
		if len(k) < 17 {
			return errors.New("a revision cannot be read")
		}
		i.Revision = int64(binary.BigEndian.Uint64(k))
		var kv mvccpb.KeyValue
		if err := proto.Unmarshal(v, &kv); err != nil {
			return fmt.Errorf("revision %d: %w", i.Revision, err)
		}
		if len(k) > 17 || len(kv.Key) == 0 {
			delete(there, string(kv.Key))
			return nil
		}
		there[string(kv.Key)] = kv.Value
		return nil
	})
	i.Keys = len(there)
	for k, v := range there {
		switch {
		case strings.HasPrefix(k, prefix+"units/"):
			i.Units++
		case strings.HasPrefix(k, prefix+"machines/"):
			i.Machines++
		case k == prefix+"origin":
			var o fleet.StoreOrigin
			if json.Unmarshal(v, &o) == nil {
				i.Cluster, i.Since = o.Cluster, o.At
			}
		}
	}
	return err
}

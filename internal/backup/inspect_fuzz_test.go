package backup

import (
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzInspect reads databases of which bytes have changed, with a hash that fits: as one that a program with a fault has written, or somebody on
// purpose. It counts, or says that the backup cannot be read; it never takes fleetctl down.
func FuzzInspect(f *testing.F) {
	good := snapshot(f, "/fleet/units/a.service", "x", "/fleet/machines/1", "y", "/fleet/origin", `{"cluster":"1"}`, "/fleet/units/a.service", "")
	good = good[:len(good)-sha256.Size]
	f.Add(uint32(0), []byte{0})
	f.Add(uint32(16), []byte{0xff, 0xff, 0xff, 0xff, 0xff})
	for page := range uint32(len(good) / 4096) {
		f.Add(page*4096+8, []byte{0xff, 0xff})  // its flags, and how many elements
		f.Add(page*4096+10, []byte{0xff, 0xff}) // elements
		f.Add(page*4096+20, []byte{0xff, 0xff, 0xff, 0x7f})
	}
	path := filepath.Join(f.TempDir(), "backup")
	f.Fuzz(func(t *testing.T, at uint32, by []byte) {
		b := bytes.Clone(good)
		copy(b[int(at)%len(b):], by)
		sum := sha256.Sum256(b)
		if err := os.WriteFile(path, append(b, sum[:]...), 0o600); err != nil {
			t.Fatal(err)
		}
		info, err := Inspect(path, "", "/fleet/")
		if err != nil && !strings.Contains(err.Error(), path) {
			t.Errorf("%v does not name the backup", err)
		}
		if err == nil && (info.Size != int64(len(b)+sha256.Size) || info.Keys < info.Units+info.Machines) {
			t.Errorf("%+v", info)
		}
	})
}

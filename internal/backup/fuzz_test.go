package backup

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// FuzzOpen reads files that may be anything. What passes is what was hashed, or what a passphrase has vouched for; everything else is an error.
func FuzzOpen(f *testing.F) {
	f.Add([]byte(nil))
	f.Add([]byte(ageHeader))
	f.Add([]byte(ageHeader + "\n-> scrypt AAAAAAAAAAAAAAAAAAAAAA 1\nAAAA\n--- AAAA\n"))
	f.Add(bytes.Repeat([]byte{0}, 512+32))
	path := filepath.Join(f.TempDir(), "backup")
	f.Fuzz(func(t *testing.T, text []byte) {
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := Open(path, "")
		if err != nil {
			return
		}
		defer r.Close()
		got, err := io.ReadAll(r)
		if err == nil && !bytes.HasPrefix(text, got) {
			t.Errorf("%d bytes came out of a file of %d that does not begin with them", len(got), len(text))
		}
	})
}

package document

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"testing"
)

// FuzzDecode unpacks contents of files: never more than a document may be, and what was packed comes out.
func FuzzDecode(f *testing.F) {
	pack := func(b []byte) []byte {
		var out bytes.Buffer
		z := gzip.NewWriter(&out)
		_, _ = z.Write(b) // a buffer takes everything
		_ = z.Close()
		return out.Bytes()
	}
	f.Add([]byte("hello"))
	f.Add(pack([]byte("hello")))
	f.Add(pack(make([]byte, MaxSize+1)))
	f.Add([]byte("aGVsbG8=\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, encoding := range []string{"", "b64", "base64", "gz", "gzip", "gz+base64", "gzip+b64"} {
			if out, err := decode(string(b), encoding); err == nil && len(out) > max(MaxSize, len(b)) {
				t.Errorf("%d bytes of %d, by %q", len(out), len(b), encoding)
			}
		}
		if len(b) > MaxSize {
			return
		}
		out, err := decode(base64.StdEncoding.EncodeToString(pack(b)), "gz+base64")
		if err != nil || !bytes.Equal(out, b) {
			t.Errorf("packed and unpacked: %v", err)
		}
	})
}

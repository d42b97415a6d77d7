package journal

import (
	"bufio"
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/internal/fleet"
)

// FuzzEntries reads what journalctl may print, of programs that write anything: every line is passed on or named as left out, and none takes more
// memory than the longest that is passed on.
func FuzzEntries(f *testing.F) {
	f.Add([]byte(`{"__REALTIME_TIMESTAMP":"1","__CURSOR":"a","MESSAGE":"hello"}`+"\n"), uint16(16))
	f.Add([]byte("\n\n{\n"), uint16(1))
	f.Add([]byte(`{"__REALTIME_TIMESTAMP":"1","__CURSOR":"\u0001\u00ad"}`+"\n{\n"), uint16(1))
	f.Add([]byte(`{"MESSAGE":[104,300,"x"]}`), uint16(4096))
	f.Fuzz(func(t *testing.T, b []byte, room uint16) {
		in := bufio.NewReaderSize(bytes.NewReader(b), int(room))
		var lines [][]byte
		for {
			line, long, err := readLine(in)
			if len(line) > maxEntry || long && line != nil || bytes.ContainsRune(line, '\n') {
				t.Fatalf("a line of %d bytes, long %v", len(line), long)
			}
			lines = append(lines, line)
			if err != nil {
				break
			}
		}
		if got := bytes.Join(lines, []byte("\n")); !bytes.Equal(got, b) {
			t.Errorf("%q was read as %q", b, got)
		}
		n := 0
		err := entries(bytes.NewReader(b), func(e fleet.LogEntry) error {
			if n++; !json.Valid(e.JSON) {
				t.Errorf("an entry that is no JSON: %s", e.JSON)
			}
			return nil
		})
		if most := bytes.Count(b, []byte("\n")) + 1; n > most {
			t.Errorf("%d entries of %d lines", n, most)
		}
		if err != nil && !strings.Contains(err.Error(), "journal") {
			t.Errorf("%v does not say what was read", err)
		}
	})
}

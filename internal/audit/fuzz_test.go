package audit

import (
	"log/slog"
	"testing"
	"time"

	"github.com/fleet-init/fleet/internal/kv"
)

// FuzzPages puts anything where a page or the head of the ring is: what is noted after that is read, unless the head itself is spoiled, which the
// writer is told; and nothing that is read is more than the ring holds.
func FuzzPages(f *testing.F) {
	f.Add("head", `{"v":1,"page":-9223372036854775808}`)
	f.Add("head", `{"v":1,"page":9223372036854775807}`)
	f.Add("00", `{"v":1,"page":0,"deeds":[null,1,"x",{}]}`)
	f.Add("63", `{"v":1,"page":9223372036854775807,"deeds":["x"]}`)
	f.Add("", `[`)
	f.Fuzz(func(t *testing.T, key, value string) {
		store := kv.NewMemory(time.Now)
		l := New[string](store, "/fleet/audit/", slog.New(slog.DiscardHandler))
		if err := l.Write(t.Context(), "before"); err != nil {
			t.Fatal(err)
		}
		if _, _, err := store.Txn(t.Context(), nil, []kv.Op{{Key: "/fleet/audit/" + key, Value: []byte(value)}}); err != nil {
			return // no key that can be
		}
		werr := l.Write(t.Context(), "after")
		if werr != nil && key != "head" {
			t.Errorf("%s=%q: %v", key, value, werr)
		}
		got, err := l.Newest(t.Context(), 10)
		if err != nil || len(got) > 10 {
			t.Fatalf("%s=%q: %d deeds, %v", key, value, len(got), err)
		}
		if werr == nil && (len(got) == 0 || got[len(got)-1] != "after") {
			t.Errorf("%s=%q: the newest deeds are %q", key, value, got)
		}
	})
}

package member

import (
	"os"
	"strings"
	"testing"
)

func TestCopiedDiskWaitsForTheOriginalToGo(t *testing.T) {
	t.Parallel()
	hosts := cluster(t, 3)
	original, copied := hosts[2], newHosts(t, 1)[0]
	was := original.awaitRole(Voter)
	original.stop()
	move := func() {
		if err := os.RemoveAll(copied.cfg.Dir); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(copied.cfg.Dir, os.DirFS(original.cfg.Dir)); err != nil {
			t.Fatal(err)
		}
	}
	move()
	original.start()
	original.awaitRole(Voter)

	copied.start()
	copied.await("the copy to say what it is", func(s Status) bool {
		return strings.Contains(s.Doing, "copy of that of the host at "+original.client())
	})
	hosts[0].put("k", "v")
	for _, i := range hosts[0].m.Status().Members {
		if i.ID == was.ID && !strings.HasSuffix(i.Clients[0], original.client()) {
			t.Errorf("the members look for the original at %v", i.Clients)
		}
	}

	// A disk that was moved is no copy: it takes the other's place.
	copied.stop()
	original.stop()
	move()
	copied.start()
	if s := copied.awaitRole(Voter); s.ID != was.ID {
		t.Errorf("it is member %s, not %s", s.ID, was.ID)
	}
	copied.wantKey("k", "v")
}

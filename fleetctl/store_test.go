package main

import (
	"crypto/sha256"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/fleet"
)

// newStoreServer is a fleetd that says this of the store.
func newStoreServer(t *testing.T, list fleet.StoreMembers) *osServer {
	s := &osServer{socket: filepath.Join(t.TempDir(), "s")}
	members := func(w http.ResponseWriter, r *http.Request, item string) error {
		if r.Method != http.MethodGet {
			s.told = append(s.told, r.Method+" "+item)
		}
		api.Reply(w, http.StatusOK, list)
		return nil
	}
	h := api.NewHandler(api.Config{
		Ready: func() error { return api.Refuse(http.StatusServiceUnavailable, "no store") },
		More: map[string]api.Route{
			"members": {"GET": members}, "members/": {"POST": members, "DELETE": members},
			"store/": {
				"GET": func(w http.ResponseWriter, _ *http.Request, _ string) error {
					page := []byte(strings.Repeat("x", 512))
					sum := sha256.Sum256(page)
					_, err := w.Write(append(page, sum[:20]...)) // the connection broke
					return err
				},
				"POST": func(w http.ResponseWriter, _ *http.Request, item string) error {
					s.told = append(s.told, item)
					if item == "recover" {
						return api.Refuse(http.StatusConflict, "the store answers, so it has a quorum")
					}
					api.Reply(w, http.StatusOK, fleet.StoreOrigin{Cluster: "c1"})
					return nil
				},
			},
		},
	})
	l, err := net.Listen("unix", s.socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	done := make(chan bool)
	go func() { _ = srv.Serve(l); close(done) }() // ends with ErrServerClosed
	t.Cleanup(func() { _ = srv.Close(); <-done })
	return s
}

func TestMembersAreShownAndChanged(t *testing.T) {
	well := newStoreServer(t, fleet.StoreMembers{Cluster: "c1", Members: []fleet.StoreMember{
		{ID: "a1", Name: "h1", Role: "voter", Zone: "east", Leader: true, Health: "ok"},
		{ID: "a2", Name: "h2", Role: "learner", Health: "ok", Lag: 12}, {Name: "h3", Role: "stand-by", Health: "ok", Lag: -1},
	}})
	want := "NAME\tROLE\t\tZONE\tHEALTH\tLAG\tLEADER\nh1\tvoter\t\teast\tok\t0\tyes\nh2\tlearner\t\t-\tok\t12\t-\nh3\tstand-by\t-\tok\t-\t-\n"
	if got := well.run(t, "members"); strings.Join(strings.Fields(got), " ") != strings.Join(strings.Fields(want), " ") {
		t.Errorf("members:\n%s", got)
	}
	well.run(t, "members remove h2")
	well.run(t, "members promote h3")
	if got := strings.Join(well.told, ", "); got != "DELETE h2, POST h3" {
		t.Errorf("it was told %q", got)
	}
	if got := well.run(t, "members remove"); !strings.HasPrefix(got, "2: ") {
		t.Errorf("without a name: %s", got)
	}
	ill := newStoreServer(t, fleet.StoreMembers{Lost: "no quorum", Members: []fleet.StoreMember{{ID: "a1", Name: "h1", Role: "voter", Health: "does not answer", Lag: -1}}})
	for _, line := range []string{"members", "members --json"} {
		if got := ill.run(t, line); !strings.HasPrefix(got, "1: ") || !strings.Contains(got, "no quorum") {
			t.Errorf("%s of a store that is lost: %s", line, got)
		}
	}
}

func TestBackupCommandsSayWhatIsWrong(t *testing.T) {
	s := newStoreServer(t, fleet.StoreMembers{})
	dir := t.TempDir()
	if got := s.run(t, "backup save "+dir+"/b"); !strings.HasPrefix(got, "1: ") || !strings.Contains(got, "cut short") {
		t.Errorf("a connection that broke: %s", got)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	for line, want := range map[string]string{
		"backup restore " + dir + "/none": "no such file", "backup": "2: ", "backup save": "2: ", "backup confirm": "Cluster c1 is obeyed",
		"backup inspect --passphrase-file=" + dir + "/none x": "passphrase", "recover": "--force-new-cluster", "recover --force-new-cluster": "has a quorum",
	} {
		if got := s.run(t, line); !strings.Contains(got, want) {
			t.Errorf("%s: %s", line, got)
		}
	}
	if got := strings.Join(s.told, ", "); strings.Count(got, "confirm") != 1 || strings.Count(got, "recover") != 1 {
		t.Errorf("it was told %q", got)
	}
}

package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/registry"
	"github.com/fleet-init/fleet/internal/unit"
)

// counter counts the requests that a cluster's API gets, by method and path.
type counter struct {
	mu    sync.Mutex // guards calls
	calls map[string]int
}

func (c *counter) count(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		if c.calls == nil {
			c.calls = map[string]int{}
		}
		c.calls[r.Method+" "+strings.TrimPrefix(r.URL.Path, "/fleet/v1/")]++
		c.mu.Unlock()
		h.ServeHTTP(w, r)
	})
}

// take returns the calls since the last take, without questions why units are nowhere, which are asked once a second for all.
func (c *counter) take() (calls map[string]int, sum int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	calls, c.calls = c.calls, nil
	delete(calls, "GET explain")
	for _, n := range calls {
		sum += n
	}
	return calls, sum
}

// Whatever is done to a hundred units takes as many requests as for two.
func TestCallsDoNotGrowWithTheUnits(t *testing.T) {
	dir := t.TempDir()
	socket, err := os.MkdirTemp("", "fleetctl") // a socket's path may have 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(socket)
	c := newCluster(t, filepath.Join(socket, "s"))
	defer c.stop()
	for _, m := range []string{"1f2e3d4c5b6a79881f2e3d4c5b6a7988", "2f2e3d4c5b6a79881f2e3d4c5b6a7988"} {
		if err := c.machine(m, "10.0.0."+m[:1], nil); err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ctl := func(words ...string) map[string]int {
		t.Helper()
		var out, said bytes.Buffer
		if code := run(t.Context(), append([]string{"--endpoint=unix://" + c.socket}, words...), nil, strings.NewReader(""), &out, &said); code != 0 {
			t.Fatalf("%v: %d %s %s", words[:2], code, out.String(), said.String())
		}
		calls, sum := c.requests.take()
		if sum > 4 {
			t.Errorf("fleetctl %s of %d units: %v", words[0], len(words)-1, calls)
		}
		return calls
	}
	file, err := unit.Parse([]byte("[Service]\nExecStart=/bin/sleep 1\n"))
	if err != nil {
		t.Fatal(err)
	}
	if res := c.reg.Submit(t.Context(), registry.Submission{Name: "t@.service", File: file}); res[0].Err != nil {
		t.Fatal(res[0].Err)
	}
	var few map[string]int
	for _, n := range []int{2, 100} {
		in := func(place string) (words []string) {
			for i := range n {
				words = append(words, filepath.Join(place, fmt.Sprintf("t@%d.service", i)))
			}
			return words
		}
		all := map[string]int{}
		do := func(what string, words ...string) {
			t.Helper()
			for call, n := range ctl(words...) {
				all[what+": "+call] = n
			}
		}
		do("start", append([]string{"start"}, in("nowhere")...)...)
		do("again", append([]string{"start"}, in("nowhere")...)...)
		do("restart", append([]string{"restart"}, in("nowhere")...)...)
		do("stop", append([]string{"stop"}, in("nowhere")...)...)
		write("t@.service", "[Service]\nExecStart=/bin/sleep 2\n")
		write("t@.service.d/10.conf", "[Service]\nNice=1\n")
		write("t@1.service.d/20.conf", "[Service]\nNice=2\n")
		do("replace", append([]string{"start", "--replace"}, in(dir)...)...)
		write("t@.service.d/10.conf", "[Service]\nNice=3\n")
		do("replace drop-ins", append([]string{"start", "--replace"}, in(dir)...)...)
		do("nothing to replace", append([]string{"start", "--replace"}, in(dir)...)...)
		do("destroy", append([]string{"destroy"}, in(dir)...)...)
		if few == nil {
			few = all
			continue
		}
		for call, n := range all {
			if n != few[call] {
				t.Errorf("%s: %d requests for 100 units, %d for 2", call, n, few[call])
			}
		}
		if s, err := c.reg.Snapshot(t.Context()); err != nil || len(s.Units) != 1 || s.Units["t@.service"].Target != fleet.Inactive {
			t.Errorf("left: %v, %v", s.Units, err)
		}
	}
}

package peers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fleet-init/fleet/update-engine/payload"
)

// origin is a web server's file, and how many bytes of it were sent.
type origin struct {
	file []byte
	sent atomic.Int64
	down atomic.Bool
}

func (o *origin) Fetch(_ context.Context, _ string, spans []payload.Span, take func(int, []byte) error) error {
	for i, s := range spans {
		if o.down.Load() {
			return errors.New("the origin is down")
		}
		o.sent.Add(s.Len)
		if err := take(i, bytes.Clone(o.file[s.Off:s.Off+s.Len])); err != nil {
			return err
		}
	}
	return nil
}

// cluster is hosts that share a file of frames.
type cluster struct {
	t      testing.TB
	origin *origin
	spans  []payload.Span
	hosts  []Host
	shares []*Share
}

func newCluster(t testing.TB, hosts, frames, size int) *cluster {
	c := &cluster{t: t, origin: &origin{file: make([]byte, frames*size)}}
	r := rand.New(rand.NewPCG(3, 4))
	for i := range c.origin.file {
		c.origin.file[i] = byte(r.Uint32())
	}
	for i := range frames {
		c.spans = append(c.spans, payload.Span{Off: int64(i * size), Len: int64(size), Sum: payload.Sum(c.origin.file[i*size : (i+1)*size])})
	}
	dir := t.TempDir()
	for i := range hosts {
		id := fmt.Sprint("m", i)
		s := &Share{Origin: c.origin, Hosts: func() []Host { return c.hosts }, Self: id, Client: http.DefaultClient,
			Cache: Cache{Dir: filepath.Join(dir, id), Max: int64(frames*size) + 1<<20}}
		web := httptest.NewServer(s.Handler())
		t.Cleanup(web.Close)
		c.hosts = append(c.hosts, Host{id, web.URL})
		c.shares = append(c.shares, s)
	}
	return c
}

// take has a host fetch everything, and checks it.
func (c *cluster) take(s *Share) error {
	next := 0
	err := s.Fetch(c.t.Context(), "f", c.spans, func(i int, b []byte) error {
		if i != next || !bytes.Equal(b, c.origin.file[c.spans[i].Off:c.spans[i].Off+c.spans[i].Len]) {
			return fmt.Errorf("frame %d is wrong or not its turn", i)
		}
		next++
		return nil
	})
	if err == nil && next != len(c.spans) {
		err = fmt.Errorf("%d of %d frames", next, len(c.spans))
	}
	return err
}

func TestOriginSendsEachFrameOnce(t *testing.T) {
	c := newCluster(t, 20, 30, 4096)
	var wg sync.WaitGroup
	for _, s := range c.shares {
		wg.Go(func() {
			if err := c.take(s); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got, want := c.origin.sent.Load(), int64(len(c.origin.file)); got != want {
		t.Errorf("the origin sent %d bytes for a file of %d", got, want)
	}
}

func TestPeersThatFailOrLieArePassedBy(t *testing.T) {
	c := newCluster(t, 4, 30, 1024)
	liar := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 1024)) }))
	defer liar.Close()
	c.hosts[1].URL = liar.URL
	c.hosts[2].URL = "http://127.0.0.1:1"
	c.hosts[3].URL = ""
	if err := c.take(c.shares[0]); err != nil {
		t.Error(err)
	}
	if len(c.shares[0].bad) != 2 {
		t.Errorf("left alone are %v", c.shares[0].bad)
	}
	c.origin.down.Store(true)
	if err := c.take(c.shares[0]); err != nil {
		t.Errorf("all is in the cache: %v", err)
	}
	if n := &c.shares[0].Count; n.Peers.Load() != 0 || n.Origin.Load() != int64(len(c.origin.file)) {
		t.Errorf("%d bytes came from peers, %d from the origin", n.Peers.Load(), n.Origin.Load())
	}
	fresh := newCluster(t, 1, 3, 64)
	fresh.origin.down.Store(true)
	if err := fresh.take(fresh.shares[0]); err == nil {
		t.Error("frames came from nowhere")
	}
}

func TestHandlerGivesFramesAndNothingElse(t *testing.T) {
	c := newCluster(t, 1, 2, 64)
	sum := c.spans[0].Sum.String()
	for query, code := range map[string]int{
		sum + "?file=f&off=0&len=64":        200,
		sum + "?file=f&off=64&len=64":       404, // these bytes hash to something else
		sum + "?file=../f&off=0&len=64":     400,
		sum + "?file=f&off=0&len=100000000": 400,
		sum + "?file=f":                     400,
		"abc?file=f&off=0&len=64":           400,
	} {
		c.shares[0].Cache.Dir = t.TempDir()
		resp, err := http.Get(c.hosts[0].URL + "/frames/" + query)
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body.Close(); resp.StatusCode != code {
			t.Errorf("%s: %d, want %d", query, resp.StatusCode, code)
		}
	}
}

func TestCacheStaysSmallAndDistrustsTheDisk(t *testing.T) {
	c := Cache{Dir: filepath.Join(t.TempDir(), "c"), Max: 250}
	var spans []payload.Span
	for i := range 5 {
		b := bytes.Repeat([]byte{byte(i)}, 100)
		spans = append(spans, payload.Span{Len: 100, Sum: payload.Sum(b)})
		if err := c.Put(spans[i], b); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := os.ReadDir(c.Dir); err != nil || len(list) != 2 {
		t.Errorf("%d frames are kept, %v", len(list), err)
	}
	if _, err := c.Get(spans[4]); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(c.path(spans[4].Sum), []byte("rot"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get(spans[4]); !errors.Is(err, payload.ErrContent) {
		t.Errorf("rot was given out: %v", err)
	}
	if err := c.Put(spans[0], make([]byte, 300)); err == nil {
		t.Error("more than fits was kept")
	}
	c.Free = func(string) (int64, int64, error) { return 99, 800, nil } // an eighth is 100
	if err := c.Put(spans[0], bytes.Repeat([]byte{0}, 100)); err != nil {
		t.Error(err)
	}
	if list, err := os.ReadDir(c.Dir); err != nil || len(list) != 1 {
		t.Errorf("%d frames are on a disk that is full, %v", len(list), err)
	}
	if err := os.WriteFile(filepath.Join(c.Dir, "new1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for at, want := range map[time.Duration]int{time.Hour: 1, 8 * 24 * time.Hour: 0} {
		err := c.Tidy(time.Now().Add(at))
		if list, rerr := os.ReadDir(c.Dir); err != nil || rerr != nil || len(list) > want {
			t.Errorf("%d frames are left after %s, want %d: %v %v", len(list), at, want, err, rerr)
		}
	}
	if err := (Cache{Dir: filepath.Join(t.TempDir(), "none")}).Tidy(time.Now()); err != nil {
		t.Error(err)
	}
}

package reboot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fleet-init/fleet/internal/kv"
	"github.com/google/go-cmp/cmp"
)

func permits() Permits { return Permits{Store: kv.NewMemory(time.Now), Prefix: "/fleet/"} }

func facts(words string) Facts {
	return func(context.Context) (Cluster, []kv.Guard, error) { return cluster(words), nil, nil }
}

func TestPermitsInTheStore(t *testing.T) {
	p, ctx := permits(), t.Context()
	three := facts("m1* m2* m3*")
	if err := p.Take(ctx, "default", Holder{ID: "m1", Boot: "1", Reason: "1.0.0 to 2.0.0"}, three); err != nil {
		t.Fatal(err)
	}
	var r *Refusal
	if err := p.Take(ctx, "default", Holder{ID: "m2", Boot: "1"}, three); !errors.As(err, &r) || r.Kind != Full {
		t.Errorf("got %v", err)
	}
	if err := p.Take(ctx, "other", Holder{ID: "m2", Boot: "1"}, three); err != nil {
		t.Errorf("another group: %v", err)
	}
	got, err := p.Groups(ctx)
	want := map[string]Semaphore{"default": {Holders: []Holder{{ID: "m1", Boot: "1", Reason: "1.0.0 to 2.0.0", Since: noon()}}},
		"other": {Holders: []Holder{{ID: "m2", Boot: "1", Since: noon()}}}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	if err := p.Steady(ctx, "default", "m1", "1"); !errors.Is(err, ErrSameBoot) {
		t.Errorf("got %v", err)
	}
	if err := errors.Join(p.Steady(ctx, "default", "m1", "2"), p.Abort(ctx, "other", "m2", "1")); err != nil {
		t.Error(err)
	}
	rev := p.Store.(*kv.Memory).Rev()
	if err := errors.Join(p.Steady(ctx, "default", "m1", "2"), p.Abort(ctx, "other", "m2", "1")); err != nil || p.Store.(*kv.Memory).Rev() != rev {
		t.Errorf("giving back what one does not have wrote something: %v", err)
	}
	if err := p.Take(ctx, "a/b", Holder{ID: "m1"}, three); !errors.Is(err, ErrGroup) {
		t.Errorf("got %v", err)
	}
}

func TestManyAskAtOnce(t *testing.T) {
	p, ctx := permits(), t.Context()
	if _, err := p.Change(ctx, "g", Pure(func(s Semaphore) (Semaphore, error) { return s.SetMax(3) })); err != nil {
		t.Fatal(err)
	}
	var words []string
	for i := range 30 {
		words = append(words, fmt.Sprint("m", i))
	}
	got := atomic.Int32{}
	var wg sync.WaitGroup
	for _, id := range words {
		wg.Go(func() {
			err := p.Take(ctx, "g", Holder{ID: id, Boot: "1"}, facts(strings.Join(words, " ")))
			var r *Refusal
			switch {
			case err == nil:
				got.Add(1)
			case !errors.As(err, &r):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got.Load() != 3 {
		t.Errorf("%d permits were given, want 3", got.Load())
	}
}

func TestFactsThatChangeMeanwhileAreReadAnew(t *testing.T) {
	p, ctx := permits(), t.Context()
	if _, _, err := p.Store.Txn(ctx, nil, []kv.Op{{Key: "m2", Value: []byte("up")}}); err != nil {
		t.Fatal(err)
	}
	reads := 0
	err := p.Take(ctx, "g", Holder{ID: "m1", Boot: "1"}, func(ctx context.Context) (Cluster, []kv.Guard, error) {
		reads++
		if reads > 1 {
			return cluster("m1* m2*! m3*"), nil, nil
		}
		// m2 dies between the reading and the writing.
		if _, _, err := p.Store.Txn(ctx, nil, []kv.Op{{Key: "m2", Delete: true}}); err != nil {
			return Cluster{}, nil, err
		}
		return cluster("m1* m2* m3*"), []kv.Guard{{Key: "m2", Kind: kv.Exists}}, nil
	})
	var r *Refusal
	if !errors.As(err, &r) || reads != 2 {
		t.Errorf("%v after %d reads", err, reads)
	}
}

func TestDamagedAndNewerRecords(t *testing.T) {
	for _, value := range []string{"{", `{"v":2}`} {
		p := permits()
		if _, _, err := p.Store.Txn(t.Context(), nil, []kv.Op{{Key: "/fleet/reboot/g", Value: []byte(value)}}); err != nil {
			t.Fatal(err)
		}
		if err := p.Take(t.Context(), "g", Holder{ID: "m1"}, alone(noon)); err == nil {
			t.Errorf("%s was overwritten", value)
		}
		if _, err := p.Groups(t.Context()); err == nil {
			t.Errorf("%s was read", value)
		}
	}
}

// away is a store that cannot be reached.
type away struct{ kv.Store }

func (away) Range(context.Context, ...string) ([][]kv.KV, int64, error) {
	return nil, 0, fmt.Errorf("range: %w", kv.ErrUnavailable)
}

func TestFleetLock(t *testing.T) {
	p := permits()
	h := FleetLock(p, alone(noon))
	if err := p.Take(t.Context(), "ours", Holder{ID: "m1", Boot: "1"}, alone(noon)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, method, path, header, body string
		handler                          http.Handler
		code                             int
		kind                             string
	}{
		{"lock", "POST", "pre-reboot", "true", `{"client_params":{"id":"z1","group":"g"}}`, h, 200, ""},
		{"lock again", "POST", "pre-reboot", "true", `{"client_params":{"id":"z1","group":"g"}}`, h, 200, ""},
		{"lock is taken", "POST", "pre-reboot", "true", `{"client_params":{"id":"z2","group":"g"}}`, h, 409, "semaphore_full"},
		{"unlock what one has not", "POST", "steady-state", "true", `{"client_params":{"id":"z2","group":"g"}}`, h, 200, ""},
		{"unlock", "POST", "steady-state", "true", `{"client_params":{"id":"z1","group":"g"}}`, h, 200, ""},
		{"the next one", "POST", "pre-reboot", "true", `{"client_params":{"id":"z2","group":"g"}}`, h, 200, ""},
		{"one of ours cannot be unlocked like that", "POST", "steady-state", "true", `{"client_params":{"id":"m1","group":"ours"}}`, h, 409, "same_boot"},
		{"no header", "POST", "pre-reboot", "", `{"client_params":{"id":"z1","group":"g"}}`, h, 400, "missing_header"},
		{"no id", "POST", "pre-reboot", "true", `{"client_params":{"group":"g"}}`, h, 400, "invalid_client_identity"},
		{"bad group", "POST", "pre-reboot", "true", `{"client_params":{"id":"z1","group":"a/b"}}`, h, 400, "unknown_group"},
		{"no JSON", "POST", "pre-reboot", "true", `id=z1`, h, 400, "invalid_body"},
		{"GET", "GET", "pre-reboot", "true", ``, h, 405, ""},
		{"elsewhere", "POST", "unlock", "true", ``, h, 404, ""},
		{"no store", "POST", "pre-reboot", "true", `{"client_params":{"id":"z1","group":"g"}}`, FleetLock(Permits{Store: away{}}, alone(noon)), 503, "failed_lock"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req := httptest.NewRequest(tt.method, "/v1/"+tt.path, strings.NewReader(tt.body))
			if tt.header != "" {
				req.Header.Set("fleet-lock-protocol", tt.header)
			}
			rec := httptest.NewRecorder()
			tt.handler.ServeHTTP(rec, req)
			var got struct{ Kind, Value string }
			if rec.Code >= 400 && rec.Code != 404 && rec.Code != 405 {
				if err := json.Unmarshal(rec.Body.Bytes(), &got); err != nil || got.Value == "" {
					t.Errorf("%s: %v", rec.Body, err)
				}
			}
			if rec.Code != tt.code || got.Kind != tt.kind {
				t.Errorf("%d %+v, want %d %s", rec.Code, got, tt.code, tt.kind)
			}
			if rec.Code == 200 && rec.Body.Len() > 0 {
				t.Errorf("body %q, want none", rec.Body)
			}
		})
	}
}

func TestGroupsShareTheQuorum(t *testing.T) {
	p, ctx := permits(), t.Context()
	groupFacts := func(group string, meanwhile func()) Facts {
		return func(ctx context.Context) (Cluster, []kv.Guard, error) {
			c := cluster("m1* m2* m3*")
			going, err := p.Going(ctx, group)
			for id := range going {
				m := c.Machines[id]
				m.Going = true
				c.Machines[id] = m
			}
			meanwhile()
			return c, nil, err
		}
	}
	nothing := func() {}
	once := sync.Once{}
	var r *Refusal
	err := p.Take(ctx, "edge", Holder{ID: "m1", Boot: "1"}, groupFacts("edge", func() {
		once.Do(func() { // the first permit of the other group, between the reading and the writing
			if err := p.Take(ctx, "core", Holder{ID: "m2", Boot: "1"}, groupFacts("core", nothing)); err != nil {
				t.Error(err)
			}
		})
	}))
	if !errors.As(err, &r) || r.Kind != Quorum {
		t.Errorf("a second voter goes: %v", err)
	}
	if err := p.Steady(ctx, "core", "m2", "2"); err != nil {
		t.Error(err)
	}
	if err := p.Take(ctx, "edge", Holder{ID: "m1", Boot: "1"}, groupFacts("edge", nothing)); err != nil {
		t.Error(err)
	}
}

// alone is the Facts of a cluster of which nothing is known: permits are only counted.
func alone(now func() time.Time) Facts {
	return func(context.Context) (Cluster, []kv.Guard, error) { return Cluster{At: now()}, nil, nil }
}

package faults

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fleet-init/fleet/functional/host"
	"github.com/fleet-init/fleet/internal/api"
	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/unit"
)

// LockPort is where hosts serve FleetLock for clerks: fleetlock_listen in their fleet.conf.
const LockPort = 2385

const (
	// patience is how long a clerk waits for one answer. Then it is not known whether the request was done.
	patience = 10 * time.Second
	// fresh is after how many requests clerks go on with another unit, or group, and doubtful after how many without an answer. The judge thinks about
	// each unit alone, and every request without an answer doubles what it has to think about.
	fresh    = 60
	doubtful = 5
)

// Clerks change units' records and take reboot permits, each through any host at any time, and write down what they asked and what they were told.
type Clerks struct {
	cluster *host.Cluster
	stop    context.CancelFunc
	done    sync.WaitGroup

	mu      sync.Mutex // what follows
	writes  []Write
	permits []Permit
	asked   int // requests, so that no value and no holder comes twice
	unit    topic
	group   topic
	bad     error
}

// topic is the unit, or the group, that all clerks have to do with at present.
type topic struct{ number, asked, doubts int }

// count counts a request and goes on with another topic when this one has had enough of them.
func (t *topic) count(known bool) {
	if t.asked++; !known {
		t.doubts++
	}
	if t.asked >= fresh || t.doubts >= doubtful {
		*t = topic{number: t.number + 1}
	}
}

// Employ starts n clerks of each kind. The seed decides what they ask for, and where. Units are called reg-1.service and so on.
func Employ(c *host.Cluster, n int, seed uint64) *Clerks {
	ctx, cancel := context.WithCancel(context.Background())
	k := &Clerks{cluster: c, stop: cancel}
	for i := range n {
		k.done.Go(func() { k.work(ctx, rand.New(rand.NewPCG(seed, uint64(i))), i, k.record) })
		k.done.Go(func() { k.work(ctx, rand.New(rand.NewPCG(seed, uint64(n+i))), i, k.permit) })
	}
	return k
}

// Dismiss ends them and returns all that they wrote down. The error is of an answer that no request should get.
func (k *Clerks) Dismiss() ([]Write, []Permit, error) {
	k.stop()
	k.done.Wait()
	return k.writes, k.permits, k.bad
}

func (k *Clerks) work(ctx context.Context, luck *rand.Rand, id int, task func(context.Context, *rand.Rand, *host.Host, int)) {
	for ctx.Err() == nil {
		hosts := k.cluster.Hosts()
		if h := hosts[luck.IntN(len(hosts))]; h.On() {
			task(ctx, luck, h, id)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(100+luck.IntN(200)) * time.Millisecond):
		}
	}
}

// record writes or reads one unit's record.
func (k *Clerks) record(ctx context.Context, luck *rand.Rand, h *host.Host, id int) {
	k.mu.Lock()
	k.asked++
	n, number := k.asked, k.unit.number
	k.mu.Unlock()
	w := Write{Client: id, Key: fmt.Sprintf("reg-%d.service", number), Read: luck.IntN(2) == 0}
	if !w.Read {
		w.Value = fmt.Sprintf("%d of clerk %d, %s", n, id, []fleet.TargetState{fleet.Inactive, fleet.Loaded}[luck.IntN(2)])
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	w.Call = Now()
	var err error
	if w.Read {
		w.Value, err = ReadRecord(ctx, h, w.Key)
	} else {
		err = writeRecord(ctx, h, w.Key, w.Value)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	var said *api.Error
	switch {
	case err == nil:
		w.Return = Now()
	case w.Read, errors.Is(err, kv.ErrNoSpace), unasked(err):
		return // tells nothing, or was surely not done
	case errors.As(err, &said) && slices.Contains([]int{http.StatusBadRequest, http.StatusNotFound, http.StatusRequestEntityTooLarge}, said.Code):
		k.bad = errors.Join(k.bad, fmt.Errorf("write %q to %s through %s: %w", w.Value, w.Key, h.Name, err))
		return
	}
	k.unit.count(w.Known())
	k.writes = append(k.writes, w)
}

// unasked tells whether nobody was there to take the request.
func unasked(err error) bool {
	return errors.Is(err, host.ErrOff) || errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EHOSTUNREACH)
}

// ReadRecord reads a unit's record as one value: its description and its target state. "": there is no such unit.
func ReadRecord(ctx context.Context, h *host.Host, name string) (string, error) {
	c, err := client(h)
	if err != nil {
		return "", err
	}
	defer c.Close()
	u, err := c.Unit(ctx, name)
	if errors.Is(err, fleet.ErrNotFound) {
		return "", nil
	}
	for _, o := range u.Options {
		if o.Name == "Description" {
			text, _, _ := strings.Cut(o.Value, ",")
			return text + ", " + u.DesiredState, err
		}
	}
	if err == nil {
		err = fmt.Errorf("%s has no description", name)
	}
	return "", err
}

// writeRecord creates a unit or replaces its text and target state.
func writeRecord(ctx context.Context, h *host.Host, name, value string) error {
	c, err := client(h)
	if err != nil {
		return err
	}
	defer c.Close()
	_, target, _ := strings.Cut(value, ", ")
	got, err := c.Batch(ctx, api.Batch{Set: []api.Unit{{Name: name, DesiredState: target, Options: []unit.Option{
		{Section: "Unit", Name: "Description", Value: value}, {Section: "Service", Name: "ExecStart", Value: "/bin/sleep infinity"},
	}}}})
	if err != nil {
		return err
	}
	if e := got.Results[0].Err; e != nil {
		return e
	}
	return nil
}

func client(h *host.Host) (*api.Client, error) {
	path, err := h.Path("/run/fleet.sock")
	if err != nil {
		return nil, err
	}
	return api.Dial("unix://"+path, api.Options{})
}

// permit takes a permit, and gives it back when it got it or does not know. The holder's name is new each time: a request whose
// answer was lost must not be mistaken for a later one.
func (k *Clerks) permit(ctx context.Context, luck *rand.Rand, h *host.Host, id int) {
	k.mu.Lock()
	k.asked++
	n, number := k.asked, k.group.number
	k.mu.Unlock()
	p := Permit{Client: id, Group: fmt.Sprintf("drill-%d", number), Holder: fmt.Sprintf("clerk-%d-%d", id, n)}
	if got := k.ask(ctx, h, p); got == full {
		return
	}
	hosts := k.cluster.Hosts()
	p.Unlock = true
	for try := 0; try < 3 && ctx.Err() == nil; try++ {
		if k.ask(ctx, hosts[luck.IntN(len(hosts))], p) == done {
			return
		}
	}
}

type answer int

const (
	unknown answer = iota
	done
	full
)

// ask makes one FleetLock request and writes it down.
func (k *Clerks) ask(ctx context.Context, h *host.Host, p Permit) answer {
	if !h.On() {
		return unknown // nothing was asked
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	path := map[bool]string{false: "pre-reboot", true: "steady-state"}[p.Unlock]
	body, err := json.Marshal(map[string]any{"client_params": map[string]string{"id": p.Holder, "group": p.Group}})
	if err != nil {
		return unknown // strings
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, fmt.Sprintf("http://%s:%d/v1/%s", h.Name, LockPort, path), bytes.NewReader(body))
	if err != nil {
		return unknown // a host's name
	}
	req.Header.Set("Fleet-Lock-Protocol", "true")
	p.Call = Now()
	code, kind := 0, struct{ Kind, Value string }{}
	resp, err := k.cluster.HTTP().Do(req)
	if unasked(err) {
		return unknown
	}
	if err == nil {
		code = resp.StatusCode
		_ = json.NewDecoder(resp.Body).Decode(&kind) // nothing stands in an answer of 200
		_ = resp.Body.Close()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case code == http.StatusOK:
		p.Return = Now()
	case code == http.StatusConflict && kind.Kind == "semaphore_full":
		p.Return, p.Full = Now(), true
	case code == http.StatusConflict: // machines are down: nothing was given, and that says nothing of who has it
		return full
	case code == http.StatusBadRequest:
		k.bad = errors.Join(k.bad, fmt.Errorf("%s of %s for %s: %s", path, p.Group, p.Holder, kind.Value))
	}
	k.group.count(p.Known())
	k.permits = append(k.permits, p)
	switch {
	case p.Full:
		return full
	case p.Known():
		return done
	}
	return unknown
}

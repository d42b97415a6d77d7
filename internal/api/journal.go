package api

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// ReadJournal reads a machine's journal: it calls each with every entry, oldest first, until there are no more, with q.Follow until
// ctx ends. An error of each ends it and is returned.
type ReadJournal func(ctx context.Context, m fleet.Machine, q fleet.LogQuery, each func(fleet.LogEntry) error) error

// logs is one client's question for the logs of units.
type logs struct {
	view     *view
	read     ReadJournal
	q        fleet.LogQuery
	machines []fleet.MachineID // only these; empty: those that have the units
	begin    time.Time
	out      *logWriter
}

// place is what one machine is asked for.
type place struct {
	machine fleet.MachineID
	units   []unit.Name
	after   string // cursor of the last entry seen
	failed  bool   // nothing is known of what it has
}

// journal streams the log entries of units, merged by time: what there is, and with follow what comes until the client goes. A
// machine that cannot be asked is told of among the entries and does not stop the others.
func (h *handler) journal(w http.ResponseWriter, r *http.Request, _ string) error {
	if h.Journal == nil {
		return refuse(http.StatusNotFound, "this fleetd reads no journal")
	}
	l, err := h.question(w, r)
	if err != nil {
		return err
	}
	if h.Ready != nil {
		err = h.Ready()
	}
	if err == nil {
		ctx, cancel := context.WithTimeout(r.Context(), storeLimit) // for the reading; the stream may have no end
		l.view, err = h.read(ctx)
		cancel()
	}
	if err != nil {
		return h.ownJournal(r, l, err)
	}
	if err := l.choose(r.URL.Query()["machine"]); err != nil {
		return err
	}
	places := l.places()
	from := fleet.Snapshot{Rev: l.view.snap.Rev, Machines: maps.Clone(l.view.snap.Machines)} // as in watch
	err = l.history(r.Context(), append(places, l.elsewhere()...))
	if !l.out.begun && len(places) == 0 && !l.q.Follow && err == nil {
		return refuse(http.StatusConflict, strings.Join(l.unitNames(), ", ")+" on no machine, and none has logs of it")
	}
	if l.out.flush(); err == nil && l.q.Follow {
		l.follow(r.Context(), places, h.Registry.Watch(r.Context(), from))
	}
	return nil // what could go wrong from here on stands in the answer, or the client is gone
}

// question reads what is asked for.
func (h *handler) question(w http.ResponseWriter, r *http.Request) (l *logs, err error) {
	l = &logs{read: h.Journal, begin: time.Now()}
	v := r.URL.Query()
	if l.q, err = logQuery(v, l.begin.UTC()); err != nil {
		return nil, err
	}
	if l.q.After != "" {
		return nil, refuse(http.StatusBadRequest, "a cursor belongs to one machine's journal: use since")
	}
	mode := cmp.Or(v.Get("output"), "json")
	if mode != "short" && mode != "cat" && !v.Has("whole") {
		l.q.Whole = true
	}
	l.out, err = newLogWriter(w, mode)
	return l, err
}

// ownJournal answers out of this machine's journal alone, when the store, which knows where units are, cannot be asked for the reason
// why. Then logs are what one needs most.
func (h *handler) ownJournal(r *http.Request, l *logs, why error) error {
	text := toError(why).Message
	if toError(why).Code != http.StatusServiceUnavailable { // Ready's reasons are no errors of the wire
		text = "fleetd is not ready: " + text
	}
	why = refuse(http.StatusServiceUnavailable, text)
	if h.Own == nil {
		return why
	}
	m, here := h.Own(l.q.Units)
	if named := r.URL.Query()["machine"]; len(here) == 0 || len(named) > 0 && !slices.Contains(named, string(m.ID)) {
		return why
	}
	l.view = newView(fleet.Snapshot{Machines: map[fleet.MachineID]fleet.Machine{m.ID: m}})
	places := []*place{{machine: m.ID, units: here}}
	err := l.history(r.Context(), places)
	if err == nil {
		err = l.out.problem(refuse(http.StatusServiceUnavailable, "only the log of machine "+m.ID.Short()+": "+text))
	}
	if l.out.flush(); err == nil && l.q.Follow {
		l.follow(r.Context(), places, nil)
	}
	return nil
}

// choose checks the units and the machines that were named.
func (l *logs) choose(machines []string) error {
	for _, n := range l.q.Units {
		if _, known := l.view.snap.Units[n]; !known && len(l.view.have(n)) == 0 {
			return refuse(http.StatusNotFound, "unit "+string(n)+" does not exist")
		}
	}
	for _, id := range machines {
		if _, here := l.view.snap.Machines[fleet.MachineID(id)]; !here {
			return refuse(http.StatusNotFound, "machine "+id+" is not registered: give the whole ID of one that is")
		}
		l.machines = append(l.machines, fleet.MachineID(id))
	}
	return nil
}

func (l *logs) unitNames() []string {
	var names []string
	for _, n := range l.q.Units {
		names = append(names, string(n))
	}
	return names
}

// have lists the registered machines that have a unit: as placed, or as observed.
func (v *view) have(n unit.Name) []fleet.MachineID {
	var ids []fleet.MachineID
	for _, id := range slices.Sorted(maps.Keys(v.snap.Machines)) {
		_, observed := v.snap.Observed[fleet.Key{Machine: id, Unit: n}]
		if observed || slices.Contains(v.placed[n], id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// places says which machine is asked for which units, by machine.
func (l *logs) places() []*place {
	at := map[fleet.MachineID][]unit.Name{}
	for _, n := range l.q.Units {
		machines := l.machines
		if len(machines) == 0 {
			machines = l.view.have(n)
		}
		for _, m := range machines {
			at[m] = append(at[m], n)
		}
	}
	var list []*place
	for _, m := range slices.Sorted(maps.Keys(at)) {
		list = append(list, &place{machine: m, units: at[m]})
	}
	return list
}

// elsewhere are all machines, for the units that none has now: the last one that had them knows their logs, and which it was
// nobody has noted.
func (l *logs) elsewhere() (list []*place) {
	var units []unit.Name
	for _, n := range l.q.Units {
		if len(l.machines) == 0 && len(l.view.have(n)) == 0 {
			units = append(units, n)
		}
	}
	if len(units) == 0 {
		return nil
	}
	for _, m := range slices.Sorted(maps.Keys(l.view.snap.Machines)) {
		list = append(list, &place{machine: m, units: units})
	}
	return list
}

// history sends what there is. Its error says that the client is gone.
func (l *logs) history(ctx context.Context, places []*place) error {
	if l.q.Lines == 0 {
		return nil
	}
	last := &lastEntries{n: l.q.Lines}
	failed, err := merge(ctx, len(places), func(ctx context.Context, i int, each func(fleet.LogEntry) error) error {
		q := l.q
		q.Units, q.Follow = places[i].units, false
		return l.read(ctx, l.view.snap.Machines[places[i].machine], q, each)
	}, func(i int, e fleet.LogEntry) error {
		places[i].after = cmp.Or(e.Cursor, places[i].after)
		if l.q.Lines == fleet.AllLines {
			return l.out.entry(e)
		}
		last.add(e)
		return nil
	})
	for _, e := range last.list {
		err = cmpErr(err, l.out.entry(e))
	}
	for i, why := range failed {
		if why != nil {
			places[i].failed = true
			err = cmpErr(err, l.out.problem(l.named(places[i].machine, why)))
		}
	}
	return err
}

func cmpErr(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// named says of which machine an error is.
func (l *logs) named(id fleet.MachineID, err error) error {
	name := id.Short()
	if m, ok := l.view.snap.Machines[id]; ok && m.IP.IsValid() {
		name += ".../" + m.IP.String()
	}
	return fmt.Errorf("machine %s: %w", name, err)
}

// logWriter writes entries in one output mode. A client that does not read for lineLimit is gone.
type logWriter struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	buf   *bufio.Writer
	print LogPrinter
	mode  string
	begun bool // the head of the answer is sent
}

func newLogWriter(w http.ResponseWriter, mode string) (*logWriter, error) {
	print, err := NewLogPrinter(mode, time.UTC)
	l := &logWriter{w: w, rc: http.NewResponseController(w), print: print, mode: mode}
	l.buf = bufio.NewWriterSize(patient{l}, 64<<10)
	return l, err
}

// patient gives each write to the client its own time.
type patient struct{ l *logWriter }

func (p patient) Write(b []byte) (int, error) {
	_ = p.l.rc.SetWriteDeadline(time.Now().Add(lineLimit)) // the error says that w is no network connection
	return p.l.w.Write(b)
}

// header sends the head of the answer. Without it the first entry does.
func (l *logWriter) header() {
	if l.begun {
		return
	}
	l.begun = true
	_ = l.rc.SetReadDeadline(time.Time{})
	kind := "text/plain; charset=utf-8"
	if l.json() {
		kind = "application/x-ndjson"
	}
	l.w.Header().Set("Content-Type", kind)
	l.w.WriteHeader(http.StatusOK)
}

func (l *logWriter) json() bool { return l.mode == "json" }

func (l *logWriter) entry(e fleet.LogEntry) error {
	l.header()
	_, err := l.buf.Write(l.print(e))
	return err
}

// problem tells of what is missing in the answer: as an error object among JSON, else in a line like those of journalctl.
func (l *logWriter) problem(err error) error {
	l.header()
	if !l.json() {
		_, err = fmt.Fprintf(l.buf, "-- %v --\n", err)
		return err
	}
	return json.NewEncoder(l.buf).Encode(map[string]*Error{"error": toError(err)})
}

func (l *logWriter) flush() {
	l.header()
	_ = l.buf.Flush() // the next entry tells that the client is gone, and the request's context does
	_ = l.rc.Flush()
}

var errEnded = errors.New("fleetd has ended it")

// Journal asks for logs of units (q.After is not for users) on all machines that have them or on those named. It calls
// each with every entry, and problem with what is missing in the answer. It returns when there are no more, with q.Follow when ctx
// ends. An error of each ends it and is returned.
func (c *Client) Journal(ctx context.Context, q fleet.LogQuery, machines []string, each func(fleet.LogEntry) error, problem func(error)) error {
	v := logValues(q)
	v.Set("whole", strconv.FormatBool(q.Whole))
	for _, m := range machines {
		v.Add("machine", m)
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var begin *time.Timer
	if c.timeout > 0 {
		begin = time.AfterFunc(c.timeout, func() { stop(fmt.Errorf("no answer within %v", c.timeout)) })
		defer begin.Stop()
	}
	resp, err := c.send(ctx, http.MethodGet, "journal?"+v.Encode(), nil)
	if err != nil {
		return err
	}
	if begin != nil {
		begin.Stop()
	}
	defer resp.Body.Close()
	err = readEntries(resp.Body, each, problem)
	if err == nil && q.Follow {
		err = &streamError{errEnded} // a fleetd that is stopped ends its answers as they should end
	}
	if end := (*streamError)(nil); errors.As(err, &end) {
		return &ConnectError{Endpoint: c.shown, Err: fmt.Errorf("the answer breaks off: %w", cause(ctx, end.err))}
	}
	return err
}

package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/godbus/dbus/v5"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/unit"
)

// maxPending is how many calls may wait for an answer at once. The bus daemon refuses the 129th of a connection.
const maxPending = 64

// errNotLoaded is how systemd answers for a unit it has forgotten, as it may any inactive one at once.
const errNotLoaded = busName + ".NoSuchUnit"

// Start asks for start jobs and returns when systemd has taken or refused each; errors are by unit, nil if there are none.
// How a job ends comes with Take, also for a unit that was active already ("done").
func (s *Systemd) Start(ctx context.Context, names []unit.Name) map[unit.Name]error {
	return s.queue(ctx, "start", "StartUnit", names)
}

// Stop asks for stop jobs, as Start does. A unit that systemd has forgotten is stopped: its job ends "done".
func (s *Systemd) Stop(ctx context.Context, names []unit.Name) map[unit.Name]error {
	return s.queue(ctx, "stop", "StopUnit", names)
}

// Restart asks for restart jobs, as Start does for start jobs: what runs is stopped and started, with what depends on it; what does not
// is started.
func (s *Systemd) Restart(ctx context.Context, names []unit.Name) map[unit.Name]error {
	return s.queue(ctx, "restart", "RestartUnit", names)
}

func (s *Systemd) queue(ctx context.Context, kind, method string, names []unit.Name) map[unit.Name]error {
	c, err := s.connected()
	if err != nil {
		return all(names, err)
	}
	errs := map[unit.Name]error{}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	for start := 0; start < len(names); start += maxPending {
		part := names[start:min(start+maxPending, len(names))]
		calls := make([]*dbus.Call, len(part))
		s.asking(len(part))
		for i, n := range part {
			calls[i] = c.manager.GoWithContext(ctx, managerIface+"."+method, 0, nil, string(n), "replace")
		}
		for i, call := range calls {
			if err := s.asked(fleet.JobEnd{Unit: part[i], Kind: kind}, <-call.Done); err != nil {
				errs[part[i]] = fmt.Errorf("%s %s: %w", kind, part[i], err)
			}
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return errs
}

func (s *Systemd) asking(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls += n
}

// asked takes the answer to a start or stop.
func (s *Systemd) asked(j fleet.JobEnd, call *dbus.Call) error {
	var object dbus.ObjectPath
	err := call.Store(&object)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls--
	switch {
	case err != nil && j.Kind == "stop" && errorName(err) == errNotLoaded:
		err = nil
		s.end(j, "done")
	case err != nil:
	default:
		if result, ok := s.early[object]; ok {
			delete(s.early, object)
			s.end(j, result)
			break
		}
		s.jobs[object] = j
	}
	if s.calls == 0 {
		clear(s.early) // jobs of others
	}
	return err
}

// end notes a job's end. It needs s.mu.
func (s *Systemd) end(j fleet.JobEnd, result string) {
	j.Result = result
	if k, ok := s.known[j.Unit]; ok && j.Kind == "restart" {
		k.again = true
		s.known[j.Unit] = k
	}
	s.ends = append(s.ends, j)
	s.signalWake()
}

// onSignal takes JobRemoved; the wire keeps nearly all else away.
func (s *Systemd) onSignal(sig *dbus.Signal) {
	if sig.Name != managerIface+".JobRemoved" {
		return
	}
	var (
		id           uint32
		object       dbus.ObjectPath
		name, result string
	)
	if err := dbus.Store(sig.Body, &id, &object, &name, &result); err != nil {
		s.opt.Log.Warn("systemd's JobRemoved signal is not understood", "err", err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if j, ok := s.jobs[object]; ok {
		delete(s.jobs, object)
		s.end(j, result)
		return
	}
	// The answer that names the job came first on the wire, but the caller it woke may come to s.mu after us.
	if s.calls > 0 {
		s.early[object] = result
	}
}

// Reload makes systemd read all unit files again. It takes 0.1 s and more, and nothing starts meanwhile.
func (s *Systemd) Reload(ctx context.Context) error {
	c, err := s.connected()
	if err != nil {
		return err
	}
	if err := c.call(ctx, "Reload", nil); err != nil {
		return fmt.Errorf("reload systemd: %w", err)
	}
	return nil
}

// OwnJob is the kind of the job that systemd runs on the unit of the calling process: "restart" or "stop" while it gets SIGTERM, empty if
// systemd has none (someone sent the signal) or the process belongs to no unit.
func (s *Systemd) OwnJob(ctx context.Context) (string, error) {
	c, err := s.connected()
	if err != nil {
		return "", err
	}
	var object dbus.ObjectPath
	if err := c.call(ctx, "GetUnitByPID", []any{&object}, uint32(os.Getpid())); err != nil {
		if errorName(err) == busName+".NoUnitForPID" {
			return "", nil
		}
		return "", fmt.Errorf("find the own unit: %w", err)
	}
	v, err := c.property(ctx, object, unitIface, "Job")
	if err != nil {
		return "", fmt.Errorf("read the own unit's job: %w", err)
	}
	pair, ok := v.([]any)
	if !ok || len(pair) != 2 {
		return "", errors.New("read the own unit's job: systemd's answer is not understood")
	}
	job, ok := pair[1].(dbus.ObjectPath)
	if !ok || job == "/" {
		return "", nil
	}
	kind, err := c.property(ctx, job, busName+".Job", "JobType")
	if err != nil {
		return "", fmt.Errorf("read the own unit's job: %w", err)
	}
	word, _ := kind.(string)
	return word, nil
}

func all(names []unit.Name, err error) map[unit.Name]error {
	errs := make(map[unit.Name]error, len(names))
	for _, n := range names {
		errs[n] = err
	}
	return errs
}

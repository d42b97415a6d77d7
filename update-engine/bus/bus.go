// Package bus gives the updater the D-Bus interface that programs for CoreOS's update_engine know: the name com.coreos.update1, its
// three methods, and the signal StatusUpdate; and beside it properties that say what those cannot. It decides nothing: what was
// asked goes to the functions it was given. Called by update-engine's main.
package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/introspect"
	"github.com/godbus/dbus/v5/prop"
)

const (
	// Name is what the updater is called on the bus; the interface is Name.Manager at Path.
	Name = "com.coreos.update1"
	// Path is where it is.
	Path  = dbus.ObjectPath("/com/coreos/update1")
	iface = Name + ".Manager"
)

// Status is the old interface's five words.
type Status struct {
	Checked   int64   // last successful check, Unix seconds
	Progress  float64 // of the download, 0 to 1
	Operation string  // UPDATE_STATUS_…
	Version   string  // the new one; "0.0.0" without
	Size      int64   // of the new one in bytes, 0 = unknown
	// What the old interface has no word for.
	Running string
	Good    bool
	Reason  string
}

// The operations that are used. VERIFYING exists, and was never set by the old one either.
const (
	Idle       = "UPDATE_STATUS_IDLE"
	Checking   = "UPDATE_STATUS_CHECKING_FOR_UPDATE"
	Available  = "UPDATE_STATUS_UPDATE_AVAILABLE"
	Loading    = "UPDATE_STATUS_DOWNLOADING"
	Finalizing = "UPDATE_STATUS_FINALIZING"
	NeedReboot = "UPDATE_STATUS_UPDATED_NEED_REBOOT"
	Reporting  = "UPDATE_STATUS_REPORTING_ERROR_EVENT"
)

// Calls is what the methods lead to.
type Calls struct {
	Attempt func(context.Context) error // AttemptUpdate: look for a release now
	Reset   func(context.Context) error // ResetStatus: give up what is staged
}

// Server is the updater on the bus.
type Server struct {
	conn  *dbus.Conn
	props *prop.Properties
	m     *manager
}

type manager struct {
	ctx    context.Context
	calls  Calls
	status func() Status
}

// AttemptUpdate is a method of the interface.
func (m *manager) AttemptUpdate() *dbus.Error { return wrap(m.calls.Attempt(m.ctx)) }

// ResetStatus is a method of the interface.
func (m *manager) ResetStatus() *dbus.Error { return wrap(m.calls.Reset(m.ctx)) }

// GetStatus is a method of the interface.
func (m *manager) GetStatus() (int64, float64, string, string, int64, *dbus.Error) {
	s := m.status()
	return s.Checked, s.Progress, s.Operation, s.Version, s.Size, nil
}

func wrap(err error) *dbus.Error {
	if err != nil {
		return dbus.MakeFailedError(err)
	}
	return nil
}

// Serve takes the name on the bus behind address and answers until ctx ends or Close. status gives the present state.
func Serve(ctx context.Context, address string, calls Calls, status func() Status) (*Server, error) {
	conn, err := dbus.Connect(address, dbus.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("connect to the bus: %w", err)
	}
	s := &Server{conn: conn, m: &manager{ctx, calls, status}}
	if err := s.export(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	reply, err := conn.RequestName(Name, dbus.NameFlagDoNotQueue)
	if err == nil && reply != dbus.RequestNameReplyPrimaryOwner {
		err = errors.New("another program has it")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("take the name %s: %w", Name, err), conn.Close())
	}
	return s, nil
}

func (s *Server) export() error {
	now := s.m.status()
	read := func(v any) *prop.Prop { return &prop.Prop{Value: v, Emit: prop.EmitTrue} }
	var err error
	s.props, err = prop.Export(s.conn, Path, prop.Map{iface: {
		"Running": read(now.Running), "Good": read(now.Good), "Reason": read(now.Reason), "CurrentOperation": read(now.Operation), "NewVersion": read(now.Version),
	}})
	if err != nil {
		return err
	}
	if err := s.conn.Export(s.m, Path, iface); err != nil {
		return err
	}
	node := &introspect.Node{Name: string(Path), Interfaces: []introspect.Interface{
		introspect.IntrospectData, prop.IntrospectData,
		{Name: iface, Methods: introspect.Methods(s.m), Properties: s.props.Introspection(iface), Signals: []introspect.Signal{{Name: "StatusUpdate",
			Args: []introspect.Arg{{Name: "last_checked_time", Type: "x"}, {Name: "progress", Type: "d"}, {Name: "current_operation", Type: "s"},
				{Name: "new_version", Type: "s"}, {Name: "new_size", Type: "x"}}}}},
	}}
	return s.conn.Export(introspect.NewIntrospectable(node), Path, "org.freedesktop.DBus.Introspectable")
}

// Changed sends the signal and the properties that have changed.
func (s *Server) Changed(now Status) error {
	for name, v := range map[string]any{"Running": now.Running, "Good": now.Good, "Reason": now.Reason, "CurrentOperation": now.Operation, "NewVersion": now.Version} {
		if old := s.props.GetMust(iface, name); old != v {
			s.props.SetMust(iface, name, v)
		}
	}
	return s.conn.Emit(Path, iface+".StatusUpdate", now.Checked, now.Progress, now.Operation, now.Version, now.Size)
}

// Close leaves the bus.
func (s *Server) Close() error { return s.conn.Close() }

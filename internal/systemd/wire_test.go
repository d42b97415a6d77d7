package systemd

import (
	"bytes"
	"io"
	"net"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/unit"
)

// encoded encodes a signal as systemd sends it.
func encoded(t testing.TB, path, iface, member string, body ...any) []byte {
	t.Helper()
	msg := &dbus.Message{Type: dbus.TypeSignal, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldPath:      dbus.MakeVariant(dbus.ObjectPath(path)),
		dbus.FieldInterface: dbus.MakeVariant(iface),
		dbus.FieldMember:    dbus.MakeVariant(member),
		dbus.FieldSender:    dbus.MakeVariant(":1.0"),
	}, Body: body}
	if len(body) > 0 {
		msg.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(body...))
	}
	var b bytes.Buffer
	// the serial is set by a connection only, and needed for the message to be valid
	if err := msg.EncodeTo(&b, byteOrder('l')); err != nil {
		t.Fatal(err)
	}
	out := b.Bytes()
	out[8] = 1
	return out
}

func TestWireKeepsChangesAndPassesTheRest(t *testing.T) {
	changes := encoded(t, "/org/freedesktop/systemd1/unit/web_401_2eservice", "org.freedesktop.DBus.Properties", "PropertiesChanged",
		unitIface, map[string]dbus.Variant{"ActiveState": dbus.MakeVariant("active")}, []string{})
	unitNew := encoded(t, "/org/freedesktop/systemd1", managerIface, "UnitNew", "web@1.service", dbus.ObjectPath("/x"))
	removed := encoded(t, "/org/freedesktop/systemd1", managerIface, "JobRemoved", uint32(7), dbus.ObjectPath("/job/7"), "a.service", "done")
	other := encoded(t, "/x", "com.example.Other", "UnitNew")

	client, server := net.Pipe()
	var changed []string
	w := newWire(client, func(p string) { changed = append(changed, p) })
	go func() {
		if _, err := io.CopyN(io.Discard, server, int64(len("BEGIN\r\n"))); err != nil {
			t.Error(err)
		}
		for _, m := range [][]byte{changes, unitNew, removed, changes, other} {
			for _, b := range m { // byte by byte: messages come in any pieces
				if _, err := server.Write([]byte{b}); err != nil {
					t.Error(err)
				}
			}
		}
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	}()
	if _, err := w.Write([]byte("BEGIN\r\n")); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(w)
	if err != nil {
		t.Fatal(err)
	}
	if want := append(bytes.Clone(removed), other...); !bytes.Equal(got, want) {
		t.Errorf("passed on %d bytes, want %d", len(got), len(want))
	}
	unitPath := "/org/freedesktop/systemd1/unit/web_401_2eservice"
	if d := cmp.Diff([]string{unitPath, "", unitPath}, changed); d != "" {
		t.Error(d)
	}
}

func FuzzChangedUnit(f *testing.F) {
	f.Add(encoded(f, "/org/freedesktop/systemd1/unit/a", "org.freedesktop.DBus.Properties", "PropertiesChanged", "x"))
	f.Add(encoded(f, "/o", managerIface, "JobRemoved", uint32(7), dbus.ObjectPath("/job/7"), "a.service", "done"))
	f.Fuzz(func(t *testing.T, in []byte) {
		server, client := net.Pipe()
		w := newWire(client, func(string) {})
		w.binary = true
		go func() {
			_, _ = server.Write(in) // cut short when the message was bad
			_ = server.Close()
		}()
		if err := client.SetDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, w); err == nil || len(in) > 0 {
			_ = client.Close()
		}
	})
}

func TestObjectPathsAreReversible(t *testing.T) {
	for n, want := range map[unit.Name]string{
		"web@1.service":    "web_401_2eservice",
		`a\x2db.mount`:     "a_5cx2db_2emount",
		"1st.service":      "_31st_2eservice",
		"a_b-c:d.service":  "a_5fb_2dc_3ad_2eservice",
		"system.slice":     "system_2eslice",
		"foo@bar@b.socket": "foo_40bar_40b_2esocket",
	} {
		got := string(objectOf(n))
		if got != unitRoot+want {
			t.Errorf("path of %s: %s", n, got)
		}
		if back := unitOf(got); back != n {
			t.Errorf("%s came back as %s", n, back)
		}
	}
}

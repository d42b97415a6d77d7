package registry

import (
	"log/slog"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fleet-init/fleet/internal/fleet"
	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/unit"
)

// inside tells whether a door that goes by these spans lets a key through.
func inside(spans []Span, key string) bool {
	for _, s := range spans {
		if key >= s.From && (key < s.To || s.To == "\x00") {
			return true
		}
	}
	return false
}

func TestAMachineWritesWhatItSaysOfItselfOnly(t *testing.T) {
	r := New(kv.NewMemory(nil), "/fleet/", slog.New(slog.DiscardHandler))
	const own, other = fleet.MachineID("0123456789abcdef0123456789abcdef"), fleet.MachineID("ffffffffffffffffffffffffffffffff")
	a := r.Access(own)
	for _, row := range []struct {
		key         string
		read, write bool
	}{
		{r.machineKey(own), true, true},
		{r.machineKey(other), true, false},
		{r.machineKey(own) + "0", true, false},
		{r.settingsKey(other), true, false},
		{r.admittedKey(own), true, false},
		{r.of(observed, own) + "a.service", true, true},
		{r.of(observed, other) + "a.service", true, false},
		{r.of(placements, own) + "a.service", true, false},
		{r.of(placements, other) + "a.service", true, false},
		{r.unitKey("a.service"), true, false},
		{r.leaderKey(), true, false},
		{r.fileKey("00"), false, false},
		{"/fleet/pki/ca", false, false},
		{"/fleet/pki/tokens/x", false, false},
		{"/fleet/audit/00", false, false},
		{"/fleet/something-new/x", false, false},
		{"/fleet/reboot/all", true, true},
		{"/fleet/update-orders/" + string(own), true, true},
		{"/fleet/update-orders/" + string(other), false, false},
		{"/fleet/updates/" + string(other), true, false},
		{"/coreos.com/network/config", true, false},
		{"/coreos.com/network/subnets/10.1.5.0-24", true, false}, // but see Mine
		{"/coreos.com/network", true, true},
		{"/coreos.com/network2", true, true},
		{"/coreos.com/updateengine/rebootlock/semaphore", true, true},
		{"/a", true, true},
		{"/z", true, true},
	} {
		if got := inside(a.Read, row.key); got != row.read {
			t.Errorf("reading %s: %v", row.key, got)
		}
		if got := inside(a.Write, row.key); got != row.write {
			t.Errorf("writing %s: %v", row.key, got)
		}
	}
	if !inside(a.Mine, "/coreos.com/network/subnets/10.1.5.0-24") || inside(a.Mine, "/coreos.com/network/config") || inside(a.Mine, r.unitKey("a.service")) {
		t.Error("a machine has its own subnet, and nothing else in that way")
	}
	if !inside(a.Known, r.fileKey("00")) || inside(a.Known, "/fleet/pki/ca") {
		t.Error("texts are to be read by their names, and nothing else")
	}
}

func TestHolesInSpans(t *testing.T) {
	hole := Span{"d", "f"}
	for _, row := range []struct {
		name       string
		spans, out []Span
	}{
		{"beside it", []Span{{"a", "d"}, {"f", "\x00"}}, []Span{{"a", "d"}, {"f", "\x00"}}},
		{"around it", []Span{{"a", "z"}}, []Span{{"a", "d"}, {"f", "z"}}},
		{"around it, without end", []Span{{"a", "\x00"}}, []Span{{"a", "d"}, {"f", "\x00"}}},
		{"in it", []Span{{"d", "e"}}, nil},
		{"over its edges", []Span{{"a", "e"}, {"e", "z"}}, []Span{{"a", "d"}, {"f", "z"}}},
	} {
		if diff := cmp.Diff(row.out, without(row.spans, hole)); diff != "" {
			t.Errorf("%s: %s", row.name, diff)
		}
	}
}

func TestATextIsForTheMachinesThatCarryIt(t *testing.T) {
	store := kv.NewMemory(nil)
	r := New(store, "/fleet/", slog.New(slog.DiscardHandler))
	const own, other = fleet.MachineID("0123456789abcdef0123456789abcdef"), fleet.MachineID("ffffffffffffffffffffffffffffffff")
	hash := unit.Hash("0123456789012345678901234567890123456789")
	ctx := t.Context()
	if _, _, err := store.Txn(ctx, nil, []kv.Op{{Key: r.of(placements, own) + "a.service",
		Value: encode(placementRecord{Hash: hash, Target: fleet.Launched})}}); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		machine fleet.MachineID
		key     string
		want    bool
	}{
		{own, r.fileKey(hash), true},
		{other, r.fileKey(hash), false},
		{own, r.fileKey("1123456789012345678901234567890123456789"), false},
		{own, r.fileKey(""), false},
		{own, "/fleet/pki/ca", false},
	} {
		if got := r.MayKnow(ctx, row.machine, row.key); got != row.want {
			t.Errorf("%s reads %s: %v", row.machine.Short(), row.key, got)
		}
	}
}

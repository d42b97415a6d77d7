package main

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fleet-init/fleet/internal/kv"
	"github.com/fleet-init/fleet/internal/registry"
)

// Nobody leads from when a restore is ordered until it is over, however long it takes; or until a little after the fleetd that restores was killed.
func TestNobodyPlansDuringARestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reg := registry.New(kv.NewMemory(time.Now), "/fleet/", quiet)
		h := &host{registry: reg, log: quiet}
		h.id.machine = someID
		leads := func() bool {
			term, ok, err := reg.Campaign(t.Context(), "another", "1", time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			if ok {
				if err := reg.Resign(t.Context(), term); err != nil {
					t.Fatal(err)
				}
			}
			return ok
		}
		if _, _, err := reg.Campaign(t.Context(), "another", "1", time.Minute); err != nil {
			t.Fatal(err)
		}
		resume, err := h.calm(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * calmTTL)
		if leads() {
			t.Error("an engine leads")
		}
		resume()
		if !leads() {
			t.Error("no engine leads after that")
		}
		ctx, kill := context.WithCancel(t.Context())
		if resume, err = h.calm(ctx); err != nil {
			t.Fatal(err)
		}
		kill()
		time.Sleep(calmTTL / 2)
		if leads() {
			t.Error("an engine leads at once")
		}
		time.Sleep(calmTTL)
		if !leads() {
			t.Error("no engine leads when the lease has ended")
		}
		resume()
	})
}

package main

import (
	"testing"
)

// Where no fleetd has ever fed it, it fails at once.
func TestUnfedGuardFails(t *testing.T) {
	if err := run(t.Context(), func(string) string { return "" }); err == nil {
		t.Error("it guards something")
	}
}

package systemd

import (
	"context"
	"fmt"

	"github.com/fleet-init/fleet/internal/unit"
)

// Freeze takes the processor from all processes of a unit. One that is not active, or frozen already, is no error.
func (s *Systemd) Freeze(ctx context.Context, n unit.Name) error {
	return s.freezer(ctx, "FreezeUnit", n)
}

// Thaw gives it back. Whatever stops a unit thaws it first, by systemd's own doing.
func (s *Systemd) Thaw(ctx context.Context, n unit.Name) error { return s.freezer(ctx, "ThawUnit", n) }

func (s *Systemd) freezer(ctx context.Context, method string, n unit.Name) error {
	c, err := s.connected()
	if err != nil {
		return err
	}
	err = c.call(ctx, method, nil, string(n))
	switch errorName(err) {
	case busName + ".NoSuchUnit", busName + ".UnitInactive":
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, n, err)
	}
	return nil
}

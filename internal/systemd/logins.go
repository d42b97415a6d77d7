package systemd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/godbus/dbus/v5"
)

// Logins says whom a shutdown of this host would disturb: "core on tty1" for each person who is logged in, "backup.service: copying" for
// each program that holds logind's shutdown lock in mode block. logind itself does not keep root from going past such a lock.
func Logins(ctx context.Context) ([]string, error) {
	bus, err := dialBus(ctx, systemBus)
	if err != nil {
		return nil, fmt.Errorf("connect to logind: %w", err)
	}
	defer bus.Close()
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	manager := bus.Object(loginName, loginPath)
	var sessions []struct {
		ID   string
		UID  uint32
		User string
		Seat string
		Path dbus.ObjectPath
	}
	var locks []struct {
		What, Who, Why, Mode string
		UID, PID             uint32
	}
	err = errors.Join(manager.CallWithContext(ctx, loginIface+".ListSessions", 0).Store(&sessions),
		manager.CallWithContext(ctx, loginIface+".ListInhibitors", 0).Store(&locks))
	if err != nil {
		return nil, fmt.Errorf("ask logind who is logged in: %w", err)
	}
	var out []string
	for _, s := range sessions {
		var p map[string]dbus.Variant
		err := bus.Object(loginName, s.Path).CallWithContext(ctx, "org.freedesktop.DBus.Properties.GetAll", 0, loginName+".Session").Store(&p)
		if err != nil {
			continue // it ended meanwhile
		}
		if text(p["Class"]) != "user" || text(p["State"]) == "closing" {
			continue // a login screen, a user's background services, or one that is going
		}
		where := text(p["TTY"])
		if where == "" {
			where = "session " + s.ID
		}
		out = append(out, s.User+" on "+where)
	}
	for _, l := range locks {
		if l.Mode == "block" && strings.Contains(":"+l.What+":", ":shutdown:") {
			out = append(out, l.Who+": "+l.Why)
		}
	}
	return out, nil
}

// text is a property that is a string, "" when it is none.
func text(v dbus.Variant) string {
	s, _ := v.Value().(string)
	return s
}

package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/fleet-init/fleet/functional/host"
)

// monitor gives a command to QEMU's monitor, in the words that a person would use there.
func (v *VM) monitor(ctx context.Context, line string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", v.path("qmp"))
	if err != nil {
		return fmt.Errorf("reach QEMU's monitor: %w", err)
	}
	defer conn.Close()
	if d, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(d)
	}
	enc, dec := json.NewEncoder(conn), json.NewDecoder(conn)
	type message struct {
		QMP    json.RawMessage `json:"QMP"`
		Return json.RawMessage `json:"return"`
		Error  *struct {
			Desc string `json:"desc"`
		} `json:"error"`
	}
	ask := func(v any) (string, error) {
		if err := enc.Encode(v); err != nil {
			return "", err
		}
		for {
			var m message
			if err := dec.Decode(&m); err != nil {
				return "", err
			}
			if m.Error != nil {
				return "", errors.New(m.Error.Desc)
			}
			if m.Return != nil {
				return string(m.Return), nil
			} // a greeting or an event
		}
	}
	if _, err := ask(map[string]any{"execute": "qmp_capabilities"}); err != nil {
		return err
	}
	said, err := ask(map[string]any{"execute": "human-monitor-command", "arguments": map[string]any{"command-line": line}})
	// The monitor answers with "" when all is well.
	if err == nil && strings.Trim(said, "\" \r\n") != "" {
		err = fmt.Errorf("%s", said)
	}
	if err != nil {
		return fmt.Errorf("QEMU, %s: %w", line, err)
	}
	return nil
}

// Snapshot keeps the whole machine, memory included, under a name in its disk's file.
func (v *VM) Snapshot(ctx context.Context, name string) error {
	return host.WaitFor(ctx, "a snapshot", func(ctx context.Context) error {
		if err := v.monitor(ctx, "savevm "+name); err != nil {
			return host.Final(err)
		}
		return nil
	})
}

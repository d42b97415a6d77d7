package api

import (
	"context"
	"errors"
	"net"
	"time"
)

// perHost is how long one of several hosts may take to answer before the next is tried as well.
const perHost = 2 * time.Second

// dialAny connects to the first of hosts that answers, in their order.
func dialAny(hosts []string) func(ctx context.Context, network, _ string) (net.Conn, error) {
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		var errs []error
		for _, host := range hosts {
			d := net.Dialer{Timeout: perHost}
			c, err := d.DialContext(ctx, network, host)
			if err == nil {
				return c, nil
			}
			errs = append(errs, err)
			if ctx.Err() != nil {
				break
			}
		}
		return nil, &net.OpError{Op: "dial", Net: network, Err: errors.Join(errs...)}
	}
}

package host

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

// Logs of units come from any host, by way of the fleetds: merged, followed, and with what a failed start has said.
func TestLogsFromAnyHost(t *testing.T) {
	t.Parallel()
	c := ForTest(t, Options{Hosts: 2, Files: FleetFiles(2, "agent_ttl = 3s\n")})
	ctx := Context(t)
	must(t, WaitFor(ctx, "two machines", func(ctx context.Context) error {
		out, err := c.Host(1).Run(ctx, "fleetctl", "list-machines", "--no-legend")
		if err == nil && strings.Count(out, "\n") != 2 {
			err = fmt.Errorf("there are %q", out)
		}
		return err
	}))
	h := c.Host(1)
	h.Must(t, "sh", "-c", `cd /tmp && printf '[Service]\nExecStart=/bin/sh -c "echo said %%i on $(hostname); exec sleep infinity"\n[X-Fleet]\nConflicts=say@*.service\n' >say@.service &&
		printf '[Service]\nType=oneshot\nExecStart=/bin/sh -c "echo it hurts; exit 3"\n' >hurts.service && fleetctl start say@1.service say@2.service`)
	// Each machine has one; from both hosts both can be read.
	for i := 1; i <= 2; i++ {
		must(t, WaitFor(ctx, "the lines of both", func(ctx context.Context) error {
			out, err := c.Host(i).Run(ctx, "fleetctl", "journal", "-n", "100", "say@1", "say@2")
			if err == nil && (!strings.Contains(out, ": said 1 on") || !strings.Contains(out, ": said 2 on")) {
				err = fmt.Errorf("host %d has %q", i, out)
			}
			return err
		}))
		out := c.Host(i).Must(t, "sh", "-c", "fleetctl status say@1 say@2; fleetctl journal -o json -n 100 --since -1h say@2")
		for _, want := range []string{": said 1 on", ": said 2 on", `"_SYSTEMD_UNIT":"say@2.service"`} {
			if !strings.Contains(out, want) {
				t.Errorf("host %d: %q is not in %s", i, want, out)
			}
		}
		// A follower hears what comes.
		h.Must(t, "sh", "-c", fmt.Sprintf(`fleetctl journal -f -n 100 -o cat say@1 say@2 >/tmp/followed & p=$!
			said() { until [ "$(grep -c "said 1 on" /tmp/followed)" -ge $1 ]; do sleep 0.1; done; }
			said %d; fleetctl restart say@1 && said %d; kill $p`, i, i+1))
	}
	if out, err := h.Run(ctx, "sh", "-c", "cd /tmp; fleetctl start hurts.service 2>&1"); err == nil || !strings.Contains(out, ": it hurts") || !strings.Contains(out, "status=3") {
		t.Errorf("%v: %s", err, out)
	}
	// Other hosts see the units of the cluster, and nothing else.
	out := h.Must(t, "sh", "-c", fmt.Sprintf(`cd /var/lib/fleet/pki; curl -s --cacert ca.crt --cert host.crt --key host.key 'https://%[1]s:2378/fleet/host/v1/journal?unit=systemd-logind.service'
		curl -s --cacert ca.crt -o /dev/null -w %%{http_code} https://%[1]s:2378/fleet/v1/units`, c.Host(2).IP))
	if !strings.Contains(out, "no unit of this cluster") || !strings.HasSuffix(out, "401") {
		t.Error(out)
	}
}

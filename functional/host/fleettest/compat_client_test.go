package fleettest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/functional/host"
	"github.com/fleet-init/fleet/internal/api"
)

// v1 is a client of fleet's API v1 that knows nothing of what we added: one request per unit and step, and asking again until it is
// done. It sends what fleetctl 1.0 sent.
type v1 struct {
	*rig
	base string
	http *http.Client
}

// call sends one request and returns the status and the answer.
func (c *v1) call(method, path string, in any) (int, []byte) {
	c.t.Helper()
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		c.must(err)
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(c.ctx, method, c.base+"/fleet/v1/"+path+"?alt=json", body)
	c.must(err)
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	c.must(err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	c.must(err)
	if server := resp.Header.Get("Server"); !strings.HasPrefix(server, "fleetd/") {
		c.t.Errorf("%s %s: the server calls itself %q", method, path, server)
	}
	return resp.StatusCode, text
}

// expect calls and fails the test on any other status.
func (c *v1) expect(status int, method, path string, in any) []byte {
	c.t.Helper()
	got, text := c.call(method, path, in)
	if got != status {
		c.t.Fatalf("%s %s: status %d, want %d: %s", method, path, got, status, text)
	}
	return text
}

func (c *v1) unit(name string) (u api.Unit) {
	c.t.Helper()
	c.must(json.Unmarshal(c.expect(http.StatusOK, "GET", "units/"+name, nil), &u))
	return u
}

// bring creates a unit if it is not there, from these options, and takes it to a state, step by step.
func (c *v1) bring(name, state string, options any) {
	c.t.Helper()
	if status, _ := c.call("GET", "units/"+name, nil); status == http.StatusNotFound {
		c.expect(http.StatusCreated, "PUT", "units/"+name, map[string]any{"name": name, "options": options})
		c.reaches(name, "inactive")
	}
	if state == "inactive" {
		return
	}
	c.expect(http.StatusNoContent, "PUT", "units/"+name, map[string]any{"name": name, "desiredState": state})
	c.reaches(name, state)
}

// reaches asks until the unit's current state is this one. A global unit has none: its desired state is looked at.
func (c *v1) reaches(name, state string) {
	c.t.Helper()
	c.wait(name+" "+state, func() error {
		u := c.unit(name)
		now := u.CurrentState
		if now == "" {
			now = u.DesiredState
		}
		return need(now == state, "it is "+now)
	})
}

// active asks until systemd calls the unit active, and returns that state.
func (c *v1) active(name string) (s api.UnitState) {
	c.t.Helper()
	c.wait(name+" active", func() error {
		status, text := c.call("GET", "state/"+name, nil)
		if status != http.StatusOK {
			return fmt.Errorf("status %d", status)
		}
		c.must(json.Unmarshal(text, &s))
		return need(s.SystemdActiveState == "active" && s.SystemdLoadState == "loaded", s.SystemdActiveState)
	})
	return s
}

// option is one line of a unit, as the wire has it.
func option(section, name, value string) map[string]string {
	return map[string]string{"section": section, "name": name, "value": value}
}

// Programs that were written for fleet's API drive us over the socket and over TCP: what they send, in their order, and what our
// fleetctl says of it.
func TestClientsOfFleetsAPIDriveUs(t *testing.T) {
	t.Parallel()
	// Without certificates, as fleet's clients are: with them a TCP port speaks TLS, and these reach us by the sockets only.
	r := bootFiles(t, 2, func(i int) map[string]string {
		conf := usual + "token_limit = 2\ninsecure = true\n"
		if i == 2 {
			conf += "join = h1\n"
		}
		files := host.FleetFiles(2, conf)(i)
		delete(files, "/var/lib/fleet/pki/seed.json")
		delete(files, "/etc/credstore/fleet.join-token")
		return files
	}).formed()
	h := r.Host(1)
	// As fleet's users opened a port: a drop-in for the socket; then stop, restart, start.
	r.must(h.WriteFile(r.ctx, "/etc/systemd/system/fleet.socket.d/30-listen.conf", "[Socket]\nListenStream=49153\nListenStream=/run/second.sock\n"))
	h.Must(t, "sh", "-c", "systemctl daemon-reload && systemctl stop fleet.service && systemctl restart fleet.socket && systemctl start fleet.service")
	r.machines(r.Hosts()...)
	sleeps := option("Service", "ExecStart", "/bin/sleep infinity")
	here := option("X-Fleet", "MachineID", h.MachineID)
	for _, way := range []struct {
		name string
		*v1
	}{
		{"socket", &v1{base: "http://domain-sock", http: h.UnixHTTP("/run/fleet.sock")}},
		{"second socket", &v1{base: "http://domain-sock", http: h.UnixHTTP("/run/second.sock")}},
		{"TCP", &v1{base: "http://" + h.IP + ":49153", http: r.HTTP()}},
	} {
		r.sub(way.name, func(r *rig) {
			c := way.v1
			c.rig = r
			c.life(h, sleeps, here)
			c.lists(sleeps)
		})
	}
	r.sub("restart refuses no connection on any of them", func(r *rig) {
		c := &v1{rig: r, base: "http://" + h.IP + ":49153", http: r.HTTP()}
		pid := r.property(h, "fleetd.service", "MainPID")
		h.Must(r.t, "systemctl", "restart", "--no-block", "fleetd")
		r.wait("another process", func() error {
			// Each waits in the socket until it is answered; 503 is what fleet said until it was registered.
			if status, text := c.call("GET", "machines", nil); status != http.StatusOK && status != http.StatusServiceUnavailable {
				return host.Final(fmt.Errorf("status %d: %s", status, text))
			}
			now := r.property(h, "fleetd.service", "MainPID")
			return need(now != "0" && now != pid, "it is still process "+now)
		})
		r.machines(r.Hosts()...)
	})
	r.sub("fleetctl over TCP, by flag and by environment", func(r *rig) {
		tcp := "http://127.0.0.1:49153"
		if out := r.ctl(h, "--endpoint", tcp, "list-machines", "--no-legend"); !strings.Contains(out, r.Host(2).IP) {
			r.t.Errorf("it lists %q", out)
		}
		if out, text, code := r.try(h, "env", "FLEETCTL_ENDPOINT="+tcp, "fleetctl", "list-machines", "--endpoint=unix:///run/second.sock"); code != 0 {
			r.t.Errorf("%d %s%s", code, out, text)
		}
		r.refused(h, 1, []string{"http://127.0.0.1:1"}, "--endpoint=http://127.0.0.1:1", "list-machines")
	})
}

// life is one unit from its creation to its end, an instance of a template made by the client, a replacement and a global unit.
func (c *v1) life(h *host.Host, sleeps, here map[string]string) {
	c.t.Helper()
	text := []map[string]string{sleeps, here}
	c.bring("v1.service", "launched", text)
	s := c.active("v1.service")
	u := c.unit("v1.service")
	if u.MachineID != h.MachineID || s.MachineID != h.MachineID || s.SystemdSubState != "running" || len(s.Hash) != 40 {
		c.t.Errorf("the unit is %+v, its state %+v", u, s)
	}
	if out := c.ctl(h, "list-units", "--no-legend", "--fields=unit,active,sub,hash", "--full"); !strings.Contains(out, "v1.service\tactive\trunning\t"+s.Hash) {
		c.t.Errorf("fleetctl lists %s", out)
	}
	c.bring("v1.service", "loaded", nil)
	c.bring("v1.service", "inactive", nil)
	c.expect(http.StatusNoContent, "PUT", "units/v1.service", map[string]any{"name": "v1.service", "desiredState": "inactive"})
	c.reaches("v1.service", "inactive")
	c.bring("v1.service", "launched", nil)

	// --replace: the new text alone, which makes it inactive; then the wished state again.
	replaced := []map[string]string{option("Service", "ExecStart", "/bin/sleep 9999"), here}
	c.expect(http.StatusCreated, "PUT", "units/v1.service", map[string]any{"name": "v1.service", "options": replaced})
	c.reaches("v1.service", "inactive")
	c.bring("v1.service", "launched", nil)
	if now := c.active("v1.service"); now.Hash == s.Hash {
		c.t.Error("the old text runs")
	}

	// The client makes instances: the template's options under another name. Nobody can start the template itself.
	c.bring("v1@.service", "inactive", text)
	c.expect(http.StatusBadRequest, "PUT", "units/v1@.service", map[string]any{"name": "v1@.service", "desiredState": "launched"})
	c.expect(http.StatusConflict, "PUT", "units/v1@1.service", map[string]any{"name": "v1@1.service", "desiredState": "launched"})
	c.bring("v1@1.service", "launched", c.unit("v1@.service").Options)
	c.active("v1@1.service")

	c.bring("v1-all.service", "launched", []map[string]string{sleeps, option("X-Fleet", "Global", "true")})
	c.everywhere("v1-all.service")
	if u := c.unit("v1-all.service"); u.CurrentState != "" || u.MachineID != "" {
		c.t.Errorf("the global unit is %+v", u)
	}
	for _, n := range []string{"v1.service", "v1@.service", "v1@1.service", "v1-all.service"} {
		c.expect(http.StatusNoContent, "DELETE", "units/"+n, nil)
		c.expect(http.StatusNotFound, "DELETE", "units/"+n, nil)
	}
	c.wait("no state of any unit", func() error {
		text := string(c.expect(http.StatusOK, "GET", "state", nil))
		return need(strings.TrimSpace(text) == "{}", text)
	})
}

// lists goes through all pages, two items each.
func (c *v1) lists(sleeps map[string]string) {
	c.t.Helper()
	var want []string
	for i := range 5 {
		want = append(want, fmt.Sprintf("page-%d.service", i))
		c.bring(want[i], "inactive", []map[string]string{sleeps})
	}
	var got []string
	for token, pages := "", 0; ; pages++ {
		var page struct {
			Units         []api.Unit
			NextPageToken string
		}
		path := "/fleet/v1/units?alt=json"
		if token != "" {
			path += "&nextPageToken=" + token
		}
		resp, err := c.http.Get(c.base + path)
		c.must(err)
		c.must(json.NewDecoder(resp.Body).Decode(&page))
		resp.Body.Close()
		for _, u := range page.Units {
			got = append(got, u.Name)
		}
		if token = page.NextPageToken; token == "" {
			break
		}
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		c.t.Errorf("the pages hold %v", got)
	}
	for _, n := range want {
		c.expect(http.StatusNoContent, "DELETE", "units/"+n, nil)
	}
}

package fleettest

import (
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fleet-init/fleet/functional/host"
	"github.com/fleet-init/fleet/internal/pki"
)

// door is a socket that somebody can send something to. docs/security.md has the table of fleet's.
type door struct {
	kind  string // tcp, udp, unix
	at    string // address:port; for a unix socket its path, or @name of one that has none
	owner string // the process's name; empty: the kernel's own
	mode  string // of a unix socket's file: "660 root:fleet"
}

// allowed is a row of the table: what may be there.
type allowed struct {
	kind, at, owner, mode string
	// at: HOST is the host's address for the others; path.Match for unix sockets.
}

func (a allowed) fits(d door, h *host.Host) bool {
	at, _ := path.Match(strings.ReplaceAll(a.at, "HOST", h.IP), d.at)
	owner, _ := path.Match(a.owner, d.owner)
	mode, _ := path.Match(a.mode, d.mode)
	return a.kind == d.kind && at && owner && (mode || a.mode == "")
}

// ours are the sockets of a host with fleetd, and who may use them: a socket that is in no row fails the test, so that none is opened by
// accident.
func ours() []allowed {
	return []allowed{
		{"tcp", "HOST:2378", "fleetd", ""}, // API: certificates of the cluster; joining by token
		{"tcp", "HOST:2379", "fleetd", ""}, // store: voters' and hosts' certificates
		{"tcp", "HOST:2380", "fleetd", ""}, // raft: voters' certificates
		{"unix", "/run/fleet.sock", "*", "660 root:fleet"},
		{"unix", "/run/fleet/etcd.sock", "fleetd", "660 root:fleet-store"},
		{"unix", "/run/fleet/update-engine.sock", "update-engine", "600 root:root"},
	}
}

// systems are what the image's systemd and sshd have open. None of them is reached from elsewhere but sshd.
func systems() []allowed {
	return []allowed{
		{"tcp", "*:22", "*", ""},
		{"tcp", "127.0.0.5[34]:53", "systemd-resolve", ""}, {"udp", "127.0.0.5[34]:53", "systemd-resolve", ""},
		{"unix", "/run/systemd/*", "*", ""}, {"unix", "/run/systemd/*/*", "*", ""}, {"unix", "/run/systemd/*/*/*", "*", ""},
		{"unix", "/run/dbus/system_bus_socket", "*", ""}, {"unix", "/run/udev/control", "*", ""}, {"unix", "/run/host/*", "*", ""}, {"unix", "/run/host/*/*", "*", ""},
		{"unix", "/run/user/*/*", "*", ""}, {"unix", "/run/user/*/*/*", "*", ""}, {"unix", "@*", "*", ""},
	}
}

// doors reads every socket of a host that waits for somebody: TCP that listens, every UDP and raw socket, unix sockets with a name.
func (r *rig) doors(h *host.Host) (list []door) {
	r.t.Helper()
	text, err := h.Sh(r.ctx, `cd /proc/net
for f in tcp tcp6 udp udp6 udplite udplite6 raw raw6; do [ -e $f ] && awk -v f=$f 'NR > 1 {print f, $2, $4, $10}' $f; done
awk 'NR > 1 && NF > 7 {print "unix", $4 "/" $5, $8, $7}' unix
for p in /proc/[0-9]*; do ls -l $p/fd 2>/dev/null | sed -n "s|.*socket:\[\([0-9]*\)\]|owner $(cat $p/comm 2>/dev/null | tr ' ' _) x \1|p"; done
awk 'NR > 1 && NF > 7 {print $8}' unix | grep ^/ | sed 's/[.]new$//' | sort -u | xargs -r stat -c 'file %n %a %U:%G' 2>/dev/null
true`)
	r.must(err)
	owners, modes := map[string]string{}, map[string]string{}
	var rows [][]string
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		switch {
		case len(f) != 4:
		case f[0] == "owner":
			// systemd holds what it will pass on; whoever has it besides is who answers.
			if old := owners[f[3]]; old == "" || old == "systemd" {
				owners[f[3]] = f[1]
			}
		case f[0] == "file":
			modes[f[1]] = f[2] + " " + f[3]
		default:
			rows = append(rows, f)
		}
	}
	for _, f := range rows {
		d := door{kind: strings.TrimSuffix(f[0], "6"), owner: owners[f[3]]}
		switch {
		case f[0] == "unix":
			flags, kind, _ := strings.Cut(f[1], "/")
			// A stream that accepts connections, or datagrams, which need no connection.
			if n, err := strconv.ParseUint(flags, 16, 64); err != nil || n&0x10000 == 0 && kind != "0002" {
				continue
			}
			// fleetd binds it under another name and moves it into place.
			d.at = strings.TrimSuffix(f[2], ".new")
			d.mode = modes[d.at]
		case d.kind == "tcp" && f[2] != "0A":
			continue // a connection
		default:
			d.at = r.inetAddr(f[1])
		}
		if !slices.Contains(list, d) {
			list = append(list, d)
		}
	}
	return list
}

// inetAddr reads an address as /proc/net has it: words of the processor's own order in hexadecimal digits.
func (r *rig) inetAddr(s string) string {
	r.t.Helper()
	words, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(words)
	r.must(err)
	for w := b; len(w) >= 4; w = w[4:] {
		binary.BigEndian.PutUint32(w, binary.LittleEndian.Uint32(w))
	}
	a, _ := netip.AddrFromSlice(b)
	n, err := strconv.ParseUint(port, 16, 16)
	r.must(err)
	return netip.AddrPortFrom(a.Unmap(), uint16(n)).String()
}

// table holds a host's sockets against what may be there. more is beside the usual; every row of must has to be there.
func (r *rig) table(h *host.Host, must []allowed, more ...allowed) {
	r.t.Helper()
	list := r.doors(h)
	for _, d := range list {
		fits := func(a allowed) bool { return a.fits(d, h) }
		if !slices.ContainsFunc(must, fits) && !slices.ContainsFunc(more, fits) && !slices.ContainsFunc(systems(), fits) {
			r.t.Errorf("%s has a socket that is in no table: %+v", h.Name, d)
		}
	}
	for _, a := range must {
		if !slices.ContainsFunc(list, func(d door) bool { return a.fits(d, h) }) {
			r.t.Errorf("%s has no socket %+v, or another has it: %+v", h.Name, a, list)
		}
	}
}

// locals tries each of fleet's unix sockets as a user who is in no group of ours.
func (r *rig) locals(h *host.Host) {
	r.t.Helper()
	tried := 0
	for _, d := range r.doors(h) {
		if d.kind != "unix" || !slices.ContainsFunc(ours(), func(a allowed) bool { return a.fits(d, h) }) {
			continue
		}
		tried++
		if _, said, code := r.try(h, "runuser", "-u", "nobody", "--", "fleetctl", "fd-forward", d.at); code == 0 || !strings.Contains(said, "permission denied") {
			r.t.Errorf("%s lets anybody in: %d %s", d.at, code, said)
		}
	}
	if tried < 2 {
		r.t.Errorf("only %d of fleet's sockets were found", tried)
	}
}

// datagrams sends what no protocol of ours has to every UDP port of a host that can be reached, and looks whether anything comes back.
func (r *rig) datagrams(h *host.Host, ports ...int) {
	r.t.Helper()
	r.must(r.InNetwork(func() error {
		for _, port := range ports {
			c, err := net.Dial("udp", net.JoinHostPort(h.IP, fmt.Sprint(port)))
			if err != nil {
				return err
			}
			for _, text := range []string{"", "\x00", strings.Repeat("\xff", 1400), "GET / HTTP/1.1\r\n\r\n", "\x01\x00\x00\x00" + strings.Repeat("\x00", 144)} {
				_, _ = c.Write([]byte(text)) // refused, if nobody listens: an ICMP message of before
			}
			_ = c.Close()
		}
		return nil
	}))
}

// inject sends VXLAN packets from outside the cluster, of some networks (VNI) one after the other, and returns how many the host's device has taken. Those
// of the last are taken.
func (r *rig) inject(h *host.Host, dev string, each int, networks ...uint32) int {
	r.t.Helper()
	count := func() int {
		n, err := strconv.Atoi(strings.TrimSpace(h.Must(r.t, "cat", "/sys/class/net/"+dev+"/statistics/rx_packets")))
		r.must(err)
		return n
	}
	mac, err := net.ParseMAC(strings.TrimSpace(h.Must(r.t, "cat", "/sys/class/net/"+dev+"/address")))
	r.must(err)
	before, after := count(), 0
	r.must(r.InNetwork(func() error {
		c, err := net.Dial("udp", net.JoinHostPort(h.IP, "8472"))
		if err != nil {
			return err
		}
		defer c.Close()
		for _, vni := range networks {
			frame := append(binary.BigEndian.AppendUint32([]byte{8, 0, 0, 0}, vni<<8), mac...)
			frame = append(frame, 2, 0, 0, 0, 0, 0xee, 8, 0) // from nobody's address, IPv4
			frame = append(frame, make([]byte, 46)...)
			for range each {
				if _, err := c.Write(frame); err != nil {
					return err
				}
			}
		}
		return nil
	}))
	// They arrive in their order: when the last are in, the others are in or will never be.
	r.wait("the kernel to take the packets", func() error {
		after = count()
		return need(after-before >= each/2, fmt.Sprint(after-before))
	})
	return after - before
}

// onVXLAN holds a host with an overlay of VXLAN against the table, and the manual's word that anybody who reaches it is taken in.
func (r *rig) onVXLAN(h *host.Host) {
	r.t.Helper()
	r.table(h, overlays()[:2], append(ours(), overlays()...)...)
	r.locals(h)
	r.datagrams(h, 8472)
	dev := strings.TrimSpace(h.Must(r.t, "sh", "-c", "ip -o link show type vxlan | head -1 | cut -d: -f2"))
	// Many, so that what the hosts send each other meanwhile does not count.
	const many = 1000
	if n := r.inject(h, dev, many, 77, 1); n > many+many/2 {
		r.t.Errorf("packets of another network are taken: %d of %d", n, 2*many)
	}
}

// onWireGuard does so with WireGuard, which takes nothing from strangers.
func (r *rig) onWireGuard(h *host.Host) {
	r.t.Helper()
	r.table(h, []allowed{overlays()[0], overlays()[2]}, append(ours(), overlays()...)...)
	received := func() string { return h.Must(r.t, "sh", "-c", "cat /sys/class/net/flannel-wg*/statistics/rx_packets") }
	before := received()
	r.datagrams(h, 51820)
	if after := received(); after != before {
		r.t.Errorf("WireGuard has taken packets of strangers: %s, then %s", before, after)
	}
}

// frames tries the port where update-engine hands frames on: hosts of the cluster are answered, in words where they ask wrongly, and nobody else.
func (r *rig) frames(h *host.Host) {
	r.t.Helper()
	must := append(ours(), allowed{"tcp", "HOST:2377", "update-engine", ""})
	// Beside what the test has set and started there.
	r.table(h, must, append(overlays(), allowed{"tcp", "*:9999", "fleetd", ""}, allowed{"tcp", "*:800?", "busybox", ""})...)
	r.locals(h)
	addr := h.Name + ":2377"
	other, err := pki.NewCA(time.Now())
	r.must(err)
	r.noEntry(addr, &tls.Config{InsecureSkipVerify: true})
	r.noEntry(addr, r.issue(other, pki.Identity{Role: pki.Voter, Name: h.MachineID}))
	for name, text := range map[string]string{"HTTP": "GET /frames/x HTTP/1.1\r\nHost: x\r\n\r\n", "noise": strings.Repeat("\x00\xff\x16\x03", 500)} {
		if said := r.rawTalk(addr, text); strings.Contains(said, "200 OK") {
			r.t.Errorf("%s answers %s with %q", addr, name, said)
		}
	}
	ask := func(cfg *tls.Config, path string) int {
		client := http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: cfg, DialContext: r.Dial, DisableKeepAlives: true}}
		req, err := http.NewRequestWithContext(r.ctx, http.MethodGet, "https://"+addr+path, nil)
		r.must(err)
		resp, err := client.Do(req)
		r.must(err)
		r.must(resp.Body.Close())
		return resp.StatusCode
	}
	r.ctl(h, "context", "add", "frames", r.ctl(h, "join-token", "create", "--role=admin", "--name=frames"))
	if code := ask(r.keyOf(h, "/root/.config/fleet/frames"), "/frames/x"); code != http.StatusForbidden {
		r.t.Errorf("a person asks for frames: %d", code)
	}
	r.ctl(h, "context", "remove", "frames")
	for path, want := range map[string]int{"/frames/x": 400, "/frames/" + strings.Repeat("0a", 32) + "?file=../x&off=0&len=5": 400, "/frames/" + strings.Repeat("0a", 32) + "?file=x&off=0&len=5": 404, "/": 404} {
		if code := ask(r.stolen(h), path); code != want {
			r.t.Errorf("a host asks for %s: %d, want %d", path, code, want)
		}
	}
}

// written holds the table in the manual against what the tests hold hosts to.
func (r *rig) written() {
	r.t.Helper()
	text, err := os.ReadFile("../../../docs/security.md")
	r.must(err)
	for _, a := range append(ours(), overlays()...) {
		word := a.at[strings.LastIndex(a.at, ":")+1:]
		if !strings.Contains(string(text), strings.TrimSuffix(word, "*.sock")) {
			r.t.Errorf("docs/security.md does not have %s %s", a.kind, a.at)
		}
	}
}

// overlays are the sockets that netd adds, by its backend: the kernel's own.
func overlays() []allowed {
	return []allowed{
		{"unix", "/run/netd/netd.sock", "netd", "660 netd:fleet-store"},
		{"udp", "*:8472", "", ""},   // vxlan: whoever reaches it
		{"udp", "*:51820", "*", ""}, // WireGuard: whoever has a peer's key; where the kernel has none, a process has the port
		{"unix", "/run/netd/wireguard/*.sock", "*", "600 netd:*"},
	}
}

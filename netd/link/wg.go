package link

import (
	"bufio"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/fleet-init/fleet/internal/network"
)

// wgState is a WireGuard device as it is.
type wgState struct {
	key   network.Secret
	port  int
	peers []network.WGPeer
	last  map[string]int64 // public key → unix time of the last handshake, 0 for never
}

// wgChange is what to change on one; key and port only when key is set.
type wgChange struct {
	key   network.Secret
	port  int
	peers []network.WGPeer
	gone  []string // public keys
}

// wgCtl configures WireGuard devices: the kernel's, and those of netd's own process where the kernel has none. A user-space
// device is one that has a socket in dir.
type wgCtl struct {
	dir    string
	client *wgctrl.Client // nil until first needed; bound to the namespace of its thread
}

// socket is where the process that carries this device listens.
func (w *wgCtl) socket(dev string) string { return filepath.Join(w.dir, dev+".sock") }

// userspace tells whether the device is a process's and not the kernel's: the process removes its socket when it ends.
func (w *wgCtl) userspace(dev string) bool {
	_, err := os.Stat(w.socket(dev))
	return w.dir != "" && err == nil
}

// get reads a device as it is, with all its peers. Keys come in base64, intervals in seconds, whoever carries it.
func (w *wgCtl) get(dev string) (wgState, error) {
	if w.userspace(dev) {
		return uapiGet(w.socket(dev))
	}
	if err := w.open(); err != nil {
		return wgState{}, err
	}
	d, err := w.client.Device(dev)
	if err != nil {
		return wgState{}, fmt.Errorf("read WireGuard device %s: %w", dev, err)
	}
	s := wgState{key: network.Secret(d.PrivateKey.String()), port: d.ListenPort, last: map[string]int64{}}
	for _, p := range d.Peers {
		n := network.WGPeer{PublicKey: p.PublicKey.String(), Keepalive: int(p.PersistentKeepaliveInterval / time.Second)}
		if p.Endpoint != nil {
			n.Endpoint = unmapped(p.Endpoint.AddrPort())
		}
		if p.PresharedKey != (wgtypes.Key{}) {
			n.PSK = network.Secret(p.PresharedKey.String())
		}
		var allowed []string
		for _, a := range p.AllowedIPs {
			allowed = append(allowed, a.String())
		}
		n.Allowed = joinAllowed(allowed)
		s.last[n.PublicKey] = max(0, p.LastHandshakeTime.Unix())
		s.peers = append(s.peers, n)
	}
	return s, nil
}

// open reaches the kernel's WireGuard, the first time it is needed: most hosts never do.
func (w *wgCtl) open() (err error) {
	if w.client == nil {
		if w.client, err = wgctrl.New(); err != nil {
			return fmt.Errorf("reach the kernel's WireGuard: %w", err)
		}
	}
	return nil
}

// set changes a device in one request. What c does not name stays: other peers, and with an empty key the device's own.
func (w *wgCtl) set(dev string, c wgChange) error {
	if w.userspace(dev) {
		return uapiSet(w.socket(dev), c)
	}
	if err := w.open(); err != nil {
		return err
	}
	// Peers that are not named stay as they are (ReplacePeers is off): one change among thousands is one change.
	cfg := wgtypes.Config{}
	if c.key != "" {
		key, err := wgtypes.ParseKey(string(c.key))
		if err != nil {
			return fmt.Errorf("private key: %w", err)
		}
		cfg.PrivateKey, cfg.ListenPort = &key, &c.port
	}
	for _, p := range c.peers {
		pc, err := peerConfig(p)
		if err != nil {
			return err
		}
		cfg.Peers = append(cfg.Peers, pc)
	}
	for _, g := range c.gone {
		// One that is no key was never there.
		if key, err := wgtypes.ParseKey(g); err == nil {
			cfg.Peers = append(cfg.Peers, wgtypes.PeerConfig{PublicKey: key, Remove: true})
		}
	}
	if err := w.client.ConfigureDevice(dev, cfg); err != nil {
		return fmt.Errorf("configure WireGuard device %s: %w", dev, err)
	}
	return nil
}

// peerConfig translates one peer. Its errors say which of the peer's words is wrong; keys themselves are in none of them.
func peerConfig(p network.WGPeer) (wgtypes.PeerConfig, error) {
	pc := wgtypes.PeerConfig{ReplaceAllowedIPs: true}
	var err error
	if pc.PublicKey, err = wgtypes.ParseKey(p.PublicKey); err != nil {
		return pc, fmt.Errorf("public key of a peer: %w", err)
	}
	var psk wgtypes.Key // all zero takes an old one away
	if p.PSK != "" {
		if psk, err = wgtypes.ParseKey(string(p.PSK)); err != nil {
			return pc, fmt.Errorf("PSK: %w", err)
		}
	}
	// Always set, as is the preshared key: what the configuration does not name any more must go.
	keep := time.Duration(p.Keepalive) * time.Second
	pc.PresharedKey, pc.PersistentKeepaliveInterval = &psk, &keep
	if p.Endpoint.IsValid() {
		// Without one the peer is where it was heard from last.
		pc.Endpoint = net.UDPAddrFromAddrPort(p.Endpoint)
	}
	for _, a := range strings.Split(p.Allowed, ",") {
		_, n, err := net.ParseCIDR(a)
		if err != nil {
			return pc, fmt.Errorf("subnet of a peer: %w", err)
		}
		pc.AllowedIPs = append(pc.AllowedIPs, *n)
	}
	return pc, nil
}

// joinAllowed gives the prefixes in one order: IPv4 first, as overlay writes them.
func joinAllowed(a []string) string {
	slices.SortStableFunc(a, func(x, y string) int {
		if x6, y6 := strings.Contains(x, ":"), strings.Contains(y, ":"); x6 != y6 {
			if y6 {
				return -1
			}
			return 1
		}
		return strings.Compare(x, y)
	})
	return strings.Join(a, ",")
}

// unmapped is the address without the IPv6 clothes that a socket for both families puts on it.
func unmapped(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// The rest speaks WireGuard's user-space protocol: lines key=value, keys in hex, an empty line at the end.

// uapiCall sends one request and gives the lines of its answer. A process that does not answer within ten seconds is an error like one that refuses.
func uapiCall(socket, request string) ([]string, error) {
	// One connection a request: the process answers many on one, but then a broken answer would be read as the next one's.
	c, err := net.DialTimeout("unix", socket, 5*time.Second)
	if err != nil {
		return nil, fmt.Errorf("reach the WireGuard process: %w", err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return nil, fmt.Errorf("reach the WireGuard process: %w", err)
	}
	if _, err := c.Write([]byte(request)); err != nil {
		return nil, fmt.Errorf("write to the WireGuard process: %w", err)
	}
	var lines []string
	s := bufio.NewScanner(c)
	// errno= is the last line of every answer, 0 when all is well; an empty line ends it too.
	for s.Scan() && s.Text() != "" {
		lines = append(lines, s.Text())
		if no, ok := strings.CutPrefix(s.Text(), "errno="); ok {
			if no != "0" {
				n, _ := strconv.Atoi(strings.TrimPrefix(no, "-")) // no number: errno 0, and the text says nothing more
				return nil, fmt.Errorf("the WireGuard process refused: %w", unix.Errno(n))
			}
			return lines, nil
		}
	}
	return nil, errors.Join(errors.New("the WireGuard process gave no answer"), s.Err())
}

// uapiSet is set for a process's device.
func uapiSet(socket string, c wgChange) error {
	var b strings.Builder
	b.WriteString("set=1\n")
	// What is wrong with one key is found before anything is sent: the process would have done half of the request.
	var bad error
	key := func(name, base string) {
		raw, err := base64.StdEncoding.DecodeString(base)
		if err != nil || len(raw) != 32 {
			bad = fmt.Errorf("%s: not 32 bytes in base64", name)
		}
		fmt.Fprintf(&b, "%s=%s\n", name, hex.EncodeToString(raw))
	}
	if c.key != "" {
		key("private_key", string(c.key))
		fmt.Fprintf(&b, "listen_port=%d\n", c.port)
	}
	for _, p := range c.peers {
		key("public_key", p.PublicKey)
		psk := base64.StdEncoding.EncodeToString(make([]byte, 32)) // all zero: none
		if p.PSK != "" {
			psk = string(p.PSK)
		}
		key("preshared_key", psk) // also without one, as above
		if p.Endpoint.IsValid() {
			fmt.Fprintf(&b, "endpoint=%s\n", p.Endpoint)
		}
		fmt.Fprintf(&b, "persistent_keepalive_interval=%d\nreplace_allowed_ips=true\n", p.Keepalive)
		for _, a := range strings.Split(p.Allowed, ",") {
			fmt.Fprintf(&b, "allowed_ip=%s\n", a)
		}
	}
	for _, g := range c.gone {
		key("public_key", g)
		b.WriteString("remove=true\n")
	}
	if bad != nil {
		return bad
	}
	b.WriteString("\n")
	_, err := uapiCall(socket, b.String())
	return err
}

// uapiGet is get for a process's device: keys of the device, then for each peer its public key and what belongs to it.
func uapiGet(socket string) (wgState, error) {
	s := wgState{last: map[string]int64{}}
	lines, err := uapiCall(socket, "get=1\n\n")
	if err != nil {
		return s, err
	}
	// A peer's allowed subnets come as lines of their own, and its end is the next one's key.
	var allowed []string
	finish := func() {
		if n := len(s.peers); n > 0 {
			s.peers[n-1].Allowed = joinAllowed(allowed)
		}
		allowed = nil
	}
	toBase := func(h string) string {
		raw, _ := hex.DecodeString(h) // the process writes what it was given
		return base64.StdEncoding.EncodeToString(raw)
	}
	for _, line := range lines {
		k, v, _ := strings.Cut(line, "=")
		n, _ := strconv.ParseInt(v, 10, 64)
		if k == "public_key" {
			finish()
			s.peers = append(s.peers, network.WGPeer{PublicKey: toBase(v)})
			continue
		}
		// Before the first peer stands what is the device's own.
		if len(s.peers) == 0 {
			switch k {
			case "private_key":
				s.key = network.Secret(toBase(v))
			case "listen_port":
				s.port = int(n)
			}
			continue
		}
		p := &s.peers[len(s.peers)-1]
		switch k {
		case "preshared_key":
			if strings.Trim(v, "0") != "" {
				p.PSK = network.Secret(toBase(v))
			}
		case "endpoint":
			p.Endpoint, _ = netip.ParseAddrPort(v)
			p.Endpoint = unmapped(p.Endpoint)
		case "persistent_keepalive_interval":
			p.Keepalive = int(n)
		case "allowed_ip":
			allowed = append(allowed, v)
		case "last_handshake_time_sec":
			s.last[p.PublicKey] = n
		}
	}
	finish()
	return s, nil
}

// Package network is the vocabulary of netd's rooms: the cluster's network configuration, the subnet leases of its
// machines, and what one host's kernel must hold so that they form one network. It holds values and their text, and does
// no I/O: netd/subnet makes the leases, netd/overlay plans a Host, netd/link makes the kernel so.
package network

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
)

// Config is the cluster's network configuration, checked and with all defaults filled in.
type Config struct {
	V4, V6  Pool // Pool.Network is invalid where the family is off
	Backend Backend
	// NFTables is flannel's EnableNFTables. netd always uses nftables; the key is kept so that it can be read back.
	NFTables bool
}

// Pool is the address range of one family and how it is cut into subnets.
type Pool struct {
	Network   netip.Prefix
	SubnetLen int
	Min, Max  netip.Addr // first and last subnet given out, by their base address
}

// On reports whether the family is in use.
func (p Pool) On() bool { return p.Network.IsValid() }

// Fits reports whether a subnet is one that this pool would give out.
func (p Pool) Fits(s netip.Prefix) bool {
	return p.On() && s.IsValid() && s.Bits() == p.SubnetLen && s == s.Masked() && p.Network.Contains(s.Addr()) &&
		p.Min.Compare(s.Addr()) <= 0 && s.Addr().Compare(p.Max) <= 0
}

// The backend types that netd knows.
const (
	VXLAN     = "vxlan"
	HostGW    = "host-gw"
	WireGuard = "wireguard"
	IPIP      = "ipip"
	Alloc     = "alloc"
)

// Backend is how packets get from host to host, and its options. Options of other types are zero.
type Backend struct {
	// Type is one of the constants above, or empty: the configuration named none, and the machines agree on WireGuard if all
	// kernels have it, else VXLAN.
	Type string

	VNI           int  // vxlan
	Port          int  // vxlan: UDP port
	GBP           bool // vxlan: group policy extension
	Learning      bool // vxlan
	DirectRouting bool // vxlan, ipip: plain route to peers on the same link
	MTU           int  // vxlan, wireguard: MTU of the underlay to count with; 0 = that of the interface

	ListenPort, ListenPortV6 int    // wireguard
	PSK                      Secret // wireguard: base64, one for the cluster; empty for none
	Keepalive                int    // wireguard: seconds, 0 = off
	Mode                     string // wireguard: separate, auto, ipv4 or ipv6
}

// Secret is a key that never shows in a log or a text.
type Secret string

// String hides the value.
func (s Secret) String() string {
	if s == "" {
		return "none"
	}
	return "hidden"
}

// GoString hides the value from %#v.
func (s Secret) GoString() string { return s.String() }

// MAC is an Ethernet address.
type MAC [6]byte

// ParseMAC reads aa:bb:cc:dd:ee:ff.
func ParseMAC(s string) (MAC, error) {
	var m MAC
	b, err := hex.DecodeString(strings.ReplaceAll(s, ":", ""))
	if err != nil || len(b) != 6 || len(s) != 17 {
		return m, fmt.Errorf("parse MAC address %q: want six hex bytes with colons", s)
	}
	copy(m[:], b)
	return m, nil
}

// MachineMAC derives a device's address from the machine, so that it survives re-creation and reboot and peers need not
// relearn it: locally administered, unicast.
func MachineMAC(machine, device string) MAC {
	sum := sha256.Sum256([]byte("netd mac " + machine + " " + device))
	m := MAC(sum[:6])
	m[0] = m[0]&^1 | 2
	return m
}

// String is the form that ParseMAC reads.
func (m MAC) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// MarshalText writes the usual form.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText reads it.
func (m *MAC) UnmarshalText(b []byte) (err error) {
	*m, err = ParseMAC(string(b))
	return err
}

// Lease is one machine's subnet and how to reach it. Its stored form is netd/subnet's.
type Lease struct {
	V4, V6     netip.Prefix // the subnets; invalid where the machine has none of the family
	PublicIP   netip.Addr   // where peers send to; invalid if unknown
	PublicIPv6 netip.Addr
	// BackendType, BackendData and BackendV6Data are as flannel has them.
	BackendType   string
	BackendData   json.RawMessage `json:",omitempty"`
	BackendV6Data json.RawMessage `json:",omitempty"`
	Extra         *Extra          `json:",omitempty"` // only in leases that a netd wrote
}

// Extra is what netd adds to flannel's lease; flannel's readers skip it. It holds what a peer needs for each type of
// overlay, so that a cluster whose configuration names none can change over without a new round of leases.
type Extra struct {
	Machine   string `json:"Machine"`             // machine-id
	Version   string `json:"Version,omitempty"`   // of netd
	WireGuard bool   `json:"WireGuard,omitempty"` // the host's kernel has it
	PublicKey string `json:"PublicKey,omitempty"` // WireGuard's, base64
	VtepMAC   string `json:"VtepMAC,omitempty"`   // of the VXLAN device
	VtepMACv6 string `json:"VtepMACv6,omitempty"` // of the one over IPv6
}

// Name is how the lease is called in the store, as flannel does: 10.1.74.0-24, for both families 10.1.74.0-24&fd00:1::-64,
// and, where flannel has no word, fd00:1::-64 for IPv6 alone.
func (l Lease) Name() string {
	var parts []string
	for _, p := range []netip.Prefix{l.V4, l.V6} {
		if p.IsValid() {
			parts = append(parts, fmt.Sprintf("%s-%d", p.Addr(), p.Bits()))
		}
	}
	return strings.Join(parts, "&")
}

// Machine is the machine-id the lease names, or empty in a lease of flannel's.
func (l Lease) Machine() string {
	if l.Extra == nil {
		return ""
	}
	return l.Extra.Machine
}

// Overlaps reports whether the two leases claim a common address.
func (l Lease) Overlaps(o Lease) bool {
	return l.V4.IsValid() && o.V4.IsValid() && l.V4.Overlaps(o.V4) || l.V6.IsValid() && o.V6.IsValid() && l.V6.Overlaps(o.V6)
}

// Underlay is the interface that carries the overlay's packets on this host.
type Underlay struct {
	Name   string
	Index  int
	MTU    int
	V4, V6 netip.Addr // its addresses; invalid if there is none
	// PublicV4 and PublicV6 are what peers send to: --public-ip or the interface's own address.
	PublicV4, PublicV6 netip.Addr
	OnLink             []netip.Prefix // networks reached without a gateway, for DirectRouting
	Beside             []Beside       // addresses on the host's other ways into networks of its own
}

// Beside is an address on an interface that does not carry the overlay.
type Beside struct {
	Name string // of the interface
	Addr netip.Addr
}

// Iface is an interface of this host.
type Iface struct {
	Name     string
	Kind     string // as ip names it: bridge, veth, vxlan; device for hardware
	Index    int
	MTU      int
	Up       bool
	Loopback bool
	Addrs    []Addr
}

// Addr is one address on it.
type Addr struct {
	Prefix                           netip.Prefix
	Temporary, Deprecated, Tentative bool
	Dynamic                          bool // has a lifetime
}

// Links is what this host has, and which way its routes go.
type Links struct {
	Ifaces   []Iface
	Default4 string // interface of the default route; empty if there is none
	Default6 string
	Reach    string     // interface of the route to the address asked for
	ReachSrc netip.Addr // and the address packets there start with
}

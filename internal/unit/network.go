package unit

import (
	"slices"
	"strconv"
	"strings"
)

// Network is what a unit's [X-Fleet] section asks of the network. The zero value is a unit in its host's network.
type Network struct {
	Overlay bool   // it has a network namespace and an address of its own
	Publish []Port // ports of the host that lead to ports of the unit, in the order of the file
}

// Port is one published port.
type Port struct {
	Host, Inside uint16 // never 0
	Protocol     string // tcp, udp or sctp
}

// String is the form that ParsePort reads, with the protocol always there.
func (p Port) String() string {
	return strconv.Itoa(int(p.Host)) + ":" + strconv.Itoa(int(p.Inside)) + "/" + p.Protocol
}

// ParsePort reads 8080:80, or 53:53/udp.
func ParsePort(s string) (Port, error) {
	p, err := parsePort(s)
	if err != nil {
		return p, err
	}
	return p, nil // not err: a nil *ParseError is no nil error
}

func parsePort(s string) (Port, *ParseError) {
	ports, protocol, given := strings.Cut(s, "/")
	if !given {
		protocol = "tcp"
	}
	host, inside, two := strings.Cut(ports, ":")
	h, hostErr := strconv.ParseUint(host, 10, 16)
	i, insideErr := strconv.ParseUint(inside, 10, 16)
	if !two || hostErr != nil || insideErr != nil || h == 0 || i == 0 || !slices.Contains([]string{"tcp", "udp", "sctp"}, protocol) {
		return Port{}, fault(0, "Publish "+quote(s)+" is no published port",
			"write the host's port, then the unit's, such as Publish=8080:80 or Publish=53:53/udp")
	}
	return Port{Host: uint16(h), Inside: uint16(i), Protocol: protocol}, nil
}

// mostNetworkName is the longest name of a unit with an address: fleet-netns@NAME.service must be a unit's name too, which systemd
// allows 255 bytes.
const mostNetworkName = 255 - len("fleet-netns@.service")

// Network reads what the file's [X-Fleet] section asks of the network, for a unit of that name; specifiers are expanded as for
// Needs:
//
//   - Network: overlay, or host (what it is without); the last value counts;
//   - Publish: ports as ParsePort reads them, several a value with space between. Only with Network=overlay.
//
// Values that are neither are a *ParseError, as are a port that is published twice and a unit that can have no network
// namespace.
func (f *File) Network(name Name) (Network, error) {
	var n Network
	if name.IsTemplate() {
		// What an instance asks must be a port; what the template says, such as 80%i:80, need not.
		name = Name(name.Prefix() + "@0." + name.Type())
	}
	line := 0 // of the last option that asks for the overlay, or for a port
	for _, o := range f.Options {
		if o.Section != FleetSection || o.Name != "Network" && o.Name != "Publish" {
			continue
		}
		line = o.Line
		values, err := split(joined(o.Value))
		for _, v := range values {
			if err == nil {
				err = n.option(o.Name, expander(name).Replace(v))
			}
		}
		if err != nil {
			return Network{}, at(o.Line, err)
		}
	}
	switch {
	case !n.Overlay && len(n.Publish) > 0:
		return Network{}, fault(line, "Publish without Network=overlay", "a unit in its host's network listens on the host's ports itself: delete Publish, or write Network=overlay")
	case n.Overlay && name.Type() != "service":
		return Network{}, fault(line, "Network=overlay in a "+name.Type()+" unit", "only a service can have an address of its own")
	case n.Overlay && len(name) > mostNetworkName:
		return Network{}, fault(line, "the name of a unit with Network=overlay is longer than "+strconv.Itoa(mostNetworkName)+" bytes", "choose a shorter one")
	}
	return n, nil
}

func (n *Network) option(key, value string) *ParseError {
	if key == "Network" {
		switch value {
		case "overlay", "host", "":
			n.Overlay = value == "overlay"
			return nil
		}
		return fault(0, "Network "+quote(value)+" is neither overlay nor host", "write Network=overlay for an address of the unit's own")
	}
	for _, w := range strings.Fields(value) {
		p, err := parsePort(w)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(n.Publish, func(q Port) bool { return p.Host == q.Host && p.Protocol == q.Protocol }) {
			return fault(0, "Publish "+quote(w)+": the host's port is published twice", "delete one of the two")
		}
		n.Publish = append(n.Publish, p)
	}
	return nil
}

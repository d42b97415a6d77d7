package link

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/fleet-init/fleet/internal/network"
)

// rtnl is a route netlink socket for the many: routes, neighbours and forwarding entries, hundreds to a send. It is bound to
// the network namespace of the thread that opened it.
type rtnl struct {
	fd  int
	id  uint32 // the kernel's name for the socket; changes it made bear it
	seq uint32
	buf []byte // for answers
}

// batch is how many messages go into one send. Errors come back one packet each, and all of a batch must fit the socket's
// receive buffer.
const batch = 256

// protocol marks our routes in the kernel's tables. It is not in use by any routing daemon of /etc/iproute2/rt_protos.
const protocol = 158

// openRTNL opens the socket. It needs no privilege to read; changes need CAP_NET_ADMIN when they are made.
func openRTNL() (*rtnl, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	// Each is a comfort and may be missing: a larger buffer, the kernel's own words for an error, no echo of what we sent,
	// and dumps that the kernel filters.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
	for _, opt := range []int{unix.NETLINK_EXT_ACK, unix.NETLINK_CAP_ACK, unix.NETLINK_GET_STRICT_CHK} {
		_ = unix.SetsockoptInt(fd, unix.SOL_NETLINK, opt, 1)
	}
	// A kernel that does not answer must not hang the daemon for ever.
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 10})
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("bind netlink socket: %w", err)
	}
	r := &rtnl{fd: fd, buf: make([]byte, 256<<10)}
	if sa, err := unix.Getsockname(fd); err == nil {
		if nl, ok := sa.(*unix.SockaddrNetlink); ok {
			r.id = nl.Pid
		}
	}
	return r, nil
}

// close ends it. The kernel keeps what was made.
func (r *rtnl) close() { unix.Close(r.fd) }

// msg is a netlink message being written, in the machine's byte order as netlink has it.
type msg []byte

// newMsg begins a message with its header; length and sequence number are filled in when it is sent.
func newMsg(typ uint16, flags uint16) msg {
	m := make(msg, unix.SizeofNlMsghdr, 96)
	binary.NativeEndian.PutUint16(m[4:], typ)
	binary.NativeEndian.PutUint16(m[6:], flags|unix.NLM_F_REQUEST)
	return m
}

// attr adds an attribute, padded to four bytes as netlink wants each.
func (m *msg) attr(typ uint16, val []byte) {
	n := unix.SizeofRtAttr + len(val)
	*m = binary.NativeEndian.AppendUint16(*m, uint16(n))
	*m = binary.NativeEndian.AppendUint16(*m, typ)
	*m = append(*m, val...)
	for len(*m)%4 != 0 {
		*m = append(*m, 0)
	}
}

// attr32 adds a number.
func (m *msg) attr32(typ uint16, v int) {
	m.attr(typ, binary.NativeEndian.AppendUint32(nil, uint32(v)))
}

// family is the address family in the kernel's numbers.
func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// routeMsg writes a route to put or to delete.
func routeMsg(r network.Route, ifindex int, del bool) msg {
	m := newMsg(unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	if del {
		m = newMsg(unix.RTM_DELROUTE, 0)
	}
	scope, typ, flags := byte(unix.RT_SCOPE_UNIVERSE), byte(unix.RTN_UNICAST), uint32(0)
	if !r.Via.IsValid() && !r.Blackhole && r.Dst.Addr().Is4() {
		scope = unix.RT_SCOPE_LINK
	}
	if r.Blackhole {
		typ = unix.RTN_BLACKHOLE
	}
	if del {
		scope = unix.RT_SCOPE_NOWHERE // any
	}
	if r.OnLink {
		flags = unix.RTNH_F_ONLINK
	}
	m = append(m, family(r.Dst.Addr()), byte(r.Dst.Bits()), 0, 0, unix.RT_TABLE_MAIN, protocol, scope, typ)
	if del {
		// A route we took over from a flanneld bears its number, and a deletion compares it: 0 matches any.
		m[unix.SizeofNlMsghdr+5] = 0
	}
	m = binary.NativeEndian.AppendUint32(m, flags)
	m.attr(unix.RTA_DST, r.Dst.Addr().AsSlice())
	if r.Via.IsValid() {
		m.attr(unix.RTA_GATEWAY, r.Via.AsSlice())
	}
	if !r.Blackhole {
		m.attr32(unix.RTA_OIF, ifindex)
	}
	if r.Metric != 0 {
		m.attr32(unix.RTA_PRIORITY, r.Metric)
	}
	return m
}

// neighHeader is what neighbour and forwarding entries begin with. Permanent: nobody asks on the wire who it is, and the kernel never throws it away for
// lack of space (those are not counted against gc_thresh).
func neighHeader(m msg, fam byte, ifindex int, flags byte) msg {
	m = append(m, fam, 0, 0, 0)
	m = binary.NativeEndian.AppendUint32(m, uint32(ifindex))
	m = binary.NativeEndian.AppendUint16(m, unix.NUD_PERMANENT)
	return append(m, flags, 0)
}

// neighMsg writes an ARP or neighbour entry to put or to delete.
func neighMsg(n network.Neigh, ifindex int, del bool) msg {
	m := newMsg(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	if del {
		m = newMsg(unix.RTM_DELNEIGH, 0)
	}
	m = neighHeader(m, family(n.IP), ifindex, 0)
	m.attr(unix.NDA_DST, n.IP.AsSlice())
	m.attr(unix.NDA_LLADDR, n.MAC[:])
	return m
}

// fdbMsg writes a forwarding entry of the device's own table (self), not of a bridge that it may be a port of.
func fdbMsg(f network.FDB, ifindex int, del bool) msg {
	m := newMsg(unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	if del {
		m = newMsg(unix.RTM_DELNEIGH, 0)
	}
	m = neighHeader(m, unix.AF_BRIDGE, ifindex, unix.NTF_SELF)
	m.attr(unix.NDA_LLADDR, f.MAC[:])
	m.attr(unix.NDA_DST, f.Dst.AsSlice())
	return m
}

// send has the kernel do all messages in order and gives an error for each that failed. Only the last of a batch is
// acknowledged; the kernel works a send off before it returns, and errors are always told.
func (r *rtnl) send(msgs []msg) ([]error, error) {
	errs := make([]error, len(msgs))
	for from := 0; from < len(msgs); from += batch {
		part := msgs[from:min(from+batch, len(msgs))]
		first := r.seq + 1
		var out []byte
		for i, m := range part {
			r.seq++
			binary.NativeEndian.PutUint32(m, uint32(len(m)))
			binary.NativeEndian.PutUint32(m[8:], r.seq)
			if i == len(part)-1 {
				binary.NativeEndian.PutUint16(m[6:], binary.NativeEndian.Uint16(m[6:])|unix.NLM_F_ACK)
			}
			out = append(out, m...)
		}
		if err := unix.Sendto(r.fd, out, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return errs, fmt.Errorf("send to netlink: %w", err)
		}
		for done := false; !done; {
			err := r.receive(func(typ uint16, seq uint32, body []byte, flags uint16) {
				if typ != unix.NLMSG_ERROR || seq < first || seq > r.seq {
					return // an answer to something given up earlier
				}
				errs[from+int(seq-first)] = nlError(body, flags)
				done = done || seq == r.seq
			})
			if err != nil {
				return errs, err
			}
		}
	}
	return errs, nil
}

// receive reads one packet of answers and calls f for each message in it.
func (r *rtnl) receive(f func(typ uint16, seq uint32, body []byte, flags uint16)) error {
	n, _, err := unix.Recvfrom(r.fd, r.buf, 0)
	if err == unix.EINTR {
		return nil
	}
	if err != nil {
		return fmt.Errorf("receive from netlink: %w", err)
	}
	for b := r.buf[:n]; len(b) >= unix.SizeofNlMsghdr; {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.SizeofNlMsghdr || size > len(b) {
			return fmt.Errorf("receive from netlink: cut message of %d bytes", size)
		}
		f(binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint32(b[8:]), b[unix.SizeofNlMsghdr:size], binary.NativeEndian.Uint16(b[6:]))
		b = b[min((size+3)&^3, len(b)):]
	}
	return nil
}

// nlError turns the body of an error message into an error, with the kernel's own words if it sent any.
func nlError(body []byte, flags uint16) error {
	if len(body) < 4 {
		return nil
	}
	no := -int32(binary.NativeEndian.Uint32(body))
	if no == 0 {
		return nil
	}
	err := unix.Errno(no)
	if flags&unix.NLM_F_ACK_TLVS != 0 && len(body) > 4+unix.SizeofNlMsghdr {
		for typ, val := range attrs(body[4+unix.SizeofNlMsghdr:]) {
			if typ == unix.NLMSGERR_ATTR_MSG && len(val) > 1 {
				return fmt.Errorf("%w: %s", err, val[:len(val)-1])
			}
		}
	}
	return err
}

// attrs walks the attributes in b.
func attrs(b []byte) func(yield func(uint16, []byte) bool) {
	return func(yield func(uint16, []byte) bool) {
		for len(b) >= unix.SizeofRtAttr {
			n := int(binary.NativeEndian.Uint16(b))
			if n < unix.SizeofRtAttr || n > len(b) {
				return
			}
			if !yield(binary.NativeEndian.Uint16(b[2:])&0x3fff, b[unix.SizeofRtAttr:n]) {
				return
			}
			b = b[min((n+3)&^3, len(b)):]
		}
	}
}

// dump asks for a table and calls f for each of its entries. A dump that a change interrupted is asked for again.
func (r *rtnl) dump(req func() msg, f func(body []byte)) error {
	var bodies [][]byte
	for try := 0; ; try++ {
		m := req()
		r.seq++
		want := r.seq
		binary.NativeEndian.PutUint32(m, uint32(len(m)))
		binary.NativeEndian.PutUint32(m[8:], want)
		if err := unix.Sendto(r.fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return fmt.Errorf("send to netlink: %w", err)
		}
		bodies = bodies[:0]
		done, torn := false, false
		var fail error
		for !done {
			err := r.receive(func(typ uint16, seq uint32, body []byte, flags uint16) {
				if seq != want {
					return
				}
				torn = torn || flags&unix.NLM_F_DUMP_INTR != 0
				switch typ {
				case unix.NLMSG_DONE:
					done = true
				case unix.NLMSG_ERROR:
					done, fail = true, nlError(body, flags)
				default:
					bodies = append(bodies, append([]byte(nil), body...))
				}
			})
			if err != nil {
				return err
			}
		}
		if fail != nil {
			return fail
		}
		if !torn || try == 4 {
			break
		}
	}
	for _, b := range bodies {
		f(b)
	}
	return nil
}

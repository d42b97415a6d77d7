package link

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	"golang.org/x/sys/unix"
)

// tcpOptionMSS is the number of the option in which each end of a stream names the largest segment it takes.
const tcpOptionMSS = 2

// chains are those of netd's table, by the first word of a rule, in the order of their names.
func chains(t *nftables.Table) []*nftables.Chain {
	chain := func(name string, typ nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) *nftables.Chain {
		return &nftables.Chain{Name: name, Table: t, Type: typ, Hooknum: hook, Priority: prio}
	}
	return []*nftables.Chain{
		chain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter),
		chain("output", nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityRaw),
		chain("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource),
		chain("prerouting", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw),
	}
}

// egress is the first word of rules for what leaves by one device, whose name is the second. They stand in a table of the family netdev, in
// a chain named as the device, which the kernel runs for no other packet and removes together with the device.
const egress = "egress"

// egressChains lists the chains of the netdev table that are there, by name.
func egressChains(c *nftables.Conn, name string) ([]*nftables.Chain, error) {
	all, err := again(func() ([]*nftables.Chain, error) { return c.ListChainsOfTableFamily(nftables.TableFamilyNetdev) })
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", err)
	}
	all = slices.DeleteFunc(all, func(ch *nftables.Chain) bool { return ch.Table.Name != name })
	slices.SortFunc(all, func(a, b *nftables.Chain) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}

// readRules gives the rules of the tables as the texts they were made from: each carries its text as its comment. No table: none.
func readRules(c *nftables.Conn, name string) ([]string, error) {
	t := &nftables.Table{Family: nftables.TableFamilyINet, Name: name}
	all, err := egressChains(c, name)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, ch := range append(all, chains(t)...) {
		rules, err := c.GetRules(ch.Table, ch)
		if errors.Is(err, unix.ENOENT) {
			continue // no such table, or somebody removed the chain
		}
		if err != nil {
			return nil, fmt.Errorf("list nftables table %s: %w", name, err)
		}
		for _, r := range rules {
			text, ok := userdata.GetString(r.UserData, userdata.TypeComment)
			if !ok {
				text = ch.Name + " (a rule of somebody else's)"
			}
			out = append(out, text)
		}
	}
	return out, nil
}

// writeRules makes the tables hold exactly these rules, in one transaction: packets see the old ones or the new ones. With
// none the tables go.
func writeRules(c *nftables.Conn, name string, rules []string) error {
	err := writeTables(c, name, rules, true)
	if errors.Is(err, unix.EOPNOTSUPP) {
		// Before Linux 5.16 no chain can be at a device's egress. Where packets are forwarded it costs all of them, but works the same.
		err = writeTables(c, name, rules, false)
	}
	if err != nil {
		return fmt.Errorf("write nftables table %s: %w", name, err)
	}
	return nil
}

// writeTables is writeRules for a kernel that has egress chains, or has none.
func writeTables(c *nftables.Conn, name string, rules []string, hasEgress bool) error {
	t := &nftables.Table{Family: nftables.TableFamilyINet, Name: name}
	dev := &nftables.Table{Family: nftables.TableFamilyNetdev, Name: name}
	// All is parsed before the first message is queued: what is queued waits for the next Flush, whoever calls it.
	var add []*nftables.Rule
	for _, r := range rules {
		ch, exprs, err := parseRule(t, dev, r, hasEgress)
		if err != nil {
			return err
		}
		add = append(add, &nftables.Rule{Table: ch.Table, Chain: ch, Exprs: exprs, UserData: userdata.AppendString(nil, userdata.TypeComment, r)})
	}
	for _, t := range []*nftables.Table{t, dev} {
		if t == dev && !hasEgress {
			break // it may have no such tables either
		}
		// Adding what may be there already is no error, deleting what is not would be one.
		c.AddTable(t)
		c.DelTable(t)
		if slices.ContainsFunc(add, func(r *nftables.Rule) bool { return r.Table == t }) {
			c.AddTable(t)
		}
	}
	chains := map[string]*nftables.Chain{}
	for _, r := range add {
		if chains[r.Chain.Name] == nil {
			chains[r.Chain.Name] = c.AddChain(r.Chain)
		}
		r.Chain = chains[r.Chain.Name]
		c.AddRule(r)
	}
	return c.Flush()
}

// parseRule turns a rule's text into what the kernel runs. The grammar is the part of nft's own that overlay uses:
//
//	CHAIN udp dport PORT notrack
//	egress DEVICE syn ip|ip6 maxseg SIZE
//	CHAIN ip|ip6 [mark MASK] {ip|ip6 saddr|daddr [!=] PREFIX} accept|return|masquerade [fully-random]
func parseRule(t, dev *nftables.Table, rule string, hasEgress bool) (*nftables.Chain, []expr.Any, error) {
	r := ruleReader{words: strings.Fields(rule)}
	first, all := r.next(), chains(t)
	if first == egress {
		name := r.next()
		ch := &nftables.Chain{Name: name, Table: dev, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookEgress,
			Priority: nftables.ChainPriorityFilter, Device: name}
		if r.netdev = hasEgress; !hasEgress {
			ch = all[0]
			var padded [unix.IFNAMSIZ]byte
			copy(padded[:], name)
			r.out = append(r.out, &expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}, equal(false, padded[:]))
		}
		first, all = ch.Name, []*nftables.Chain{ch}
	}
	where := len(r.out)
	for _, c := range all {
		if c.Name != first {
			continue
		}
		for len(r.words) > 0 && r.word() {
		}
		if len(r.out) > where && !r.bad {
			return c, r.out, nil
		}
	}
	return nil, nil, fmt.Errorf("rule %q: not of a form that netd knows", rule)
}

// ruleReader reads a rule word by word.
type ruleReader struct {
	words  []string
	family byte // of the packets, once a word told
	netdev bool // the chain is a device's: packets have an Ethernet type there, no family
	out    []expr.Any
	bad    bool
}

// next takes the next word; empty when there is none, which no rule's word is.
func (r *ruleReader) next() string {
	if len(r.words) == 0 {
		return ""
	}
	w := r.words[0]
	r.words = r.words[1:]
	return w
}

// takes reads the next word if it is this one.
func (r *ruleReader) takes(w string) bool {
	if len(r.words) == 0 || r.words[0] != w {
		return false
	}
	r.next()
	return true
}

// word reads one part of the rule; false ends the reading.
func (r *ruleReader) word() bool {
	switch w := r.next(); w {
	case "udp":
		ok := r.takes("dport")
		port, err := strconv.ParseUint(r.next(), 10, 16)
		r.bad = !ok || err != nil
		r.out = append(r.out, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, equal(false, []byte{unix.IPPROTO_UDP}),
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
			equal(false, binary.BigEndian.AppendUint16(nil, uint16(port))))
	case "syn":
		// tcp flags & (syn | rst) == syn: the first packet of a stream, and its answer.
		r.out = append(r.out, &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, equal(false, []byte{unix.IPPROTO_TCP}),
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{2 | 4}, Xor: []byte{0}}, equal(false, []byte{2}))
	case "maxseg":
		// tcp option maxseg size set N. The kernel only ever lowers it.
		size, err := strconv.ParseUint(r.next(), 10, 16)
		r.bad = err != nil
		r.out = append(r.out, &expr.Immediate{Register: 1, Data: binary.BigEndian.AppendUint16(nil, uint16(size))},
			&expr.Exthdr{SourceRegister: 1, Type: tcpOptionMSS, Offset: 2, Len: 2, Op: expr.ExthdrOpTcpopt})
	case "ip":
		r.ip(unix.NFPROTO_IPV4)
	case "ip6":
		r.ip(unix.NFPROTO_IPV6)
	case "mark":
		mask, err := strconv.ParseUint(r.next(), 0, 32)
		r.bad = err != nil
		m := binaryutil.NativeEndian.PutUint32(uint32(mask))
		r.out = append(r.out, &expr.Meta{Key: expr.MetaKeyMARK, Register: 1},
			&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: m, Xor: make([]byte, 4)}, equal(false, m))
	case "notrack":
		r.out = append(r.out, &expr.Notrack{})
	case "accept":
		r.out = append(r.out, &expr.Verdict{Kind: expr.VerdictAccept})
	case "return":
		r.out = append(r.out, &expr.Verdict{Kind: expr.VerdictReturn})
	case "masquerade":
		r.out = append(r.out, &expr.Masq{FullyRandom: r.takes("fully-random")})
	default:
		r.bad = true
	}
	return !r.bad
}

// ip reads what follows ip or ip6: an address to compare, or nothing, when only the family counts.
func (r *ruleReader) ip(family byte) {
	if r.family == 0 && r.netdev {
		r.out = append(r.out, &expr.Meta{Key: expr.MetaKeyPROTOCOL, Register: 1},
			equal(false, binary.BigEndian.AppendUint16(nil, map[byte]uint16{unix.NFPROTO_IPV4: unix.ETH_P_IP, unix.NFPROTO_IPV6: unix.ETH_P_IPV6}[family])))
	} else if r.family == 0 {
		r.out = append(r.out, &expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, equal(false, []byte{family}))
	}
	r.family = family
	src := r.takes("saddr")
	if !src && !r.takes("daddr") {
		return
	}
	not := r.takes("!=")
	p, err := netip.ParsePrefix(r.next())
	if err != nil || p.Addr().Is4() != (family == unix.NFPROTO_IPV4) {
		r.bad = true
		return
	}
	r.out = append(r.out, address(p, src, not)...)
}

// equal compares register 1 with data, for equality or its opposite.
func equal(not bool, data []byte) *expr.Cmp {
	op := expr.CmpOpEq
	if not {
		op = expr.CmpOpNeq
	}
	return &expr.Cmp{Op: op, Register: 1, Data: data}
}

// address compares the source or destination of the IP header with a prefix.
func address(p netip.Prefix, src, not bool) []expr.Any {
	offset, size := uint32(12), uint32(4)
	if p.Addr().Is6() {
		offset, size = 8, 16
	}
	if !src {
		offset += size
	}
	mask := make([]byte, size)
	for i := range p.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: mask, Xor: make([]byte, size)},
		equal(not, p.Masked().Addr().AsSlice()),
	}
}

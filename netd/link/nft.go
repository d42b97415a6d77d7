package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
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

// readRules gives the rules of the table as the texts they were made from: each carries its text as its comment. No table: none.
func readRules(c *nftables.Conn, name string) ([]string, error) {
	t := &nftables.Table{Family: nftables.TableFamilyINet, Name: name}
	var out []string
	for _, ch := range chains(t) {
		rules, err := c.GetRules(t, ch)
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

// writeRules makes the table hold exactly these rules, in one transaction: packets see the old ones or the new ones. With
// none the table goes.
func writeRules(c *nftables.Conn, name string, rules []string) error {
	t := &nftables.Table{Family: nftables.TableFamilyINet, Name: name}
	// Adding what may be there already is no error, deleting what is not would be one.
	c.AddTable(t)
	c.DelTable(t)
	if len(rules) > 0 {
		c.AddTable(t)
		byName := map[string]*nftables.Chain{}
		for _, r := range rules {
			ch, exprs, err := parseRule(t, r)
			if err != nil {
				return err
			}
			if byName[ch.Name] == nil {
				byName[ch.Name] = c.AddChain(ch)
			}
			c.AddRule(&nftables.Rule{Table: t, Chain: byName[ch.Name], Exprs: exprs, UserData: userdata.AppendString(nil, userdata.TypeComment, r)})
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("write nftables table %s: %w", name, err)
	}
	return nil
}

// parseRule turns a rule's text into what the kernel runs. The grammar is the part of nft's own that overlay uses:
//
//	CHAIN udp dport PORT notrack
//	CHAIN syn ip|ip6 daddr PREFIX maxseg SIZE
//	CHAIN ip|ip6 [mark MASK] {ip|ip6 saddr|daddr [!=] PREFIX} accept|return|masquerade [fully-random]
func parseRule(t *nftables.Table, rule string) (*nftables.Chain, []expr.Any, error) {
	r := ruleReader{words: strings.Fields(rule)}
	first := r.next()
	for _, c := range chains(t) {
		if c.Name != first {
			continue
		}
		for len(r.words) > 0 && r.word() {
		}
		if len(r.out) > 0 && !r.bad {
			return c, r.out, nil
		}
	}
	return nil, nil, fmt.Errorf("rule %q: not of a form that netd knows", rule)
}

// ruleReader reads a rule word by word.
type ruleReader struct {
	words  []string
	family byte // of the packets, once a word told
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
	if r.family == 0 {
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

package disk

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf16"
)

// entry is one file or directory as a directory lists it.
type entry struct {
	name, short string
	dir         bool
	first       uint32
	size        int64
	at          []int64 // byte offsets of its 32-byte records on the device: the long name's, then the short one
	raw         [dirent]byte
}

// record is one 32-byte record of a directory and where it is.
type record struct {
	at int64
	b  [dirent]byte
}

// records reads all of a directory, also what lies behind its end mark.
func (f *FAT) records(first uint32) ([]record, error) {
	clusters, err := f.chain(first)
	if err != nil {
		return nil, err
	}
	var out []record
	buf := make([]byte, f.cluster)
	for _, c := range clusters {
		if _, err := f.dev.ReadAt(buf, f.offset(c)); err != nil {
			return nil, fmt.Errorf("read directory: %w", err)
		}
		for i := int64(0); i < f.cluster; i += dirent {
			out = append(out, record{f.offset(c) + i, [dirent]byte(buf[i:])})
		}
	}
	return out, nil
}

// list gives the entries of a directory. Parts of long names that belong to no file are passed over, as every system does.
func (f *FAT) list(first uint32) ([]entry, error) {
	recs, err := f.records(first)
	if err != nil {
		return nil, err
	}
	var out []entry
	var long []record
	for _, r := range recs {
		switch {
		case r.b[0] == 0:
			return out, nil
		case r.b[0] == gone:
			long = nil
		case r.b[11]&0x3F == attrLong:
			if r.b[0]&0x40 != 0 {
				long = nil
			}
			long = append(long, r)
		case r.b[11]&attrVol != 0:
			long = nil
		default:
			out = append(out, newEntry(r, long))
			long = nil
		}
	}
	return out, nil
}

func newEntry(r record, long []record) entry {
	le := binary.LittleEndian
	e := entry{raw: r.b, dir: r.b[11]&attrDir != 0, size: int64(le.Uint32(r.b[28:])),
		first: uint32(le.Uint16(r.b[20:]))<<16 | uint32(le.Uint16(r.b[26:]))}
	if e.dir {
		e.size = 0
	}
	base, ext := strings.TrimRight(string(r.b[:8]), " "), strings.TrimRight(string(r.b[8:11]), " ")
	// Windows and mtools note lower case of a short name in two bits instead of writing a long one.
	if r.b[12]&0x08 != 0 {
		base = strings.ToLower(base)
	}
	if r.b[12]&0x10 != 0 {
		ext = strings.ToLower(ext)
	}
	if e.short = base; ext != "" {
		e.short += "." + ext
	}
	e.name = e.short
	if name, ok := longName(long, sum83(r.b[:11])); ok {
		e.name = name
		for _, l := range long {
			e.at = append(e.at, l.at)
		}
	}
	e.at = append(e.at, r.at)
	return e
}

// longName joins the parts, which stand last part first; ok only when they are all there and belong to the short name.
func longName(long []record, sum byte) (string, bool) {
	if len(long) == 0 || int(long[0].b[0]&0x3F) != len(long) {
		return "", false
	}
	var u []uint16
	for i := len(long) - 1; i >= 0; i-- {
		b := long[i].b
		if int(b[0]&0x3F) != len(long)-i || b[13] != sum {
			return "", false
		}
		for _, at := range longAt() {
			u = append(u, binary.LittleEndian.Uint16(b[at:]))
		}
	}
	for i, c := range u {
		if c == 0 {
			u = u[:i]
			break
		}
	}
	return string(utf16.Decode(u)), true
}

// longAt gives where the thirteen characters stand in a record of a long name.
func longAt() [13]int { return [13]int{1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30} }

// sum83 ties a long name to its short one.
func sum83(b []byte) byte {
	var s byte
	for _, c := range b {
		s = s>>1 | s<<7
		s += c
	}
	return s
}

// names makes the records of a name: those of the long name and the short one, which carries what raw says else.
func names(name string, raw [dirent]byte, taken []entry) ([][dirent]byte, error) {
	if name == "" || len(name) > 100 || strings.ContainsAny(name, `"*/:<>?\|`) || strings.TrimRight(name, ". ") != name {
		return nil, fmt.Errorf("name %q: FAT cannot hold it", name)
	}
	short := alias(name, taken)
	copy(raw[:11], short[:])
	raw[12] = 0
	u := utf16.Encode([]rune(name))
	n := (len(u) + 12) / 13
	var out [][dirent]byte
	for part := n; part >= 1; part-- {
		var b [dirent]byte
		b[0], b[11], b[13] = byte(part), attrLong, sum83(short[:])
		if part == n {
			b[0] |= 0x40
		}
		for k, at := range longAt() {
			i := (part-1)*13 + k
			c := uint16(0xFFFF)
			if i < len(u) {
				c = u[i]
			} else if i == len(u) {
				c = 0
			}
			binary.LittleEndian.PutUint16(b[at:], c)
		}
		out = append(out, b)
	}
	return append(out, raw), nil
}

// alias makes a short name that no other entry of the directory has.
func alias(name string, taken []entry) [11]byte {
	clean := func(s string, n int) string {
		s = strings.Map(func(r rune) rune {
			switch {
			case r >= 'a' && r <= 'z':
				return r - 'a' + 'A'
			case r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_':
				return r
			case r == '.' || r == ' ':
				return -1
			}
			return '_'
		}, s)
		return s[:min(n, len(s))]
	}
	base, ext := name, ""
	if i := strings.LastIndex(name, "."); i > 0 {
		base, ext = name[:i], clean(name[i+1:], 3)
	}
	for n := 1; ; n++ {
		tail := fmt.Sprintf("~%d", n)
		var out [11]byte
		copy(out[:], fmt.Sprintf("%-8s%-3s", clean(base, 8-len(tail))+tail, ext))
		used := false
		for _, e := range taken {
			used = used || string(e.raw[:11]) == string(out[:])
		}
		if !used {
			return out
		}
	}
}

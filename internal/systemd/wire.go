package systemd

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"net"
)

// systemd sends about fifteen signals per started unit, each with twenty properties and more. Decoding them all cost three
// times the CPU of everything else here. Only which unit changed is of interest (its state is read for many units in one
// call), and that is the object path in the message's header. So wire stands between the socket and godbus, notes the
// path of such signals and drops them.

// maxMessage is D-Bus's limit on one message.
const maxMessage = 128 << 20

const typeSignal = 4

// header field codes of the D-Bus wire format
const (
	fieldPath      = 1
	fieldInterface = 2
	fieldMember    = 3
)

// wire is a connection that keeps signals of changed units to itself.
type wire struct {
	net.Conn
	in      *bufio.Reader
	binary  bool   // the text of the authentication is over; set by Write before the peer's first message can come
	msg     []byte // the message read last, reused
	rest    []byte // its part that was not handed out yet
	changed func(path string)
}

func newWire(c net.Conn, changed func(path string)) *wire {
	return &wire{Conn: c, in: bufio.NewReaderSize(c, 64<<10), changed: changed}
}

// Write notes the end of the authentication, which the client declares.
func (w *wire) Write(p []byte) (int, error) {
	if bytes.Equal(p, []byte("BEGIN\r\n")) {
		w.binary = true
	}
	return w.Conn.Write(p)
}

// Read hands out whole messages that are not swallowed.
func (w *wire) Read(p []byte) (int, error) {
	if !w.binary {
		return w.in.Read(p)
	}
	for len(w.rest) == 0 {
		if err := w.next(); err != nil {
			return 0, err
		}
		if path, ok := changedUnit(w.msg); ok {
			w.changed(path)
			continue
		}
		w.rest = w.msg
	}
	n := copy(p, w.rest)
	w.rest = w.rest[n:]
	return n, nil
}

// next reads one message into w.msg.
func (w *wire) next() error {
	head, err := w.in.Peek(16)
	if err != nil {
		return err
	}
	order := byteOrder(head[0])
	// in 64 bits, so that no sum of hostile lengths wraps around
	size := 16 + (uint64(order.Uint32(head[12:]))+7)&^7 + uint64(order.Uint32(head[4:]))
	if size > maxMessage {
		return io.ErrUnexpectedEOF
	}
	if uint64(cap(w.msg)) < size {
		w.msg = make([]byte, size)
	}
	w.msg = w.msg[:size]
	_, err = io.ReadFull(w.in, w.msg)
	return err
}

func byteOrder(mark byte) binary.ByteOrder {
	if mark == 'B' {
		return binary.BigEndian
	}
	return binary.LittleEndian
}

// changedUnit returns the object path of a PropertiesChanged signal. ok is also true, with an empty path, for signals that
// nobody here wants: UnitNew, UnitRemoved, JobNew and UnitFilesChanged.
func changedUnit(msg []byte) (path string, ok bool) {
	if msg[1] != typeSignal {
		return "", false
	}
	var iface, member []byte
	fields := fieldReader{order: byteOrder(msg[0]), b: msg, at: 16, end: 16 + int(byteOrder(msg[0]).Uint32(msg[12:]))}
	for {
		code, value, more := fields.next()
		if !more {
			break
		}
		switch code {
		case fieldPath:
			path = string(value)
		case fieldInterface:
			iface = value
		case fieldMember:
			member = value
		}
	}
	switch string(member) {
	case "PropertiesChanged":
		return path, string(iface) == "org.freedesktop.DBus.Properties"
	case "UnitNew", "UnitRemoved", "JobNew", "UnitFilesChanged":
		return "", string(iface) == managerIface
	}
	return "", false
}

// fieldReader walks over the array of header fields: structs of a code and a variant, aligned to eight bytes. It knows the types
// that D-Bus uses there: o, s, g and u. Anything else ends the walk, and the message is passed on.
type fieldReader struct {
	order   binary.ByteOrder
	b       []byte
	at, end int
}

func (r *fieldReader) next() (code byte, value []byte, ok bool) {
	r.at = (r.at + 7) &^ 7
	// code, signature "x" with its length and NUL, then at least four bytes
	if r.end > len(r.b) || r.at+8 > r.end || r.b[r.at+1] != 1 {
		return 0, nil, false
	}
	code, sig := r.b[r.at], r.b[r.at+2]
	r.at += 4
	switch sig {
	case 'u':
		value, r.at = r.b[r.at:r.at+4], r.at+4
		return code, value, true
	case 'g':
		return r.take(code, int(r.b[r.at]), 1)
	case 'o', 's':
		return r.take(code, int(r.order.Uint32(r.b[r.at:])), 4)
	}
	return 0, nil, false
}

// take reads n bytes after a length of size bytes, and the NUL behind them.
func (r *fieldReader) take(code byte, n, size int) (byte, []byte, bool) {
	start := r.at + size
	if n < 0 || n > r.end-start-1 {
		return 0, nil, false
	}
	r.at = start + n + 1
	return code, r.b[start : start+n], true
}

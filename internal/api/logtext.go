package api

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/fleet-init/fleet/internal/fleet"
)

// A LogPrinter turns one entry into the bytes of journalctl's output mode of that name, with their last newline.
type LogPrinter func(e fleet.LogEntry) []byte

// LogModes are the output modes there are, journalctl's.
func LogModes() []string {
	return []string{"short", "short-full", "short-iso", "short-iso-precise", "short-precise", "short-monotonic", "short-unix", "with-unit",
		"cat", "json", "json-pretty", "json-sse", "json-seq", "verbose", "export"}
}

// NewLogPrinter returns the printer of a mode; times are shown in zone. An unknown mode is fleet.ErrInvalid.
func NewLogPrinter(mode string, zone *time.Location) (LogPrinter, error) {
	stamp := map[string]func(f fields, t time.Time) string{
		"short":             layout("Jan 02 15:04:05"),
		"short-full":        layout("Mon 2006-01-02 15:04:05 MST"),
		"short-iso":         layout("2006-01-02T15:04:05-0700"),
		"short-iso-precise": layout("2006-01-02T15:04:05.000000-0700"),
		"short-precise":     layout("Jan 02 15:04:05.000000"),
		"with-unit":         layout("Mon 2006-01-02 15:04:05 MST"),
		"short-unix":        func(_ fields, t time.Time) string { return micros(t.UnixMicro(), "%d.%06d") },
		"short-monotonic": func(f fields, _ time.Time) string {
			n, _ := strconv.ParseInt(f.text("__MONOTONIC_TIMESTAMP"), 10, 64) // an entry without shows 0, as in journalctl
			return "[" + micros(n, "%5d.%06d") + "]"
		},
	}[mode]
	if stamp != nil {
		return func(e fleet.LogEntry) []byte { return short(e, stamp, zone, mode == "with-unit") }, nil
	}
	switch mode {
	case "cat":
		return func(e fleet.LogEntry) []byte { return append(parse(e).bytes("MESSAGE"), '\n') }, nil
	case "json":
		return func(e fleet.LogEntry) []byte { return append(slices.Clone(e.JSON), '\n') }, nil
	case "json-sse":
		return func(e fleet.LogEntry) []byte { return fmt.Appendf(nil, "data: %s\n\n", e.JSON) }, nil
	case "json-seq":
		return func(e fleet.LogEntry) []byte { return fmt.Appendf(nil, "\x1e%s\n", e.JSON) }, nil
	case "json-pretty":
		return func(e fleet.LogEntry) []byte {
			var b bytes.Buffer
			_ = json.Indent(&b, e.JSON, "", "\t") // it was JSON when it was read
			return append(b.Bytes(), '\n')
		}, nil
	case "verbose":
		return func(e fleet.LogEntry) []byte { return verbose(e, zone) }, nil
	case "export":
		return export, nil
	}
	return nil, &fleet.InvalidError{What: fmt.Sprintf("output mode %q", mode), Hint: "use one of " + strings.Join(LogModes(), ", ")}
}

func layout(l string) func(fields, time.Time) string {
	return func(_ fields, t time.Time) string { return t.Format(l) }
}

func micros(n int64, format string) string { return fmt.Sprintf(format, n/1e6, n%1e6) }

// short is journalctl's usual line: when, where, who[pid]: what.
func short(e fleet.LogEntry, stamp func(fields, time.Time) string, zone *time.Location, unit bool) []byte {
	f := parse(e)
	who := f.first("SYSLOG_IDENTIFIER", "_COMM")
	if unit {
		who = f.first("_SYSTEMD_UNIT", "UNIT", "SYSLOG_IDENTIFIER", "_COMM")
	}
	if who == "" {
		who = "unknown"
	}
	if pid := f.first("_PID", "SYSLOG_PID"); pid != "" {
		who += "[" + pid + "]"
	}
	head := stamp(f, f.when(e).In(zone)) + " "
	if host := f.text("_HOSTNAME"); host != "" {
		head += host + " "
	}
	head += who + ": "
	message := plain(f.bytes("MESSAGE"))
	if !printable(message) {
		return fmt.Appendf(nil, "%s[%s blob data]\n", head, Size(uint64(len(message))))
	}
	// The lines after the first stand under it.
	indent := "\n" + strings.Repeat(" ", utf8.RuneCountInString(head))
	return []byte(head + strings.ReplaceAll(string(message), "\n", indent) + "\n")
}

func verbose(e fleet.LogEntry, zone *time.Location) []byte {
	f := parse(e)
	out := fmt.Appendf(nil, "%s [%s]\n", f.when(e).In(zone).Format("Mon 2006-01-02 15:04:05.000000 MST"), e.Cursor)
	for _, name := range slices.Sorted(maps.Keys(f)) {
		if strings.HasPrefix(name, "__") {
			continue
		}
		for _, value := range f.all(name) {
			if printable(value) {
				out = fmt.Appendf(out, "    %s=%s\n", name, value)
			} else {
				out = fmt.Appendf(out, "    %s=[%s blob data]\n", name, Size(uint64(len(value))))
			}
		}
	}
	return out
}

// export is the format that systemd-journal-remote reads: binary values after their length.
func export(e fleet.LogEntry) []byte {
	f := parse(e)
	var out []byte
	for _, name := range slices.Sorted(maps.Keys(f)) {
		for _, value := range f.all(name) {
			if printable(value) && !bytes.ContainsRune(value, '\n') {
				out = fmt.Appendf(out, "%s=%s\n", name, value)
				continue
			}
			out = append(out, name+"\n"...)
			out = binary.LittleEndian.AppendUint64(out, uint64(len(value)))
			out = append(append(out, value...), '\n')
		}
	}
	return append(out, '\n')
}

// fields are an entry's fields as journalctl writes them in JSON: a text; numbers, one per byte, for what is no UTF-8; a list of those
// for a field that is there more than once; null for one that was too long.
type fields map[string]json.RawMessage

func parse(e fleet.LogEntry) fields {
	f := fields{}
	_ = json.Unmarshal(e.JSON, &f) // it was JSON when it was read
	return f
}

func (f fields) all(name string) [][]byte {
	raw, there := f[name]
	if !there {
		return nil
	}
	var list []json.RawMessage
	if v, ok := value(raw); ok {
		return [][]byte{v}
	}
	if json.Unmarshal(raw, &list) != nil {
		return nil
	}
	var out [][]byte
	for _, raw := range list {
		if v, ok := value(raw); ok {
			out = append(out, v)
		}
	}
	return out
}

func value(raw json.RawMessage) ([]byte, bool) {
	var s *string
	if json.Unmarshal(raw, &s) == nil && s != nil {
		return []byte(*s), true
	}
	var numbers []int
	if json.Unmarshal(raw, &numbers) != nil || numbers == nil {
		return nil, false
	}
	b := make([]byte, len(numbers))
	for i, n := range numbers {
		b[i] = byte(n)
	}
	return b, true
}

func (f fields) bytes(name string) []byte {
	if all := f.all(name); len(all) > 0 {
		return all[0]
	}
	return nil
}

func (f fields) text(name string) string { return string(f.bytes(name)) }

func (f fields) first(names ...string) string {
	for _, name := range names {
		if s := f.text(name); s != "" {
			return s
		}
	}
	return ""
}

// when is the time the sender gave, which journalctl shows too; the journal's own is some microseconds later.
func (f fields) when(e fleet.LogEntry) time.Time {
	if n, err := strconv.ParseInt(f.text("_SOURCE_REALTIME_TIMESTAMP"), 10, 64); err == nil {
		return time.UnixMicro(n)
	}
	return e.At
}

// plain drops colours, as journalctl does, and carriage returns before newlines: ESC [ parameters letter.
func plain(b []byte) []byte {
	b = bytes.TrimRight(bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n")), "\r\n")
	var out []byte
	for {
		i := bytes.Index(b, []byte("\x1b["))
		if i < 0 {
			return append(out, b...)
		}
		n := bytes.IndexFunc(b[i+2:], func(r rune) bool { return r >= '@' && r <= '~' })
		if n < 0 {
			return append(out, b...)
		}
		out, b = append(out, b[:i]...), b[i+2+n+1:]
	}
}

// printable is what may go to a terminal: UTF-8 without control characters but newline and tab. A unit's output must not steer the
// terminal of who reads it.
func printable(b []byte) bool {
	if !utf8.Valid(b) {
		return false
	}
	for _, r := range string(b) {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return false
		}
	}
	return true
}

// Size writes a number of bytes as systemd does: 6B, 1.5K.
func Size(n uint64) string {
	if n < 1024 {
		return strconv.FormatUint(n, 10) + "B"
	}
	f, suffix := float64(n)/1024, "KMGTPE"
	for f >= 1024 {
		f, suffix = f/1024, suffix[1:]
	}
	return strconv.FormatFloat(f, 'f', 1, 64) + suffix[:1]
}

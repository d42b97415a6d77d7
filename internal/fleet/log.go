package fleet

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/unit"
)

// LogQuery asks one machine for what its journal holds of some units. All of it can be checked: see Check.
type LogQuery struct {
	Units    []unit.Name
	Lines    int       // the last so many entries; AllLines
	Since    time.Time // zero: from the beginning
	Priority string    // from ParsePriority; empty: all
	After    string    // cursor of the last entry that is known already; empty: none
	Follow   bool      // then go on with what comes, until the reader goes
	Whole    bool      // with all fields of each entry, else those that one needs to print it
}

// AllLines asks for entries without counting them.
const AllLines = -1

// Check refuses what must not reach another program's arguments. The error is ErrInvalid.
func (q LogQuery) Check() error {
	if len(q.Units) == 0 {
		return &InvalidError{What: "question for logs", Hint: "name at least one unit"}
	}
	for _, n := range q.Units {
		if _, err := unit.ParseName(string(n)); err != nil {
			return err
		}
	}
	switch {
	case q.Lines < AllLines:
		return &InvalidError{What: "number of lines " + strconv.Itoa(q.Lines)}
	case q.Priority != "" && !regexp.MustCompile(`^[0-7]\.\.[0-7]$`).MatchString(q.Priority):
		return &InvalidError{What: "priority " + quote(q.Priority), Hint: "use a range of digits such as 0..3"}
	case q.After != "" && !regexp.MustCompile(`^[a-z]=[0-9a-f]+(;[a-z]=[0-9a-f]+){0,9}$`).MatchString(q.After):
		return &InvalidError{What: "cursor " + quote(q.After), Hint: "use the __CURSOR of an entry of that machine"}
	}
	return nil
}

// priorities are syslog's words for its numbers, the gravest first.
func priorities() []string {
	return []string{"emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"}
}

// ParsePriority reads what journalctl takes: a word or digit (that and graver), or a range FROM..TO. It returns a range of digits.
func ParsePriority(s string) (string, error) {
	level := func(word string) (int, bool) {
		for i, name := range priorities() {
			if word == name || word == strconv.Itoa(i) {
				return i, true
			}
		}
		return 0, false
	}
	from, to, isRange := strings.Cut(s, "..")
	if !isRange {
		from, to = "0", s
	}
	a, okA := level(from)
	b, okB := level(to)
	if !okA || !okB {
		return "", &InvalidError{What: "priority " + quote(s), Hint: "use one of " + strings.Join(priorities(), ", ") + ", a digit from 0 to 7, or a range such as err..info"}
	}
	return fmt.Sprintf("%d..%d", min(a, b), max(a, b)), nil
}

// LogEntry is one entry of a machine's journal.
type LogEntry struct {
	At     time.Time // when the journal took it
	Cursor string    // its place in that machine's journal
	JSON   []byte    // the whole entry as "journalctl -o json" prints it, without a newline
}

// ParseLogEntry reads one line of "journalctl -o json". It keeps the line.
func ParseLogEntry(line []byte) (LogEntry, error) {
	var head struct {
		Time   string `json:"__REALTIME_TIMESTAMP"`
		Cursor string `json:"__CURSOR"`
	}
	if err := json.Unmarshal(line, &head); err != nil {
		return LogEntry{}, fmt.Errorf("read a journal entry: %w", err)
	}
	micros, err := strconv.ParseInt(head.Time, 10, 64)
	if err != nil {
		return LogEntry{}, errors.New("read a journal entry: it has no __REALTIME_TIMESTAMP")
	}
	return LogEntry{At: time.UnixMicro(micros), Cursor: head.Cursor, JSON: line}, nil
}

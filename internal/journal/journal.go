// Package journal reads this host's systemd journal through journalctl. It decides nothing: fleetd gives it checked
// questions, from its own API and from other hosts. docs/decisions/0011-logs.md says why a process and not a library.
package journal

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/fleet-init/fleet/internal/fleet"
)

// maxEntry is the longest entry that is passed on. journald itself cuts lines of services at 48 KiB; only programs that speak
// its own protocol write longer ones.
const maxEntry = 1 << 20

// Journal is this host's journal.
type Journal struct {
	command string
	machine fleet.MachineID
	option  string // journalctl's for a unit
}

// New reads the journal of this host, whose ID is machine. command is "journalctl", but for tests.
func New(command string, machine fleet.MachineID) *Journal {
	return &Journal{command, machine, "--unit="}
}

// NewUser reads the entries of units in the systemd of the user who calls it.
func NewUser(command string, machine fleet.MachineID) *Journal {
	return &Journal{command, machine, "--user-unit="}
}

// printed are the fields that one needs to print an entry. Time and cursor come with every entry.
const printed = "MESSAGE,PRIORITY,SYSLOG_IDENTIFIER,SYSLOG_PID,_PID,_COMM,_HOSTNAME,_MACHINE_ID,_SYSTEMD_UNIT,UNIT,_SOURCE_REALTIME_TIMESTAMP"

// Read calls each with every entry, oldest first, in the goroutine of its caller: until there are no more, with q.Follow until ctx
// ends. An error of each ends it and is returned.
func (j *Journal) Read(ctx context.Context, q fleet.LogQuery, each func(fleet.LogEntry) error) error {
	if err := q.Check(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// The arguments hold nothing that Check has not seen, each in one word with its option: no text can become an option.
	cmd := exec.CommandContext(ctx, j.command, j.args(q)...)
	cmd.Env = []string{"LC_ALL=C", "TZ=UTC", "SYSTEMD_COLORS=0"}
	cmd.WaitDelay = time.Second // for who holds its pipe open after it was killed
	var stderr tail
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("read the journal: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("read the journal: %w", err)
	}
	read := entries(out, each)
	if read != nil {
		cancel() // nobody wants the rest
	}
	err = cmd.Wait()
	text := strings.TrimSpace(stderr.String())
	switch {
	case read != nil:
		return read
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil && text != "":
		return fmt.Errorf("read the journal: journalctl: %s", text)
	case err != nil:
		return fmt.Errorf("read the journal: journalctl: %w", err)
	}
	return nil
}

func (j *Journal) args(q fleet.LogQuery) []string {
	args := []string{"--output=json", "--quiet", "--no-pager", "--all"}
	for _, n := range q.Units {
		args = append(args, j.option+string(n))
	}
	if !q.Whole {
		args = append(args, "--output-fields="+printed)
	}
	if q.Lines >= 0 {
		args = append(args, "--lines="+strconv.Itoa(q.Lines))
	} else if q.Follow {
		args = append(args, "--no-tail") // else it begins ten entries before the end
	}
	if !q.Since.IsZero() {
		args = append(args, fmt.Sprintf("--since=@%d.%06d", q.Since.Unix(), q.Since.Nanosecond()/1000))
	}
	if q.Priority != "" {
		args = append(args, "--priority="+q.Priority)
	}
	if q.After != "" {
		args = append(args, "--after-cursor="+q.After)
	}
	if q.Follow {
		// Without --merge only entries of this boot are followed (252), which is wrong after --after-cursor= and --since=, and shows
		// nothing at all in a container, whose boot ID is hidden by ProtectKernelTunables=. --merge takes journals collected
		// from other hosts in, so those are ruled out.
		args = append(args, "_MACHINE_ID="+string(j.machine), "--merge", "--follow")
	}
	return args
}

// entries reads lines until their end. An entry that is too long, or none, is left out and told of as one of ours, in its place.
func entries(r io.Reader, each func(fleet.LogEntry) error) error {
	in := bufio.NewReaderSize(r, 64<<10)
	var last fleet.LogEntry
	for {
		line, long, err := readLine(in)
		if len(line) > 0 || long {
			e, perr := fleet.ParseLogEntry(line)
			switch {
			case long:
				e = leftOut(last, "an entry of more than 1 MiB")
			case perr != nil:
				e = leftOut(last, "an entry that cannot be read")
			}
			if err := each(e); err != nil {
				return err
			}
			last = e
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("read the journal: %w", err)
		}
	}
}

// readLine returns a line of its own memory, without the newline. long: it was longer than maxEntry and is not returned.
func readLine(in *bufio.Reader) (line []byte, long bool, err error) {
	for {
		part, err := in.ReadSlice('\n')
		if !long {
			line = append(line, part...)
		}
		if len(line) > maxEntry {
			line, long = nil, true
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return bytes.TrimSuffix(line, []byte("\n")), long, err
		}
	}
}

// leftOut stands for an entry that is not passed on. Its cursor is that of the one before, so that going on after it misses nothing.
func leftOut(last fleet.LogEntry, what string) fleet.LogEntry {
	cursor, _ := json.Marshal(last.Cursor) // a string always can be
	last.JSON = fmt.Appendf(nil, `{"__REALTIME_TIMESTAMP":"%d","__CURSOR":%s,"SYSLOG_IDENTIFIER":"fleetd","PRIORITY":"4","MESSAGE":"%s is left out here"}`,
		last.At.UnixMicro(), cursor, what)
	return last
}

// tail keeps the end of what a process says on its way out.
type tail struct{ b []byte }

const tailSize = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	t.b = t.b[max(0, len(t.b)-tailSize):]
	return len(p), nil
}

func (t *tail) String() string { return string(t.b) }

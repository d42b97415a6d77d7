package vm

import (
	"context"
	"encoding/base64"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
)

// console is what a VM's serial port has said.
type console struct {
	mu   sync.Mutex // all below
	text strings.Builder
	read int           // what Await has given out
	more chan struct{} // closed at the next text, and replaced
	err  error
}

// errNever is a text on the console that must not come before the one waited for.
type errNever struct{ text string }

func (e errNever) Error() string { return fmt.Sprintf("the console says %q", e.text) }

func newConsole() *console { return &console{more: make(chan struct{})} }

// Write implements io.Writer.
func (c *console) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.text.WriteString(strings.ReplaceAll(string(b), "\r", ""))
	close(c.more)
	c.more = make(chan struct{})
	return len(b), nil
}

func (c *console) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
	close(c.more)
	c.more = make(chan struct{})
}

func (c *console) all() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.String()
}

// await waits for a text; never is one that must not come before it, "" = none.
func (c *console) await(ctx context.Context, want, never string) (string, error) {
	for {
		c.mu.Lock()
		rest := c.text.String()[c.read:]
		more, err := c.more, c.err
		i := strings.Index(rest, want)
		if i >= 0 {
			c.read += i + len(want)
		}
		c.mu.Unlock()
		switch {
		case never != "" && strings.Contains(rest, never) && (i < 0 || strings.Index(rest, never) < i):
			return rest, errNever{never}
		case i >= 0:
			return rest[:i+len(want)], nil
		case err != nil:
			return rest, err
		}
		select {
		case <-more:
		case <-ctx.Done():
			return rest, fmt.Errorf("wait for %q on the console: %w", want, ctx.Err())
		}
	}
}

// job is a script as it goes through a terminal, which takes lines of at most 4096 bytes and may mix what the kernel and the journal say into what
// comes back: both ways it is in base64, between marks that come only once, and an answer that cannot be read is asked for again.
type job struct {
	lines      []string // run it
	answer     string   // print status and output of the last that ran
	begin, end string
}

var jobs atomic.Int64

func newJob(script string) job {
	n := jobs.Add(1)
	j := job{begin: fmt.Sprintf("<<%d ", n), end: fmt.Sprintf(" %d>>", n)}
	text := base64.StdEncoding.EncodeToString([]byte(script))
	j.lines = append(j.lines, ": >/run/vm.in\n")
	for len(text) > 0 {
		k := min(len(text), 1000)
		j.lines = append(j.lines, "printf %s "+text[:k]+" >>/run/vm.in\n")
		text = text[k:]
	}
	// The marks are put together by the shell: an echo of this line does not hold them.
	j.lines = append(j.lines, "base64 -d /run/vm.in >/run/vm.sh; sh /run/vm.sh >/run/vm.out 2>&1 </dev/null; echo $? >/run/vm.status\n")
	j.answer = fmt.Sprintf("printf '<''<%d %%d ' $(cat /run/vm.status); base64 -w0 /run/vm.out; printf ' %d>''>\\n'\n", n, n)
	return j
}

func (j job) parse(text string) (out string, status int, err error) {
	_, rest, ok := strings.Cut(text, j.begin)
	if !ok {
		return "", 0, fmt.Errorf("the answer %q has no beginning", text)
	}
	rest = strings.TrimSuffix(rest, j.end)
	code, b64, _ := strings.Cut(rest, " ")
	if _, err := fmt.Sscan(code, &status); err != nil {
		return "", 0, fmt.Errorf("status in the answer %q: %w", text, err)
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(b64))
	if err != nil {
		return "", 0, fmt.Errorf("answer %q: %w", text, err)
	}
	return string(raw), status, nil
}

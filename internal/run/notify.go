package run

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Notifier tells systemd how the daemon is doing (sd_notify). One made without NOTIFY_SOCKET says nothing to nobody.
type Notifier struct {
	socket   string
	watchdog time.Duration
}

// NewNotifier reads NOTIFY_SOCKET and, if they are meant for process pid, WATCHDOG_USEC and WATCHDOG_PID by getenv
// (os.Getenv).
func NewNotifier(getenv func(string) string, pid int) Notifier {
	n := Notifier{socket: getenv("NOTIFY_SOCKET")}
	// A child that inherited the variables is not the one that systemd watches.
	if p := getenv("WATCHDOG_PID"); p != "" && p != strconv.Itoa(pid) {
		return n
	}
	if usec, err := strconv.ParseInt(getenv("WATCHDOG_USEC"), 10, 64); err == nil && usec > 0 {
		n.watchdog = time.Duration(usec) * time.Microsecond
	}
	return n
}

// Ready says that the daemon serves (READY=1), after a start or a reload.
func (n Notifier) Ready() error { return n.send("READY=1") }

// Stopping says that it is on its way out.
func (n Notifier) Stopping() error { return n.send("STOPPING=1") }

// Status is the line that systemctl status shows.
func (n Notifier) Status(text string) error {
	return n.send("STATUS=" + strings.ReplaceAll(text, "\n", " "))
}

// Reloading says that the configuration is read anew; Ready must follow. systemd ignores it without the time (Type=notify-reload).
func (n Notifier) Reloading() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return fmt.Errorf("read the monotonic clock: %w", err)
	}
	return n.send(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/1000))
}

// Say sends lines that systemd reads, VARIABLE=value each: what the other methods have no words for.
func (n Notifier) Say(state string) error { return n.send(state) }

// Extend asks for more time to start or stop than the unit's time-out gives: that much from now on.
func (n Notifier) Extend(d time.Duration) error {
	return n.send(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", d.Microseconds()))
}

// Watchdog is a task: twice in each watchdog interval it asks healthy, and tells systemd if the answer is nil. If it is not,
// systemd sees the reason as status and ends the daemon when the interval is over. Without WatchdogSec= it just waits.
func (n Notifier) Watchdog(ctx context.Context, healthy func() error) error {
	if n.watchdog == 0 || n.socket == "" {
		<-ctx.Done()
		return nil
	}
	t := time.NewTicker(n.watchdog / 2)
	defer t.Stop()
	for {
		var err error
		if sick := healthy(); sick != nil {
			err = n.Status("not healthy: " + sick.Error())
		} else {
			err = n.send("WATCHDOG=1")
		}
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

func (n Notifier) send(state string) error {
	if n.socket == "" {
		return nil
	}
	// A leading @ is the abstract namespace; Go's unix addresses are written the same way.
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	defer c.Close()
	if _, err := c.Write([]byte(state)); err != nil {
		return fmt.Errorf("notify systemd: %w", err)
	}
	return nil
}

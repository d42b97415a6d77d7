package faults

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"
)

// A process of ours reads its clocks with several threads while they are put wrong and right again.
func TestClockOfOneProcess(t *testing.T) {
	if os.Getenv("FLEET_CLOCK_CHILD") != "" {
		tellTime()
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestClockOfOneProcess$")
	cmd.Env = append(os.Environ(), "FLEET_CLOCK_CHILD=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = in.Close() // its end
		_ = cmd.Wait()
	}()
	lines := bufio.NewScanner(out)
	fmt.Fprintln(in, "?")
	lines.Scan() // it runs
	for _, by := range []time.Duration{24 * time.Hour, -2 * time.Hour, 0} {
		if err := Clock(cmd.Process.Pid, by); errors.Is(err, errors.ErrUnsupported) {
			t.Log(err)
			return
		} else if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(in, "?")
		if !lines.Scan() {
			t.Fatal("it has ended")
		}
		var wall, counted int64
		if _, err := fmt.Sscan(lines.Text(), &wall, &counted); err != nil {
			t.Fatal(err)
		}
		// Rounded to half hours: how long an answer takes is nobody's promise.
		if got := time.Until(time.Unix(wall, 0)).Round(30 * time.Minute); got != by {
			t.Errorf("the clock is wrong by %v, want %v", got, by)
		}
		if got := time.Duration(Now() - Moment(counted)).Round(30 * time.Minute); got != 0 {
			t.Errorf("the clock that counts is wrong by %v", got)
		}
	}
}

// tellTime answers each line with its clocks, until there are no more.
func tellTime() {
	for range 4 {
		go func() {
			for text := []byte{1}; time.Now().Unix() > 0; { // reads it often, and does something beside it
				for range 100 {
					sum := sha256.Sum256(text)
					text = sum[:]
				}
			}
		}()
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		fmt.Println(time.Now().Unix(), int64(Now()))
	}
}

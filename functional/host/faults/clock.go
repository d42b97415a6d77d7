package faults

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/fleet-init/fleet/functional/host"
)

// Clock puts the wall clock of one process wrong by this much, from now on until it ends; the kernel's clock, which all hosts share, is not touched. Neither
// are clocks that count (monotonic, since boot). Zero sets it right.
//
// libfaketime replaces functions of libc, and a Go program calls none: it reads the time in code that the kernel maps into each process (the vDSO). That code is
// private to the process once it is written to. The new code asks the kernel, and adds.
func Clock(pid int, by time.Duration) error {
	if runtime.GOARCH != "amd64" {
		return fmt.Errorf("%w: put a process's clock wrong: the code for it is written for amd64, this is %s", errors.ErrUnsupported, runtime.GOARCH)
	}
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer mem.Close()
	begin, end, err := vdso(pid)
	if err != nil {
		return err
	}
	at, err := symbol(mem, begin, end, "__vdso_clock_gettime")
	if err != nil {
		return err
	}
	return stopped(pid, begin, end, func() error {
		_, err := mem.WriteAt(clockCode(by), at)
		if errors.Is(err, syscall.EIO) {
			err = fmt.Errorf("%w: this kernel lets nobody write to code through /proc: %w", errors.ErrUnsupported, err)
		}
		return err
	})
}

// clockCode is clock_gettime(clock in edi, result at rsi) that adds whole seconds to clock 0, the wall clock.
func clockCode(by time.Duration) []byte {
	code := []byte{
		0xb8, 0xe4, 0, 0, 0, // mov  eax, 228        clock_gettime
		0x0f, 0x05, //          syscall
		0x85, 0xff, //          test edi, edi
		0x75, 0x07, //          jne  over the addition
		0x48, 0x81, 0x06, //    add  qword [rsi], …
	}
	code = binary.LittleEndian.AppendUint32(code, uint32(int32(by/time.Second)))
	return append(code, 0xc3) // ret
}

// vdso finds the kernel's code in a process.
func vdso(pid int) (begin, end int64, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(maps)) {
		if strings.HasSuffix(strings.TrimSpace(line), "[vdso]") {
			_, err := fmt.Sscanf(line, "%x-%x", &begin, &end)
			return begin, end, err
		}
	}
	return 0, 0, fmt.Errorf("process %d has no vDSO", pid)
}

func symbol(mem io.ReaderAt, begin, end int64, name string) (int64, error) {
	image := make([]byte, end-begin)
	if _, err := mem.ReadAt(image, begin); err != nil {
		return 0, err
	}
	f, err := elf.NewFile(bytes.NewReader(image))
	if err != nil {
		return 0, fmt.Errorf("read the vDSO: %w", err)
	}
	list, err := f.DynamicSymbols()
	if err != nil {
		return 0, fmt.Errorf("read the vDSO: %w", err)
	}
	for _, s := range list {
		if s.Name == name {
			return begin + int64(s.Value), nil
		}
	}
	return 0, fmt.Errorf("the vDSO has no %s", name)
}

// stopped calls f while the process stands still, and none of its threads in the code that f changes.
func stopped(pid int, begin, end int64, f func() error) error {
	for range 1000 {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			return err
		}
		places, err := standing(pid)
		free := !slices.ContainsFunc(places, func(pc int64) bool { return begin <= pc && pc < end })
		if err == nil && free {
			err = f()
		}
		if again := syscall.Kill(pid, syscall.SIGCONT); err != nil || again != nil || free {
			return errors.Join(err, again)
		}
		runtime.Gosched()
	}
	return fmt.Errorf("process %d is always reading the clock", pid)
}

// standing waits until all threads of a process that was stopped stand still, and tells where.
func standing(pid int) ([]int64, error) {
	dir := fmt.Sprintf("/proc/%d/task", pid)
	for {
		tasks, err := os.ReadDir(dir)
		if err != nil {
			return nil, err // it has ended
		}
		var places []int64
		for _, t := range tasks {
			text, err := os.ReadFile(dir + "/" + t.Name() + "/syscall")
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
				places = append(places, 0) // this one has just ended
				continue
			}
			if err != nil {
				return nil, err
			}
			words := strings.Fields(string(text)) // the last one is where it stands; "running" alone: it does not stand yet
			if pc, err := strconv.ParseInt(words[len(words)-1], 0, 64); err == nil {
				places = append(places, pc)
			}
		}
		if len(places) == len(tasks) {
			return places, nil
		}
		runtime.Gosched()
	}
}

// FleetdPID is the main process of a host's fleetd, by its ID out here.
func FleetdPID(h *host.Host) (int, error) {
	pids := h.PIDs("fleetd")
	if len(pids) != 1 {
		return 0, fmt.Errorf("%s has %d processes fleetd", h.Name, len(pids))
	}
	return pids[0], nil
}

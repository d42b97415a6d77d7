package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
)

// ServeWireGuard is a WireGuard device in user space, for kernels without: it carries the packets of a TUN device of that
// name until ctx ends or the device is removed, and is configured over the socket dir/NAME.sock. It runs in a process of its
// own, so that a restart of netd loses no packet.
func ServeWireGuard(ctx context.Context, dir, name string, mtu int, log *slog.Logger) error {
	t, err := tun.CreateTUN(name, mtu)
	if err != nil {
		return fmt.Errorf("make TUN device %s: %w", name, err)
	}
	// The library takes packets in batches and uses all processors; what it logs beside errors is for its developers.
	dev := device.NewDevice(t, conn.NewDefaultBind(), &device.Logger{
		Verbosef: device.DiscardLogf,
		Errorf:   func(format string, a ...any) { log.Warn("wireguard", "err", fmt.Sprintf(format, a...)) },
	})
	defer dev.Close()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make socket directory: %w", err)
	}
	path := filepath.Join(dir, name+".sock")
	os.Remove(path) // of a process before us; if it cannot go, listening says why
	l, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	defer l.Close() // removes the socket
	if err := os.Chmod(path, 0o600); err != nil {
		return fmt.Errorf("guard socket: %w", err)
	}
	// The listener's end is the process's: by a signal, or because the device was removed.
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	done := make(chan struct{})
	go func() { // ends with the device
		<-dev.Wait()
		l.Close()
		close(done)
	}()
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			break
		}
		if err != nil {
			return fmt.Errorf("accept: %w", err)
		}
		dev.IpcHandle(c) // one client, netd; it asks and goes
	}
	dev.Close()
	<-done
	return nil
}

// StartWireGuard gives an Options.StartWireGuard that runs this program with the given arguments, the device's name, its MTU
// and the directory of its socket, as a process of its own. wait is called with it, to take its end.
func StartWireGuard(program, dir string, args, env []string, wait func(*exec.Cmd)) func(context.Context, string, int) error {
	return func(ctx context.Context, name string, mtu int) error {
		cmd := exec.Command(program, append(args[:len(args):len(args)], name, strconv.Itoa(mtu), dir)...)
		cmd.Env = env
		cmd.Stderr = os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a signal to netd's group is not for it
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("start user-space WireGuard: %w", err)
		}
		go wait(cmd)
		// It is ready when it answers: until then there is no device to give an address to.
		socket := filepath.Join(dir, name+".sock")
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		for {
			if _, err := uapiGet(socket); err == nil {
				return nil
			}
			t := time.NewTimer(20 * time.Millisecond)
			select {
			case <-ctx.Done():
				t.Stop()
				return errors.Join(fmt.Errorf("start user-space WireGuard: it does not answer on %s", socket), cmd.Process.Kill())
			case <-t.C:
			}
		}
	}
}

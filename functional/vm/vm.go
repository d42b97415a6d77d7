package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/fleet-init/fleet/functional/host"
)

const (
	// MAC and IP are the VM's: dnsmasq gives the one to the other.
	MAC     = "02:f1:ee:00:01:01"
	IP      = "172.31.80.201"
	gateway = "172.31.80.1"

	firmware = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	secure   = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
	vars     = "/usr/share/OVMF/OVMF_VARS_4M.fd"
)

// VM is one virtual machine: a disk, the firmware's variables, and while it is on a process.
type VM struct {
	Disk   string // qcow2
	Drive  string // a second disk, raw and read-only for the VM; "" = none
	Tap    string // where its network card hangs: "tap0" is a port of the cluster's bridge
	Secure bool   // firmware that starts only what is signed by the keys in its variables

	dir string
	c   *host.Cluster

	cmd     *exec.Cmd
	ended   chan struct{}
	stdin   io.WriteCloser
	console *console
	log     *os.File // all that its console ever said
}

// Missing says what this machine lacks for VMs; nil = nothing.
func Missing() error {
	for _, p := range []string{"qemu-system-x86_64", "qemu-img", "dnsmasq"} {
		if _, err := exec.LookPath(p); err != nil {
			if _, err := os.Stat("/usr/sbin/" + p); err != nil {
				return fmt.Errorf("no %s: ./build.sh test installs it", p)
			}
		}
	}
	if _, err := os.Stat(firmware); err != nil {
		return fmt.Errorf("no firmware for VMs: %w: ./build.sh test installs it", err)
	}
	return nil
}

// New makes a VM whose disk is a copy of an image, grown to size bytes, and puts it on the cluster's bridge. It does not start it.
func New(ctx context.Context, c *host.Cluster, dir, image string, size int64) (*VM, error) {
	v := &VM{Disk: filepath.Join(dir, "disk.qcow2"), Tap: "tap0", dir: dir, c: c}
	var err error
	if v.log, err = os.Create(v.path("console.log")); err != nil {
		return nil, err
	}
	// Layers over what is never written: made in no time, and a snapshot can be kept in them.
	for _, args := range [][]string{{image, v.Disk, fmt.Sprint(size)}, {vars, v.path("vars.qcow2")}} {
		mk := exec.CommandContext(ctx, "qemu-img", append([]string{"create", "-q", "-f", "qcow2", "-F", "raw", "-b"}, args...)...)
		if out, err := mk.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("qemu-img: %w: %s", err, out)
		}
	}
	if err := v.makeTap(ctx, v.Tap, "master", "br0"); err != nil {
		return nil, err
	}
	return v, v.serveDHCP(ctx)
}

// makeTap makes a network device that one QEMU at a time can have.
func (v *VM) makeTap(ctx context.Context, name string, set ...string) error {
	for _, argv := range [][]string{{"tuntap", "add", name, "mode", "tap"}, append(append([]string{"link", "set", name}, set...), "up")} {
		if _, err := host.Finish(v.c.Command(ctx, "ip", argv...)); err != nil {
			return err
		}
	}
	return nil
}

// serveDHCP answers on the bridge as a site's router would.
func (v *VM) serveDHCP(ctx context.Context) error {
	cmd := v.c.Inside(ctx, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=br0", "--bind-interfaces", "--user=root",
		"--dhcp-range="+IP+","+IP+",1h", "--dhcp-host="+MAC+","+IP, "--dhcp-leasefile="+v.path("leases"), "--pid-file=", "--log-facility="+v.path("dhcp.log"))
	cmd.Env = append(os.Environ(), "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start dnsmasq: %w", err)
	}
	go func() { _ = cmd.Wait() }() // it ends with the cluster
	return nil
}

func (v *VM) path(name string) string { return filepath.Join(v.dir, name) }

// Start switches the VM on. With a snapshot's name it goes on from there.
func (v *VM) Start(ctx context.Context, snapshot string) error {
	// Two processors, since half of all bugs need them; a small cache of translated code, which would else grow without use.
	machine, code := "q35", firmware
	args := []string{"-accel", "tcg,thread=multi,tb-size=256", "-smp", "2", "-m", "768", "-cpu", "max", "-nodefaults", "-no-user-config",
		"-display", "none", "-drive", "if=pflash,format=qcow2,unit=1,file=" + v.path("vars.qcow2"),
		// The host's memory outlives a killed QEMU: what the guest wrote is on the disk, in the order in which it wrote.
		"-drive", "if=virtio,format=qcow2,cache=writeback,file=" + v.Disk,
		"-netdev", "tap,id=n,ifname=" + v.Tap + ",script=no,downscript=no", "-device", "virtio-net-pci,netdev=n,romfile=,mac=" + MAC,
		"-device", "virtio-rng-pci", "-serial", "stdio", "-qmp", "unix:" + v.path("qmp") + ",server=on,wait=off"}
	if v.Secure {
		// The variables are safe from the system only where the firmware alone, in its own mode of the processor, writes them.
		machine, code = "q35,smm=on", secure
		args = append(args, "-global", "driver=cfi.pflash01,property=secure,value=on")
	}
	args = append(args, "-M", machine, "-drive", "if=pflash,format=raw,unit=0,readonly=on,file="+code)
	if v.Drive != "" {
		args = append(args, "-drive", "if=virtio,format=raw,readonly=on,file="+v.Drive)
	}
	if snapshot != "" {
		args = append(args, "-loadvm", snapshot)
	}
	_ = os.Remove(v.path("qmp"))
	cmd := v.c.Inside(ctx, "qemu-system-x86_64", args...)
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	var complaint strings.Builder
	cmd.Stderr = &complaint
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start QEMU: %w", err)
	}
	v.cmd, v.stdin, v.ended = cmd, in, make(chan struct{})
	v.console = newConsole()
	ended, con := v.ended, v.console
	go func() {
		_, _ = io.Copy(io.MultiWriter(con, v.log), out)
		_ = cmd.Wait()
		con.end(fmt.Errorf("QEMU ended: %s", host.Tail(complaint.String(), 5)))
		close(ended)
	}()
	return nil
}

// Kill is a power cut.
func (v *VM) Kill() {
	if v.cmd == nil {
		return
	}
	_ = syscall.Kill(-v.cmd.Process.Pid, syscall.SIGKILL)
	<-v.ended
	v.cmd = nil
}

// Await waits until the console says a text that it has not said before the last Await or Run, and returns what it said up to there.
func (v *VM) Await(ctx context.Context, text string) (string, error) {
	return v.console.await(ctx, text, "")
}

// Login waits for the console of a host without an owner and opens its shell. It returns what the boot said.
func (v *VM) Login(ctx context.Context) (string, error) {
	said, err := v.Await(ctx, "Press Enter to log in as root: ")
	if err != nil {
		return said, fmt.Errorf("boot the VM: %w; its console: %s", err, host.Tail(v.console.all(), 25))
	}
	if err := v.send("\n"); err != nil {
		return said, err
	}
	if _, err := v.Await(ctx, "# "); err != nil {
		return said, err
	}
	return said, v.quiet(ctx)
}

// LoginAs waits for the console of a host that has an owner and logs in as root.
func (v *VM) LoginAs(ctx context.Context, password string) error {
	for _, say := range [][2]string{{" login: ", "root\n"}, {"Password: ", password + "\n"}, {"# ", ""}} {
		if _, err := v.Await(ctx, say[0]); err != nil {
			return fmt.Errorf("log in: %w; the console: %s", err, host.Tail(v.console.all(), 25))
		}
		if err := v.send(say[1]); err != nil {
			return err
		}
	}
	return v.quiet(ctx)
}

// quiet has the shell on the console say nothing but what it is asked.
func (v *VM) quiet(ctx context.Context) error {
	const quiet = "stty -echo -onlcr; dmesg -n 1; PS1= PS2= TERM=dumb SYSTEMD_COLORS=0 SYSTEMD_PAGER= SYSTEMD_URLIFY=0; bind 'set enable-bracketed-paste off'; " +
		"export TERM SYSTEMD_COLORS SYSTEMD_PAGER SYSTEMD_URLIFY; unset HISTFILE PROMPT_COMMAND; echo shell'-'ready\n"
	// A word of the kernel's may fall into the answer: then it is asked again.
	for {
		if err := v.send(quiet); err != nil {
			return err
		}
		short, stop := context.WithTimeout(ctx, time.Minute)
		_, err := v.Await(short, "shell-ready\n")
		stop()
		if err == nil || ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
	}
}

func (v *VM) send(s string) error {
	_, err := io.WriteString(v.stdin, s)
	return err
}

// starts is what the firmware says at each start.
const starts = "BdsDxe: starting"

// ErrExit is the answer of a script that ended with another status than 0.
var ErrExit = errors.New("the script failed")

// Run runs a script of shell in the VM and returns all that it printed.
func (v *VM) Run(ctx context.Context, script string) (string, error) {
	job := newJob(script)
	for _, line := range job.lines {
		if err := v.send(line); err != nil {
			return "", err
		}
	}
	out, status, err := v.answer(ctx, job)
	if err != nil {
		return "", fmt.Errorf("run %q in the VM: %w", host.Tail(script, 3), err)
	}
	if status != 0 {
		err = fmt.Errorf("%w with %d: %s: %s", ErrExit, status, host.Tail(script, 3), host.Tail(out, 20))
	}
	return out, err
}

// answer asks for what a job printed until it can be read: something else may have been said in the middle of it.
func (v *VM) answer(ctx context.Context, j job) (string, int, error) {
	var last error
	for range 20 {
		if err := v.send(j.answer); err != nil {
			return "", 0, err
		}
		for {
			short, stop := context.WithTimeout(ctx, time.Minute)
			text, err := v.console.await(short, j.end, starts)
			stop()
			if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
				// The script takes long, or its end mark was cut in two.
				if err := v.send(j.answer); err != nil {
					return "", 0, err
				}
				continue
			}
			if err != nil {
				return "", 0, err
			}
			out, status, err := j.parse(text)
			if err == nil {
				return out, status, nil
			}
			last = err
			break
		}
	}
	return "", 0, last
}

// Leave runs a script that makes the VM restart, or has somebody else make it, and returns when the firmware starts it anew. The script need
// not answer, nor end well: what it runs may be stopped before it can say so.
func (v *VM) Leave(ctx context.Context, script string) (string, error) {
	out, err := v.Run(ctx, "(\n"+script+"\n) || { s=$?; [ \"$(systemctl is-system-running)\" = stopping ] || exit $s; }")
	if err != nil && !errors.As(err, new(errNever)) {
		return out, err
	}
	said, err := v.Await(ctx, starts)
	return out + said, err
}

// Reboot runs a script that restarts the VM and logs in after it.
func (v *VM) Reboot(ctx context.Context, script string) (string, error) {
	if out, err := v.Leave(ctx, script); err != nil {
		return out, err
	}
	return v.Login(ctx)
}

// Poll runs a script until it succeeds.
func (v *VM) Poll(ctx context.Context, what, script string) (string, error) {
	var out, last string
	err := host.WaitFor(ctx, what, func(ctx context.Context) (err error) {
		// An emulated processor has better to do than to be asked all the time.
		out, err = v.Run(ctx, "(\n"+script+"\n) || { s=$?; sleep 0.5; exit $s; }")
		if err != nil && !errors.Is(err, ErrExit) {
			return host.Final(fmt.Errorf("%w; before: %s", err, last))
		}
		last = out
		return err
	})
	return out, err
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/fleet-init/fleet/image/cloudconfig/source"
)

// Where a boot looks, and what it says to who stands before the console.
const (
	issueFile   = "/run/issue.d/60-cloud-config.issue"
	driveDir    = "/run/cloud-config/drive"
	networkUnit = "cloud-config-network.service"
)

// documents are files that are documents of this host: ours, and where CoreOS' installer put one.
func documents() []string {
	return []string{"/etc/fleet/cloud-config.yaml", "/var/lib/coreos-install/user_data"}
}

func (a *app) diff(ctx context.Context) error {
	f, err := a.find(ctx)
	if err != nil {
		return err
	}
	want, err := a.order(ctx, f, false)
	if err != nil {
		return err
	}
	steps, _, _, err := a.plan(ctx, want, false)
	if err != nil {
		return err
	}
	for _, s := range steps {
		fmt.Fprintln(a.out, s)
	}
	return nil
}

func (a *app) apply(ctx context.Context) error {
	f, err := a.find(ctx)
	if err != nil {
		return err
	}
	return a.settle(ctx, f, false, false)
}

// settle makes the host as the document says.
func (a *app) settle(ctx context.Context, f source.Found, booting, early bool) error {
	want, err := a.order(ctx, f, early)
	if err != nil {
		return err
	}
	steps, was, next, err := a.plan(ctx, want, booting)
	if err != nil {
		return err
	}
	for _, s := range steps {
		fmt.Fprintln(a.out, s)
	}
	return a.do(ctx, f, steps, was, next)
}

// find is the source that the command line names, or else the first of a boot's that has something.
func (a *app) find(ctx context.Context) (source.Found, error) {
	s, named, err := a.chosen()
	if err != nil {
		return source.Found{}, err
	}
	if named {
		return s.Fetch(ctx)
	}
	all, err := source.Order(a.facts(), a.client, mount)
	if err != nil {
		return source.Found{}, err
	}
	for _, s := range all {
		f, err := s.Fetch(ctx)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, source.ErrNone) {
			return f, err
		}
	}
	return source.Found{}, errors.New("this host has no cloud-config: name a FILE, or see cloud-config help for the sources")
}

// boot is what the units do: first without a network, and, if it turns out that one is needed, once more with it.
func (a *app) boot(ctx context.Context) error {
	err := a.bootFrom(ctx)
	if errors.Is(err, errLater) {
		fmt.Fprintln(a.out, "the cloud-config comes by way of the network")
		return a.host.Unit(ctx, "start", networkUnit)
	}
	// Who looks at the console of a host that did not become what it should has a keyboard and no log.
	if err != nil {
		text := fmt.Sprintf("\ncloud-config: %s\nWhat went well before is still in force; journalctl -u 'cloud-config*' says more.\n\n", strings.ReplaceAll(err.Error(), `\`, `\\`))
		err = errors.Join(err, a.host.Keep(issueFile, []byte(text), 0o644))
	} else {
		err = a.host.Forget(issueFile)
	}
	return err
}

func (a *app) bootFrom(ctx context.Context) error {
	all, err := source.Order(a.facts(), a.client, mount)
	if err != nil {
		return errors.Join(err, a.again(ctx))
	}
	for _, s := range all {
		if s.Network && !a.network {
			return errLater // it goes before all that come after it
		}
		f, err := s.Fetch(ctx)
		switch {
		case errors.Is(err, source.ErrNone):
			fmt.Fprintf(a.out, "%s has no cloud-config: %v\n", s.Name, err)
			continue
		case err != nil:
			return errors.Join(fmt.Errorf("%s: %w", s.Name, err), a.again(ctx))
		}
		err = a.settle(ctx, f, true, !a.network)
		if errors.Is(err, errDocument) {
			return errors.Join(fmt.Errorf("%s: %w", s.Name, err), a.again(ctx))
		}
		return err
	}
	return a.again(ctx)
}

// again applies the last document that was good: what lies under /run has to be written anew, and a drive may be gone, a server down.
func (a *app) again(ctx context.Context) error {
	data, err := a.host.Read(lastGood)
	if err != nil || data == nil {
		return err
	}
	var f source.Found
	if err := json.Unmarshal(data, &f); err != nil {
		return fmt.Errorf("read %s: %w", lastGood, err)
	}
	fmt.Fprintf(a.out, "applying the last document that was good, of %s\n", f.Source)
	return a.settle(ctx, f, true, !a.network)
}

// facts are what the choice of sources depends on. What cannot be read is not there.
func (a *app) facts() source.Facts {
	f := source.Facts{DMI: map[string]string{}}
	if line, err := a.host.Read("/proc/cmdline"); err == nil {
		f.Cmdline = string(line)
	}
	for _, key := range []string{"sys_vendor", "product_name", "bios_vendor", "chassis_asset_tag"} {
		if text, err := a.host.Read("/sys/class/dmi/id/" + key); err == nil {
			f.DMI[key] = strings.TrimSpace(string(text))
		}
	}
	for _, label := range source.Labels() {
		if device, err := filepath.EvalSymlinks("/dev/disk/by-label/" + label); err == nil {
			f.Drives = append(f.Drives, source.Drive{Device: device, Label: label})
		}
	}
	for _, name := range documents() {
		if data, err := a.host.Read(name); err == nil && data != nil {
			f.Files = append(f.Files, name)
		}
	}
	return f
}

// mount makes a config drive readable.
func mount(d source.Drive) (string, func(), error) {
	if err := os.MkdirAll(driveDir, 0o700); err != nil {
		return "", nil, err
	}
	var faults []error
	for _, kind := range []string{"iso9660", "vfat", "udf", "ext4"} {
		err := unix.Mount(d.Device, driveDir, kind, unix.MS_RDONLY|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_NOSUID, "")
		if err == nil {
			return driveDir, func() { _ = unix.Unmount(driveDir, unix.MNT_DETACH) }, nil
		}
		faults = append(faults, fmt.Errorf("as %s: %w", kind, err))
	}
	return "", nil, errors.Join(faults...)
}

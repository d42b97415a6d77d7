package main

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// modules are the kernel modules of the initramfs. mkimage wrote two lists beside them: "deps", one line a module with all it needs, in the
// order of loading, and "aliases", pattern and module.
type modules struct {
	dir     string
	deps    map[string][]string
	aliases []alias
	loaded  map[string]bool
}

type alias struct{ pattern, module string }

func readModules(dir string) (*modules, error) {
	deps, err := os.ReadFile(filepath.Join(dir, "deps"))
	if err != nil {
		return nil, fmt.Errorf("read the list of modules: %w", err)
	}
	aliases, err := os.ReadFile(filepath.Join(dir, "aliases"))
	if err != nil {
		return nil, fmt.Errorf("read the list of aliases: %w", err)
	}
	m := &modules{dir: dir, loaded: map[string]bool{}}
	m.deps, m.aliases = parseModules(string(deps), string(aliases))
	return m, nil
}

func parseModules(deps, aliases string) (map[string][]string, []alias) {
	d := map[string][]string{}
	for line := range strings.Lines(deps) {
		if f := strings.Fields(line); len(f) > 0 {
			d[f[0]] = f[1:]
		}
	}
	var a []alias
	for line := range strings.Lines(aliases) {
		if f := strings.Fields(line); len(f) == 2 {
			a = append(a, alias{f[0], f[1]})
		}
	}
	return d, a
}

// load loads a module and, before it, what it needs. Module files are named as modules, with "_".
func (m *modules) load(name string) error {
	deps, ok := m.deps[name]
	if !ok {
		return fmt.Errorf("load module %s: it is not in the initramfs", name)
	}
	for _, n := range append(deps[:len(deps):len(deps)], name) {
		if m.loaded[n] {
			continue
		}
		f, err := os.Open(filepath.Join(m.dir, n+".ko"))
		if err != nil {
			return fmt.Errorf("load module %s: %w", name, err)
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		_ = f.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load module %s for %s: %w", n, name, err)
		}
		m.loaded[n] = true
	}
	return nil
}

func (m *modules) always(names []string) error {
	for _, n := range names {
		if err := m.load(n); err != nil {
			return err
		}
	}
	return nil
}

// match lists the modules for a device, by what it says it is.
func (m *modules) match(modalias string) []string {
	var out []string
	for _, a := range m.aliases {
		if ok, err := path.Match(a.pattern, modalias); ok && err == nil {
			out = append(out, a.module)
		}
	}
	return out
}

// devices loads the driver of every device there is, and of those that the drivers bring to light.
func (m *modules) devices() {
	for {
		files, _ := filepath.Glob("/sys/bus/*/devices/*/modalias")
		before := len(m.loaded)
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				continue // gone again
			}
			for _, n := range m.match(strings.TrimSpace(string(b))) {
				if err := m.load(n); err != nil {
					say("%v", err) // the disk may be another's
				}
			}
		}
		if len(m.loaded) == before {
			return
		}
	}
}

// watch arms a watchdog that ends a boot which gets stuck after us, before systemd feeds it: the machine's own if there is one, else the
// kernel's timer.
func watch(m *modules, limit time.Duration) {
	if _, err := os.Stat("/dev/watchdog0"); err != nil {
		if err := m.load("softdog"); err != nil {
			say("%v", err)
		}
	}
	f, err := os.OpenFile("/dev/watchdog0", os.O_WRONLY, 0)
	if err != nil {
		say("no watchdog: %v", err)
		return
	}
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.WDIOC_SETTIMEOUT, int(limit/time.Second)); err != nil {
		say("watchdog: %v", err)
	}
	// Closed without the magic letter it goes on counting.
	_ = f.Close()
}

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// always are the modules that every host loads in the initramfs.
func always() []string {
	return []string{"dm_verity", "erofs", "overlay", "ext4", "efivarfs"}
}

// byDevice are those that a device asks for.
func byDevice() []string {
	return []string{"virtio_pci", "virtio_mmio", "virtio_blk", "virtio_scsi", "sd_mod", "nvme", "ahci", "ata_piix", "xen_blkfront", "hv_vmbus", "hv_storvsc",
		"mptspi", "vmw_pvscsi", "mmc_block", "sdhci_pci", "usb_storage", "uas", "xhci_pci", "ehci_pci", "softdog"}
}

// moduleSet is what the initramfs carries: files by module name, what each needs in the order of loading, and which device wants which.
type moduleSet struct {
	files   map[string]string
	deps    map[string][]string
	aliases [][2]string
	builtin map[string]bool
}

// moduleName is how the kernel calls what lies in a file.
func moduleName(file string) string {
	name, _, _ := strings.Cut(filepath.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// readModuleDir reads what depmod wrote.
func readModuleDir(dir string) (moduleSet, error) {
	m := moduleSet{files: map[string]string{}, deps: map[string][]string{}, builtin: map[string]bool{}}
	text := map[string]string{}
	for _, f := range []string{"modules.dep", "modules.alias", "modules.builtin"} {
		b, err := os.ReadFile(filepath.Join(dir, f))
		if err != nil {
			return m, err
		}
		text[f] = string(b)
	}
	for line := range strings.Lines(text["modules.builtin"]) {
		m.builtin[moduleName(strings.TrimSpace(line))] = true
	}
	for line := range strings.Lines(text["modules.dep"]) {
		file, needs, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		name := moduleName(file)
		m.files[name] = filepath.Join(dir, file)
		for _, n := range strings.Fields(needs) {
			m.deps[name] = append(m.deps[name], moduleName(n))
		}
		// modules.dep names the nearest first; what they stand on must be loaded before.
		slices.Reverse(m.deps[name])
	}
	for line := range strings.Lines(text["modules.alias"]) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "alias" {
			m.aliases = append(m.aliases, [2]string{f[1], strings.ReplaceAll(f[2], "-", "_")})
		}
	}
	return m, nil
}

// pick returns the modules that are wanted and what they need, sorted, and those of always that are not built in.
func (m moduleSet) pick(always, byDevice []string) (take, load []string, err error) {
	set := map[string]bool{}
	add := func(n string) bool {
		if m.files[n] == "" {
			return false
		}
		set[n] = true
		for _, d := range m.deps[n] {
			set[d] = true
		}
		return true
	}
	for _, n := range always {
		if add(n) {
			load = append(load, n)
		} else if !m.builtin[n] {
			return nil, nil, fmt.Errorf("this kernel has no module %s, and no host boots without it", n)
		}
	}
	for _, n := range byDevice {
		add(n) // a kernel for virtual machines lacks some
	}
	for n := range set {
		take = append(take, n)
	}
	slices.Sort(take)
	return take, load, nil
}

// lists are the texts "deps" and "aliases" beside the modules.
func (m moduleSet) lists(take []string) (deps, aliases string) {
	var d, a strings.Builder
	for _, n := range take {
		fmt.Fprintln(&d, strings.Join(append([]string{n}, m.deps[n]...), " "))
	}
	for _, x := range m.aliases {
		if slices.Contains(take, x[1]) {
			fmt.Fprintln(&a, x[0], x[1])
		}
	}
	return d.String(), a.String()
}

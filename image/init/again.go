package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"unicode/utf16"

	"golang.org/x/sys/unix"

	"github.com/fleet-init/fleet/update-engine/disk"
)

// A kernel image that the firmware does not start (cut short, or not signed by a key it knows) makes systemd-boot give up, and the firmware goes on to
// its next boot option. On most machines that is a menu or the network, and the host is gone until somebody comes. So the options that follow ours
// are ours as well: the same boot loader again, which has counted the try, until the tries are spent and it takes the old slot.

// again are the numbers of these boot options. Three, as a release has tries: more do not help, fewer may end before the old slot's turn.
func again() []uint16 { return []uint16{0xF1E0, 0xF1E1, 0xF1E2} }

const (
	efivars   = "/sys/firmware/efi/efivars"
	globalEFI = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
	lasting   = 7 // kept, and seen by boot loaders and by systems
)

// startAgain writes the boot options and puts them behind the one that this start came from. What is so already is not written.
func startAgain(d found) error {
	esp := slices.IndexFunc(d.table.Partitions, func(p disk.Partition) bool { return p.Type == disk.TypeESP() })
	if esp < 0 {
		return errors.New("the disk has no ESP")
	}
	return withEFI(0, func() error {
		current, err := readEFI("BootCurrent")
		if err != nil || len(current) < 2 {
			return err // no boot manager: a direct start, or a firmware that has none
		}
		for i, n := range again() {
			option := bootOption(fmt.Sprintf("Fleet, try %d", i+2), esp+1, d.table.Partitions[esp], `\EFI\BOOT\BOOTX64.EFI`)
			if err := writeEFI(fmt.Sprintf("Boot%04X", n), option); err != nil {
				return err
			}
		}
		old, err := readEFI("BootOrder")
		if err != nil {
			return err
		}
		return writeEFI("BootOrder", bootOrder(old, current))
	})
}

// bootOrder puts ours behind the current option, or at the end if that is not in the list. Where all are in it they stay: somebody may have moved them.
func bootOrder(old, current []byte) []byte {
	var list []uint16
	for ; len(old) >= 2; old = old[2:] {
		list = append(list, binary.LittleEndian.Uint16(old))
	}
	ours := func(n uint16) bool { return slices.Contains(again(), n) }
	if !slices.ContainsFunc(again(), func(n uint16) bool { return !slices.Contains(list, n) }) {
		return words(list)
	}
	list = slices.DeleteFunc(list, ours)
	at := len(list)
	if i := slices.Index(list, binary.LittleEndian.Uint16(current)); i >= 0 {
		at = i + 1
	}
	return words(slices.Insert(list, at, again()...))
}

func words(list []uint16) []byte {
	var b []byte
	for _, n := range list {
		b = binary.LittleEndian.AppendUint16(b, n)
	}
	return b
}

// bootOption is an EFI_LOAD_OPTION: start a file on the partition of that number, on whatever disk it is.
func bootOption(name string, number int, p disk.Partition, file string) []byte {
	const sector = 512
	le := binary.LittleEndian
	hd := []byte{4, 1, 42, 0} // medium, hard drive
	hd = le.AppendUint32(hd, uint32(number))
	hd = le.AppendUint64(hd, uint64(p.Off/sector))
	hd = le.AppendUint64(hd, uint64(p.Size/sector))
	hd = append(append(hd, p.ID[:]...), 2, 2) // known by its GUID, of a GPT
	path := words(utf16.Encode([]rune(file + "\x00")))
	all := append(hd, 4, 4) // medium, file
	all = append(le.AppendUint16(all, uint16(4+len(path))), path...)
	all = append(all, 0x7F, 0xFF, 4, 0) // the end
	b := le.AppendUint32(nil, 1)        // active
	b = le.AppendUint16(b, uint16(len(all)))
	return append(append(b, words(utf16.Encode([]rune(name+"\x00")))...), all...)
}

// withEFI does something with the firmware's variables. Where it has none nothing is done.
func withEFI(flags uintptr, do func() error) error {
	if err := unix.Mount("efivarfs", efivars, "efivarfs", unix.MS_NOSUID|flags, ""); err != nil {
		return nil
	}
	// systemd mounts it anew.
	return errors.Join(do(), unix.Unmount(efivars, 0))
}

// readEFI reads one of the firmware's own variables; nil when there is none.
func readEFI(name string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(efivars, name+"-"+globalEFI))
	if errors.Is(err, os.ErrNotExist) || err == nil && len(b) < 4 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return b[4:], nil // after four bytes of attributes
}

// writeEFI writes one unless it is so already: the memory of a firmware wears out.
func writeEFI(name string, value []byte) error {
	if old, err := readEFI(name); err == nil && bytes.Equal(old, value) {
		return nil
	}
	// In one write: the firmware takes a variable whole.
	return os.WriteFile(filepath.Join(efivars, name+"-"+globalEFI), append(binary.LittleEndian.AppendUint32(nil, lasting), value...), 0o644)
}

package main

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/fleet-init/fleet/image/release"
)

const (
	usrName = "usr"
	usrAt   = newRoot + "-usr" // where /usr waits until the root is there
)

// openUsr mounts the slot's /usr, read-only, each block checked against the root hash when it is read. A wrong block restarts the machine.
func openUsr(d found, slot string, rel release.Built) error {
	dev, err := d.part("usr-" + slot)
	if err != nil {
		return err
	}
	f, err := os.Open(dev)
	if err != nil {
		return err
	}
	sb := make([]byte, 512)
	_, err = f.ReadAt(sb, rel.HashAt)
	_ = f.Close()
	if err != nil {
		return fmt.Errorf("read the verity superblock of slot %s: %w", slot, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(dev, &st); err != nil {
		return err
	}
	line, sectors, err := verityTable(sb, fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)), rel)
	if err != nil {
		return fmt.Errorf("slot %s: %w", slot, err)
	}
	if err := mapDevice(usrName, "verity", line, sectors); err != nil {
		return fmt.Errorf("slot %s: %w", slot, err)
	}
	if err := os.MkdirAll(usrAt, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("/dev/dm-0", usrAt, "erofs", unix.MS_RDONLY|unix.MS_NODEV, ""); err != nil {
		return fmt.Errorf("mount /usr of slot %s: %w", slot, err)
	}
	return nil
}

// verityTable makes the device mapper's line from a superblock as veritysetup writes it, and the length of the device in sectors.
func verityTable(sb []byte, dev string, rel release.Built) (string, uint64, error) {
	const block = 4096
	le := binary.LittleEndian
	blocks, salt := le.Uint64(sb[72:]), int(le.Uint16(sb[80:]))
	if string(sb[:6]) != "verity" || le.Uint32(sb[64:]) != block || le.Uint32(sb[68:]) != block || salt > 256 || blocks*block > uint64(rel.HashAt) {
		return "", 0, errors.New("no verity superblock: the slot does not hold this release")
	}
	text := "-"
	if salt > 0 {
		text = hex.EncodeToString(sb[88 : 88+salt])
	}
	return fmt.Sprintf("1 %s %s %d %d %d %d sha256 %s %s 1 restart_on_corruption", dev, dev, block, block, blocks, rel.HashAt/block+1,
		rel.RootHash, text), blocks * block / 512, nil
}

// dmIoctl is the kernel's struct dm_ioctl.
type dmIoctl struct {
	version                    [3]uint32
	size, start, targets, open uint32
	flags, event, pad          uint32
	dev                        uint64
	name                       [128]byte
	uuid                       [129]byte
	_                          [7]byte
	sectorStart, length        uint64 // struct dm_target_spec, for the one call that has one
	status                     int32
	next                       uint32
	kind                       [16]byte
	params                     [1024]byte
}

// mapDevice makes a read-only device of one target; it is /dev/dm-0, since there is no other.
func mapDevice(name, kind, params string, sectors uint64) error {
	const (
		create, suspend, load = 0xC138FD03, 0xC138FD06, 0xC138FD09 // DM_DEV_CREATE, DM_DEV_SUSPEND, DM_TABLE_LOAD
		readOnly              = 1
		head                  = 312
	)
	f, err := os.OpenFile("/dev/mapper/control", os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open the device mapper: %w", err)
	}
	defer f.Close()
	if len(params) >= 1024 {
		return fmt.Errorf("verity table of %d bytes", len(params))
	}
	for _, op := range []uintptr{create, load, suspend} {
		c := dmIoctl{version: [3]uint32{4, 0, 0}, start: head, size: uint32(unsafe.Sizeof(dmIoctl{}))}
		copy(c.name[:], name)
		if op == load {
			c.flags, c.targets, c.length = readOnly, 1, sectors
			copy(c.kind[:], kind)
			copy(c.params[:], params)
		}
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), op, uintptr(unsafe.Pointer(&c))); e != 0 {
			return fmt.Errorf("device mapper, call %#x of %s %q: %w", op&0xFF, kind, params, e)
		}
	}
	return nil
}

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// usr makes the image of a slot: an erofs, and behind it the tree of its hashes.
//
// Its blocks are compressed by lz4, which leaves bytes as they are between what it repeats: a delta sees what is the same in two releases. Modules
// are not compressed on their own for the same reason. docs/decisions/0031 has the figures.
func (b *builder) usr() error {
	b.image = b.result("usr-%s.img")
	key := filepath.Join(b.out, "."+filepath.Base(b.image)+".from")
	was, _ := os.ReadFile(key)
	info, err := os.Stat(b.image)
	if fields := strings.Fields(string(was)); err == nil && len(fields) == 4 && fields[0] == filepath.Base(b.rootDir) && fields[3] == strconv.FormatInt(info.Size(), 10) {
		b.hash = fields[1]
		b.hashAt, err = strconv.ParseInt(fields[2], 10, 64)
		return errors.Join(err, b.fits(info.Size()))
	}
	if err := b.makeUsr(); err != nil {
		return err
	}
	if info, err = os.Stat(b.image); err != nil {
		return err
	}
	if err := b.fits(info.Size()); err != nil {
		return err
	}
	return os.WriteFile(key, fmt.Appendf(nil, "%s %s %d %d\n", filepath.Base(b.rootDir), b.hash, b.hashAt, info.Size()), 0o644)
}

func (b *builder) fits(size int64) error {
	if size > b.slot {
		return fmt.Errorf("the image has %d MiB, a slot %d MiB: use --slot-size", size/mib, b.slot/mib)
	}
	return nil
}

func (b *builder) makeUsr() error {
	_ = os.Remove(b.image)
	// All files get the build's time, and the file system a fixed identity: that of the slot is its root hash.
	if err := b.call("mkfs.erofs", "-T", strconv.FormatInt(b.epoch, 10), "-U", b.guid("/usr").String(), "-C131072", "-zlz4hc,9", b.image,
		filepath.Join(b.rootDir, "usr")); err != nil {
		return err
	}
	info, err := os.Stat(b.image)
	if err != nil {
		return err
	}
	const block = 4096
	b.hashAt = (info.Size() + block - 1) / block * block
	if err := os.Truncate(b.image, b.hashAt); err != nil {
		return err
	}
	// The UUID comes from the content: the same content, the same root hash. The salt is the same for all releases, so that their trees differ only
	// where their blocks do: with one of its own each, the whole tree, which nothing packs, travelled with every delta (docs/update.md has figures).
	sum, err := fileSum(b.image)
	if err != nil {
		return err
	}
	u, salt := sum[:32], sha256.Sum256([]byte("fleet /usr"))
	rootHash := b.image + ".roothash"
	if err := b.call("veritysetup", "format", "--salt="+hex.EncodeToString(salt[:]), "--uuid="+fmt.Sprintf("%s-%s-%s-%s-%s", u[:8], u[8:12], u[12:16], u[16:20], u[20:]),
		fmt.Sprintf("--data-blocks=%d", b.hashAt/block), fmt.Sprintf("--hash-offset=%d", b.hashAt), "--root-hash-file="+rootHash, b.image, b.image); err != nil {
		return err
	}
	text, err := os.ReadFile(rootHash)
	if err != nil {
		return err
	}
	b.hash = strings.TrimSpace(string(text))
	return os.Remove(rootHash)
}

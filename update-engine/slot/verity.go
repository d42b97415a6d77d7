package slot

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
)

// ErrVerity: the image and its verity tree do not belong together, or not to that root hash. It must not boot: the kernel would
// restart the machine at the first bad block.
var ErrVerity = errors.New("the image does not match its verity root hash")

const verityBlock = 4096

// CheckVerity reads an image back and checks it against its dm-verity tree, which stands from hashAt on as veritysetup writes it
// (superblock, then the levels, top first), and the tree against want, the root hash as 64 hex digits. One pass over both,
// with a few KiB of memory.
func CheckVerity(r io.ReaderAt, hashAt int64, want string) error {
	root, err := hex.DecodeString(want)
	if err != nil || len(root) != sha256.Size {
		return fmt.Errorf("root hash %q: want %d hex digits", want, 2*sha256.Size)
	}
	sb := make([]byte, 512)
	if n, err := r.ReadAt(sb, hashAt); n < len(sb) {
		return fmt.Errorf("read verity superblock at %d: %w", hashAt, err)
	}
	le := binary.LittleEndian
	blocks := int64(le.Uint64(sb[72:]))
	salt := int(le.Uint16(sb[80:]))
	name, _, _ := bytes.Cut(sb[32:64], []byte{0})
	if string(sb[:6]) != "verity" || le.Uint32(sb[8:]) != 1 || le.Uint32(sb[12:]) != 1 || string(name) != "sha256" ||
		le.Uint32(sb[64:]) != verityBlock || le.Uint32(sb[68:]) != verityBlock || salt > 256 || blocks < 1 || blocks > hashAt/verityBlock {
		return fmt.Errorf("%w: no superblock of version 1 with sha256 and 4096-byte blocks at %d", ErrVerity, hashAt)
	}
	seed := sb[88 : 88+salt]
	// How many blocks each level has, from the one over the data up to the single block at the top. One block of data needs none.
	var counts []int64
	for n := blocks; n > 1; {
		n = (n + verityBlock/sha256.Size - 1) / (verityBlock / sha256.Size)
		counts = append(counts, n)
	}
	upper := io.Reader(bytes.NewReader(root))
	at := hashAt + verityBlock
	for i := len(counts) - 1; i >= 0; i-- {
		level := func() io.Reader { return io.NewSectionReader(r, at, counts[i]*verityBlock) }
		if err := checkLevel(level(), counts[i], seed, upper); err != nil {
			return fmt.Errorf("verity tree, level at %d: %w", at, err)
		}
		upper, at = bufio.NewReader(level()), at+counts[i]*verityBlock
	}
	if err := checkLevel(io.NewSectionReader(r, 0, blocks*verityBlock), blocks, seed, upper); err != nil {
		return fmt.Errorf("verity data: %w", err)
	}
	return nil
}

// checkLevel compares the hashes of n blocks, each after the salt, with what the level above says.
func checkLevel(r io.Reader, n int64, salt []byte, above io.Reader) error {
	h := sha256.New()
	r = bufio.NewReaderSize(r, 64*verityBlock)
	b, want := make([]byte, verityBlock), make([]byte, sha256.Size)
	for i := range n {
		if _, err := io.ReadFull(r, b); err != nil {
			return fmt.Errorf("read block %d: %w", i, err)
		}
		if _, err := io.ReadFull(above, want); err != nil {
			return fmt.Errorf("read hash of block %d: %w", i, err)
		}
		h.Reset()
		h.Write(salt)
		h.Write(b)
		if got := h.Sum(nil); !bytes.Equal(got, want) {
			return fmt.Errorf("%w: block %d hashes to %x, want %x", ErrVerity, i, got, want)
		}
	}
	return nil
}

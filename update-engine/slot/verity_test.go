package slot

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"testing"
)

// veritysetup of cryptsetup 2.6.1 said this of the image that verityImage makes.
const (
	goldenRoot = "5db0f5d63232e13904ec6e5b43c4d5b4a9851b4ddfda1646328b9e76951b6d5e"
	goldenSum  = "e37fc776241c057ca1ddeb9bbd54fbd7e47ccaea15e6d4ca35b65abf9002cee3"
)

// verityImage makes an image of 300 blocks with its tree as `veritysetup format --data-blocks=300 --hash-offset=1228800
// --salt=00112233445566778899aabbccddeeff --uuid=11111111-2222-3333-4444-555555555555` writes it.
func verityImage(blocks int) ([]byte, string) {
	var b []byte
	for i := range blocks {
		for j := range verityBlock {
			b = append(b, byte((i*7+j)%251))
		}
	}
	salt, _ := hex.DecodeString("00112233445566778899aabbccddeeff")
	sb := make([]byte, verityBlock)
	copy(sb, "verity\x00\x00\x01\x00\x00\x00\x01\x00\x00\x00\x11\x11\x11\x11\x22\x22\x33\x33\x44\x44\x55\x55\x55\x55\x55\x55sha256")
	le := binary.LittleEndian
	le.PutUint32(sb[64:], verityBlock)
	le.PutUint32(sb[68:], verityBlock)
	le.PutUint64(sb[72:], uint64(blocks))
	le.PutUint16(sb[80:], uint16(len(salt)))
	copy(sb[88:], salt)
	var tree []byte
	level := b
	for len(level) > verityBlock {
		var up []byte
		for i := 0; i < len(level); i += verityBlock {
			h := sha256.Sum256(append(bytes.Clone(salt), level[i:i+verityBlock]...))
			up = append(up, h[:]...)
		}
		up = append(up, make([]byte, (verityBlock-len(up)%verityBlock)%verityBlock)...)
		tree = append(bytes.Clone(up), tree...)
		level = up
	}
	root := sha256.Sum256(append(bytes.Clone(salt), level...))
	return append(append(b, sb...), tree...), hex.EncodeToString(root[:])
}

func TestVerityIsAsVeritysetupWritesIt(t *testing.T) {
	b, root := verityImage(300)
	if sum := sha256.Sum256(b); root != goldenRoot || hex.EncodeToString(sum[:]) != goldenSum {
		t.Fatalf("the test's own image differs: root %s, sum %x", root, sum)
	}
	if err := CheckVerity(bytes.NewReader(b), 300*verityBlock, goldenRoot); err != nil {
		t.Error(err)
	}
}

func TestVerityOfOtherSizes(t *testing.T) {
	for _, n := range []int{1, 2, 128, 129, 128*128 + 1} {
		b, root := verityImage(n)
		if err := CheckVerity(bytes.NewReader(b), int64(n*verityBlock), root); err != nil {
			t.Errorf("%d blocks: %v", n, err)
		}
	}
}

func TestVerityFindsEveryDamage(t *testing.T) {
	good, root := verityImage(300)
	hashAt := int64(300 * verityBlock)
	for name, at := range map[string]int64{"first block": 0, "last block": hashAt - 1, "superblock magic": hashAt,
		"data blocks": hashAt + 72, "salt": hashAt + 88, "top level": hashAt + verityBlock, "padding of a level": hashAt + 2*verityBlock - 1,
		"low level": hashAt + 2*verityBlock + 5} {
		b := bytes.Clone(good)
		b[at] ^= 1
		if err := CheckVerity(bytes.NewReader(b), hashAt, root); !errors.Is(err, ErrVerity) {
			t.Errorf("%s: got %v, want %v", name, err, ErrVerity)
		}
	}
	if err := CheckVerity(bytes.NewReader(good), hashAt, goldenSum); !errors.Is(err, ErrVerity) {
		t.Errorf("another root: %v", err)
	}
	if err := CheckVerity(bytes.NewReader(good[:len(good)-1]), hashAt, root); err == nil {
		t.Error("a tree cut short was taken")
	}
	if err := CheckVerity(bytes.NewReader(good), hashAt, "abc"); err == nil {
		t.Error("a root hash of three digits was taken")
	}
	huge := bytes.Clone(good)
	binary.LittleEndian.PutUint64(huge[hashAt+72:], 1<<63)
	if err := CheckVerity(bytes.NewReader(huge), hashAt, root); !errors.Is(err, ErrVerity) {
		t.Errorf("2^63 blocks: %v", err)
	}
}

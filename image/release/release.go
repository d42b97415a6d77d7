// Package release holds what mkimage tells the initramfs of the release that both are made for. Values only.
package release

// Built is /release.json in the initramfs.
type Built struct {
	Version  string   `json:"version"`
	RootHash string   `json:"roothash"` // 64 hex digits: of the verity tree of /usr
	HashAt   int64    `json:"hash_at"`  // byte offset of the verity superblock in the slot
	Always   []string `json:"always"`   // modules to load whatever the hardware is
}

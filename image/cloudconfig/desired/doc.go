// Package desired turns a cloud-config into what a host must look like, and that into the steps which make it so: pure functions, from values to
// values. What is no longer asked for is taken back: State tells what an earlier run has put there.
package desired

import (
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/fleet-init/fleet/image/cloudconfig/document"
)

// Stage is when a file has to be there.
type Stage int

// The stages, in their order: networkd reads its files when it starts; files may belong to users; units may need files.
const (
	Network Stage = iota
	Plain
	Units
)

// File is a file, or a link if Link is set, that the host must have.
type File struct {
	Path    string
	Content []byte
	Link    string
	Mode    uint32 // as chmod takes it
	Owner   string // user:group
	Stage   Stage
}

// Hash tells one content, or target of a link, from another.
func (f File) Hash() string {
	if f.Link != "" {
		return "link:" + f.Link
	}
	return Hash(f.Content)
}

// Hash is the SHA-256 of a content, in hexadecimal digits.
func Hash(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// Command is something to tell systemd about a unit: a verb of systemctl.
type Command struct {
	Verb, Unit string
}

// Desired is what a document asks for.
type Desired struct {
	Hostname string
	Users    []document.User
	Files    []File
	Enable   []string // units
	Commands []Command
	Script   []byte
}

// State is what earlier runs have done, kept on the host.
type State struct {
	V         int               `json:"v"`
	Source    string            `json:"source,omitempty"` // the document's
	Document  string            `json:"document,omitempty"`
	Applied   time.Time         `json:"applied"`
	FirstBoot time.Time         `json:"first_boot"` // when this host was first set up
	Files     map[string]Owned  `json:"files,omitempty"`
	Enabled   []string          `json:"enabled,omitempty"`
	Passwords map[string]string `json:"passwords,omitempty"` // user to hash of what was set, so that it is set once
}

// Owned is a file that was written by an earlier run.
type Owned struct {
	Hash   string `json:"hash"`
	Before *Kept  `json:"before,omitempty"` // what stood there before, if anything did
}

// Kept says how a file was that now lies aside.
type Kept struct {
	Mode  uint32 `json:"mode"`
	Owner string `json:"owner"`
}

// There is a file as it was found; the zero value is none.
type There struct {
	Hash  string
	Mode  uint32
	Owner string
}

// Seen is what a look at the host has found.
type Seen struct {
	Boot     bool             // the host is starting: nothing of ours runs yet
	Networkd bool             // it runs
	Hostname string           // the kernel's
	Files    map[string]There // those of Desired and State
	Users    map[string]bool  // those of Desired that exist
	Enabled  map[string]bool  // those of Desired and State that are
}

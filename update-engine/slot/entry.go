package slot

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Good is what Entry.Left says of a slot that has proven itself.
const Good = -1

// Release is what an entry says of the release in its slot.
type Release struct {
	Version  string `json:"version"`
	Manifest string `json:"manifest,omitempty"` // hash of the signed manifest
	Image    string `json:"image,omitempty"`    // hash of the image in the partition; deltas are chosen by it
	Size     int64  `json:"size,omitempty"`     // of that image in bytes
	RootHash string `json:"roothash,omitempty"` // of its verity tree
}

// Entry is a boot entry of a slot.
type Entry struct {
	Slot       Name
	Generation int
	Left       int // starts left to prove itself; Good = it has
	Done       int // starts it had
	Release    Release
	Options    string // more for the kernel's command line
}

const (
	entries = "loader/entries"
	kernels = "EFI/fleet"
)

// Bootable says that a boot loader would start it if nothing better is there.
func (e Entry) Bootable() bool { return e.Left != 0 }

// file is the name of the entry's file.
func (e Entry) file() string {
	count := ""
	if e.Left != Good {
		count = fmt.Sprintf("+%d", e.Left)
		if e.Done > 0 {
			count += fmt.Sprintf("-%d", e.Done)
		}
	}
	return fmt.Sprintf("fleet-%s-%05d%s.conf", e.Slot, e.Generation, count)
}

// parseFile reads a file's name; ok=false: it is none of ours.
func parseFile(name string) (Entry, bool) {
	m := regexp.MustCompile(`^fleet-([ab])-(\d{1,9})(?:\+(\d{1,3})(?:-(\d{1,3}))?)?\.conf$`).FindStringSubmatch(strings.ToLower(name))
	if m == nil {
		return Entry{}, false
	}
	e := Entry{Slot: Name(m[1]), Left: Good}
	// The expression lets only short numbers through.
	e.Generation, _ = strconv.Atoi(m[2])
	if m[3] != "" {
		e.Left, _ = strconv.Atoi(m[3])
		e.Done, _ = strconv.Atoi(m[4])
	}
	return e, true
}

const releaseLine = "# fleet-release "

// text is the content of the entry's file. systemd-boot puts the greatest version first: it begins with the generation, so that
// going back to an older release is a matter of a new entry too.
func (e Entry) text() ([]byte, error) {
	r, err := json.Marshal(e.Release)
	if err != nil {
		return nil, err
	}
	if strings.ContainsAny(e.Release.Version+e.Options, "\r\n") {
		return nil, errors.New("line break in version or options")
	}
	options := fmt.Sprintf("fleet.slot=%s fleet.version=%s", e.Slot, e.Release.Version)
	if e.Release.RootHash != "" {
		// Not usrhash=: systemd's generator would then wait for partitions that we do not have.
		options += " os.usrhash=" + e.Release.RootHash
	}
	if e.Options != "" {
		options += " " + e.Options
	}
	return fmt.Appendf(nil, "%s%s\ntitle Fleet %s (slot %s)\nversion %d-%s\nsort-key fleet\nefi /%s/%s.efi\noptions %s\n",
		releaseLine, r, e.Release.Version, e.Slot, e.Generation, e.Release.Version, kernels, e.Slot, options), nil
}

// parseText reads what text wrote into the entry.
func (e *Entry) parseText(b []byte) error {
	seen := false
	for line := range strings.Lines(string(b)) {
		line = strings.TrimRight(line, "\r\n")
		if js, ok := strings.CutPrefix(line, releaseLine); ok {
			if err := json.Unmarshal([]byte(js), &e.Release); err != nil {
				return fmt.Errorf("%s: %w", e.file(), err)
			}
			seen = true
		}
		if o, ok := strings.CutPrefix(line, "options "); ok {
			var more []string
			for _, w := range strings.Fields(o) {
				if !strings.HasPrefix(w, "fleet.slot=") && !strings.HasPrefix(w, "fleet.version=") && !strings.HasPrefix(w, "os.usrhash=") {
					more = append(more, w)
				}
			}
			e.Options = strings.Join(more, " ")
		}
	}
	if !seen {
		return fmt.Errorf("%s: no line %q: it was not written by update-engine, or is damaged", e.file(), strings.TrimSpace(releaseLine))
	}
	return nil
}

// Choose picks the entry that systemd-boot would start: the highest generation with starts left or good; if there is none, the
// highest generation. ok=false: there is none at all.
func Choose(list []Entry) (best Entry, ok bool) {
	for _, e := range list {
		if !ok || e.Bootable() && !best.Bootable() || e.Bootable() == best.Bootable() && e.Generation > best.Generation {
			best, ok = e, true
		}
	}
	return best, ok
}

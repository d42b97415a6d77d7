package payload

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/coreos/go-semver/semver"
)

// Channel is a signed list of the releases that hosts of one product and architecture may take.
type Channel struct {
	Format   int      `json:"format"` // 1
	Product  string   `json:"product"`
	Arch     string   `json:"arch"`
	Name     string   `json:"name"`
	Releases []Listed `json:"releases"`
}

// Listed is one release of a channel.
type Listed struct {
	Version  string `json:"version"`
	Manifest string `json:"manifest"` // path of the signed manifest
	Sum      Hash   `json:"sha256"`   // of that manifest
	MinFrom  string `json:"min_from,omitempty"`
	Stop     bool   `json:"stop,omitempty"`
}

// ParseChannel reads and checks a channel.
func ParseChannel(b []byte) (Channel, error) {
	var c Channel
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		return c, fmt.Errorf("%w: channel: %w", ErrManifest, err)
	}
	if c.Format != format {
		return c, fmt.Errorf("%w: channel of format %d, this program knows %d", ErrManifest, c.Format, format)
	}
	for _, r := range c.Releases {
		if _, err := semver.NewVersion(r.Version); err != nil || r.Sum.IsZero() || !isPath(r.Manifest) {
			return c, fmt.Errorf("%w: channel %s lists version %q with manifest %q", ErrManifest, c.Name, r.Version, r.Manifest)
		}
	}
	return c, nil
}

// With is the channel with a release added, or replaced where its version is listed already.
func (c Channel) With(r Listed) Channel {
	out := c.Without(r.Version)
	out.Releases = append(out.Releases, r)
	return out
}

// Without is the channel without a version: no host that has not begun takes it any more.
func (c Channel) Without(version string) Channel {
	old := c.Releases
	c.Releases = nil
	for _, r := range old {
		if r.Version != version {
			c.Releases = append(c.Releases, r)
		}
	}
	return c
}

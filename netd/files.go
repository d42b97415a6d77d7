package main

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/fleet-init/fleet/internal/network"
	"github.com/fleet-init/fleet/netd/subnet"
)

// files are what netd writes for itself and for others.
type files struct{ c Config }

// statePath is netd's memory over restarts: what it last knew of the network, store or no store.
func (f files) statePath() string { return filepath.Join(f.c.StateDir, "state.json") }

// lastKnown reads the network as it was when netd ended, so that it goes on without the store. None: an empty View. Without
// a state, a subnet file of a flanneld before us names the subnet to ask for.
func (f files) lastKnown() (subnet.View, error) {
	var v subnet.View
	b, err := os.ReadFile(f.statePath())
	if errors.Is(err, os.ErrNotExist) {
		v.Own = f.subnetOfFile()
		return subnet.View{Own: v.Own}, nil
	}
	if err != nil {
		return v, fmt.Errorf("read last known state: %w", err)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return subnet.View{}, fmt.Errorf("read last known state %s: %w", f.statePath(), err)
	}
	// The text is what was stored; parsing it again keeps a newer netd's idea of the defaults.
	if v.Config, _, err = subnet.ParseConfig([]byte(v.ConfigText)); err != nil {
		return subnet.View{}, fmt.Errorf("read last known state %s: %w", f.statePath(), err)
	}
	return v, nil
}

// subnetOfFile reads the subnet that a flanneld gave this host. What cannot be read is passed over: it is a wish, not a need.
func (f files) subnetOfFile() (l network.Lease) {
	b, err := os.ReadFile(f.c.SubnetFile)
	if err != nil {
		return l
	}
	for _, line := range strings.Split(string(b), "\n") {
		k, v, _ := strings.Cut(line, "=")
		p, err := netip.ParsePrefix(v)
		switch {
		case err != nil:
		case k == "FLANNEL_SUBNET" && p.Addr().Is4():
			l.V4 = p.Masked()
		case k == "FLANNEL_IPV6_SUBNET" && p.Addr().Is6():
			l.V6 = p.Masked()
		}
	}
	return l
}

// keep writes the last known state. It names all peers and is for root and netd only.
func (f files) keep(v subnet.View) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write last known state: %w", err)
	}
	return writeFile(f.statePath(), b, 0o600)
}

// subnetEnv writes flannel's subnet file.
func (f files) subnetEnv(c network.Config, own network.Lease, mtu int) error {
	var b strings.Builder
	if c.V4.On() && own.V4.IsValid() {
		fmt.Fprintf(&b, "FLANNEL_NETWORK=%s\nFLANNEL_SUBNET=%s\n", c.V4.Network, firstAddr(own.V4))
	}
	if c.V6.On() && own.V6.IsValid() {
		fmt.Fprintf(&b, "FLANNEL_IPV6_NETWORK=%s\nFLANNEL_IPV6_SUBNET=%s\n", c.V6.Network, firstAddr(own.V6))
	}
	fmt.Fprintf(&b, "FLANNEL_MTU=%d\nFLANNEL_IPMASQ=%t\n", mtu, f.c.Masquerade)
	return writeFile(f.c.SubnetFile, []byte(b.String()), 0o644)
}

// remove takes away what a stopped network must not leave for others to read. The key and the last known state's subnet stay
// away from a later start's wishes: it asks for the same subnet by the lease in the store.
func (f files) remove() error {
	var errs []error
	paths := []string{f.statePath(), f.c.SubnetFile, f.c.CNIConf, f.c.listPath()}
	if to, err := os.Readlink(cniLink); err == nil && to == f.c.listPath() {
		paths = append(paths, cniLink)
	}
	for _, p := range paths {
		if p == "" {
			continue
		}
		if err := os.Remove(p); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// writeFile replaces a file in one step, so that readers see the old or the new; unchanged content is not written.
func writeFile(path string, b []byte, mode os.FileMode) error {
	if old, err := os.ReadFile(path); err == nil && string(old) == string(b) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	t, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(t.Name()) // nothing is there after the rename
	_, err = t.Write(b)
	err = errors.Join(err, t.Chmod(mode), t.Sync(), t.Close())
	if err == nil {
		err = os.Rename(t.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// wireguardKey reads this host's key, or makes one that stays: peers know the host by it.
func wireguardKey(c Config) (private network.Secret, public string, err error) {
	path := c.KeyFile
	if path == "" {
		path = filepath.Join(c.StateDir, "wgkey")
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		key, err := ecdh.X25519().GenerateKey(rand.Reader)
		if err != nil {
			return "", "", fmt.Errorf("make a WireGuard key: %w", err)
		}
		b = []byte(base64.StdEncoding.EncodeToString(key.Bytes()) + "\n")
		if err := writeFile(path, b, 0o600); err != nil {
			return "", "", err
		}
	} else if err != nil {
		return "", "", fmt.Errorf("read the WireGuard key: %w", err)
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(b)))
	if err != nil {
		return "", "", fmt.Errorf("read the WireGuard key %s: want 32 bytes in base64; remove the file to get a new key", path)
	}
	key, err := ecdh.X25519().NewPrivateKey(raw)
	if err != nil {
		return "", "", fmt.Errorf("read the WireGuard key %s: want 32 bytes in base64; remove the file to get a new key", path)
	}
	// The kernel gives a key back with the bits of RFC 7748 set; without them here, every look would find a difference.
	raw[0] &= 248
	raw[31] = raw[31]&127 | 64
	return network.Secret(base64.StdEncoding.EncodeToString(raw)), base64.StdEncoding.EncodeToString(key.PublicKey().Bytes()), nil
}

package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// Cloud is a cloud's metadata service: ec2, gce, digitalocean or openstack. base is another address than the usual one, for who asks by hand.
func Cloud(c *Client, platform, base string) (Source, error) {
	s := service{c: c, base: "http://169.254.169.254"}
	fetch := map[string]func(service, context.Context) (Found, error){
		"ec2": service.ec2, "gce": service.gce, "digitalocean": service.digitalocean, "openstack": service.openstack,
	}[platform]
	switch platform {
	case "ec2", "digitalocean", "openstack":
	case "gce":
		s.base, s.header = "http://metadata.google.internal", map[string]string{"Metadata-Flavor": "Google"}
	default:
		return Source{}, fmt.Errorf("%q is no platform that is known here: ec2, gce, digitalocean, openstack", platform)
	}
	if base != "" {
		s.base = strings.TrimSuffix(base, "/")
	}
	name := platform + " metadata at " + s.base
	return Source{Name: name, Network: true, Fetch: func(ctx context.Context) (Found, error) {
		f, err := fetch(s, ctx)
		f.Source = name
		return f, err
	}}, nil
}

// service asks one metadata server.
type service struct {
	c      *Client
	base   string
	header map[string]string
}

// maybe asks for something that not every host has.
func (s service) maybe(ctx context.Context, path string) (string, error) {
	data, err := s.c.get(ctx, http.MethodGet, s.base+path, s.header)
	if errors.Is(err, ErrNone) {
		return "", nil
	}
	return string(data), err
}

// fill asks for several things; into is where each goes.
func (s service) fill(ctx context.Context, into map[string]*string) error {
	for path, at := range into {
		v, err := s.maybe(ctx, path)
		if err != nil {
			return err
		}
		*at = strings.TrimSpace(v)
	}
	return nil
}

// ec2 asks Amazon's service, by IMDSv2: a token first, which a request that was smuggled through some web server cannot get.
func (s service) ec2(ctx context.Context) (Found, error) {
	token, err := s.c.get(ctx, http.MethodPut, s.base+"/latest/api/token", map[string]string{"X-aws-ec2-metadata-token-ttl-seconds": "300"})
	if err != nil {
		return Found{}, fmt.Errorf("ask for a token (IMDSv2): %w", err)
	}
	s.header = map[string]string{"X-aws-ec2-metadata-token": string(token)}
	var f Found
	var private, public, v6, keys, data string
	err = s.fill(ctx, map[string]*string{
		"/latest/meta-data/local-hostname": &f.Hostname, "/latest/meta-data/local-ipv4": &private, "/latest/meta-data/public-ipv4": &public,
		"/latest/meta-data/ipv6": &v6, "/latest/meta-data/public-keys/": &keys,
	})
	if err != nil {
		return Found{}, err
	}
	for _, line := range strings.Fields(keys) { // "0=name"
		index, _, _ := strings.Cut(line, "=")
		key, err := s.maybe(ctx, "/latest/meta-data/public-keys/"+index+"/openssh-key")
		if err != nil {
			return Found{}, err
		}
		f.Keys = append(f.Keys, keyLines(key)...)
	}
	if data, err = s.maybe(ctx, "/latest/user-data"); err != nil {
		return Found{}, err
	}
	f.UserData, f.Addresses = []byte(data), known("private_ipv4", private, "public_ipv4", public, "public_ipv6", v6)
	return f, nil
}

func (s service) gce(ctx context.Context) (Found, error) {
	var f Found
	var private, public, v6, keys string
	const at = "/computeMetadata/v1/instance/"
	err := s.fill(ctx, map[string]*string{
		at + "hostname": &f.Hostname, at + "network-interfaces/0/ip": &private, at + "network-interfaces/0/access-configs/0/external-ip": &public,
		at + "network-interfaces/0/ipv6s": &v6, at + "attributes/ssh-keys": &keys,
	})
	if err != nil {
		return Found{}, err
	}
	for _, line := range keyLines(keys) { // "user:key"
		if _, key, ok := strings.Cut(line, ":"); ok {
			f.Keys = append(f.Keys, key)
		}
	}
	data, err := s.maybe(ctx, at+"attributes/user-data")
	if err != nil {
		return Found{}, err
	}
	first, _, _ := strings.Cut(v6, "\n")
	f.UserData, f.Addresses = []byte(data), known("private_ipv4", private, "public_ipv4", public, "public_ipv6", first)
	return f, nil
}

func (s service) digitalocean(ctx context.Context) (Found, error) {
	data, err := s.c.get(ctx, http.MethodGet, s.base+"/metadata/v1.json", nil)
	if err != nil {
		return Found{}, err
	}
	type nic struct {
		V4 struct {
			Address string `json:"ip_address"`
		} `json:"ipv4"`
		V6 struct {
			Address string `json:"ip_address"`
		} `json:"ipv6"`
	}
	var m struct {
		Hostname   string   `json:"hostname"`
		UserData   string   `json:"user_data"`
		Keys       []string `json:"public_keys"`
		Interfaces struct {
			Public  []nic `json:"public"`
			Private []nic `json:"private"`
		} `json:"interfaces"`
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return Found{}, fmt.Errorf("%s/metadata/v1.json: %w", s.base, err)
	}
	f := Found{UserData: []byte(m.UserData), Hostname: m.Hostname, Keys: m.Keys, Addresses: map[string]string{}}
	for _, n := range m.Interfaces.Public[:min(1, len(m.Interfaces.Public))] {
		f.Addresses = known("public_ipv4", n.V4.Address, "public_ipv6", n.V6.Address)
	}
	for _, n := range m.Interfaces.Private[:min(1, len(m.Interfaces.Private))] {
		for k, v := range known("private_ipv4", n.V4.Address, "private_ipv6", n.V6.Address) {
			f.Addresses[k] = v
		}
	}
	return f, nil
}

// openstack asks Nova. Addresses are only in its imitation of Amazon's older service.
func (s service) openstack(ctx context.Context) (Found, error) {
	meta, err := s.c.get(ctx, http.MethodGet, s.base+"/openstack/latest/meta_data.json", nil)
	if err != nil {
		return Found{}, err
	}
	var f Found
	if err := f.openstack(meta); err != nil {
		return Found{}, err
	}
	var private, public string
	if err := s.fill(ctx, map[string]*string{"/latest/meta-data/local-ipv4": &private, "/latest/meta-data/public-ipv4": &public}); err != nil {
		return Found{}, err
	}
	data, err := s.maybe(ctx, "/openstack/latest/user_data")
	if err != nil {
		return Found{}, err
	}
	f.UserData, f.Addresses = []byte(data), known("private_ipv4", private, "public_ipv4", public)
	return f, nil
}

// known makes a table of names and values, without those that are empty.
func known(words ...string) map[string]string {
	out := map[string]string{}
	for i := 0; i+1 < len(words); i += 2 {
		if words[i+1] != "" {
			out[words[i]] = words[i+1]
		}
	}
	return out
}

func keyLines(s string) []string {
	var out []string
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	return out
}

package source

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/fleet-init/fleet/image/cloudconfig/document"
)

// Drive is a block device with the label of a config drive.
type Drive struct{ Device, Label string }

func (d Drive) String() string { return "config drive " + d.Label + " at " + d.Device }

// Labels are those of config drives: OpenStack's and NoCloud's. FAT labels come in capitals.
func Labels() []string { return []string{"config-2", "CONFIG-2", "cidata", "CIDATA"} }

// File is a document on this host. "-" is standard input.
func File(name string) Source {
	return Source{Name: "file " + name, Fetch: func(context.Context) (Found, error) {
		var data []byte
		var err error
		if name == "-" {
			data, err = readAll(os.Stdin)
		} else {
			data, err = readFile(name)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return Found{}, fmt.Errorf("%s: %w", name, ErrNone)
		}
		return Found{Source: "file " + name, UserData: data}, err
	}}
}

// ConfigDrive is a mounted config drive.
func ConfigDrive(dir string) Source {
	return Source{Name: "config drive at " + dir, Fetch: func(context.Context) (Found, error) {
		found, err := readDrive(dir)
		found.Source = "config drive at " + dir
		return found, err
	}}
}

// readDrive reads OpenStack's layout (openstack/latest/…) or, where that is not there, NoCloud's (user-data, meta-data).
func readDrive(dir string) (Found, error) {
	var f Found
	data, err := readFile(filepath.Join(dir, "openstack", "latest", "user_data"))
	meta, metaErr := readFile(filepath.Join(dir, "openstack", "latest", "meta_data.json"))
	if err == nil || metaErr == nil {
		if wrong := unless(fs.ErrNotExist, err, metaErr); wrong != nil {
			return f, wrong
		}
		f.UserData = data
		return f, f.openstack(meta)
	}
	data, err = readFile(filepath.Join(dir, "user-data"))
	meta, metaErr = readFile(filepath.Join(dir, "meta-data"))
	if err != nil && metaErr != nil {
		return f, fmt.Errorf("%s holds neither openstack/latest/user_data nor user-data: %w", dir, ErrNone)
	}
	if wrong := unless(fs.ErrNotExist, err, metaErr); wrong != nil {
		return f, wrong
	}
	f.UserData = data
	var m struct {
		Hostname string   `yaml:"local-hostname"`
		Other    string   `yaml:"hostname"`
		Keys     []string `yaml:"public-keys"`
	}
	if err := yaml.Unmarshal(meta, &m); err != nil {
		return f, fmt.Errorf("meta-data of the config drive: %w", err)
	}
	f.Hostname, f.Keys = m.Hostname, m.Keys
	if f.Hostname == "" {
		f.Hostname = m.Other
	}
	return f, nil
}

// openstack reads a meta_data.json.
func (f *Found) openstack(meta []byte) error {
	if len(meta) == 0 {
		return nil
	}
	var m struct {
		Hostname string            `json:"hostname"`
		Keys     map[string]string `json:"public_keys"`
	}
	if err := json.Unmarshal(meta, &m); err != nil {
		return fmt.Errorf("meta_data.json: %w", err)
	}
	f.Hostname = m.Hostname
	for _, k := range m.Keys {
		f.Keys = append(f.Keys, strings.TrimSpace(k))
	}
	slices.Sort(f.Keys) // a map has no order, and a file of keys must be the same each time
	return nil
}

// unless gives the first error that is not the expected one.
func unless(expected error, errs ...error) error {
	for _, err := range errs {
		if err != nil && !errors.Is(err, expected) {
			return err
		}
	}
	return nil
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f)
}

var errSize = fmt.Errorf("it has more than %d MiB", document.MaxSize>>20)

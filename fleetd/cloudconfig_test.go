package main

import (
	"io/fs"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/image/cloudconfig/document"
	"github.com/fleet-init/fleet/image/cloudconfig/document/documenttest"
	"github.com/fleet-init/fleet/internal/conf"
)

// What cloud-config says of fleetd's settings is what fleetd says of them.
func TestCloudConfigKnowsOurSettings(t *testing.T) {
	var c Config
	var names []string
	for _, key := range c.keys() {
		names = append(names, key.Name)
	}
	documenttest.SettingsOf(t, document.Fleetd, names, func(name, value string) error {
		_, err := conf.Parse(c.program(), nil, []string{"FLEET_" + strings.ToUpper(name) + "=" + value}, func(string) ([]byte, error) { return nil, fs.ErrNotExist })
		return err
	}, "etcd_servers", "join")
}

package main

import (
	"io/fs"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/image/cloudconfig/document"
	"github.com/fleet-init/fleet/internal/conf"
)

// What cloud-config says of fleetd's settings is what fleetd says of them.
func TestCloudConfigKnowsOurSettings(t *testing.T) {
	none := func(name string) ([]byte, error) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	// What is in these only fleetd can tell.
	deeper := map[string]bool{"etcd_servers": true, "join": true}
	var c Config
	for _, key := range c.keys() {
		for _, value := range []string{"soon", "-1", "0", "1", "2", "5", "6", "99", "70000", "9999999", "0.5", "10s", "1m30s", "true", "No", "10.0.0.1", "10.0.0.0/8", "fd00::1"} {
			_, err := conf.Parse(c.program(), nil, []string{"FLEET_" + strings.ToUpper(key.Name) + "=" + value}, none)
			if wrong := document.WrongSetting(document.Fleetd, key.Name, value); (wrong != "") != (err != nil) && !(deeper[key.Name] && wrong == "") {
				t.Errorf("%s=%s: cloud-config says %q, fleetd %v", key.Name, value, wrong, err)
			}
		}
	}
	if len(c.keys()) != document.Settings(document.Fleetd) {
		t.Errorf("fleetd has %d settings, cloud-config knows %d", len(c.keys()), document.Settings(document.Fleetd))
	}
}

package main

import (
	"io/fs"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/image/cloudconfig/document"
)

// What cloud-config says of update-engine's settings is what it says of them.
func TestCloudConfigKnowsOurSettings(t *testing.T) {
	none := func(name string) ([]byte, error) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	// What is in these only update-engine can tell.
	deeper := map[string]bool{"mirrors": true, "window": true, "peer_listen": true}
	var c Config
	for _, key := range c.keys() {
		for _, value := range []string{"soon", "-1", "0", "1", "2", "5", "6", "99", "70000", "9999999", "0.5", "10s", "1m30s", "true", "No", "10.0.0.1", "10.0.0.0/8", "fd00::1"} {
			_, _, err := parseConfig(nil, []string{"FLEET_UPDATE_" + strings.ToUpper(key.Name) + "=" + value}, none)
			if wrong := document.WrongSetting(document.Update, key.Name, value); (wrong != "") != (err != nil) && !(deeper[key.Name] && wrong == "") {
				t.Errorf("%s=%s: cloud-config says %q, update-engine %v", key.Name, value, wrong, err)
			}
		}
	}
	if len(c.keys()) != document.Settings(document.Update) {
		t.Errorf("update-engine has %d settings, cloud-config knows %d", len(c.keys()), document.Settings(document.Update))
	}
}

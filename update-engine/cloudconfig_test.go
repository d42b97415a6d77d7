package main

import (
	"io/fs"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/image/cloudconfig/document"
	"github.com/fleet-init/fleet/image/cloudconfig/document/documenttest"
)

// What cloud-config says of update-engine's settings is what update-engine says of them.
func TestCloudConfigKnowsOurSettings(t *testing.T) {
	var names []string
	for _, key := range new(Config).keys() {
		names = append(names, key.Name)
	}
	documenttest.SettingsOf(t, document.Update, names, func(name, value string) error {
		_, _, err := parseConfig(nil, []string{"FLEET_UPDATE_" + strings.ToUpper(name) + "=" + value}, func(string) ([]byte, error) { return nil, fs.ErrNotExist })
		return err
	}, "mirrors", "window", "peer_listen")
}

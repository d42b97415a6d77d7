// Package documenttest holds what documents say of the daemons' settings against the daemons themselves, in their own tests.
package documenttest

import (
	"slices"
	"testing"

	"github.com/fleet-init/fleet/image/cloudconfig/document"
)

// SettingsOf fails the test unless a document knows just these settings of a daemon, and refuses the values that parse refuses. deeper are settings of
// which only the daemon can tell what is wrong in them; what a document refuses the daemon has to refuse there, too.
func SettingsOf(t *testing.T, d document.Daemon, names []string, parse func(name, value string) error, deeper ...string) {
	t.Helper()
	for _, name := range names {
		for _, value := range []string{"soon", "-1", "0", "1", "2", "5", "6", "99", "2000", "70000", "9999999", "0.5", "10s", "1m30s", "48h", "true", "No", "maybe",
			"10.0.0.1", "10.0.0.0/8", "fd00::1", "ptp", "eth0"} {
			err := parse(name, value)
			if wrong := document.WrongSetting(d, name, value); (wrong != "") != (err != nil) && !(slices.Contains(deeper, name) && wrong == "") {
				t.Errorf("%s=%s: a document says %q, %s %v", name, value, wrong, d, err)
			}
		}
	}
	if len(names) != document.Settings(d) {
		t.Errorf("%s has %d settings, a document knows %d", d, len(names), document.Settings(d))
	}
}

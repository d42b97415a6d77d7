package main

import (
	"flag"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/image/cloudconfig/document"
)

// What cloud-config says of netd's settings is what netd says of them.
func TestCloudConfigKnowsOurSettings(t *testing.T) {
	// Not meant for the environment of a daemon; regular expressions and lists of plugins only netd can tell.
	deeper := map[string]bool{"cni_plugins": true}
	f := flag.NewFlagSet("netd", flag.ContinueOnError)
	var c Config
	var a, b, d, e string
	var m, n int
	bind(f, &c, &a, &b, &d, &e, &m, &n)
	known := 0
	f.VisitAll(func(x *flag.Flag) {
		if x.Name == "version" {
			return
		}
		known++
		name := strings.ReplaceAll(x.Name, "-", "_")
		for _, value := range []string{"soon", "-1", "0", "1", "2", "2000", "70000", "10s", "48h", "true", "maybe", "10.0.0.1", "fd00::1", "ptp", "eth0"} {
			_, _, err := parseConfig(nil, []string{"FLANNELD_" + strings.ToUpper(name) + "=" + value})
			if err != nil && strings.Contains(err.Error(), "without --etcd-keyfile") {
				err = nil // what two flags must be together
			}
			if wrong := document.WrongSetting(document.Netd, name, value); (wrong != "") != (err != nil) && !(deeper[name] && wrong == "") {
				t.Errorf("%s=%s: cloud-config says %q, netd %v", name, value, wrong, err)
			}
		}
	})
	if known != document.Settings(document.Netd) {
		t.Errorf("netd has %d settings, cloud-config knows %d", known, document.Settings(document.Netd))
	}
}

package main

import (
	"flag"
	"strings"
	"testing"

	"github.com/fleet-init/fleet/image/cloudconfig/document"
	"github.com/fleet-init/fleet/image/cloudconfig/document/documenttest"
)

// What cloud-config says of netd's settings is what netd says of them.
func TestCloudConfigKnowsOurSettings(t *testing.T) {
	f := flag.NewFlagSet("netd", flag.ContinueOnError)
	var reach, public, public6, health string
	var margin, resync int
	bind(f, &Config{}, &reach, &public, &public6, &health, &margin, &resync)
	var names []string
	f.VisitAll(func(x *flag.Flag) {
		if x.Name != "version" {
			names = append(names, strings.ReplaceAll(x.Name, "-", "_"))
		}
	})
	documenttest.SettingsOf(t, document.Netd, names, func(name, value string) error {
		_, _, err := parseConfig(nil, []string{"FLANNELD_" + strings.ToUpper(name) + "=" + value})
		if err != nil && strings.Contains(err.Error(), "without --etcd-keyfile") {
			return nil // what two flags must be together
		}
		return err
	}, "cni_plugins")
}

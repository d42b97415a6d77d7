package main

import (
	"testing"

	"github.com/fleet-init/fleet/internal/kv/etcd/etcdtest"
)

func TestAnEtcdElsewhereWithTLSAndAUser(t *testing.T) {
	endpoint, login := etcdtest.Guarded(t)
	c := Config{EtcdServers: []string{endpoint}, EtcdCAFile: login.CAFile, EtcdCertFile: login.CertFile, EtcdKeyFile: login.KeyFile,
		EtcdUsername: login.Username}
	for password, want := range map[string]bool{login.Password: true, "wrong": false} {
		c.EtcdPassword = password
		conf, err := c.login().TLS()
		must(t, err)
		client, err := newEtcd(t.Context(), c, c.EtcdServers, conf)
		must(t, err)
		_, err = client.Put(t.Context(), "k", "v")
		if must(t, client.Close()); (err == nil) != want {
			t.Errorf("with password %q: %v", password, err)
		}
	}
}

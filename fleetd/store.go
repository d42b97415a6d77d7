package main

import (
	"github.com/fleet-init/fleet/fleetd/member"
	"github.com/fleet-init/fleet/internal/kv/etcd"
)

// memberConfig is the part of the configuration that says where the store is.
func memberConfig(c Config, name string) member.Config {
	return member.Config{
		Servers: c.EtcdServers, Login: etcd.Login{
			CAFile: c.EtcdCAFile, CertFile: c.EtcdCertFile, KeyFile: c.EtcdKeyFile, Username: c.EtcdUsername, Password: c.EtcdPassword,
		},
		Dir: c.DataDir, Socket: c.EtcdSocket, Name: name, Net: c.MemberIP,
		PeerPort: uint16(c.PeerPort), ClientPort: uint16(c.ClientPort), Join: c.Join, Size: c.ClusterSize, Quota: int64(c.StoreQuota) << 20,
	}
}

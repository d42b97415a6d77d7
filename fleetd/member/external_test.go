package member

import (
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/fleet-init/fleet/internal/kv/etcd/etcdtest"
)

// guarded is an etcd with TLS both ways, whose only user is root with password secret.
func guarded(t *testing.T) (endpoint, cert, key string) {
	t.Helper()
	ports := etcdtest.Ports(t, 1)
	at := url.URL{Scheme: "https", Host: hostPort("127.0.0.1", ports[0])}
	log := newZap(slog.New(slog.DiscardHandler))
	tls, err := transport.SelfCert(log, filepath.Join(t.TempDir(), "tls"), []string{at.Host}, 1)
	if err != nil {
		t.Fatal(err)
	}
	c := embed.NewConfig()
	c.Name, c.Dir, c.ZapLoggerBuilder = "x", t.TempDir(), embed.NewZapLoggerBuilder(log)
	c.ListenPeerUrls, c.EnableGRPCGateway = nil, false
	c.InitialCluster = "x=" + c.AdvertisePeerUrls[0].String()
	c.ListenClientUrls, c.AdvertiseClientUrls = []url.URL{at}, []url.URL{at}
	c.ClientTLSInfo = tls
	e, err := embed.StartEtcd(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	<-e.Server.ReadyNotify()
	root, err := (&Member{cfg: Config{Servers: []string{at.String()}, CAFile: tls.CertFile}, zap: log}).dial([]string{at.String()})
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if _, err := root.UserAdd(t.Context(), "root", "secret"); err != nil {
		t.Fatal(err)
	}
	if _, err := root.UserGrantRole(t.Context(), "root", "root"); err != nil {
		t.Fatal(err)
	}
	if _, err := root.AuthEnable(t.Context()); err != nil {
		t.Fatal(err)
	}
	return at.String(), tls.CertFile, tls.KeyFile
}

func TestExternalEtcdWithTLSAndAUser(t *testing.T) {
	t.Parallel()
	endpoint, cert, key := guarded(t)
	h := newHosts(t, 1)[0]
	h.cfg.Servers, h.cfg.CAFile, h.cfg.CertFile, h.cfg.KeyFile = []string{endpoint}, cert, cert, key
	h.cfg.Username, h.cfg.Password = "root", "secret"
	h.start()
	h.awaitRole(External)
	// Streams log in by another way than calls.
	w := h.m.Client().Watch(t.Context(), "k", clientv3.WithCreatedNotify())
	<-w
	h.put("k", "v")
	if r := <-w; r.Err() != nil || len(r.Events) != 1 {
		t.Errorf("watch: %+v", r)
	}
	h.wantKey("k", "v") // through the socket
	h.stop()
}

func TestExternalEtcdWithAWrongPassword(t *testing.T) {
	t.Parallel()
	endpoint, cert, _ := guarded(t)
	h := newHosts(t, 1)[0]
	h.cfg.Servers, h.cfg.CAFile, h.cfg.Username, h.cfg.Password = []string{endpoint}, cert, "root", "wrong"
	h.start()
	h.await("a reason", func(s Status) bool {
		return strings.Contains(s.Doing, "etcd_servers") && strings.Contains(s.Doing, "etcd_password")
	})
	h.stop()
}

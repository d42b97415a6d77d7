package member

import (
	"log/slog"
	"net"
	"path/filepath"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/fleet-init/fleet/internal/kv/etcd/etcdtest"
)

// etcd 3.7 panics over a question for the status of a member that has just been removed: whoever asks must not end fleetd with that.
func TestAskingAMemberThatWasJustRemovedEndsNothing(t *testing.T) {
	t.Parallel()
	e := etcdtest.Start(t).Etcd.Server
	dir := t.TempDir()
	m, err := New(Config{Dir: dir, Socket: filepath.Join(dir, "s"), Size: 1}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer m.client.Close()
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	g := m.newServer(e)
	defer g.Stop()
	go func() { _ = g.Serve(l) }() // ends with Stop
	c, err := grpc.NewClient("unix://"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := pb.NewMaintenanceClient(c).Status(t.Context(), &pb.StatusRequest{}); err != nil {
		t.Fatal(err)
	}
	// As its turn of the log does it, a moment before it stops.
	e.Cluster().(*membership.RaftCluster).RemoveMember(e.MemberID(), membership.ApplyBoth)
	_, err = pb.NewMaintenanceClient(c).Status(t.Context(), &pb.StatusRequest{})
	if status.Code(err) != codes.Unavailable {
		t.Errorf("status of a member that was removed: %v", err)
	}
}

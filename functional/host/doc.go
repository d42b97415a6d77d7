// Package host boots clusters of real hosts for tests and for trying things out: the image's root tree, each in an nspawn container on
// an overlay of its own, in network namespaces that nothing on the machine outside can see. It never decides
// anything about fleet; functional tests and build.sh up drive it.
//
// A test:
//
//	func TestUnitMovesWhenItsMachineDies(t *testing.T) {
//		c := host.ForTest(t, host.Options{Hosts: 3, Files: config})
//		ctx := host.Context(t)                       // ends before go test's own deadline, so that clean-up still runs
//		c.Host(1).Must(t, "fleetctl", "start", "web@1.service")
//		c.Host(2).PowerOff(ctx)                      // no process gets to say goodbye, not even a FIN
//		err := host.WaitFor(ctx, "web@1.service on another machine", func(ctx context.Context) error { … })
//	}
//
// ForTest removes the cluster at the test's end, and on failure logs the end of each host's journal. Clusters do not
// touch each other: tests may run in parallel. All need root, and the tools that build.sh test installs.
//
// How it holds together (script/): a keeper starts a holder, process 1 of a process namespace and owner of a network namespace with
// a bridge. Hosts run inside; so when the holder goes, everything goes, and the holder goes when the process that called
// Start does, even by SIGKILL. Each host has a control group, for freezing and killing it in one write.
//
// What a host's root is made of, and how a test's host differs from one that ships: docs/decisions/0032.
package host

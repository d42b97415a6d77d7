// Package vm boots the disk image in QEMU, under software emulation where the machine has no better, beside nspawn hosts on the same bridge.
// Everything that needs a kernel, a firmware or a disk of its own is tested here; what does not is tested in functional/host, which
// costs a hundredth.
//
// A VM has two doors: its serial console, where a root shell waits on a host without an owner, and QEMU's own monitor. It lives in the
// namespaces of a host.Cluster, so it ends with the test however that ends.
package vm

// Command init is process 1 of the initramfs: it finds the disk that the firmware booted from, joins the running slot's /usr to its root hash
// by dm-verity, mounts the state partition as root with /usr and /etc over it, and becomes systemd. It never asks anybody anything and never
// waits without end: whatever goes wrong ends in a restart, which the boot loader has counted.
//
// The kernel starts it; image/mkimage packs it into the UKI together with the modules it loads and the file /release.json.
package main

func main() {
	begin()
}

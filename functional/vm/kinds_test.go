package vm

// kinds starts the types of units that only a kernel of one's own lets systemd have; the others are looked at in containers. On a disk, too:
// a swap file cannot be on an overlay.
func (r *rig) kinds() {
	r.t.Helper()
	r.must(`set -e
		mkdir -p /root/kinds; cd /root/kinds
		printf '[Mount]\nWhat=tmpfs\nWhere=/run/kauto\nType=tmpfs\n' >run-kauto.mount
		printf '[Automount]\nWhere=/run/kauto\n[X-Fleet]\nMachineOf=run-kauto.mount\n' >run-kauto.automount
		printf '[Mount]\nWhat=tmpfs\nWhere=/run/kmount\nType=tmpfs\n' >run-kmount.mount
		printf '[Swap]\nWhat=/var/kswap\nPriority=7\n' >var-kswap.swap
		dd if=/dev/zero of=/var/kswap bs=64k count=64 2>/dev/null
		chmod 600 /var/kswap; mkswap /var/kswap
		fleetctl load run-kauto.mount
		fleetctl start run-kauto.automount run-kmount.mount var-kswap.swap`)
	r.listed("run-kauto.automount", "loaded active waiting")
	r.listed("run-kauto.mount", "loaded inactive dead")
	r.listed("run-kmount.mount", "loaded active mounted")
	r.listed("var-kswap.swap", "loaded active active")
	r.must(`cat /proc/swaps; grep -Eq '^/var/kswap[[:space:]].*[[:space:]]7$' /proc/swaps && grep -q '^tmpfs /run/kmount tmpfs' /proc/mounts && ! grep '^tmpfs /run/kauto' /proc/mounts`)

	// Whoever looks into the folder has it mounted. fleet tells that, though nobody asked it for the mount.
	r.must(`touch /run/kauto/x && grep -q '^tmpfs /run/kauto tmpfs' /proc/mounts`)
	r.listed("run-kauto.automount", "loaded active running")
	r.listed("run-kauto.mount", "loaded active mounted")

	r.must("fleetctl stop run-kauto.automount run-kmount.mount var-kswap.swap")
	r.listed("run-kauto.automount", "loaded inactive dead")
	r.listed("run-kmount.mount", "loaded inactive dead")
	r.listed("var-kswap.swap", "loaded inactive dead")
	r.must(`! grep kswap /proc/swaps && ! grep -E '/run/k(auto|mount)' /proc/mounts`)

	// Gone while they are in use is gone as well.
	r.must(`fleetctl start run-kauto.automount run-kmount.mount var-kswap.swap && touch /run/kauto/x`)
	r.must("fleetctl destroy run-kauto.automount run-kauto.mount run-kmount.mount var-kswap.swap")
	r.must(`! grep kswap /proc/swaps && ! grep -E '/run/k(auto|mount)' /proc/mounts`)
	r.must(`test -z "$(fleetctl list-units --no-legend)" && test -z "$(ls /run/fleet/units)" && rm -rf /root/kinds /var/kswap`)
}

// listed waits until fleetctl tells this load, active and sub state of a unit.
func (r *rig) listed(unit, state string) {
	r.t.Helper()
	r.until(unit+" "+state, `fleetctl list-units --fields=unit,load,active,sub | tee /dev/stderr | tr -s '\t' ' ' | grep -qx '`+unit+" "+state+"'")
}

#!/bin/sh
# Keeps one cluster: keeper.sh RUN DISK SCRIPTS GATEWAY, with the environment's CGROUPS (see host.sh).
# Its one child is PID 1 of a process namespace that all hosts live in, and owns the network namespace with their bridge.
# When that child ends, by "down" or because the owner at the other end of stdin is gone, however it went, the
# kernel kills every process of every host and all their mounts and links vanish. What remains is cleared away here.
set -u
run=$1 disk=$2 scripts=$3 gateway=$4
id=${run##*/}

unshare --net --pid --fork --kill-child sh "$scripts/holder.sh" "$gateway" "$run"

for root in $CGROUPS; do
	for dir in "$root/fleet-host-$id".*; do
		[ -d "$dir" ] || continue
		[ ! -e "$dir/cgroup.kill" ] || echo 1 >"$dir/cgroup.kill"
		# A killed process leaves its control group a moment after the kill returned.
		for _ in 1 2 3 4 5 6 7 8 9 10; do
			find "$dir" -depth -type d -exec rmdir {} + 2>/dev/null
			[ -d "$dir" ] || break
			sleep 0.1
		done
	done
done
rm -rf "$disk" "$run"

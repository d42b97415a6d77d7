#!/bin/sh
# Runs one host until it is switched off: host.sh, with all it needs in the environment.
#   RUN DISK SCRIPTS LOWER   directories of this host, of the scripts, and the overlay's lower layers
#   HOLDER                   process whose namespaces the cluster lives in, see keeper.sh
#   CGROUPS                  where control groups are mounted: one path (v2), or two (v2 beside v1's name=systemd)
#   CGROUP                   path of this host's own group below those; empty if systemd made us a scope
#   NAME MAC IP GATEWAY      the host's name and network
set -eu
[ -n "$CGROUP" ] || CGROUP=$(sed -n 's/^0:://p' /proc/self/cgroup)
# shellcheck disable=SC2153 # CGROUPS and CGROUP are two
for root in $CGROUPS; do
	# Processes may not share a group with groups that have limits: this loop lives beside the machine, not above it.
	mkdir -p "$root$CGROUP/runner" "$root$CGROUP/machine"
	echo 0 >"$root$CGROUP/runner/cgroup.procs"
	for c in cpu memory pids io cpuset; do
		echo "+$c" 2>/dev/null >"$root$CGROUP/cgroup.subtree_control" || :
	done
done
echo "$CGROUP" >"$RUN/cgroup"
export CGROUP
exec nsenter -t "$HOLDER" -n -p -- sh "$SCRIPTS/loop.sh"

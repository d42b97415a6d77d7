#!/bin/sh
# Boots the host, and again when it reboots, which nspawn tells by exit status 133. Runs in the cluster's process and
# network namespaces. See host.sh.
set -u
# Held open so that a host that comes up while nobody listens does not wait.
exec 9<>"$RUN/ready"
while :; do
	unshare --mount --propagation slave --net sh "$SCRIPTS/boot.sh" 9>&-
	status=$?
	[ "$status" = 133 ] || exit "$status"
done

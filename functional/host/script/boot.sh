#!/bin/sh
# One boot of a host, in mount and network namespaces of its own, so that nothing of an earlier boot is left in them: no
# mount, no interface, no firewall rule. See host.sh.
set -eu
for root in $CGROUPS; do
	echo 0 >"$root$CGROUP/machine/cgroup.procs"
done
mount -t proc proc /proc
# nspawn's locks go away with this namespace.
mkdir -p /run/systemd/nspawn
mount -t tmpfs -o mode=755 tmpfs /run/systemd/nspawn
mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$DISK/upper,workdir=$DISK/work" "$DISK/root"

# A host with two slots is given the one that its boot entries name, chosen and counted as systemd-boot does it. The slot's image is a tar
# here; it lies over what is installed. Process 1 gets the words that would stand on the kernel's command line.
words=
slots=/var/lib/update-engine/host
if [ -d "$DISK/root$slots/boot" ]; then
	words=$(chroot "$DISK/root" /usr/bin/update-engine boot "$slots")
	slot=${words#fleet.slot=}
	rm -rf "$RUN/slot"
	mkdir "$RUN/slot"
	tar -x -f "$DISK/root$slots/slots/${slot%% *}/usr.img" -C "$RUN/slot" --no-same-owner
	umount "$DISK/root"
	mount -t overlay overlay -o "lowerdir=$RUN/slot:$LOWER,upperdir=$DISK/upper,workdir=$DISK/work" "$DISK/root"
fi

# A release's /usr is a read-only file system, that of a Debian is not.
if grep -q '^IMAGE_ID=' "$DISK/root/usr/lib/os-release"; then
	mount --bind "$DISK/root/usr" "$DISK/root/usr"
	mount -o remount,bind,ro "$DISK/root/usr"
fi

# Process 1 holds the cluster's network. The address of the interface stays the same over reboots, as a real one's does:
# else the others would send to the old one until they forget it.
nsenter -t 1 -n ip link del "$NAME" 2>/dev/null || :
ip link add host0 address "$MAC" type veth peer name "$NAME" netns 1
nsenter -t 1 -n ip link set "$NAME" master br0 up
ip link set lo up
ip addr add "$IP" dev host0
ip link set host0 up
ip route add default via "$GATEWAY"

# Beside v1 hierarchies nspawn has to be told to give the host v2 only. The network namespace is ready made, so nspawn must
# also be told that the host may change it.
export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 SYSTEMD_NSPAWN_API_VFS_WRITABLE=network
# shellcheck disable=SC2086 # words are words
exec systemd-nspawn --quiet --directory="$DISK/root" --boot --register=no --keep-unit --machine="$NAME" \
	--console=read-only --resolv-conf=off --timezone=off --link-journal=no \
	--network-namespace-path=/proc/self/ns/net --capability=CAP_NET_ADMIN \
	--bind="$RUN/ready:/run/host-ready" $words

#!/bin/sh
# Makes the root tree that every host of every cluster starts from: tree.sh DIR. Whatever changes in this file
# makes a new tree, since the cache is keyed by its content.
set -eu
root=$1

# What a host of a cluster has beyond a minimal Debian: an init system with its bus, the tools of the network, and what
# tests and example units run.
packages=systemd,systemd-sysv,dbus,udev,kmod,iproute2,nftables,mount,util-linux,procps,iputils-ping,curl,jq,busybox
packages=$packages,openssh-server,netbase

mmdebstrap --quiet --mode=root --variant=minbase \
	--aptopt='APT::Install-Recommends "false"' \
	--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
	--include="$packages" bookworm "$root" ${FLEET_MIRROR:+"$FLEET_MIRROR"}

# Each host gets its own identity when it is made.
rm -f "$root/etc/machine-id" "$root/var/lib/dbus/machine-id" "$root/etc/hostname"

# Units that cost time at every boot, or wake up by themselves in the middle of a test, and do nothing for us.
for unit in console-getty.service getty@.service serial-getty@.service getty-static.service \
	ldconfig.service systemd-hwdb-update.service systemd-journal-catalog-update.service \
	systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-pcrphase.service \
	apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
	fstrim.timer systemd-tmpfiles-clean.timer dev-hugepages.mount; do
	ln -sf /dev/null "$root/etc/systemd/system/$unit"
done

# sshd starts when the first connection comes.
rm -f "$root/etc/systemd/system/multi-user.target.wants/ssh.service" "$root/etc/systemd/system/sshd.service"
mkdir -p "$root/etc/systemd/system/sockets.target.wants"
ln -sf /lib/systemd/system/ssh.socket "$root/etc/systemd/system/sockets.target.wants/ssh.socket"

# Journals are kept on disk, so that they can be read after a power loss, and drop nothing.
mkdir -p "$root/var/log/journal" "$root/etc/systemd/journald.conf.d"
cat >"$root/etc/systemd/journald.conf.d/host.conf" <<'EOF'
[Journal]
Storage=persistent
SystemMaxUse=64M
RateLimitIntervalSec=0
EOF

# Users and groups that installed software asks for are made at every boot, not only when /usr looks newer than /etc.
mkdir -p "$root/etc/systemd/system/systemd-sysusers.service.d"
cat >"$root/etc/systemd/system/systemd-sysusers.service.d/host.conf" <<'EOF'
[Unit]
ConditionNeedsUpdate=
EOF

# A host is ready when units can be started on it. It says so, once a boot, in the pipe that the harness reads.
cat >"$root/etc/systemd/system/host-ready.service" <<'EOF'
[Unit]
Description=Tell the harness that this host is up
After=basic.target dbus.socket
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'cat /proc/sys/kernel/random/boot_id >/run/host-ready'
EOF
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -sf ../host-ready.service "$root/etc/systemd/system/multi-user.target.wants/host-ready.service"
ln -sf /lib/systemd/system/multi-user.target "$root/etc/systemd/system/default.target"

# Without this stamp systemd takes /etc for older than /usr, and updates what needs no update at first boot.
touch "$root/etc/.updated" "$root/var/.updated"

#!/bin/sh
# Makes the root tree of a release from what is Debian and what is ours: finish.sh ROOT VERSION. ROOT holds both already. What it leaves
# is the one tree that boots as a disk image, in QEMU and in nspawn.
set -eu
root=$1 version=$2
etc=$root/etc

cat >"$root/usr/lib/os-release" <<END
NAME="Fleet"
ID=fleet
ID_LIKE=debian
PRETTY_NAME="Fleet $version"
VERSION_ID=$version
IMAGE_ID=fleet
IMAGE_VERSION=$version
HOME_URL="https://github.com/fleet-init/fleet"
END
ln -sf ../usr/lib/os-release "$etc/os-release"
rm -f "$etc/debian_version" "$etc/issue" "$etc/issue.net" "$etc/motd" "$etc/fstab"

# Users first: their numbers are part of the image, the same on every host.
chroot "$root" systemd-sysusers
rm -f "$etc"/passwd- "$etc"/group- "$etc"/shadow- "$etc"/gshadow- "$etc"/.pwd.lock
# The day of a password's last change is the build's: none has one.
sed -i 's/^\([^:]*:[^:]*\):[0-9]*:/\1:1:/' "$etc/shadow"

# Nothing installs packages here; and perl was only there for what installs them.
rm -rf "$root"/usr/bin/perl* "$root"/usr/bin/apt* "$root"/usr/bin/dpkg* "$root"/usr/sbin/dpkg* "$root"/usr/bin/deb* "$root"/usr/bin/ucf* \
	"$root"/usr/lib/dpkg "$root"/usr/lib/*/perl "$root"/usr/lib/*/perl-base "$root"/usr/share/perl "$root"/usr/share/perl5 \
	"$root"/usr/share/dpkg "$root"/usr/share/debconf "$root"/usr/lib/*/libperl* "$root"/usr/lib/*/libapt* "$root"/usr/sbin/adduser \
	"$root"/usr/sbin/deluser "$root"/usr/share/zoneinfo/right "$root"/usr/share/zoneinfo/posix "$root"/usr/lib/*/gconv \
	"$root"/usr/lib/python3* "$root"/usr/share/python3 "$root"/usr/lib/*/libdb-5* "$root"/usr/share/keyrings "$root"/usr/lib/*/libkeyutils*.a
# The compiled form is what is read.
rm -rf "$root/usr/lib/udev/hwdb.d" "$root/usr/share/ca-certificates"

# For fleetctl edit, and for whoever sits at a console.
ln -sf busybox "$root/usr/bin/vi"

# netd is started by the first unit that wants an address: without a network configured in the store it would wait, and the boot with it.
for link in multi-user.target.wants/fleetd.service multi-user.target.wants/update-engine.service \
	sysinit.target.wants/cloud-config.service boot-complete.target.requires/update-engine-gate.service sockets.target.wants/fleet.socket sockets.target.wants/ssh.socket \
	multi-user.target.wants/systemd-networkd.service multi-user.target.wants/systemd-resolved.service \
	sysinit.target.wants/systemd-timesyncd.service; do
	unit=${link##*/}
	[ -e "$root/usr/lib/systemd/system/$unit" ] || continue
	mkdir -p "$root/usr/lib/systemd/system/${link%/*}"
	ln -sf "../$unit" "$root/usr/lib/systemd/system/$link"
done
# All that is enabled is enabled by the release; /etc says only what this host wants otherwise.
rm -rf "$etc"/systemd/system/* "$etc"/systemd/network "$etc"/rc*.d "$etc"/init.d
mkdir -p "$etc/systemd/network"
mkdir -p "$root/usr/lib/systemd/system/getty.target.wants"
ln -sf ../getty@.service "$root/usr/lib/systemd/system/getty.target.wants/getty@tty1.service"
ln -sf multi-user.target "$root/usr/lib/systemd/system/default.target"
ln -sf ../run/systemd/resolve/stub-resolv.conf "$etc/resolv.conf"
ln -sf ../proc/self/mounts "$etc/mtab"

# Boot loader, partitions: update-engine blesses by itself, and the initramfs mounts all there is. See docs/decisions/0021.
rm -f "$root"/usr/lib/systemd/system-generators/systemd-bless-boot-generator "$root"/usr/lib/systemd/system-generators/systemd-gpt-auto-generator \
	"$root"/usr/lib/systemd/system-generators/systemd-veritysetup-generator "$root"/usr/lib/systemd/system-generators/systemd-cryptsetup-generator \
	"$root"/usr/lib/systemd/system-generators/systemd-integritysetup-generator "$root"/usr/lib/systemd/system-generators/systemd-sysv-generator \
	"$root"/usr/lib/systemd/system-generators/systemd-rc-local-generator "$root"/usr/lib/systemd/system-generators/systemd-hibernate-resume-generator
# What costs time at each boot and does nothing here.
for unit in ldconfig systemd-hwdb-update systemd-journal-catalog-update systemd-update-utmp systemd-update-utmp-runlevel systemd-pcrphase \
	systemd-pcrphase-sysinit systemd-pcrphase-initrd systemd-pcrmachine systemd-update-done systemd-machine-id-commit systemd-firstboot \
	systemd-boot-system-token systemd-bless-boot e2scrub_reap getty-static systemd-boot-update systemd-repart; do
	rm -f "$root"/usr/lib/systemd/system/*.wants/"$unit.service"
	ln -sf /dev/null "$root/usr/lib/systemd/system/$unit.service"
done
rm -f "$root"/usr/lib/systemd/system/*.wants/dev-hugepages.mount "$root"/usr/lib/systemd/system/timers.target.wants/* \
	"$root"/usr/lib/systemd/system/e2scrub* "$root"/usr/lib/systemd/system/dpkg-db-backup.* "$root"/usr/lib/systemd/system/apt-*
ln -s ../systemd-tmpfiles-clean.timer "$root/usr/lib/systemd/system/timers.target.wants/systemd-tmpfiles-clean.timer"

# What a new host's /etc and /var begin with. /var is made by systemd-tmpfiles, but for what its users expect.
mkdir -p "$root/var/log/journal" "$root/var/lib/private" "$root/var/lib/systemd" "$root/var/tmp"
rm -rf "$root/usr/share/fleet/skel"
mkdir -p "$root/usr/share/fleet/skel"
cp -a "$etc" "$root/usr/share/fleet/skel/etc"
cp -a "$root/var" "$root/usr/share/fleet/skel/var"

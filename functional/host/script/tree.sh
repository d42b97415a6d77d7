#!/bin/sh
# Makes what hosts need beside the image's root tree: tree.sh DIR. DIR/debian is a stock Debian, for the packages to be installed on, and
# DIR/tools holds only the tools that tests look at hosts with, taken from it. Whatever changes in this file makes both anew, since the cache is
# keyed by its content.
set -eu
debian=$1/debian tools=$1/tools
mkdir -p "$1"

# What a host has beyond a minimal Debian: an init system with its bus, the tools of the network, and what tests and example units run.
packages=systemd,systemd-sysv,dbus,udev,kmod,iproute2,nftables,mount,util-linux,procps,iputils-ping,curl,jq,busybox
packages=$packages,openssh-server,netbase

mmdebstrap --quiet --mode=root --variant=minbase \
	--aptopt='APT::Install-Recommends "false"' \
	--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
	--include="$packages" bookworm "$debian" ${FLEET_MIRROR:+"$FLEET_MIRROR"}

# Programs with the libraries they name in a folder of their own, and a word to start each: no unit, nothing of /etc, and no library that a
# program of the image could find and not have on a host that ships.
lib=/usr/lib/test-tools
mkdir -p "$tools/usr/bin" "$tools$lib"
for tool in curl jq; do
	cp "$debian/usr/bin/$tool" "$tools$lib/$tool"
	for needed in $(chroot "$debian" ldd "/usr/bin/$tool" | grep -o '/[^ ]*'); do
		# By way of its links, which are absolute in places.
		chroot "$debian" cat "$needed" >"$tools$lib/${needed##*/}"
	done
	printf '#!/bin/sh\nexec %s/ld.so --library-path %s %s/%s "$@"\n' $lib $lib $lib "$tool" >"$tools/usr/bin/$tool"
	chmod 755 "$tools/usr/bin/$tool"
done
mv "$tools$lib"/ld-linux*.so* "$tools$lib/ld.so"
chmod 755 "$tools$lib/ld.so"

# Each host gets its own identity when it is made.
rm -f "$debian/etc/machine-id" "$debian/var/lib/dbus/machine-id" "$debian/etc/hostname"

# Units that cost time at every boot, or wake up by themselves in the middle of a test, and do nothing for us.
for unit in console-getty.service getty@.service serial-getty@.service getty-static.service \
	ldconfig.service systemd-hwdb-update.service systemd-journal-catalog-update.service \
	systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-pcrphase.service \
	apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
	fstrim.timer systemd-tmpfiles-clean.timer dev-hugepages.mount; do
	ln -sf /dev/null "$debian/etc/systemd/system/$unit"
done
mkdir -p "$debian/var/log/journal"

# Without this stamp systemd takes /etc for older than /usr, and updates what needs no update at first boot.
touch "$debian/etc/.updated" "$debian/var/.updated"

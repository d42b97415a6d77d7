#!/bin/sh
# Makes what is Debian in the image: tree.sh DIR, with PACKAGES, LOCK (files) and SOURCE_DATE_EPOCH in the environment, FLEET_MIRROR and
# SUITE if another package source is meant. Leaves DIR/root (a whole root tree, without identity), DIR/kernel/vmlinuz, DIR/kernel/version and
# DIR/packages (name, version and size in KiB of all that is in it). The same packages give the same bytes.
set -eu
dir=$1
root=$dir/root
mkdir -p "$dir/kernel"

# mmdebstrap takes the versions of the lock where the source has them: a pin above 1000 also goes back to an older one.
sed -n 's/^\([^# ][^ ]*\) \([^ ]*\).*/Package: \1\nPin: version \2\nPin-Priority: 1001\n/p' "$LOCK" >"$dir/pins"
kernel=$(sed -n 's/^\(linux-image-[0-9][^ ]*\) .*/\1/p' "$LOCK")
include=$(sed 's/#.*//; s/ *$//; /^$/d' "$PACKAGES" | paste -sd,)

export MM_DIR="$dir" MM_KERNEL="$kernel"
# shellcheck disable=SC2016 # the hooks expand these themselves
mmdebstrap --quiet --mode=root --variant=minbase \
	--aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' \
	--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
	--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/info/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/lintian/*' \
	--setup-hook='mkdir -p "$1/etc/apt/preferences.d"; cp "$MM_DIR/pins" "$1/etc/apt/preferences.d/lock"' \
	--customize-hook='set -e
		k=$MM_KERNEL
		# A source that has gone on may have a newer kernel only: its packages have the version in their names.
		if [ -z "$k" ] || ! APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-cache show "$k" >/dev/null 2>&1; then
			k=$(APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-cache depends linux-image-cloud-amd64 |
				sed -n "s/.*Depends: \(linux-image-[0-9].*\)/\1/p" | head -n1)
		fi
		[ -n "$k" ] || { echo "the package source has no kernel: linux-image-cloud-amd64 is not in it" >&2; exit 1; }
		cd "$MM_DIR/kernel"
		APT_CONFIG=$MMDEBSTRAP_APT_CONFIG apt-get -qq -o APT::Sandbox::User=root download "$k"' \
	--include="$include" "${SUITE:-bookworm}" "$root" ${FLEET_MIRROR:+"$FLEET_MIRROR"}

# The kernel is unpacked and never installed: its scripts would want to make an initramfs and a boot entry.
deb=$(echo "$dir"/kernel/linux-image-*.deb)
dpkg-deb -x "$deb" "$dir/kernel/x"
version=$(ls "$dir/kernel/x/lib/modules")
echo "$version" >"$dir/kernel/version"
mv "$dir/kernel/x/boot/vmlinuz-$version" "$dir/kernel/vmlinuz"
mkdir -p "$root/usr/lib/modules"
mv "$dir/kernel/x/lib/modules/$version" "$root/usr/lib/modules/$version"
# shellcheck disable=SC2016 # dpkg expands these
{
	chroot "$root" dpkg-query -W -f '${Package} ${Version} ${Installed-Size}\n'
	dpkg-deb --show --showformat '${Package} ${Version} ${Installed-Size}\n' "$deb"
} | LC_ALL=C sort >"$dir/packages"
rm -rf "$dir/kernel/x" "$deb" "$dir/pins"

# What a server has no use for, beside what dpkg has left out above.
cd "$root/usr/lib/modules/$version"
rm -rf kernel/sound kernel/drivers/gpu kernel/drivers/media kernel/drivers/net/wireless kernel/drivers/bluetooth \
	kernel/net/bluetooth kernel/net/wireless kernel/net/mac80211 kernel/drivers/isdn
chroot "$root" depmod "$version"
cd /
rm -rf "$root"/usr/share/bash-completion/completions/* "$root/usr/share/zsh" "$root/usr/share/common-licenses/GFDL"* \
	"$root"/usr/lib/x86_64-linux-gnu/gconv "$root/usr/share/i18n" "$root/usr/share/perl5/Debconf" \
	"$root"/usr/share/debconf "$root"/etc/apt "$root"/usr/lib/apt "$root"/var/lib/apt "$root"/var/cache/apt "$root"/var/lib/dpkg \
	"$root"/etc/dpkg "$root"/etc/cron.daily "$root"/etc/debconf.conf "$root"/etc/kernel "$root"/etc/update-motd.d \
	"$root"/etc/alternatives/README
# Kept for curiosity and for scanners, where dpkg does not look for it.
mkdir -p "$root/usr/share/fleet"
cp "$dir/packages" "$root/usr/share/fleet/packages"

# Identity, logs, and caches that differ from build to build.
rm -rf "${root:?}"/etc/machine-id "$root"/etc/hostname "$root"/etc/hosts "$root"/etc/resolv.conf "$root"/etc/ssh/ssh_host_* \
	"$root"/etc/passwd- "$root"/etc/shadow- "$root"/etc/group- "$root"/etc/gshadow- "$root"/etc/subuid- "$root"/etc/subgid- \
	"$root"/etc/.pwd.lock "$root"/var/log/* "$root"/var/cache/* "$root"/var/lib/dbus "$root"/var/lib/systemd/catalog \
	"$root"/var/lib/pam "$root"/var/lib/ucf "$root"/var/backups "${root:?}"/boot/* "${root:?}"/tmp/* "${root:?}"/run/*

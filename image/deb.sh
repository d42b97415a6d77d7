#!/bin/sh
# Makes the Debian packages out of what build.sh install made: deb.sh INSTALL OUT VERSION. The same files that are in the image, on a stock
# Debian. Needs dpkg-deb only; SOURCE_DATE_EPOCH makes the packages the same bytes each time.
set -eu
from=$1 out=$2 version=$3
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -a "$from" "$work/all"
mkdir -p "$out"

# give PACKAGE PATH...  moves files of the installed tree to a package.
give() {
	pkg=$1
	shift
	for p; do
		[ -e "$work/all/$p" ] || [ -L "$work/all/$p" ] || continue
		mkdir -p "$work/$pkg/$(dirname "$p")"
		mv "$work/all/$p" "$work/$pkg/$p"
	done
}

# scripts PACKAGE SYSUSERS UNITS ENABLED STATE  writes what dpkg runs. UNITS are stopped when the package goes, ENABLED of them are enabled and
# started; STATE are the folders that purge removes.
scripts() {
	pkg=$1 sysusers=$2 units=$3 enabled=$4 state=$5
	d=$work/$pkg/DEBIAN
	mkdir -p "$d"
	# A start is not waited for: a daemon that is ready only when its cluster is would hold up dpkg.
	# A unit that was running is restarted by an upgrade; fleetd's own units run on meanwhile.
	cat >"$d/postinst" <<END
#!/bin/sh
set -e
[ "\$1" = configure ] || exit 0
${sysusers:+systemd-sysusers $sysusers}
for unit in $enabled; do
	deb-systemd-helper unmask "\$unit" >/dev/null
	if deb-systemd-helper --quiet was-enabled "\$unit"; then
		deb-systemd-helper enable "\$unit" >/dev/null
	fi
	deb-systemd-helper update-state "\$unit" >/dev/null
done
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	for unit in $enabled; do
		systemctl is-enabled --quiet "\$unit" || continue
		case \$unit:\$2 in
		*.socket:*) systemctl start "\$unit" ;;
		*) systemctl --no-block restart "\$unit" ;;
		esac
	done
	for unit in $units; do
		systemctl --no-block try-restart "\$unit"
	done
fi
END
	cat >"$d/prerm" <<END
#!/bin/sh
set -e
if [ "\$1" = remove ] && [ -d /run/systemd/system ]; then
	systemctl stop $enabled $units
fi
END
	cat >"$d/postrm" <<END
#!/bin/sh
set -e
if [ "\$1" = remove ] && [ -x /usr/bin/deb-systemd-helper ]; then
	for unit in $enabled; do deb-systemd-helper mask "\$unit" >/dev/null; done
fi
if [ "\$1" = purge ]; then
	if [ -x /usr/bin/deb-systemd-helper ]; then
		for unit in $enabled; do
			deb-systemd-helper purge "\$unit" >/dev/null
			deb-systemd-helper unmask "\$unit" >/dev/null
		done
	fi
	rm -rf $state
	rmdir --ignore-fail-on-non-empty /etc/fleet 2>/dev/null || :
fi
[ ! -d /run/systemd/system ] || systemctl daemon-reload
END
	chmod 755 "$d/postinst" "$d/prerm" "$d/postrm"
}

# pack PACKAGE DEPENDS SUMMARY TEXT
pack() {
	pkg=$1
	d=$work/$pkg/DEBIAN
	mkdir -p "$d" "$work/$pkg/usr/share/doc/$pkg"
	cp "$here/../LICENSE" "$work/$pkg/usr/share/doc/$pkg/copyright"
	cat >"$d/control" <<END
Package: $pkg
Version: $version
Architecture: $(dpkg --print-architecture)
Maintainer: The fleet authors <https://github.com/fleet-init/fleet>
Installed-Size: $(du -sk --exclude=DEBIAN "$work/$pkg" | cut -f1)
Section: admin
Priority: optional
${2:+Depends: $2
}Description: $3
 $4
END
	(cd "$work/$pkg" && find etc -type f 2>/dev/null | LC_ALL=C sort | sed 's|^|/|') >"$d/conffiles"
	[ -s "$d/conffiles" ] || rm "$d/conffiles"
	(cd "$work/$pkg" && find usr etc -type f 2>/dev/null | LC_ALL=C sort | xargs md5sum) >"$d/md5sums"
	dpkg-deb --root-owner-group -Zzstd --build "$work/$pkg" "$out/${pkg}_${version}_$(dpkg --print-architecture).deb" >/dev/null
}

conffile() { install -D -m 644 "$here/deb/$2" "$work/$1$3"; }

sd=usr/lib/systemd/system
give fleetctl usr/bin/fleetctl usr/share/man/man1 usr/share/man/man5 usr/share/bash-completion usr/share/zsh usr/share/fish
give fleet-netd usr/bin/netd usr/lib/cni usr/lib/sysusers.d/netd.conf "$sd/netd.service" "$sd/fleet-netns@.service" "$sd/fleet-netns-renew.path" "$sd/fleet-netns-renew.service" \
	usr/share/man/man8/netd.8
give fleet-update-engine usr/bin/update-engine "$sd/update-engine.service" "$sd/update-engine-gate.service" "$sd/boot-complete.target.d" \
	usr/share/man/man8/update-engine.8
mkdir -p "$work/fleetd"
cp -a "$work/all/." "$work/fleetd" # and whatever comes to it

conffile fleetd fleet.conf /etc/fleet/fleet.conf
conffile fleet-update-engine update.conf /etc/fleet/update.conf
conffile fleet-netd netd.default /etc/default/netd

scripts fleetd fleet.conf '' 'fleet.socket fleetd.service' '/var/lib/fleet /run/fleet'
# It has no subnet before the cluster's network is configured; units that want an address start it.
scripts fleet-netd netd.conf 'netd.service' '' '/var/lib/netd /run/netd /run/flannel'
# Only of use on hosts with slots: systemctl enable --now update-engine.
scripts fleet-update-engine '' 'update-engine.service' '' '/var/lib/update-engine'

common='systemd (>= 252)'
pack fleetctl '' 'command line of fleet, one init system over many hosts' 'Starts, stops and shows units anywhere in the cluster.'
pack fleetd "$common, dbus, init-system-helpers" 'fleet: one init system over many hosts' \
	'The daemon of every host: a member of the cluster, an engine that places units, an agent that hands them to systemd.'
pack fleet-netd "$common, fleetd, init-system-helpers" 'one network over all hosts of a fleet cluster' \
	'Gives each host a subnet and joins them. Takes the configuration of flannel.'
pack fleet-update-engine "$common, init-system-helpers" 'takes new releases of a host with two slots' \
	'Writes a release into the slot that does not run, boots it on trial, and goes back when it does not prove itself.'

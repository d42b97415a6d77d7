#!/bin/sh
# The first process of a cluster's namespaces: holder.sh GATEWAY RUN. See keeper.sh.
set -eu
ip link set lo up
ip link add br0 type bridge
ip addr add "$1" dev br0
ip link set br0 up
# fault.go fills the set: a frame that enters at the first interface never leaves by the second.
nft -f - <<'EOF'
table bridge fleet {
	set cut { type ifname . ifname; }
	chain forward {
		type filter hook forward priority 0; policy accept;
		meta iifname . meta oifname @cut drop
	}
}
EOF
: >"$2/up"
# Ends when the owner's end of the pipe is closed; a cluster without an owner has a stdin that never ends.
exec cat >/dev/null

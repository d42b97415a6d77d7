#!/bin/sh
# Runs a command in the root tree of a host that is switched off: offline.sh COMMAND..., with RUN DISK LOWER in the
# environment. The mount is private to this process.
set -eu
mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$DISK/upper,workdir=$DISK/work" "$DISK/root"
exec chroot "$DISK/root" "$@"

#!/bin/sh
# Makes a Debian root for benchmarks with debootstrap, once, and prints where it is.
#
#     packaging/debian-root.sh DIRECTORY
#
# The root is DIRECTORY/bench-debian-root: minbase and enough packages for some 30,000 entries and 900 MB. It appears
# there whole or not at all, so an interrupted run leaves nothing that looks finished. Treat it as read-only.
# CLONETOOL_DEBIAN_MIRROR and CLONETOOL_DEBIAN_SUITE choose another source.
set -eu

directory=$1
suite=${CLONETOOL_DEBIAN_SUITE:-bookworm}
mirror=${CLONETOOL_DEBIAN_MIRROR:-http://deb.debian.org/debian}
packages=python3,perl,openssh-server,build-essential,python3-dev,python3-pip,git,vim,locales-all,ca-certificates,curl,rsync,man-db,systemd-sysv

root=$directory/bench-debian-root
if [ -d "$root" ]; then
    echo "$root"
    exit 0
fi
[ "$(id -u)" = 0 ] || {
    echo "debian-root: only root can make a Debian root" >&2
    exit 1
}
debootstrap=$(PATH=$PATH:/usr/sbin:/sbin command -v debootstrap) || {
    echo "debian-root: debootstrap is not installed" >&2
    exit 1
}
mkdir -p "$directory"
work=$(mktemp -d "$directory/bench-debian-root.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM HUP

if ! PATH=$PATH:/usr/sbin:/sbin "$debootstrap" --variant=minbase --include="$packages" "$suite" "$work/root" "$mirror" \
    >"$work/log" 2>&1 </dev/null; then
    tail -n 20 "$work/log" >&2
    echo "debian-root: debootstrap failed" >&2
    exit 1
fi
# Package archives and lists are no part of a running system, and pseudo filesystems are mounted, not copied.
rm -rf "$work"/root/var/cache/apt/archives/*.deb "$work"/root/var/lib/apt/lists/*
chmod 755 "$work/root"
# Another process may have been faster; then its root is as good.
mv -T "$work/root" "$root" 2>/dev/null || [ -d "$root" ]
echo "$root"

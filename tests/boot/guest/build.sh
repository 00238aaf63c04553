#!/bin/sh
# What an administrator types at the rescue prompt of a new standby. `layout` holds the partition table.
. /job/steps

partition() {
    sfdisk --quiet --wipe always "$target" </job/layout && udevadm settle
}

filesystems() {
    mkfs.vfat -i "$(echo "$ESP_UUID" | tr -d -)" "$target-part2" || return
    if [ "$ROOT_ON" = lvm ]; then
        pvcreate -q "$target-part3" && vgcreate -q vg_standby "$target-part3" &&
            lvcreate -q -y -L 1200M -n root vg_standby && lvcreate -q -y -L 128M -n swap vg_standby || return
    fi
    mke2fs -q -t ext4 -U "$ROOT_UUID" "$root" && mkswap -U "$SWAP_UUID" "$swap" || return
    udevadm trigger --action=change --subsystem-match=block && udevadm settle
}

copy() {
    clonetool_over_ssh clone --no-durable "root@10.0.2.2:$PRODUCTION" /a
}

# Its output is looked at, and printed from a file: on a terminal it might be drawn rather than written.
prepare() {
    /job/clonetool prepare-root /a --hostname "$STANDBY" --boot-disk "$(readlink -f "$target")" \
        --address "ens3=$ADDRESS/24,gw=10.0.2.2" >/run/prepared 2>&1
    prepared=$?
    cat /run/prepared
    [ "$prepared" != 0 ] || [ "$(tail -n 1 /run/prepared)" = READY ] || prepared=99
    return $prepared
}

facts() {
    echo "FACT machine-id $(cat /a/etc/machine-id)"
    for key in /a/etc/ssh/ssh_host_*_key.pub; do
        echo "FACT host-key $(ssh-keygen -l -f "$key")"
    done
}

step partition
step filesystems
step mounts
step copy
step prepare
step facts
step witness
step unmount

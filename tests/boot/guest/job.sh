#!/bin/sh
# What an administrator types at the rescue prompt of a new standby, with a line before and after each step.
#
# The harness reads `BEGIN step`, `END step code` and `FACT name value`. The first step that fails ends the job: what
# follows would only hide the reason. `config` holds the variables, `layout` the partition table.
set -u
. /job/config
target=/dev/disk/by-id/virtio-target

step() {
    echo "BEGIN $1"
    "$@"
    code=$?
    echo "END $1 $code ($(cut -d. -f1 /proc/uptime) s up)"
    [ "$code" = 0 ] || exit "$code"
}

partition() {
    sfdisk --quiet --wipe always "$target" </job/layout && udevadm settle
}

filesystems() {
    mkfs.vfat -i "$(echo "$ESP_UUID" | tr -d -)" "$target-part2" || return
    if [ "$ROOT_ON" = lvm ]; then
        pvcreate -q "$target-part3" && vgcreate -q vg_standby "$target-part3" &&
            lvcreate -q -y -L 1200M -n root vg_standby && lvcreate -q -y -L 128M -n swap vg_standby || return
        root=/dev/vg_standby/root swap=/dev/vg_standby/swap
    else
        root=$target-part3 swap=$target-part4
    fi
    mke2fs -q -t ext4 -U "$ROOT_UUID" "$root" && mkswap -U "$SWAP_UUID" "$swap" || return
    udevadm trigger --action=change --subsystem-match=block && udevadm settle
}

mounts() {
    mount "$root" /a && mkdir -p /a/boot/efi && mount "$target-part2" /a/boot/efi
}

copy() {
    cp /job/client_key /run/client_key && chmod 600 /run/client_key || return
    # Read from a file afterwards: on a terminal, which the serial port is, progress would be drawn.
    /job/clonetool clone --no-durable -v -i /run/client_key -p "$SSH_PORT" --known-hosts /job/known_hosts \
        --remote-path "$REMOTE_CLONETOOL" "root@10.0.2.2:$PRODUCTION" /a >/run/copied 2>&1
    copied=$?
    cat /run/copied
    return $copied
}

prepare() {
    . /job/prepare
}

facts() {
    echo "FACT machine-id $(cat /a/etc/machine-id)"
    for key in /a/etc/ssh/ssh_host_*_key.pub; do
        echo "FACT host-key $(ssh-keygen -l -f "$key")"
    done
}

# Added after the preparation has judged the tree: what reports from the standby is not part of what is tested.
witness() {
    install -m 755 /job/proof /a/usr/local/sbin/boot-proof &&
        install -m 644 /job/proof.service /a/etc/systemd/system/boot-proof.service &&
        mkdir -p /a/etc/systemd/system/multi-user.target.wants /a/etc/cron.d &&
        ln -sf ../boot-proof.service /a/etc/systemd/system/multi-user.target.wants/ &&
        echo '* * * * * root /usr/bin/touch /run/boot-proof-minute' >/a/etc/cron.d/boot-proof
}

unmount() {
    umount /a/boot/efi && umount /a && { [ "$ROOT_ON" != lvm ] || vgchange -q -an vg_standby; }
}

step partition
step filesystems
step mounts
step copy
step prepare
step facts
step witness
step unmount

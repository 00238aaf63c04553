#!/bin/sh
# The daily sync of a standby that lies mounted at the rescue prompt. Production has another kernel by now, `NEW_KERNEL`.
. /job/steps

activate() {
    [ "$ROOT_ON" != lvm ] || vgchange -q -ay vg_standby
}

# Says when a part of the new initramfs is written: the harness may pull the plug then.
watch_initramfs() {
    until [ -s "/a/boot/initrd.img-$NEW_KERNEL.new" ] || [ -e /run/output.done ]; do
        sleep 0.1
    done
    [ -e /run/output.done ] || echo "MARK initramfs"
}

sync_daily() {
    watch_initramfs &
    clonetool_over_ssh sync linux-daily --source "root@10.0.2.2:$PRODUCTION" --destination /a
    synced=$?
    touch /run/output.done
    wait
    return $synced
}

facts() {
    for kernel in /a/boot/vmlinuz-*; do echo "FACT kernel ${kernel##*/vmlinuz-}"; done
    for image in /a/boot/initrd.img-*; do echo "FACT initramfs ${image##*/initrd.img-}"; done
    for modules in /a/usr/lib/modules/*; do echo "FACT modules ${modules##*/}"; done
}

step activate
step mounts
step sync_daily
step facts
step witness
step unmount

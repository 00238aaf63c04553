#!/bin/sh
# The first program of the rescue system (`init=/rescue`): what a live system has done before it gives a prompt.
#
# It brings up devices and the network, then runs the job on the disk that the harness attached, and powers off.
# The initramfs has mounted /proc, /sys, /dev and /run already. What is printed goes to the second serial port, so
# that kernel messages, which go to the first, never end up in the middle of a line.
exec </dev/null >/dev/ttyS1 2>&1
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8

finish() {
    echo "RESCUE $*"
    sync
    echo o >/proc/sysrq-trigger
    # The power goes off in the background, and the kernel panics when its first program ends.
    while :; do sleep 60; done
}

mount -o remount,rw / || finish "the rescue system's root stays read-only"
mount -t devpts devpts /dev/pts 2>/dev/null || { mkdir -p /dev/pts && mount -t devpts devpts /dev/pts; }
/lib/systemd/systemd-udevd --daemon && udevadm trigger --action=add && udevadm settle ||
    finish "udev does not start"
ip link set lo up
for path in /sys/class/net/*; do
    interface=${path##*/}
    [ "$interface" = lo ] || { ip address add 10.0.2.15/24 dev "$interface" && ip link set "$interface" up; }
done
mount -o ro /dev/disk/by-id/virtio-job /job || finish "there is no job"
/bin/sh /job/run
finish "done $?"

# What the jobs of the rescue system share; sourced, with the variables of `config`.
#
# The harness reads `BEGIN step`, `END step code` and `FACT name value`. The first step that fails ends the job: what
# follows would only hide the reason.
set -u
. /job/config
target=/dev/disk/by-id/virtio-target
if [ "$ROOT_ON" = lvm ]; then
    root=/dev/vg_standby/root swap=/dev/vg_standby/swap
else
    root=$target-part3 swap=$target-part4
fi

step() {
    echo "BEGIN $1"
    "$@"
    code=$?
    echo "END $1 $code ($(cut -d. -f1 /proc/uptime) s up)"
    [ "$code" = 0 ] || exit "$code"
}

mounts() {
    mount "$root" /a && mkdir -p /a/boot/efi && mount "$target-part2" /a/boot/efi
}

# Runs clonetool with the options that lead to production. Its output is printed from a file: on a terminal, which
# the serial port is, progress would be drawn.
clonetool_over_ssh() {
    cp /job/client_key /run/client_key && chmod 600 /run/client_key || return
    /job/clonetool "$@" -v -i /run/client_key -p "$SSH_PORT" --known-hosts /job/known_hosts \
        --remote-path "$REMOTE_CLONETOOL" >/run/output 2>&1
    ended=$?
    cat /run/output
    return $ended
}

# Added after clonetool has judged the tree: what reports from the standby is not part of what is tested.
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

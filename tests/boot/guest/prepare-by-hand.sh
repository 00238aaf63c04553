# The preparation done by hand: the least that makes the copy below /a boot as itself. It stands in for
# `clonetool prepare-root`, and shows what that has to achieve; sourced by the job, which sets the variables.
a=/a
by_hand() {
    echo "$STANDBY" >$a/etc/hostname
    sed -i "s/^10\.0\.2\.77.*/$ADDRESS $STANDBY/" $a/etc/hosts
    tr -d - </proc/sys/kernel/random/uuid >$a/etc/machine-id
    rm -f $a/var/lib/dbus/machine-id && ln -s /etc/machine-id $a/var/lib/dbus/machine-id
    rm -f $a/etc/ssh/ssh_host_* && chroot $a ssh-keygen -q -A
    sed -i "s/10\.0\.2\.77/$ADDRESS/" $a/etc/network/interfaces
    sed -i -e "s/$PRODUCTION_ROOT_UUID/$ROOT_UUID/" -e "s/$PRODUCTION_ESP_UUID/$ESP_UUID/" \
        -e "s/$PRODUCTION_SWAP_UUID/$SWAP_UUID/" -e '/\/srv\//s/defaults/defaults,noauto/' $a/etc/fstab
    # Held: out of the way of whoever would run it.
    mkdir -p $a/var/lib/held
    for job in $JOBS; do
        [ ! -e "$a$job" ] || mv "$a$job" "$a/var/lib/held/$(echo "$job" | tr / _)"
    done
    # As the target's hardware is not the one of the first boot, the initramfs has to know more than it.
    rm -f $a/etc/initramfs-tools/conf.d/resume $a/etc/initramfs-tools/conf.d/modules
    echo "edited at $(cut -d. -f1 /proc/uptime) s"
    for dir in dev proc sys run; do mount --rbind /$dir $a/$dir; done
    chroot $a update-initramfs -u -k all && echo "initramfs at $(cut -d. -f1 /proc/uptime) s" &&
        chroot $a grub-install --target=i386-pc "$(readlink -f "$target")" &&
        chroot $a grub-install --target=x86_64-efi --efi-directory=/boot/efi --removable --no-nvram &&
        chroot $a update-grub
    code=$?
    for dir in dev proc sys run; do mount --make-rslave $a/$dir && umount -R $a/$dir; done
    return $code
}
by_hand

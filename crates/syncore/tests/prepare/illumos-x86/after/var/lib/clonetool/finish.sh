#!/sbin/sh
# Finishes the preparation of standby1 (OmniOS v11 r151046), on the machine that is to boot from it.
# Boot that machine from the network or a CD of the same release, mount the prepared root at /a, and run
#     sh /a/var/lib/clonetool/finish.sh /a
# It stops at the first thing that fails and says what to do; it can be run again.

PATH=$PATH:/usr/sbin:/usr/bin:/sbin
export PATH

stop() {
    echo "finish.sh: FAILED: $1" >&2
    echo "finish.sh: $2" >&2
    exit 1
}

# run HINT COMMAND...
run() {
    hint=$1
    shift
    echo "+ $*"
    "$@" || stop "$*" "$hint"
}

R=$1
if [ $# -gt 0 ]; then
    shift
fi
DISKS=$*
case "$R" in
/) P= ;;
/*) P=$R ;;
*) stop "no root was given" "run: sh /a/var/lib/clonetool/finish.sh /a [/dev/rdsk/DISK...]" ;;
esac
[ "`uname -s`" = SunOS ] || stop "this is not Solaris" "run it on the machine that is to boot from $R"
case "`id`" in
"uid=0("*) ;;
*) stop "only root can do this" "become root" ;;
esac
[ -f "$P/var/lib/clonetool/finish.sh" ] || stop "$R is not the prepared root" "mount it, and say where"
[ "`uname -p`" = i386 ] || stop "the processor is no i386" "this root boots on i386 only"

# Host keys. One that is there is left.
key() {
    if [ -f "$P$2" ]; then
        echo "finish.sh: $2 is there"
    else
        run "make it on the running system: $3 -t $1 -f $2" chroot "$R" "$3" -q -t "$1" -N '' -f "$2"
    fi
}
key ecdsa '/etc/ssh/ssh_host_ecdsa_key' '/usr/bin/ssh-keygen'
key ed25519 '/etc/ssh/ssh_host_ed25519_key' '/usr/bin/ssh-keygen'

# The kernel reads its files from the boot archive: this comes after every change of them.
run "see that $R has room, and run this again" bootadm update-archive -f -R "$R"

# The boot loader, on the disks of the root's pool.
POOL=`df -k "$R" | sed -n '2s:[/ ].*$::p'`
[ -n "$POOL" ] || stop "the pool of $R is not known" "mount the boot environment at $R"
run "without it the disk does not boot: is this machine running the release of $R, and is the slice right?" bootadm install-bootloader -f -R "$R" -P "$POOL"

# Addresses: only the system that they are for can set them.
if [ "$R" != / ]; then
    echo "finish.sh: addresses are set later: boot the root, then run sh /var/lib/clonetool/finish.sh /"
else
    ipadm show-if igb0 >/dev/null 2>&1 || run "see dladm show-link for the names of the interfaces, and ipadm show-addr for what is set" ipadm create-if igb0
    ipadm show-addr igb0/v4 >/dev/null 2>&1 || run "see dladm show-link for the names of the interfaces, and ipadm show-addr for what is set" ipadm create-addr -T static -a 198.51.100.7/24 igb0/v4
fi

if [ "$R" != / ]; then
    run "make it by hand: touch $P/reconfigure" touch "$P/reconfigure"
fi
echo "finish.sh: done; see that the firmware boots from this disk, and boot it with -rs first"

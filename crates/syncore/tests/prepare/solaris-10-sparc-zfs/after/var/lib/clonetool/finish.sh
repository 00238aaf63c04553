#!/sbin/sh
# Finishes the preparation of standby1 (Oracle Solaris 10 1/13 s10s_u11wos_24a SPARC), on the machine that is to boot from it.
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
[ "`uname -p`" = sparc ] || stop "the processor is no sparc" "this root boots on sparc only"

# Devices: as the kernel that runs here numbers them.
run "it makes /dev and /devices: see its message" devfsadm -r "$R"

# The kernel reads its files from the boot archive: this comes after every change of them.
run "see that $R has room, and run this again" bootadm update-archive -f -R "$R"

# The boot loader, on the slice that holds the root.
[ -n "$DISKS" ] || stop "the disks of the root's pool are not known" "name their slices: sh $P/var/lib/clonetool/finish.sh $R /dev/rdsk/c0t0d0s0"
PLATFORM=`uname -i`
[ -f "$P/usr/platform/$PLATFORM/lib/fs/zfs/bootblk" ] || stop "$P/usr/platform/$PLATFORM/lib/fs/zfs/bootblk is not there" "mount /usr of the prepared root below $R; if it is, the root has no support for this machine"
for d in $DISKS; do
    run "without it the disk does not boot: is this machine running the release of $R, and is the slice right?" installboot -F zfs "$P/usr/platform/$PLATFORM/lib/fs/zfs/bootblk" "$d"
done

if [ "$R" != / ]; then
    run "make it by hand: touch $P/reconfigure" touch "$P/reconfigure"
fi
echo "finish.sh: done; see that the firmware boots from this disk, and boot it with -rs first"

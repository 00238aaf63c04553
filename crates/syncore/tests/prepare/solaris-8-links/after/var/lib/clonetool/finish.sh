#!/sbin/sh
# Finishes the preparation of standby1 (Solaris 8 2/02 s28s_u7wos_08a SPARC), on the machine that is to boot from it.
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
for d in console null zero; do
    [ -c "$P/dev/$d" ] || stop "$P/dev/$d is not there" "without it the root does not boot: is this machine running the release of $R?"
done

# The devices of vfstab have to be there, under the names that this machine gives them.
for d in `awk '$1 ~ /^\/dev\/dsk\// && ($3 == "/" || $3 == "/usr" || $3 == "/var" || $3 == "/opt" || $4 == "swap" || $6 == "yes") { print $1 }' "$P/etc/vfstab"`; do
    [ -b "$P$d" ] || stop "$d is not there" "the disk has another name here: see ls -l $P/dev/dsk, change both columns in $P/etc/vfstab, and run this again"
done

# Host keys. One that is there is left.
key() {
    if [ -f "$P$2" ]; then
        echo "finish.sh: $2 is there"
    else
        run "make it on the running system: $3 -t $1 -f $2" chroot "$R" "$3" -q -t "$1" -N '' -f "$2"
    fi
}
key rsa '/etc/ssh/ssh_host_rsa_key' '/usr/bin/ssh-keygen'
key dsa '/keys/etc/ssh_host_dsa_key' '/usr/bin/ssh-keygen'

# The boot loader, on the slice that holds the root.
if [ -z "$DISKS" ]; then
    DISKS=`while read dev dir rest; do if [ "$dir" = "$R" ]; then echo "$dev"; fi; done </etc/mnttab | sed -n 's:^/dev/dsk/:/dev/rdsk/:p'`
fi
[ -n "$DISKS" ] || stop "no disk is known to hold $R" "name the slices that hold it: sh $P/var/lib/clonetool/finish.sh $R /dev/rdsk/c0t0d0s0"
PLATFORM=`uname -i`
[ -f "$P/usr/platform/$PLATFORM/lib/fs/ufs/bootblk" ] || stop "$P/usr/platform/$PLATFORM/lib/fs/ufs/bootblk is not there" "mount /usr of the prepared root below $R; if it is, the root has no support for this machine"
for d in $DISKS; do
    run "without it the disk does not boot: is this machine running the release of $R, and is the slice right?" installboot "$P/usr/platform/$PLATFORM/lib/fs/ufs/bootblk" "$d"
done

if [ "$R" != / ]; then
    run "make it by hand: touch $P/reconfigure" touch "$P/reconfigure"
fi
echo "finish.sh: done; see that the firmware boots from this disk, and boot it with -rs first"

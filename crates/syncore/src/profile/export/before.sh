#!/bin/sh
@ABOUT@
#
# It is plain Bourne shell and needs rsync 2.6.7 or later on both hosts, ssh, awk and sed. It prints nothing when all
# is well, and one line when it is not, which goes to syslog (user.err) too. Its exit status:
#   0  all that takes part is on the standby     1  failed                  2  wrong arguments or settings
#   3  refused by a gate or a limit              4  done, but some paths keep their old state: see the log
#   6  the standby, ssh or the way to it         75 another run is at work, or the accounts are being edited
#
# What clonetool does and this script cannot: all or nothing (each file is old or new, a run that is cut off leaves some
# of each), undoing a run, moving what was renamed, checking what was written, files made from two, what has to follow
# on the standby, and flushing to the standby's disks.
#
# usage: SCRIPT [-n] [-D NUMBER] [-s SOURCE] [-d [HOST:]DESTINATION] [-w DIRECTORY] [-e RSH] [-r RSYNC] [-R RSYNC]
#   -n  only say what would be done; asks no gates        -D  let this one run delete up to NUMBER entries
#   -s, -d  other roots                                   -w  where logs, lock and work files are
#   -e, -r, -R  the remote shell, rsync here, rsync there

@SETTINGS@

PATH=/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin:/opt/csw/bin:/usr/symcli/bin
LC_ALL=C
export PATH LC_ALL
# Of Solaris the other one is older than the language that is used here.
if test -x /usr/bin/nawk; then
    awk() {
        /usr/bin/nawk "$@"
    }
fi
umask 077
unset CDPATH ENV
NEWLINE='
'
IFS=" 	$NEWLINE"
dry_run=no
problems=no
question=0
locked=no
LOG=/dev/null
WORK=

# ---- how it ends

say() {
    printf '%s\n' "$*"
}

log() {
    say "`date '+%Y-%m-%d %H:%M:%S'` $*" >>"$LOG"
}

# Whatever happens, work files and lock go.
leave() {
    cd /
    test -z "$WORK" || rm -rf "$WORK"
    test $locked = no || rm -f "$STATE/lock"
}

# CODE MESSAGE: the one line that says why.
end() {
    code=$1
    shift
    log "exit $code: $*"
    say "clonetool-rsync $PROFILE: $*" >&2
    logger -p user.err "clonetool-rsync $PROFILE: $*" >/dev/null 2>&1
    test $locked = no || say "`date '+%Y-%m-%d %H:%M:%S'` exit $code: $*" >"$STATE/$PROFILE.last"
    exit $code
}

trap leave 0
trap 'end 1 "stopped by a signal"' 1 2 15

# ---- arguments

while test $# -gt 0; do
    case $1 in
    -n) dry_run=yes ;;
    -[Dsdwer]|-R)
        test $# -gt 1 || end 2 "$1 needs a value"
        case $1 in
        -D) DELETES=$2 LIFTED=yes ;;
        -s) SOURCE=$2 ;;
        -d) case $2 in
            /*) HOST= DESTINATION=$2 ;;
            *:/*) HOST=`say "$2" | sed 's/:.*//'` DESTINATION=`say "$2" | sed 's/^[^:]*://'` ;;
            *) end 2 "$2 is no [HOST:]/PATH" ;;
            esac ;;
        -w) STATE=$2 ;;
        -e) RSH=$2 ;;
        -r) RSYNC=$2 ;;
        -R) REMOTE_RSYNC=$2 ;;
        esac
        shift ;;
    *) end 2 "$1 is no option; see the head of the script" ;;
    esac
    shift
done
# These go through a remote shell and awk: nothing in them may mean anything there.
for path in "$SOURCE" "$DESTINATION" "$STATE"; do
    case $path in
    *[!A-Za-z0-9/._+,=@%-]*|*/../*|*/..|[!/]*|'') end 2 "no usable path: $path" ;;
    esac
done
case $HOST in
-*|*[!A-Za-z0-9._@-]*) end 2 "no usable host: $HOST" ;;
esac
case $DELETES in
''|*[!0-9]*) end 2 "no number: $DELETES" ;;
esac
# Without the slash at the end; empty for the root itself.
from=`say "$SOURCE" | sed 's|//*$||'`
to=`say "$DESTINATION" | sed 's|//*$||'`
if test -n "$HOST"; then TARGET=$HOST:$to/; else TARGET=$to/; fi

# Runs a command where the standby is.
remote() {
    if test -n "$HOST"; then
        $RSH "$HOST" "$1" </dev/null
    else
        /bin/sh -c "$1" </dev/null
    fi
}

# ---- one run at a time

mkdir -p "$STATE" || end 1 "$STATE cannot be made"
# A link is made with its content or not at all, so no lock is ever without its owner.
if ln -s "pid.$$" "$STATE/lock" 2>/dev/null; then
    locked=yes
else
    # One at a time looks after a lock whose owner is gone.
    mkdir "$STATE/lock.look" 2>/dev/null ||
        end 75 "another run is at work, or $STATE/lock.look was left behind: then remove it"
    owner=`ls -l "$STATE/lock" 2>/dev/null | sed 's/.* pid\.//'`
    case $owner in
    ''|*[!0-9]*) busy=yes ;;
    *) if kill -0 "$owner" 2>/dev/null || ps -p "$owner" >/dev/null 2>&1; then
            busy=yes
        else
            busy=no
            rm -f "$STATE/lock"
        fi ;;
    esac
    if test $busy = no && ln -s "pid.$$" "$STATE/lock" 2>/dev/null; then locked=yes; fi
    rmdir "$STATE/lock.look"
    test $locked = yes || end 75 "another run is at work: process $owner holds $STATE/lock"
fi

LOG=$STATE/$PROFILE.log.`date '+%Y%m%d'`
find "$STATE" -name '*.log.*' -mtime +$KEEP_DAYS -exec rm -f {} \;
rm -rf "$STATE"/work.*
WORK=$STATE/work.$$
mkdir "$WORK" "$WORK/skeleton" || end 1 "$WORK cannot be made"
log "begins: $SOURCE to ${HOST:-this host}:$DESTINATION"

cd "$SOURCE" || end 1 "$SOURCE is no directory that can be entered"
test -n "`ls -A . 2>/dev/null || ls -a . | sed -e '/^\.$/d' -e '/^\.\.$/d'`" ||
    end 3 "the source root is empty: is it mounted?"

# ---- gates: each answers with its exit status, and says why on its output

# NUMBER SECONDS NAME: an answer that does not come in time is none.
hold() {
    question=`expr $question + 1`
    : >"$WORK/asking.$question"
    (gate_$1) >"$WORK/said" 2>&1 </dev/null &
    asked=$!
    # It looks whether the question still stands: after that, the number may be another process's.
    (
        left=$2
        while test -f "$WORK/asking.$question" && test $left -gt 0; do
            sleep 1
            left=`expr $left - 1`
        done
        test ! -f "$WORK/asking.$question" || kill $asked
    ) >/dev/null 2>&1 </dev/null &
    # Some shells say how it ended.
    wait $asked 2>/dev/null
    answer=$?
    rm -f "$WORK/asking.$question"
    evidence=`tail -1 "$WORK/said"`
    test $answer -eq 0 ||
        end 3 "refused by the gate $3: ${evidence:-no answer, or exit status $answer}; nothing was changed"
    log "gate $3: pass $evidence"
}

# The mounts of a host from what its kernel says: path, type and device in each line.
mount_table() {
    awk '{ print $2, $3, $1 }'
}

# Seconds since 1970 from the fields of date -u.
seconds() {
    awk '{ y = $1; m = $2; if (m <= 2) { y = y - 1; m = m + 12 }
        days = 365 * y + int(y / 4) - int(y / 100) + int(y / 400) + int((153 * m - 457) / 5) + $3 - 719469
        printf "%d\n", days * 86400 + $4 * 3600 + $5 * 60 + $6 }'
}

# The system of a host and its major release.
RELEASE='if test -r /etc/os-release; then . /etc/os-release; echo "$ID $VERSION_ID" | sed "s/\..*//"; else uname -sr; fi'

@GATES@

# ---- what is mounted

MOUNTS='cat /proc/self/mounts 2>/dev/null || cat /etc/mnttab'
/bin/sh -c "$MOUNTS" | mount_table >"$WORK/mounts" || end 1 "the mounts of this host cannot be told"
test -s "$WORK/mounts" || end 1 "the mounts of this host cannot be told"
test $dry_run = yes || first_gates
remote "$MOUNTS" >"$WORK/table" 2>"$WORK/said" || end 6 "$HOST does not answer: `tail -1 "$WORK/said"`"
mount_table <"$WORK/table" >"$WORK/mounts.there"
test -s "$WORK/mounts.there" || end 6 "$HOST does not say what is mounted there"

# What is mounted below a root, relative to it, as path and type.
below() {
    awk 'index($1, root "/") == 1 && length($1) > length(root) + 1 {
        print substr($1, length(root) + 2), $2 }' root="$1" "$2"
}

# Whether a directory takes part, as far as rules without wildcards say.
in_scope() {
    case $1/ in
@TURNS@
    esac
}

below "$from" "$WORK/mounts" >"$WORK/here"
below "$to" "$WORK/mounts.there" >"$WORK/there"
@LISTED@
is_listed() {
    case " $LISTED " in
    *" $1 "*) return 0 ;;
    esac
    return 1
}
for filesystem in $LISTED; do
    for end_of in here there; do
        awk '$1 == wanted { found = 1 } END { exit !found }' wanted="$filesystem" "$WORK/$end_of" ||
            end 3 "/$filesystem is listed as a filesystem but not mounted $end_of; nothing was changed"
    done
done
: >"$WORK/barriers"
cat "$WORK/here" "$WORK/there" | sort -u | while read path kind; do
    (is_listed "$path") || say "$path" | sed 's/\\040/ /g'
done >>"$WORK/barriers"
# The logs and the lock of this script, too, where the rules do not leave them out.
case $STATE/ in
"$from"/*) say "$STATE" | sed "s|^$from/||" >>"$WORK/barriers" ;;
esac
while read path kind; do
    case $kind in
    proc|sysfs|devpts|devtmpfs|devfs|dev|ctfs|objfs|sharefs|mntfs|fd|namefs|lofs|autofs|nfs*|cifs|smb*|afs|ceph|9p) ;;
    cgroup*|bpf|*debugfs|tracefs|securityfs|selinuxfs|pstore|efivarfs|mqueue|hugetlbfs|binfmt_misc|configfs) ;;
    fuse*|rpc_pipefs|nfsd|nsfs|ramfs|tmpfs|overlay|squashfs|resctrl|cachefs) ;;
    *) if (is_listed "$path"); then :; elif (in_scope "$path"); then say "$path"; fi ;;
    esac
done <"$WORK/here" >"$WORK/unlisted"
test ! -s "$WORK/unlisted" ||
    end 3 "the filesystem at /`sed 1q "$WORK/unlisted"` is in scope but not listed: add it to source.also or exclude it; nothing was changed"

# ---- what the standby keeps beyond this script

# Its own file, as far as this script knows it; a shell cannot read the form that it has.
sed 's/^|//' >"$WORK/own.known" <<'STANDBY'
@STANDBY_FILE@
STANDBY
own=$to/etc/clonetool/standby.toml
remote "test ! -f $own || cat $own" >"$WORK/own" || end 6 "$own of the standby cannot be read"
test ! -s "$WORK/own" || test "`cat "$WORK/own"`" = "`cat "$WORK/own.known"`" ||
    end 3 "this script does not know the standby's own $own as it is now: export it again with --standby-file; nothing was changed"
# What its preparation changed there is its own.
journal=$to/var/lib/clonetool/prepare/journal.json
remote "test ! -f $journal || cat $journal" >"$WORK/journal" ||
    end 6 "the journal of the standby's preparation cannot be read"
sed -n 's/^ *"path": "\/*\(.*\)",*$/\1/p' "$WORK/journal" >>"$WORK/barriers"
grep '\\' "$WORK/barriers" >"$WORK/said" &&
    end 3 "the standby keeps, or one of the hosts mounts, what this script cannot name: `sed 1q "$WORK/said"`; nothing was changed"

# Whether a path is at or below what is kept, or another filesystem.
barred() {
    IFS=$NEWLINE
    while read line; do
        case $1/ in "$line"/*) echo yes ;; esac
    done <"$WORK/barriers" | grep yes >/dev/null
}


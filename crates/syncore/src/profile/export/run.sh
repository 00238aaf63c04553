# ---- what rsync is told

# Of names that hold an end of line, each rule ends in a NUL.
rules() {
@SPELL@
}

static_rules() {
    rules <<'RULES'
@FILTERS@
RULES
}

version=`"$RSYNC" --version 2>/dev/null | sed -n 's/^rsync *version v*\([0-9][0-9]*\.[0-9][0-9]*\.*[0-9]*\).*/\1/p'`
test -n "$version" || end 1 "there is no rsync here, or it does not say its version: $RSYNC"
say "$version" | awk -F. '{ exit !($1 * 10000 + $2 * 100 + $3 >= 20607) }' ||
    end 2 "rsync $version is too old: 2.6.7 or later is needed"
"$RSYNC" --version >"$WORK/version.here" 2>&1
remote "$REMOTE_RSYNC --version" >"$WORK/version.there" 2>&1 ||
    end 6 "no rsync answers on the standby: `tail -1 "$WORK/version.there"`"

# Whether both ends carry what a word of rsync --version names.
carried() {
    for end_of in here there; do
        sed "s/no $1//" "$WORK/version.$end_of" | grep "$1" >/dev/null || return 1
    done
}

attributes='-lptgoDHS --numeric-ids'
if (carried ACLs); then attributes="$attributes -A"; else log "ACLs are not carried: an rsync does not know them"; fi
if (carried xattrs); then attributes="$attributes -X"; else log "extended attributes are not carried: an rsync does not know them"; fi
everything=$attributes
output=$WORK/rsync
: >"$output"

run_rsync() {
    if test -n "$HOST"; then
        "$RSYNC" -i -e "$RSH" --rsync-path="$REMOTE_RSYNC" --timeout=$SILENCE ${1+"$@"}
    else
        "$RSYNC" -i --timeout=$SILENCE ${1+"$@"}
    fi
}

# What an exit status of rsync means for the run.
weigh() {
    case $1 in
    0) ;;
    23|24|25) problems=yes; log "rsync ended with $1" ;;
    1|4) end 2 "rsync ended with $1: `tail -1 "$output"`" ;;
    2|5|10|12|30|35|124|125|126|127|255) end 6 "rsync ended with $1: `tail -1 "$output"`" ;;
    20|130|143) end 1 "stopped by a signal" ;;
    *) end 1 "rsync ended with $1: `tail -1 "$output"`" ;;
    esac
}

# A rule of directories alone, where the two hosts have different kinds of things: what the standby has there is left
# alone, a directory that does not take part as well as what production has a directory for.
hold_directory() {
    if (is_real "$1"); then
        say "$2"
    elif (is_plain "$1") && (exists "$1") && (is_theirs "$1"); then
        say "$2"
        say "$1" >>"$WORK/in_the_way"
    fi
}

is_real() {
    test -d "./$1" && test ! -h "./$1"
}

# Whether the standby has a directory there.
is_theirs() {
    mkdir -p "$WORK/skeleton/$1"
    cd "$WORK/skeleton" || return 0
    if (is_missing "./$1"); then return 1; fi
}

directory_rules() {
    (is_plain "$1") && (exists "$1") || return 1
    if test -d "./$1" && test ! -h "./$1"; then return 1; fi
    mkdir -p "$WORK/skeleton/$1"
    cd "$WORK/skeleton" || return 0
    if (is_missing "./$1"); then return 1; fi
}

directory_rules() {
@DIRECTORY_RULES@
    :
}

# One pass, in earnest or not; what rsync says goes to the log.
copy() {
    : >"$output"
    run_rsync $mode $attributes ${1+"$@"} "$TARGET" >"$output" 2>&1
    status=$?
    cat "$output" >>"$LOG"
    cat "$output" >>"$WORK/all"
    # Of these rsync speaks, and ends with 0.
    test -z "`sed -n -e '/^cannot delete/p' -e '/^could not make way/p' "$output"`" || problems=yes
    weigh $status
}

# Whether production has at a path what takes part: a directory, anything else, or either.
is_top() {
    (barred "$2") && return 1
    (is_plain "$2") || return 1
    case $1 in
    directory) (is_real "$2") ;;
    other) if (is_real "$2"); then return 1; else (exists "$2"); fi ;;
    any) (exists "$2") ;;
    esac
}

exists() {
    ls -d "./$1" >/dev/null 2>&1
}

# Whether nothing above a path is anything but a directory: a link would lead elsewhere.
is_plain() {
    above=`dirname "./$1"`
    while test "$above" != .; do
        if (exists "$above"); then
            (is_real "$above") || return 1
        fi
        above=`dirname "$above"`
    done
}

is_gone() {
    (barred "$1") && return 1
    (is_plain "$1") || return 1
    (exists "$1") && return 1
    return 0
}

# Makes directories that the standby lacks, empty, with everything that rsync carries; those it has stay as they are.
make_missing() {
    test $# -gt 0 || return 0
    (run_rsync -n -d -R --no-implied-dirs -- "$@" "$TARGET") >"$output" 2>&1 || weigh $?
    grep '^cd+' "$output" >/dev/null || return 0
    if test $dry_run = yes; then
        grep '^cd+' "$output" >>"$WORK/all"
        return 0
    fi
    for directory in "$@"; do
        (is_missing "$directory") || continue
        made=yes
        copy -d --ignore-existing -R --no-implied-dirs -- "$directory"
        if (is_missing "$directory"); then
            # Another kind of thing is there, and it is not this script's to replace.
            log "$directory is no directory on the standby"
            test $needed = no || end 1 "$directory is no directory on the standby: see what it is there"
            problems=yes
        fi
    done
}

# Takes from the standby what production no longer has, below a directory that does not take part itself: an empty
# directory is shown to rsync in its place.
forget() {
    { rules; cat "$WORK/filter"; } >"$WORK/gone"
    mkdir -p "$WORK/skeleton/$1"
    cd "$WORK/skeleton" || end 1 "$WORK/skeleton cannot be entered"
    attributes=
    copy -r -x $delete --existing --ignore-existing $zero --exclude-from="$WORK/gone" ./
    attributes=$everything
    cd "$SOURCE" || end 1 "$SOURCE is no directory that can be entered"
}

is_missing() {
    run_rsync -n -d -R --no-implied-dirs -- "$1" "$TARGET" 2>/dev/null | grep '^cd+' >/dev/null
}

# The tree itself and the filesystems that are listed.
trees() {
@TREES@
}

# What takes part below a directory that does not.
tops() {
    set x
@TOPS@
    shift
    test $# -eq 0 || copy -r -x $delete $zero --exclude-from="$WORK/filter" -R --no-implied-dirs -- "$@"
}

# What of these production no longer has.
vanished() {
    case $delete in
    --delete*) ;;
    *) return 0 ;;
    esac
@VANISHED@
    return 0
}

# Whether the standby has something there that is no directory.
is_other() {
    run_rsync -n -d --existing -R --no-implied-dirs -- "$1" "$TARGET" 2>/dev/null | grep '^cd+' >/dev/null
}

# Where the standby has something of its own on the way to what takes part, nothing is done below.
obstructed() {
    set x
@IMPLIED@
    shift
    for directory in ${1+"$@"}; do
        (is_other "$directory") || continue
        case $directory in
        *\\*|*"$NEWLINE"*) end 3 "$directory is no directory on the standby; nothing was changed" ;;
        esac
        log "$directory is no directory on the standby: nothing below it is brought"
        say "$directory" | sed 's|^\./||' >>"$WORK/barriers"
        say "$directory" >>"$WORK/in_the_way"
    done
}

# Directories below which something takes part.
implied() {
    set x
@IMPLIED@
    shift
    needed=yes
    make_missing ${1+"$@"}
}

# Whether a mount point is to be there, empty, on the standby.
is_mount_point() {
    case $1 in
    *\\*) return 1 ;;
    esac
    (is_listed "$1") && return 1
    (barred "`dirname "./$1" | sed 's|^\./*||'`") && return 1
    in_scope "$1"
}

# Directories of runtime state, and where other filesystems are mounted: made, never filled.
empty() {
    set x
@EMPTY@
    for path in `sed 's/ .*//' "$WORK/here"`; do
        if (is_mount_point "$path"); then set "$@" "./$path"; fi
    done
    shift
    needed=no
    make_missing ${1+"$@"}
}

@AUTH@

pass() {
    trees
    tops
    vanished
}

# ---- first without doing it: what would be deleted is counted before anything is

log "what would be done:"

# Everything that rsync is told to leave alone: barriers, what is in the way, and the rules of the profile.
filter() {
    cat "$WORK/barriers" "$WORK/blocked" | sed -e 's/[*?[]/\\&/g' -e 's|^|- /|' | rules
    rules <"$WORK/directory_rules"
    static_rules
}

: >"$WORK/blocked"
: >"$WORK/in_the_way"
(directory_rules) >"$WORK/directory_rules"
obstructed
filter >"$WORK/filter"
: >"$WORK/all"
mode=-n
pass
# A directory that holds something of the standby's own stays as it is, whatever production has in its place.
sed -n 's/^could not make way for new [a-z ]*: //p' "$WORK/all" >"$WORK/blocked"
if test -s "$WORK/blocked"; then
    grep '\\' "$WORK/blocked" >/dev/null && end 1 "what is in the way has a name that rsync does not tell: see $LOG; nothing was changed"
    problems=no
    filter >"$WORK/filter"
    : >"$WORK/all"
    pass
    problems=yes
fi
deletes=`grep -c '^\*deleting' "$WORK/all"`
if test $dry_run = yes; then
    implied
    empty
    auth_set
    cat "$WORK/all"
    log "would delete $deletes entries"
    test $problems = no || end 4 "some paths cannot be read: see $LOG"
    exit 0
fi
test "$deletes" -le "$DELETES" ||
    end 3 "$deletes entries would be deleted, $DELETES are allowed; nothing was changed: read the list in $LOG, then allow that one run with -D $deletes"
stays=no
if test -z "$delete"; then :
elif test -s "$WORK/in_the_way"; then
    log "deletions are put off: something of the standby's own is in the way of what production has"
    delete=--force
elif test "$deletes" -eq 0; then
    # Where nothing is to go, nothing can; what should and cannot was said the first time.
    delete=
    test -z "`sed -n '/^cannot delete/p' "$WORK/all"`" || stays=yes
else
    delete="--delete-after --max-delete=$DELETES"
fi
auth_ready
gates_again

log "what is done:"
mode=
problems=no
test $stays = no && test ! -s "$WORK/in_the_way" && test ! -s "$WORK/blocked" || problems=yes
made=no
trees
implied
tops
vanished
empty
# A directory that was made changes the time of the one above.
test $made = no || trees
auth_set

test $problems = no || end 4 "done, but some paths keep their old state: see $LOG"
log "exit 0: all that takes part is on the standby"
say "`date '+%Y-%m-%d %H:%M:%S'` exit 0" >"$STATE/$PROFILE.last"
exit 0

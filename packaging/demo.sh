#!/bin/sh
# The main job of clonetool, for real, on one host: `make demo`.
#
#     packaging/demo.sh CLONETOOL
#
# Builds a small production root below a temporary directory, clones it to a standby root through the real remote
# protocol, gives the standby an identity of its own, changes production, runs the hourly and the daily sync, and
# checks the outcome with tools that are not clonetool. Nothing outside the temporary directory is changed; it is
# removed at the end unless CLONETOOL_KEEP is set. Works without root too, with fewer kinds of file.
# shellcheck disable=SC2016  # password hashes have dollar signs
set -eu
LC_ALL=C
PATH=$PATH:/usr/sbin:/sbin
export LC_ALL PATH

binary=${1:?usage: $0 CLONETOOL}
case $binary in /*) ;; *) binary=$PWD/$binary ;; esac
[ -x "$binary" ] || {
    echo "demo: $binary is no program; run make build" >&2
    exit 1
}

# --- ground work ----------------------------------------------------------------------------------------------

base=${TMPDIR:-/var/tmp}
# The command after -e is split at spaces.
case $base in *[[:space:]]*) base=/var/tmp ;; esac
work=$(mktemp -d "$base/clonetool-demo.XXXXXX")
production=$work/production
standby=$work/standby
made_run_sshd=

cleanup() {
    status=$?
    trap - EXIT
    [ -z "$made_run_sshd" ] || rmdir /run/sshd 2>/dev/null || :
    if [ -n "${CLONETOOL_KEEP:-}" ]; then
        echo "demo: kept $work"
    else
        chmod -R u+rwX "$work" 2>/dev/null || :
        rm -rf "$work"
    fi
    [ "$status" = 0 ] || echo "demo: FAILED (status $status)" >&2
    exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

root=
[ "$(id -u)" != 0 ] || root=yes
if [ -t 1 ]; then bold=$(printf '\033[1m') plain=$(printf '\033[0m'); else bold='' plain=''; fi

title() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
say() { printf '   %s\n' "$*"; }
die() {
    echo "demo: $*" >&2
    exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# A byte count for people.
human() {
    awk -v n="$1" 'BEGIN {
        split("B KiB MiB GiB TiB", unit, " ")
        for (i = 1; n >= 1024 && i < 5; i++) n /= 1024
        printf(i == 1 ? "%d %s" : "%.1f %s", n, unit[i])
    }'
}

# clonetool ARGUMENTS... as a reader would type it, with the long paths shortened.
show_command() {
    printf '   $ clonetool'
    for word in "$@"; do
        case $word in
        -e | --remote-path) skip=1 ;;
        "$production") printf ' PRODUCTION' ;;
        "$standby") printf ' STANDBY' ;;
        "root-standby:$standby") printf ' root-standby:STANDBY' ;;
        *) if [ "${skip:-}" ]; then skip=''; else printf ' %s' "$word"; fi ;;
        esac
    done
    echo
}

# Usage: clonetool NAME ARGUMENTS... Runs it, keeps its output in $work/NAME.out, and stops the demo if it fails.
clonetool() {
    name=$1
    shift
    show_command "$@"
    code=0
    "$binary" "$@" >"$work/$name.out" 2>"$work/$name.err" </dev/null || code=$?
    [ "$code" = 0 ] || {
        tail -n 20 "$work/$name.out" "$work/$name.err" >&2
        die "clonetool $1 ended with exit code $code"
    }
}

# Usage: field NAME KEY: a number of the summary that run NAME ended with.
field() {
    value=$(tail -n 1 "$work/$1.out" | sed -n 's/.*"'"$2"'": *\([0-9.]*\).*/\1/p')
    echo "${value:-0}"
}
wire() { echo $(($(field "$1" wire_sent_bytes) + $(field "$1" wire_received_bytes))); }
changes() {
    say "$(field "$1" created) created, $(field "$1" updated) updated, $(field "$1" metadata_only) metadata only, $(field "$1" moved) moved, $(field "$1" deleted) deleted; $(human "$(wire "$1")") on the wire, $(field "$1" elapsed_seconds) s"
}
indent() { sed 's/^/   | /'; }

# --- a production root ----------------------------------------------------------------------------------------

# Usage: copy_into_production FIND-ARGUMENTS... Copies the files found on this host, with all that tar keeps.
copy_into_production() {
    find "$@" -readable -print 2>/dev/null | sed 's|^/||' |
        tar -C / --no-recursion -cf - -T - 2>/dev/null | tar -C "$production" -xpf - 2>/dev/null || :
}

title "A small production root"
mkdir -m 755 "$production" "$standby"
(
    cd "$production"
    mkdir -p etc/ssh etc/network etc/init.d usr/bin usr/local/bin opt/app/conf opt/app/data opt/app/release-1 srv tmp
    mkdir -p var/lib var/log
    chmod 1777 tmp
)
# Nothing secret: no password, key or credential of this host is copied.
copy_into_production /usr/bin -maxdepth 1 -type f -size -2048 ! -perm /6000
copy_into_production /usr/bin -maxdepth 1 -type l
for directory in /etc/init.d /etc/default /etc/profile.d /etc/alternatives /etc/pam.d /etc/logrotate.d \
    /etc/security /etc/systemd /usr/share/zoneinfo /usr/share/perl5; do
    [ ! -d "$directory" ] || copy_into_production "$directory" \( -type f -o -type l -o -type d \)
done
(
    cd "$production"
    # Configuration and a release of an application: many small files.
    awk 'BEGIN {
        for (i = 0; i < 1200; i++) {
            name = sprintf("opt/app/conf/service-%04d.conf", i)
            printf("[service-%d]\nport = %d\nowner = team-%d\n", i, 1024 + i, i % 17) > name
            close(name)
        }
    }'
    for part in 1 2 3 4 5 6 7 8; do head -c 1500000 /dev/urandom >"opt/app/release-1/module-$part.so"; done
    # The database: 64 MiB that no compression makes smaller.
    head -c 67108864 /dev/urandom >opt/app/data/accounts.db
    # A sparse image: 256 MiB long, a few blocks on disk.
    truncate -s 256M opt/app/data/image.raw
    head -c 40000 /dev/urandom | dd of=opt/app/data/image.raw bs=4096 seek=30000 conv=notrunc status=none
    # One program under three names.
    printf '#!/bin/sh\necho the nightly report\n' >usr/local/bin/report
    chmod 755 usr/local/bin/report
    ln usr/local/bin/report usr/local/bin/report-daily
    ln usr/local/bin/report usr/local/bin/report-weekly
    ln -s ../conf opt/app/release-1/conf
    mkfifo opt/app/data/queue
    : >"opt/app/data/$(printf 'odd name\twith a tab and \351')"

    # What a preparation looks at: the kind of system, a job and a service.
    mkdir -p etc/cron.d etc/systemd/system/multi-user.target.wants usr/lib/systemd
    printf 'ID=debian\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n' >etc/os-release
    : >usr/lib/systemd/systemd && chmod 755 usr/lib/systemd/systemd
    echo '0 3 * * 1-5 app /opt/app/bin/payroll' >etc/cron.d/payroll
    printf '[Service]\nExecStart=/opt/app/bin/payroll --serve\n' >etc/systemd/system/payroll.service
    ln -s ../payroll.service etc/systemd/system/multi-user.target.wants/payroll.service

    # What is this host's own.
    echo prod01 >etc/hostname
    echo 11111111111111111111111111111111 >etc/machine-id
    printf '/dev/sda1 / ext4 defaults 0 1\n/dev/sdb1 /data xfs defaults 0 2\n' >etc/fstab
    printf 'auto eth0\niface eth0 inet static\n  address 192.0.2.10/24\n' >etc/network/interfaces
    printf 'not a real key: production\n' >etc/ssh/ssh_host_ed25519_key
    printf 'ssh-ed25519 production\n' >etc/ssh/ssh_host_ed25519_key.pub
    chmod 600 etc/ssh/ssh_host_ed25519_key

    # Accounts.
    printf 'root:x:0:0:root:/root:/bin/sh\nalice:x:1001:1001::/home/alice:/bin/sh\n' >etc/passwd
    printf 'root:x:0:\nalice:x:1001:\n' >etc/group
    printf 'root:*:19700:0:99999:7:::\nalice:$6$old$oldhash:19700:0:99999:7:::\n' >etc/shadow
    printf 'root:*::\nalice:!::\n' >etc/gshadow
    printf 'alice:100000:65536\n' | tee etc/subuid >etc/subgid
    : >etc/.pwd.lock
    chmod 600 etc/shadow etc/gshadow etc/.pwd.lock
)
extras="hard links, a sparse file, a FIFO"
if have setfacl && setfacl -m u:4242:r-- "$production/opt/app/conf/service-0001.conf" 2>/dev/null; then
    setfacl -d -m g:4243:rwx "$production/opt/app/data" 2>/dev/null || :
    extras="$extras, ACLs"
fi
if [ -n "$root" ]; then
    if mknod "$production/srv/null" c 1 3 2>/dev/null && mknod "$production/srv/disk" b 8 0 2>/dev/null; then
        extras="$extras, device nodes"
    fi
    chown -h 1001:1001 "$production"/opt/app/conf/service-00*.conf
    if have setcap && cp /bin/cat "$production/usr/local/bin/low-port" &&
        setcap cap_net_bind_service=ep "$production/usr/local/bin/low-port" 2>/dev/null; then
        extras="$extras, a file capability"
    fi
fi
entries=$(find "$production" | wc -l)
tree_bytes=$(($(du -sk "$production" | cut -f1) * 1024))
say "$((entries)) entries, $(human "$tree_bytes") on disk, with $extras"

# --- the way to the standby -----------------------------------------------------------------------------------

# Without a second host, the standby is another directory; what lies between is the real remote protocol. Where an
# SSH server is installed it is the real ssh too: each connection gets an sshd of its own on a pipe (ProxyCommand),
# with keys made for this demo, so that no port is opened and no daemon is left behind.
start_ssh() {
    have ssh && have ssh-keygen && have sshd || return 1
    sshd=$(command -v sshd)
    if [ -n "$root" ] && [ ! -d /run/sshd ]; then
        mkdir -m 755 /run/sshd 2>/dev/null || return 1
        made_run_sshd=yes
    fi
    ssh-keygen -q -t ed25519 -N '' -C demo -f "$work/host_key" </dev/null || return 1
    ssh-keygen -q -t ed25519 -N '' -C demo -f "$work/user_key" </dev/null || return 1
    cp "$work/user_key.pub" "$work/authorized_keys"
    printf 'root-standby %s\n' "$(cat "$work/host_key.pub")" >"$work/known_hosts"
    cat >"$work/ssh_config" <<EOF
Host root-standby
    User $(id -un)
    ProxyCommand $sshd -i -f $work/sshd_config -E $work/sshd.log
    IdentityFile $work/user_key
    IdentitiesOnly yes
    UserKnownHostsFile $work/known_hosts
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    BatchMode yes
    ControlMaster no
    ControlPath none
    LogLevel ERROR
EOF
    # An account with a locked password may log in by key only when PAM judges it.
    for pam in no yes; do
        cat >"$work/sshd_config" <<EOF
HostKey $work/host_key
AuthorizedKeysFile $work/authorized_keys
PidFile none
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
UsePAM $pam
PrintMotd no
EOF
        if ssh -F "$work/ssh_config" root-standby true >/dev/null 2>&1 </dev/null; then return 0; fi
    done
    return 1
}

title "The way to the standby"
if start_ssh; then
    remote_shell="ssh -F $work/ssh_config"
    say "ssh and sshd of this host, keys made for this demo, strict host key check"
    way="ssh"
else
    # Called as ssh would be: options, the host, the command.
    cat >"$work/rsh" <<'EOF'
#!/bin/sh
while :; do
    case $1 in
    -[BbcDEeFIiJLlmOopQRSWw]) shift 2 ;;
    --) shift; break ;;
    -*) shift ;;
    *) break ;;
    esac
done
shift
[ "${1:-}" != -- ] || shift
exec /bin/sh -c "$*"
EOF
    chmod 755 "$work/rsh"
    remote_shell=$work/rsh
    say "no usable sshd here: the agent runs on this host, behind a pipe in place of ssh"
    way="a pipe"
fi
far=root-standby:$standby

# --- clone ----------------------------------------------------------------------------------------------------

title "Clone"
clonetool clone clone --delete --json -e "$remote_shell" --remote-path "$binary" "$production" "$far"
changes clone
clonetool again clone --delete --json -e "$remote_shell" --remote-path "$binary" "$production" "$far"
say "again, with nothing to do:"
changes again

# --- how it would boot ----------------------------------------------------------------------------------------

title "What prepare-root would make of the copy"
# No disk lies below the copy, so the one that it will lie on is named; and there is no kernel in it.
clonetool prepare prepare-root "$standby" --dry-run --hostname prod01-standby --root-device /dev/vda1 --bootloader none
indent <"$work/prepare.out"

# --- two hosts that differ ------------------------------------------------------------------------------------

title "The standby becomes a host of its own"
identity="etc/hostname etc/machine-id etc/fstab etc/network/interfaces etc/ssh/ssh_host_ed25519_key etc/ssh/ssh_host_ed25519_key.pub"
(
    cd "$standby"
    echo prod01-standby >etc/hostname
    echo 22222222222222222222222222222222 >etc/machine-id
    printf '/dev/nvme0n1p2 / ext4 defaults 0 1\n' >etc/fstab
    printf 'auto ens3\niface ens3 inet static\n  address 198.51.100.20/24\n' >etc/network/interfaces
    printf 'not a real key: standby\n' >etc/ssh/ssh_host_ed25519_key
    printf 'ssh-ed25519 standby\n' >etc/ssh/ssh_host_ed25519_key.pub
)
# Content, inode, owner, mode and change time of each identity file: more than its bytes must stay.
fingerprint() {
    (
        cd "$standby"
        # shellcheck disable=SC2086  # a list of words
        sha256sum $identity && stat -c '%n %i %u %g %a %Y %Z' $identity
    )
}
fingerprint >"$work/identity.before"
say "hostname, machine-id, fstab, network and SSH host keys are its own now"

title "Production lives on"
(
    cd "$production"
    sed 's/^alice:[^:]*/alice:$6$new$newhash/' etc/shadow >etc/shadow.new
    cat etc/shadow.new >etc/shadow && rm etc/shadow.new
    echo 'bob:x:1002:1002::/home/bob:/bin/sh' >>etc/passwd
    echo 'bob:x:1002:' >>etc/group
    echo 'bob:$6$bob$hash:19800:0:99999:7:::' >>etc/shadow
    echo 'bob:!::' >>etc/gshadow
    say "alice has a new password, and bob an account"
    head -c 8192 /dev/urandom | dd of=opt/app/data/accounts.db bs=8192 seek=4321 conv=notrunc status=none
    say "one 8 KiB page of the 64 MiB database changed"
    printf '#!/bin/sh\necho installed today\n' >usr/local/bin/new-tool && chmod 755 usr/local/bin/new-tool
    rm opt/app/conf/service-0666.conf
    mv opt/app/release-1 opt/app/release-2
    say "a program was installed, a file deleted, a directory of 12 MB renamed"
    echo prod01-renamed >etc/hostname
    echo '/dev/sdc1 /more xfs defaults 0 2' >>etc/fstab
    say "its own hostname and fstab changed too: these must not arrive on the standby"
)

# --- hold in sync ---------------------------------------------------------------------------------------------

# The options that every sync of this demo has.
sync_options() {
    set -- "$@" --source "$production" --destination "$far" -e "$remote_shell" --remote-path "$binary"
    clonetool "$@"
}

title "Every hour: the accounts"
sync_options hourly-plan plan linux-hourly-auth --itemize
indent <"$work/hourly-plan.out"
sync_options hourly sync linux-hourly-auth --json --records "$work/records"
changes hourly
grep -q '^bob:' "$standby/etc/passwd" || die "bob did not arrive"
grep -q 'newhash' "$standby/etc/shadow" || die "alice's password did not arrive"
[ -e "$standby/opt/app/release-1" ] || die "the hourly sync did more than the accounts"

title "Every day: the rest"
clonetool explain explain linux-daily /etc/hostname
indent <"$work/explain.out"
sync_options daily-plan plan linux-daily --itemize
head -n 40 "$work/daily-plan.out" | indent
sync_options daily sync linux-daily --json --records "$work/records"
changes daily

# --- is it true? ----------------------------------------------------------------------------------------------

title "Verify"
sync_options verify verify --profile linux-daily
tail -n 5 "$work/verify.out" | indent

fingerprint >"$work/identity.after"
cmp -s "$work/identity.before" "$work/identity.after" || {
    diff "$work/identity.before" "$work/identity.after" >&2 || :
    die "an identity file of the standby was touched"
}
say "sha256, inode and times of the standby's $(echo "$identity" | wc -w | tr -d ' ') identity files: as before"

# With sha256sum alone, and no help from clonetool: which files differ at all?
content() {
    (cd "$1" && find . -type f ! -path ./etc/.pwd.lock ! -path './var/lib/clonetool/*' -exec sha256sum {} + | sort)
}
content "$production" >"$work/content.production"
content "$standby" >"$work/content.standby"
differing=$(comm -3 "$work/content.production" "$work/content.standby" | sed 's/^[[:space:]]*\\\{0,1\}[0-9a-f]* [ *]\.\///' | sort -u)
echo "$identity" | tr ' ' '\n' | sort >"$work/identity.names"
printf '%s\n' "$differing" | comm -23 - "$work/identity.names" >"$work/unexpected"
[ ! -s "$work/unexpected" ] || {
    indent <"$work/unexpected" >&2
    die "these files differ and should not"
}
[ "$(stat -c %h "$standby/usr/local/bin/report")" = 3 ] || die "a hard link was lost"
[ "$(du -k "$standby/opt/app/data/image.raw" | cut -f1)" -lt 4096 ] || die "the sparse file is not sparse any more"
[ ! -e "$standby/opt/app/conf/service-0666.conf" ] || die "a deleted file is still there"
files=$(wc -l <"$work/content.production")
say "sha256sum over $((files)) files of both roots: only the identity files differ"

# --- summary --------------------------------------------------------------------------------------------------

# Usage: row NAME TEXT
row() {
    awk -v text="$2" -v seconds="$(field "$1" elapsed_seconds)" -v size="$(human "$(wire "$1")")" \
        -v wire="$(wire "$1")" -v tree="$tree_bytes" \
        'BEGIN { printf("   %-34s %8.2f s %12s %11.4f %%\n", text, seconds, size, 100 * wire / tree) }'
}
title "Summary"
say "production: $((entries)) entries, $(human "$tree_bytes") on disk; standby reached through $way"
printf '   %-34s %10s %12s %13s\n' '' 'time' 'on the wire' 'of the tree'
row clone 'first clone'
row again 'clone again, nothing changed'
row hourly 'hourly: accounts'
row daily 'daily: everything else'
say "protected and untouched on the standby: $identity"
[ -n "$root" ] || say "not shown, for lack of root: owners, device nodes, capabilities"
say "${bold}The standby is in sync, and still itself.${plain}"

#!/bin/sh
# Installs the system packages that a make target needs, or names them.
#
#     packaging/prerequisites.sh build|demo|test|boot|bench
#
# As root on Debian or Ubuntu what is missing is installed; anywhere else, or with CLONETOOL_NO_INSTALL set, it is
# named. Exit 0: everything that the target cannot do without is there. Exit 1: it is not.
set -u

die() {
    echo "prerequisites: $*" >&2
    exit 1
}

have() {
    command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ]
}

# What each target needs, as Debian calls it. The build needs a C compiler for zstd, BLAKE3 and libssh2, and the
# headers of OpenSSL and zlib for libssh2.
build_packages="ca-certificates gcc libc6-dev make pkg-config libssl-dev zlib1g-dev"
demo_packages="$build_packages acl openssh-client openssh-server"
boot_packages="$build_packages binutils e2fsprogs mmdebstrap mtools openssh-client openssh-server ovmf qemu-system-x86 util-linux"
test_packages="$demo_packages attr libcap2-bin e2fsprogs btrfs-progs xfsprogs lvm2 postgresql qemu-system-common strace util-linux iproute2 iputils-ping rsync dash debootstrap faketime tar zstd"
bench_packages="$build_packages openssh-client openssh-server rsync debootstrap postgresql time util-linux"

case "${1:-}" in
build) packages=$build_packages ;;
demo) packages=$demo_packages ;;
test) packages=$test_packages ;;
boot) packages=$boot_packages ;;
bench) packages=$bench_packages ;;
*) die "usage: $0 build|demo|test|boot|bench" ;;
esac
target=$1

# --- the Rust toolchain ---------------------------------------------------------------------------------------

if ! have cargo && [ -x "${CARGO_HOME:-${HOME:-/root}/.cargo}/bin/cargo" ]; then
    die "cargo is installed but not on PATH: add ${CARGO_HOME:-${HOME:-/root}/.cargo}/bin to it"
fi
have cargo || die "there is no cargo; install a Rust toolchain of 1.88 or later: https://rustup.rs"

# rustup's minimal profile leaves these two out.
if [ "$target" = test ] && have rustup; then
    cargo clippy --version >/dev/null 2>&1 || rustup component add clippy || die "cannot add clippy"
    cargo fmt --version >/dev/null 2>&1 || rustup component add rustfmt || die "cannot add rustfmt"
fi

# --- Debian and its family ------------------------------------------------------------------------------------

# Prints the packages of $packages that are not installed.
missing_deb() {
    for package in $packages; do
        status=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) || status=
        [ "$status" = installed ] || printf '%s ' "$package"
    done
}

# Installs "$@" without starting a daemon: a server is wanted for its programs, not as a service of this host.
install_deb() {
    policy=/usr/sbin/policy-rc.d
    made_policy=
    if [ ! -e "$policy" ]; then
        made_policy=yes
        trap 'rm -f "$policy"' EXIT
        trap 'exit 130' INT TERM HUP
        printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy"
    fi
    apt() {
        DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@" </dev/null
    }
    # The package lists of a new machine are empty or old.
    apt -y --no-install-recommends install "$@" 2>/dev/null ||
        { apt update && apt -y --no-install-recommends install "$@"; }
    status=$?
    if [ -n "$made_policy" ]; then
        rm -f "$policy"
        trap - EXIT INT TERM HUP
    fi
    for package in "$@"; do
        case "$package" in
        openssh-server) units="ssh.service ssh.socket" ;;
        postgresql) units=postgresql.service ;;
        *) continue ;;
        esac
        if [ "$status" = 0 ] && [ -d /run/systemd/system ]; then
            # shellcheck disable=SC2086  # a list of words
            systemctl disable $units >/dev/null 2>&1 || :
            echo "prerequisites: $package is installed, neither enabled nor started"
        fi
    done
    return "$status"
}

if have dpkg-query && have apt-get; then
    missing=$(missing_deb)
    [ -n "$missing" ] || exit 0
    if [ -z "${CLONETOOL_NO_INSTALL:-}" ] && [ "$(id -u)" = 0 ]; then
        echo "prerequisites: installing $missing"
        # shellcheck disable=SC2086  # a list of words
        install_deb $missing || die "apt-get could not install: $missing"
        exit 0
    fi
    echo "prerequisites: for make $target these packages are missing: $missing" >&2
    echo "prerequisites:     apt-get install --no-install-recommends $missing" >&2
else
    # --- other systems: say what to install, then go by the programs that are there ----------------------------
    case "$target" in
    build) want=1 ;;
    demo) want=2 ;;
    *) want=3 ;;
    esac
    # Usage: hint COMMAND BUILD DEMO REST BENCH
    hint() {
        list=$2
        [ "$want" -lt 2 ] || list="$list $3"
        [ "$want" -lt 3 ] || list="$list $4"
        [ "$target" != bench ] || list="$list $5"
        echo "prerequisites: for make $target this host needs:"
        echo "prerequisites:     $1 $list"
    }
    if [ "$target" = boot ]; then
        echo "prerequisites: for make $target this host needs what Debian calls:"
        echo "prerequisites:     $packages"
    elif have dnf; then
        hint "dnf install" "gcc make pkgconf-pkg-config openssl-devel zlib-devel" "acl openssh-clients openssh-server" \
            "attr libcap e2fsprogs btrfs-progs xfsprogs lvm2 postgresql-server strace util-linux iproute iputils rsync dash debootstrap" \
            "postgresql-server postgresql-contrib time"
    elif have zypper; then
        hint "zypper install" "gcc make pkgconf-pkg-config libopenssl-devel zlib-devel" "acl openssh-clients openssh-server" \
            "attr libcap-progs e2fsprogs btrfsprogs xfsprogs lvm2 postgresql-server strace util-linux iproute2 iputils rsync dash debootstrap" \
            "postgresql-server postgresql-contrib time"
    elif have pacman; then
        hint "pacman -S --needed" "gcc make pkgconf openssl zlib" "acl openssh" \
            "attr libcap e2fsprogs btrfs-progs xfsprogs lvm2 postgresql strace util-linux iproute2 iputils rsync dash debootstrap" \
            "postgresql time"
    elif have apk; then
        hint "apk add" "gcc musl-dev make pkgconf openssl-dev zlib-dev" "acl openssh" \
            "attr libcap-utils e2fsprogs e2fsprogs-extra btrfs-progs xfsprogs lvm2 postgresql strace util-linux iproute2 iputils rsync dash debootstrap" \
            "postgresql postgresql-contrib"
    else
        echo "prerequisites: for make $target this host needs what Debian calls:"
        echo "prerequisites:     $packages"
    fi
fi

# Without these nothing can be built. What else is missing makes the demo smaller and the tests skip (and say so).
for program in cc pkg-config; do
    have "$program" || have "$(echo "$program" | sed 's/^cc$/gcc/; s/^pkg-config$/pkgconf/')" ||
        die "$program is missing: nothing can be built without it"
done
if have pkg-config && ! pkg-config --exists openssl; then
    die "the OpenSSL headers are missing: nothing can be built without them (or build with --features vendored)"
fi
exit 0

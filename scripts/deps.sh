#!/bin/sh
# deps.sh [--dev | --image] - installs the packages that building, running and testing need.
#
# Installs only what is missing, as root or through sudo; with neither it prints the
# command to give an administrator and exits 1. Says nothing when nothing is missing.
# --dev adds the tools of `make lint`, `check-valgrind`, `fuzz` and `coverage`, --image those of
# `make image-check`.
set -eu
. "$(dirname "$0")/common.sh"

packages() {
    cat <<'TABLE'
all  build-essential      compiler, linker, libc headers
all  pkgconf              compiler flags of the libraries below
all  libmicrohttpd-dev    HTTP server
all  libjansson-dev       JSON
all  libhiredis-dev       Redis client
all  libopenblas-dev      matrix products, here and inside Faiss
all  libxxhash-dev        hash tables
all  libssl-dev           SHA-256
all  zlib1g-dev           gzip, for closed journal files
all  libzstd-dev          zstd, for closed journal files
all  cmake                builds Faiss
all  dpkg-dev             unpacks the source package of Faiss
all  redis-server         a private one serves the demo and the tests
all  curl                 asks the daemon
all  jq                   prints its answers
all  libcmocka-dev        unit tests
all  python3-pytest       integration tests
all  python3-numpy        their reference arithmetic
dev  clang                second compiler, fuzzers
dev  libclang-rt-dev      its sanitizer runtimes
dev  libomp-dev           its <omp.h>, which headers of Faiss want
dev  clang-format         make format
dev  cppcheck             make lint
dev  shellcheck           make lint
dev  valgrind             make check-valgrind
dev  gcovr                make coverage
dev  python3-scipy        make check-ctr
dev  python3-statsmodels  make check-ctr
image debootstrap         base images
image podman              builds and runs images
image podman-compose      runs docker/compose.yaml
image netavark            networks of containers
image aardvark-dns        names in them
image iptables            published ports
image iproute2            turns the loopback interface on
image systemd-container   boots a machine with systemd
TABLE
}

wanted() { packages | awk -v also="$1" '$1 == "all" || $1 == also { print $2 }'; }

# Prints those of the given packages that are not installed.
missing() {
    dpkg-query -W -f '${Package} ${db:Status-Status}\n' "$@" 2>/dev/null |
        awk 'BEGIN { for (i = 1; i < ARGC; i++) want[i] = ARGV[i]; n = ARGC; ARGC = 1 }
             $2 == "installed" { have[$1] = 1 }
             END { for (i = 1; i < n; i++) if (!have[want[i]]) print want[i] }' "$@"
}

# apt's machine-readable progress ("dlstatus:3:42.7:Retrieving ...") becomes a line per
# quarter of the work.
progress() {
    shown=
    while IFS=: read -r kind _ percent _; do
        case $kind in
        dlstatus) kind=downloading ;;
        pmstatus) kind=installing ;;
        *) continue ;;
        esac
        case $percent in [1-9]*.*) ;; *) continue ;; esac
        step="$kind $((${percent%%.*} / 25 * 25)) %"
        case $step in "$shown" | *" 0 %") ;; *) say "  $step" ;; esac
        shown=$step
    done
}

# A package may start a service for the whole machine; the demo and the tests start
# their own, so one that was not there before is stopped again and stays off.
silence_redis() {
    [ -d /run/systemd/system ] || return 0
    as_root systemctl disable --now redis-server >/dev/null 2>&1 || true
}

as_root() { $sudo env LC_ALL=C DEBIAN_FRONTEND=noninteractive "$@"; }

install_them() {
    log=$(mktemp 2>/dev/null) || die "cannot write a temporary file: is the disk full?"
    trap 'rm -f "$log"' EXIT
    trap 'exit 130' INT HUP TERM
    # A source that fails to update is no reason to stop: the next step shows whether it mattered.
    as_root apt-get update >"$log" 2>&1 || true
    # --no-remove: setting up a project must never take something away from the machine.
    as_root apt-get install --yes --no-install-recommends --no-remove \
        -o DPkg::Lock::Timeout=300 -o APT::Status-Fd=1 "$@" 2>&1 </dev/null |
        tee -a "$log" | progress
    [ -z "$(missing "$@")" ] ||
        die "cannot install packages: $(why_failed "$log" "$(grep '^E: ' "$log" | tail -n 1)")"
}

also=
case ${1-} in
'') ;;
--dev | --image) also=${1#--} ;;
*) die "usage: deps.sh [--dev | --image]" ;;
esac

command -v dpkg-query >/dev/null && command -v apt-get >/dev/null ||
    die "this machine has no apt (Debian 12 or Ubuntu 24.04 and later); install by hand what corresponds to:" \
        $(wanted "$also")

need=$(missing $(wanted "$also"))
[ -n "$need" ] || exit 0
need=$(echo $need)

sudo=
if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || {
        say "packages are missing and there is neither root nor sudo; ask an administrator for"
        say "  apt-get update && apt-get install --no-install-recommends $need"
        exit 1
    }
    sudo=sudo
fi

say "installing $need"
install_them $need
case " $need " in *" redis-server "*) silence_redis ;; esac
say "packages are installed"

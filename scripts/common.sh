# shellcheck shell=sh
# common.sh - what the scripts share: how they speak, and how they name a failure.
#
# Sourced, never run. Everything for people goes to stderr, so that stdout stays
# free for a result. POSIX sh.

say() { printf '%s\n' "recalld: $*" >&2; }

die() {
    say "$*"
    exit 1
}

# The directory for what is downloaded or built once per machine, not per checkout.
cache_dir() { printf "%s\n" "${XDG_CACHE_HOME:-${HOME:-/var/tmp}/.cache}/recalld"; }

# Reads a log and prints why the command that wrote it failed: one sentence. $2 is
# said when no known cause is found.
why_failed() {
    if grep -qiE 'no space left|enough free space|disk quota|write error' "$1"; then
        echo "the disk is full"
    elif grep -qiE 'NO_PUBKEY|not signed|BADSIG|EXPKEYSIG|hash sum mismatch' "$1"; then
        echo "a package archive could not be verified (signature or checksum)"
    elif grep -qiE 'could not get lock|unable to acquire the dpkg' "$1"; then
        echo "another package manager is at work; try again when it has finished"
    elif grep -qE ' 404 +Not Found' "$1"; then
        echo "the package archive lacks a file that its lists name"
    elif grep -qiE 'resolv|could not connect|unable to connect|cannot initiate|timed out|unreachable|connection failed|failed to fetch' "$1"; then
        echo "the package archive cannot be reached; is there a network?"
    elif grep -qiE 'unable to (locate|find)' "$1"; then
        sed -n 's/^E: \(Unable to .*\)/\1/p' "$1" | head -n 1 | tr -d '\n'
        echo ": no enabled apt source has it (on Ubuntu, enable universe)"
    else
        echo "$2"
    fi
}

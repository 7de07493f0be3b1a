#!/bin/sh
# promtool.sh - prints the path of promtool, which checks our metrics in the tests.
#
# It comes in a package of its own or, before Debian 13, in prometheus, which would start a service;
# so the package is downloaded (verified by apt) and this one program taken out of it, once per machine.
set -eu
. "$(dirname "$0")/common.sh"

command -v promtool && exit 0
tools=$(cache_dir)/tools
[ ! -x "$tools/promtool" ] || { echo "$tools/promtool"; exit 0; }

mkdir -p "$tools" || die "cannot create $tools: is the disk full?"
work=$(mktemp -d "$tools/unpack.XXXXXX") || die "cannot write to $tools: is the disk full?"
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT HUP TERM

# apt downloads as the user _apt, who may not be able to write here: as root then.
download() {
    for package in promtool prometheus; do
        (cd "$work" && LC_ALL=C apt-get -q -o APT::Sandbox::User=root download "$package") >>"$work/log" 2>&1 && return 0
    done
    return 1
}

# Package lists are often removed from containers.
update() {
    sudo=
    [ "$(id -u)" -eq 0 ] || sudo=sudo
    $sudo env LC_ALL=C apt-get update >>"$work/log" 2>&1 || true
}

{ download || { update && download; }; } &&
    dpkg-deb --fsys-tarfile "$work"/prom*.deb 2>>"$work/log" |
    tar -x -C "$work" ./usr/bin/promtool 2>>"$work/log" ||
    die "cannot get promtool: $(why_failed "$work/log" "$(tail -n 1 "$work/log")")"
mv "$work/usr/bin/promtool" "$tools/promtool"
echo "$tools/promtool"

#!/bin/sh
# cpu-level.sh - prints the level of machine code to build for: x86-64, x86-64-v3,
# x86-64-v4 or arm64. LEVEL= chooses one by hand, to build for other machines; LEVEL=portable is
# what servers of the last ten years have: x86-64-v3, arm64.
set -eu
. "$(dirname "$0")/common.sh"

# True when the processor reports every flag named. The kernel hides what it has not enabled.
has() {
    for flag in "$@"; do
        case " $flags " in *" $flag "*) ;; *) return 1 ;; esac
    done
}

x86_level() {
    flags=$(sed -n '/^flags/{s/.*: //p;q}' /proc/cpuinfo)
    if ! has avx avx2 bmi1 bmi2 f16c fma abm movbe; then
        echo x86-64
    elif ! has avx512f avx512bw avx512cd avx512dq avx512vl; then
        echo x86-64-v3
    else
        echo x86-64-v4
    fi
}

machine=$(uname -m)
case "${LEVEL:-$machine}" in
x86_64) x86_level ;;
aarch64) echo arm64 ;;
portable) [ "$machine" = aarch64 ] && echo arm64 || echo x86-64-v3 ;;
x86-64 | x86-64-v3 | x86-64-v4 | arm64) echo "$LEVEL" ;;
*) die "no such level: ${LEVEL:-$machine} (x86-64, x86-64-v3, x86-64-v4, arm64, portable)" ;;
esac

#!/bin/sh
# cpu-level.sh - prints the level of machine code to build for: x86-64, x86-64-v3,
# x86-64-v4 or arm64. LEVEL= chooses one by hand, for example to build for other machines.
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

case "${LEVEL:-$(uname -m)}" in
x86_64) x86_level ;;
aarch64) echo arm64 ;;
x86-64 | x86-64-v3 | x86-64-v4 | arm64) echo "$LEVEL" ;;
*) die "no such level: ${LEVEL:-$(uname -m)} (x86-64, x86-64-v3, x86-64-v4, arm64)" ;;
esac

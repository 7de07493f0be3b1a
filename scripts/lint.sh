#!/bin/sh
# lint.sh - everything about the sources that a machine can judge without running them.
#
# Called by `make lint`, which has built every file with gcc and -Werror already and hands
# over its compile commands in COMPILE_C and COMPILE_CXX. All checks run, whatever fails.
set -u
cd "$(dirname "$0")/.." || exit 1
. scripts/common.sh

out=$BUILD/lint
mkdir -p "$out"
failures=0

# check NAME FUNCTION: its output is shown only when it fails.
check() {
    if "$2" >"$out/log" 2>&1; then
        printf '  %-10s ok\n' "$1"
    else
        printf '  %-10s FAILED\n' "$1"
        sed 's/^/    /' "$out/log"
        failures=$((failures + 1))
    fi
}

# Runs a command, given as text, once per file named on stdin. {} stands for the file.
each() { xargs -P "$(nproc)" -I '{}' sh -c "$1"; }

layout() {
    clang-format --dry-run -Werror $(ls include/recalld/*.h src/*/*.[ch] src/*/*.cpp tests/*/*.[ch] 2>/dev/null)
}

# Not every warning has a name in both compilers.
clang() {
    after=-Wno-unknown-warning-option
    ls src/*/*.c tests/*/*.c 2>/dev/null | each "clang ${COMPILE_C#* } $after -fsyntax-only {}" &&
        ls src/*/*.cpp 2>/dev/null | each "clang++ ${COMPILE_CXX#* } $after -fsyntax-only {}"
}

headers() {
    ls include/recalld/*.h src/*/*.h | each "echo '#include \"{}\"' | $COMPILE_C -I. -fsyntax-only -x c -"
}

# The product only: it knows neither cmocka's assertions nor the tests' variadic helpers.
cpp_check() {
    mkdir -p "$out/cppcheck"
    cppcheck --quiet -j "$(nproc)" --std=c11 --library=posix --error-exitcode=1 --inline-suppr \
        --enable=warning,performance,portability --suppressions-list=scripts/cppcheck.txt \
        --cppcheck-build-dir="$out/cppcheck" -Iinclude -D_GNU_SOURCE \
        -D__BYTE_ORDER__=1234 -D__ORDER_LITTLE_ENDIAN__=1234 src
}

floors() { scripts/floors.sh; }

shells() {
    for f in scripts/*.sh tests/image/*.sh; do
        sh -n "$f" || return 1
    done
    bash -n .ci/run || return 1
    # SC2046: lists of packages and flags are split into words on purpose.
    shellcheck --external-sources --source-path=SCRIPTDIR --severity=warning --exclude=SC2046 \
        scripts/*.sh tests/image/*.sh .ci/run
}

check format layout
check clang clang
check headers headers
check cppcheck cpp_check
check floors floors
check shell shells

[ "$failures" -eq 0 ] || die "$failures of the lint checks failed"

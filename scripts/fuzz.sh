#!/bin/sh
# fuzz.sh SECONDS PROGRAM... - tries each fuzz target (tests/fuzz) for so long, one by one.
#
# Starts from the inputs kept in the tree. New ones are kept beside the program in
# corpus/<what>, where the next run finds them, and one that fails in failed/. The last line
# printed is `N passed, N failed`, a target being one test; 0 is the exit status of all passed.
set -eu
cd "$(dirname "$0")/.."
. scripts/common.sh

# Readers of so few bytes have no reason to take much memory or time.
LIMITS="-max_len=8192 -timeout=10 -malloc_limit_mb=16 -rss_limit_mb=1024"

seconds=$1
shift
passed=0 failed=0

# stat NAME LOG: a figure of libFuzzer's summary.
stat() { sed -n "s/^stat::$1: *//p" "$2"; }

# The edges covered, as the latest line about progress tells them.
edges() { sed -n 's/.* cov: \([0-9]*\) ft: .*/\1/p' "$1" | tail -n 1; }

try() {
    name=${1##*/} dir=${1%/*}
    what=${name#fuzz_}
    log=$dir/$name.log
    mkdir -p "$dir/corpus/$what" "$dir/failed"
    set -- "$1" -max_total_time="$seconds" $LIMITS -print_final_stats=1 \
        -artifact_prefix="$dir/failed/$what-" "$dir/corpus/$what"
    for more in "tests/fuzz/corpus/$what" "tests/invalid/$what"; do
        [ ! -d "$more" ] || set -- "$@" "$more"
    done
    [ ! -f "tests/fuzz/$what.dict" ] || set -- "$@" -dict="tests/fuzz/$what.dict"
    if "$@" >"$log" 2>&1 </dev/null; then
        passed=$((passed + 1))
        printf '  %-20s %9d inputs tried, %5d edges, %4d new inputs\n' "$name" \
            "$(stat number_of_executed_units "$log")" "$(edges "$log")" "$(stat new_units_added "$log")"
    else
        failed=$((failed + 1))
        printf '  %-20s FAILED (all of it: %s)\n' "$name" "$log"
        grep -vE '^(INFO|#[0-9]|stat::)|fuzzer::' "$log" | head -n 20 | cut -c 1-140 | sed 's/^/    /'
    fi
}

for program in "$@"; do
    try "$program"
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]

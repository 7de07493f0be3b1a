#!/bin/sh
# test.sh DIR TEST... - runs tests of the variant built in DIR and adds them up.
#
# A TEST is a cmocka program, or a folder, a file or a test of a file of pytest. The last line printed is
# `N passed, N failed`; the exit status is 0 only when something ran and nothing failed.
# A skip, a crash, a time-out, a promised test that never ran and a sanitizer's report
# each count as a failure. Logs are kept in DIR/results. TEST_UNDER= names a command, such
# as valgrind, to run the cmocka programs under; TEST_SECONDS= is what each may take.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
. "$here/common.sh"

PROGRAM_SECONDS=${TEST_SECONDS:-300}
PYTEST_SECONDS=1800

dir=$(cd "$1" && pwd)
shift
results=$dir/results
rm -rf "$results"
mkdir -p "$results" || die "cannot write to $dir: is the disk full?"
passed=0 failed=0

# A report goes to a file of its own: a daemon under test has its stderr elsewhere.
common="log_path=$results/sanitizer"
export ASAN_OPTIONS="$common:detect_leaks=1${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
export UBSAN_OPTIONS="$common:print_stacktrace=1"
# The daemon may leave while it still loads a bundle; nothing that thread does needs finishing.
export TSAN_OPTIONS="$common:report_thread_leaks=0"

# add NAME PASSED FAILED LOG
add() {
    passed=$((passed + $2))
    failed=$((failed + $3))
    if [ "$3" -eq 0 ]; then
        printf '  %-28s %4d passed\n' "$1" "$2"
    else
        printf '  %-28s %4d passed, %d FAILED\n' "$1" "$2" "$3"
        [ -z "$4" ] || printf '    (all of it: %s)\n' "$4"
    fi
}

# limited SECONDS COMMAND...: ends the command and all it started when it takes too long, or
# when we are told to stop. A background job ignores Ctrl-C; what it runs must not.
limited() {
    seconds=$1
    shift
    timeout -k 10 "$seconds" env --default-signal=INT,QUIT "$@" </dev/null &
    job=$!
    wait $job
}
trap 'kill -TERM "$job" 2>/dev/null || true; wait "$job" || true; exit 130' INT TERM HUP
job=

matches() { grep -cE "$1" "$2" || true; }

# Each group announces its size as `1..N`, so whatever a crash prevented is known too. A
# test may print without a newline, so `ok` need not begin a line.
run_program() {
    name=${1##*/}
    log=$results/$name
    status=0
    limited "$PROGRAM_SECONDS" CMOCKA_MESSAGE_OUTPUT=TAP ${TEST_UNDER-} "$1" \
        >"$log.tap" 2>"$log.stderr" || status=$?
    planned=$(sed -n 's/.*1\.\.\([0-9]*\)$/\1/p' "$log.tap" | awk '{ n += $1 } END { print n + 0 }')
    bad=$(matches 'not ok [0-9]+ - ' "$log.tap")
    good=$(($(matches 'ok [0-9]+ - ' "$log.tap") - bad))
    lost=$((planned - good))
    [ "$lost" -ge "$bad" ] || lost=$bad
    [ "$status" -eq 0 ] && [ "$planned" -gt 0 ] || [ "$lost" -gt 0 ] || lost=1
    add "$name" "$good" "$lost" "$log.tap"
    [ "$lost" -eq 0 ] && return
    sed -n '/not ok/,/^[^#]*ok /{/^ok /!p;}' "$log.tap" | sed 's/^/    /'
    [ "$status" -ne 124 ] || echo "    stopped after $PROGRAM_SECONDS s"
    [ "$status" -lt 125 ] || echo "    ended by signal $((status - 128))"
    tail -n 15 "$log.stderr" | sed 's/^/    /'
}

# One attribute of the first <testsuite> in a JUnit report.
attribute() { grep -oE "<testsuite [^>]*" "$2" | grep -oE " $1=\"[0-9]+" | head -n 1 | tr -dc 0-9; }

run_pytest() {
    log=$results/pytest
    # Without it the one test that needs it fails, and the others still run.
    promtool=$("$here/promtool.sh") || promtool=none/promtool
    status=0
    limited $PYTEST_SECONDS PATH="$(dirname "$promtool"):$PATH" PYTHONDONTWRITEBYTECODE=1 \
        RECALLD_BIN="$dir/recalld" RECALLCTL_BIN="$dir/recallctl" \
        /usr/bin/python3 -m pytest -p no:cacheprovider -q --junitxml="$log.xml" "$@" || status=$?
    all=0 bad=0
    if [ -s "$log.xml" ]; then
        all=$(attribute tests "$log.xml")
        bad=$(($(attribute failures "$log.xml") + $(attribute errors "$log.xml") + $(attribute skipped "$log.xml")))
    fi
    [ "$bad" -gt 0 ] || [ "$status" -eq 0 ] || bad=1
    [ "$all" -ge "$bad" ] || all=$bad
    add pytest $((all - bad)) "$bad" ""
}

# The programs one by one; what is left is pytest's, in one run that shares its fixtures.
for test in "$@"; do
    shift
    case $test in
    *.py | *.py::*) set -- "$@" "$test" ;;
    *) if [ -d "$test" ]; then set -- "$@" "$test"; else run_program "$test"; fi ;;
    esac
done
[ $# -eq 0 ] || run_pytest "$@"

reports=$(find "$results" -name 'sanitizer.*' -size +0 | sort)
if [ -n "$reports" ]; then
    add "reports of sanitizers" 0 "$(echo "$reports" | wc -l)" "$results/sanitizer.*"
    echo "$reports" | head -n 3 | while IFS= read -r report; do
        head -n 40 "$report" | sed 's/^/    /'
    done
fi

[ $((passed + failed)) -gt 0 ] || say "there was no test to run"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]

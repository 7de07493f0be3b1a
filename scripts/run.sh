#!/bin/sh
# run.sh BUILD - the demo: a private Redis with the demo behaviour, recalld with the demo
# bundle, one question and its answer, until Ctrl-C. Behind `make run`, which has built
# everything. PORT= chooses the port (8080), RECALLD_BIN= and RECALLCTL_BIN= other programs.
# Whatever ends first, nothing is left running.
set -eu
cd "$(dirname "$0")/.."
. scripts/common.sh

build=$1
port=${PORT:-8080}
url=http://127.0.0.1:$port
run=$build/run
socket=$run/redis.sock
recalld=${RECALLD_BIN:-$build/release/recalld}
recallctl=${RECALLCTL_BIN:-$build/release/recallctl}
recalld_pid='' redis_pid=''

# ---- before anything starts --------------------------------------------------------------

check_port() {
    case $port in
    *[!0-9]* | '' | 0* | ??????*) bad=1 ;;
    *) bad=$((port > 65535)) ;;
    esac
    [ "$bad" -eq 0 ] || die "PORT=$port is not a port number"
    status=0
    curl -s -o /dev/null --noproxy '*' --max-time 2 "$url/" || status=$?
    # 7 is "connection refused": nobody listens.
    [ "$status" -eq 7 ] ||
        die "port $port is taken; stop what listens there, or choose another with PORT=8081 make run"
}

# One demo per build directory: two would share a socket.
lock_directory() {
    mkdir -p "$run" || die "cannot create $run: is the disk full?"
    exec 9>"$run/lock" || die "cannot write $run/lock: is the disk full?"
    flock -n 9 || die "the demo already runs from this directory"
}

# sockaddr_un holds 107 bytes; a relative BUILD never comes near, whatever the checkout's depth.
check_socket_path() {
    [ "${#socket}" -le 107 ] || die "$socket is too long for the path of a socket; choose a shorter BUILD="
}

# ---- start and stop ----------------------------------------------------------------------

# In a session of its own, so that Ctrl-C reaches this script alone and the order of the
# stops is ours; and told to stop by the kernel should this script be killed outright.
background() { exec setsid setpriv --pdeathsig TERM "$@" 9>&-; }

alive() { kill -0 "$1" 2>/dev/null; }

stop() {
    [ -n "$1" ] || return 0
    kill -TERM "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}

clean_up() {
    trap '' INT TERM HUP
    stop "$recalld_pid"
    stop "$redis_pid"
    rm -f "$socket"
}

# wait_for SECONDS PID COMMAND...: until the command succeeds; fails when the process has ended.
wait_for() {
    tries=$(($1 * 10)) pid=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        alive "$pid" && [ $tries -gt 0 ] || return 1
        tries=$((tries - 1))
        sleep 0.1
    done
}

start_redis() {
    background redis-server --port 0 --unixsocket "$socket" --unixsocketperm 700 --save '' \
        --appendonly no --daemonize no >"$run/redis.log" 2>&1 &
    redis_pid=$!
    wait_for 10 $redis_pid redis-cli -s "$socket" ping || {
        tail -n 3 "$run/redis.log" >&2
        die "redis-server did not start (see $run/redis.log)"
    }
    { cat demo/behaviour.tsv && printf 'my-project\tlibjansson-dev libmicrohttpd-dev\n'; } >"$run/behaviour.tsv" ||
        die "cannot write $run/behaviour.tsv: is the disk full?"
    "$recallctl" history load "$run/behaviour.tsv" --redis.address="$socket" >&2 ||
        die "the demo's behaviour could not be loaded into Redis"
}

start_recalld() {
    rm -rf "$run/journal" || die "cannot clear $run/journal"
    # A machine that is busy building something else should not make the demo look empty.
    background "$recalld" --http.listen="127.0.0.1:$port" --http.drain_ms=0 \
        --redis.address="$socket" --redis.timeout_ms=200 --recall.deadline_ms=500 \
        --bundle.paths="$build/demo/debian-mind,$build/demo/debian-mind-k1" \
        --bundle.default=debian-mind@2026-11-24 --experiments.file=demo/experiments.json \
        --journal.dir="$run/journal" --log.level=warn &
    recalld_pid=$!
    wait_for 120 $recalld_pid curl -fs --noproxy '*' "$url/readyz" || die "recalld did not start"
}

# ---- one question ------------------------------------------------------------------------

ask() { curl -sS --noproxy '*' --max-time 10 "$url/recall" --json "$1"; }

show_answer() {
    echo
    echo "What else would my-project want? It uses libjansson-dev and libmicrohttpd-dev, says Redis."
    ask '{"user_id": "my-project", "n": 12, "explain": true}' | jq -rf scripts/answer.jq ||
        die "recalld did not answer the question"
    cat <<TEXT

Two more to try: a history of your own, and one of the demo's users.
  curl -s $url/recall --json '{"history": ["python3-flask", "python3-redis"], "n": 10}' | jq .
  curl -s $url/recall --json '{"user_id": "src:emacs", "n": 20, "explain": true}' | jq -rf scripts/answer.jq
And an experiment between two models: 4,000 visitors, and whether one is better (docs/experiments.md).
  demo/traffic.py --url $url && $recallctl ctr --journal $run/journal

recalld answers on $url until you press Ctrl-C.
TEXT
}

# ---- all of it ---------------------------------------------------------------------------

check_socket_path
lock_directory
check_port
trap clean_up EXIT
trap 'echo; say "stopping"; exit 0' INT TERM HUP

start_redis
start_recalld
show_answer

# sleep in the background, so that a signal is answered at once.
while alive "$recalld_pid" && alive "$redis_pid"; do
    sleep 1 9>&- &
    wait $! || true
done
alive "$redis_pid" || die "redis-server has ended (see $run/redis.log)"
die "recalld has ended"

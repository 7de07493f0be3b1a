#!/bin/sh
# image-check.sh - builds docker/Dockerfile, then runs docker/compose.yaml and deploy/recalld.service
# as they will be run. Behind `make image-check`.
#
# No Docker engine and no registry is needed: podman builds the Dockerfile, each step in a chroot;
# the base image is debootstrapped; podman-compose runs compose.yaml; systemd-nspawn boots a machine
# with systemd that starts the unit. What runs has a network of its own, so that no port of this
# machine is taken. Needs root. What is kept below IMAGE_DIR (/tmp/recalld-image, about 2 GB) makes
# the next run quick; remove it to start anew. DEBIAN=13 checks the next Debian.
set -eu
cd "$(dirname "$0")/.."
. scripts/common.sh

DEBIAN=${DEBIAN:-12}
dir=${IMAGE_DIR:-/tmp/recalld-image}
log=$dir/log

# logged COMMAND...: its output is shown only when it fails.
logged() {
    "$@" >"$log" 2>&1 </dev/null || {
        tail -n 40 "$log" >&2
        die "failed: $* (all of it: $log)"
    }
}

fine() { printf '  ok      %s\n' "$*"; }

# wait_for SECONDS WHAT COMMAND...
wait_for() {
    tries=$(($1 * 5)) what=$2
    shift 2
    until "$@" >"$log" 2>&1; do
        [ $tries -gt 0 ] || { tail -n 20 "$log" >&2; die "still not: $what"; }
        tries=$((tries - 1))
        sleep 0.2
    done
    fine "$what"
}

# ---- podman, for this script alone ---------------------------------------------------------

configure_podman() {
    mkdir -p "$dir/networks"
    files=$(awk '/^Max open files/ { print $5 }' /proc/self/limits) # more needs a capability
    cat >"$dir/containers.conf" <<CONF
[containers]
cgroups = "disabled"
default_ulimits = ["nofile=$files:$files", "nproc=4096:4096"]
log_driver = "k8s-file"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_backend = "netavark"
network_config_dir = "$dir/networks"
CONF
    cat >"$dir/storage.conf" <<CONF
[storage]
driver = "overlay"
graphroot = "$dir/storage"
runroot = "$dir/run"
CONF
    export CONTAINERS_CONF="$dir/containers.conf" CONTAINERS_STORAGE_CONF="$dir/storage.conf"
    export DISABLE_HC_SYSTEMD=true # health checks are asked for here, by hand
}

# One hierarchy of control groups, whatever this machine has; seen by this script alone.
one_cgroup_hierarchy() {
    [ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ] || {
        umount -R /sys/fs/cgroup
        mount -t cgroup2 none /sys/fs/cgroup
    }
}

# ---- images --------------------------------------------------------------------------------

# As the official image is made: no manuals, no lists, no downloaded packages.
make_base() {
    base=$dir/debian-$DEBIAN
    case $DEBIAN in
    12) codename=bookworm ;;
    13) codename=trixie ;;
    *) die "DEBIAN=$DEBIAN is neither 12 nor 13" ;;
    esac
    [ ! -e "$base.tar" ] || return 0
    say "making a base image of Debian $DEBIAN"
    rm -rf "$base"
    logged debootstrap --variant=minbase "$codename" "$base"
    for what in doc man locale info; do
        echo "path-exclude /usr/share/$what/*"
        rm -rf "${base:?}/usr/share/$what"
    done >"$base/etc/dpkg/dpkg.cfg.d/slim"
    echo 'DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin || true"; };' \
        >"$base/etc/apt/apt.conf.d/slim"
    rm -rf "$base"/var/lib/apt/lists/* "$base"/var/cache/apt/* "$base"/var/log/*
    tar -C "$base" -cf "$base.tar.new" .
    mv "$base.tar.new" "$base.tar"
    rm -rf "$base"
}

import_base() {
    podman image exists "debian:$DEBIAN-slim" ||
        logged podman import "$dir/debian-$DEBIAN.tar" "debian:$DEBIAN-slim"
}

build() {
    logged podman build --isolation chroot --network host --pull=never --format docker \
        --build-arg DEBIAN="$DEBIAN" "$@"
}

build_images() {
    say "building docker/Dockerfile (long the first time: Faiss is a part of it)"
    build --target build -t recalld-build -f docker/Dockerfile .
    build -t recalld -f docker/Dockerfile .
    fine "docker/Dockerfile builds on Debian $DEBIAN"
    build -t redis:7 -f tests/image/redis.Dockerfile tests/image
    build -t recalld-unit -f tests/image/unit.Dockerfile demo
    podman image prune --force >"$log" 2>&1 || true # what earlier runs left
}

# ---- what is in the image ------------------------------------------------------------------

packages() { sed -n 's/^Package: //p' "$1/var/lib/dpkg/status" | sort; }
megabytes() { du -sm "$1" | cut -f 1; }

check_contents() {
    root=$(podman image mount recalld)
    old=$(podman image mount "debian:$DEBIAN-slim")
    for tool in gcc cc g++ c++ as ld make cmake git curl python3; do
        [ ! -e "$root/usr/bin/$tool" ] || die "the image holds $tool"
    done
    found=$(find "$root" -xdev -type f -regex '.*\.\(h\|c\|cpp\|a\|o\)' | head -n 3)
    [ -z "$found" ] || die "the image holds sources, headers or objects: $found"
    new_setuid=$(cd "$root" && find . -xdev -perm /6000 -type f | while read -r f; do
        [ -e "$old/$f" ] || echo "$f"
    done)
    [ -z "$new_setuid" ] || die "the image adds setuid programs: $new_setuid"
    fine "no compiler, header or source is in it, and no new setuid program"
    packages "$old" >"$dir/packages.old"
    packages "$root" >"$dir/packages.new"
    fine "$(megabytes "$root") MB, $(megabytes "$old") of them Debian; packages added:"
    comm -13 "$dir/packages.old" "$dir/packages.new" | tr '\n' ' ' | fold -s -w 90 | sed 's/^/          /'
    echo
}

# ---- compose.yaml, in a network of our own -------------------------------------------------

compose() { podman-compose -p recalld -f docker/compose.yaml "$@"; }
health() { podman healthcheck run "$1"; }

# podman-compose starts services in order, but does not wait for what depends_on says.
start_services() {
    logged compose up -d --no-build redis
    wait_for 30 "redis is healthy" health recalld_redis_1
    logged compose up -d --no-build demo
    [ "$(podman wait recalld_demo_1)" = 0 ] || { podman logs recalld_demo_1 >&2; die "the demo was not loaded"; }
    fine "the demo's bundle is built, its behaviour is in Redis"
    logged compose up -d --no-build recalld
    wait_for 60 "recalld is healthy, says the image's HEALTHCHECK" health recalld_recalld_1
}

remove_containers() {
    podman rm --all --force --volumes >/dev/null 2>&1 || true
    podman volume prune --force >/dev/null 2>&1 || true
}

inside() { podman exec recalld_recalld_1 "$@"; }

ask() {
    path=$1
    shift
    curl -sS --max-time 10 --noproxy '*' "http://127.0.0.1:8080/$path" -H 'Content-Type: application/json' "$@" 2>&1
}

redis_is_up() { ask readyz | tee /dev/stderr | jq -e '.ready and .redis == "up"'; }

check_container() {
    [ "$(inside id -u)" = 10001 ] || die "recalld does not run as 10001"
    inside grep -q '^CapEff:.0*$' /proc/1/status || die "recalld has capabilities"
    inside grep -qE '^[^ ]+ / [^ ]+ ro,' /proc/mounts || die "the root is not read-only"
    fine "it is user 10001, without capabilities, on a read-only root"
    wait_for 10 "/readyz answers on the published port, and Redis is up" redis_is_up
    ask recall -d '{"user_id": "src:nginx", "n": 5, "deadline_ms": 5000}' >"$log" || true
    jq -e '.source == "model" and .degraded == [] and (.items | length) == 5' "$log" >/dev/null ||
        die "/recall: $(cat "$log")"
    fine "/recall answers for a user that Redis knows"
}

check_stop() {
    logged podman stop -t 40 recalld_recalld_1
    status=$(podman inspect -f '{{.State.ExitCode}}' recalld_recalld_1)
    podman logs recalld_recalld_1 2>&1 | grep -q 'everything in flight was answered' ||
        die "it did not stop in order"
    [ "$status" = 0 ] || die "it ended with $status"
    fine "SIGTERM ends it with status 0"
}

# A health check that cannot fail says nothing.
check_unhealthy() {
    logged podman run -d --name empty --read-only --cap-drop ALL recalld
    wait_for 30 "a recalld without a bundle listens" sh -c 'podman logs empty 2>&1 | grep "listening"'
    ! health empty >"$log" 2>&1 || die "a recalld without a bundle is called healthy"
    podman exec empty recallctl ready 2>&1 | grep -q 'not ready: no default bundle' ||
        die "recallctl ready does not say why"
    fine "and is not healthy"
}

# ---- the systemd unit ----------------------------------------------------------------------

check_unit() {
    container=$(podman create recalld-unit true)
    machine=$(podman mount "$container")
    cp tests/image/unit.sh "$machine/unit.sh"
    timeout 300 systemd-nspawn --quiet --register=no --keep-unit -D "$machine" -b >"$log" 2>&1 </dev/null || true
    grep -qx passed "$machine/result" || {
        tail -n 40 "$machine/result" >&2
        die "the unit failed (the machine's own words: $log)"
    }
    fine "systemd starts the unit when it is ready, reloads and stops it, under all its restrictions"
    fine "$(grep -o 'Overall exposure level.*[0-9]' "$machine/result")"
}

# ---- all of it -----------------------------------------------------------------------------

[ "$(id -u)" -eq 0 ] || die "image-check needs root: it makes chroots, namespaces and mounts"
case ${1-} in
'')
    scripts/deps.sh --image
    mkdir -p "$dir"
    exec 9>"$dir/lock"
    flock -n 9 || die "another image-check is at work in $dir"
    exec unshare --mount "$0" build
    ;;
build)
    one_cgroup_hierarchy
    configure_podman
    make_base
    import_base
    build_images
    check_contents
    exec unshare --net "$0" run
    ;;
run)
    configure_podman
    ip link set lo up
    trap remove_containers EXIT
    trap 'exit 130' INT HUP TERM
    remove_containers
    start_services
    check_container
    check_stop
    check_unhealthy
    check_unit
    say "image and unit are fine on Debian $DEBIAN"
    ;;
esac

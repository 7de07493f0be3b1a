#!/bin/sh
# unit.sh - runs inside a machine that systemd has booted: the unit is started, asked, reloaded and
# stopped as an administrator would. /result holds what happened, and "passed" if all of it did.
exec >/result 2>&1
trap 'journalctl --no-pager -u recalld | tail -n 15; systemctl start --no-block poweroff.target' EXIT
set -eux

url=http://127.0.0.1:8080
ask() { curl -fsS "$@" -H 'Content-Type: application/json'; }
shown() { systemctl show -p "$1" --value recalld; }

# edit SETTING...: what `systemctl edit recalld` would write.
edit() {
    mkdir -p /etc/systemd/system/recalld.service.d
    printf '%s\n' '[Service]' "$@" >/etc/systemd/system/recalld.service.d/override.conf
    systemctl daemon-reload
    systemctl reset-failed recalld || true # so many starts in a row would be refused
}

systemd-analyze verify --man=no recalld.service
# Exposure 1.5 or less, of 10.
systemd-analyze security --no-pager --offline=true --threshold=15 recalld.service

# The command returns when the bundle is warm, not before.
systemctl start recalld
recallctl ready
test "$(shown StatusText)" = "serving demo@1"
pid=$(shown MainPID)
test "$(stat -c %u "/proc/$pid")" -ne 0
grep '^CapEff:.0*$' "/proc/$pid/status"
grep '^NoNewPrivs:.1$' "/proc/$pid/status"
grep '^Seccomp:.2$' "/proc/$pid/status"
ask $url/recall -d '{"history": ["libjansson-dev"], "n": 5}' | grep '"source":"model","degraded":\[\]'
curl -fsS $url/metrics | grep '^process_start_time_seconds '

# The secret reaches the daemon, and the state is kept over a restart.
ask -X PUT $url/bundles/aliases/stable -H 'Authorization: Bearer s3cret' -d '{"bundle": "demo@1"}'
systemctl restart recalld
curl -fsS $url/bundles -H 'Authorization: Bearer s3cret' | grep stable

systemctl reload recalld
timeout 30 sh -c 'until journalctl -u recalld | grep "reloaded bundle=demo@1"; do sleep 0.2; done'

systemctl stop recalld
test "$(shown Result)" = success
journalctl -u recalld | grep 'everything in flight was answered'

# Draining takes longer than systemd would wait: the daemon asks for the time.
edit TimeoutStopSec=1s Environment=RECALLD_HTTP_DRAIN_MS=4000
systemctl start recalld
systemctl stop recalld
test "$(shown Result)" = success

# The table in docs/operations.md: what the unit forbids, and what allows it.
address=127.0.0.1:80
edit Environment=RECALLD_HTTP_LISTEN=$address
systemctl restart recalld && exit 1
edit Environment=RECALLD_HTTP_LISTEN=$address AmbientCapabilities=CAP_NET_BIND_SERVICE \
    CapabilityBoundingSet=CAP_NET_BIND_SERVICE PrivateUsers=no
systemctl restart recalld
recallctl ready --http.listen=$address

cp -r /srv/demo /home/demo
edit Environment=RECALLD_BUNDLE_PATHS=/home/demo
systemctl restart recalld && exit 1
edit Environment=RECALLD_BUNDLE_PATHS=/home/demo ProtectHome=read-only
systemctl restart recalld
recallctl ready

socket=/run/redis.sock
redis-server --port 0 --unixsocket $socket --unixsocketperm 770 --save '' --daemonize yes
timeout 30 sh -c "until redis-cli -s $socket ping; do sleep 0.1; done"
chgrp redis $socket
edit Environment=RECALLD_REDIS_ADDRESS=$socket
systemctl restart recalld
timeout 30 sh -c 'until recallctl ready | grep "\"redis\":\"down\""; do sleep 0.1; done'
edit Environment=RECALLD_REDIS_ADDRESS=$socket SupplementaryGroups=redis
systemctl restart recalld
timeout 30 sh -c 'until recallctl ready | grep "\"redis\":\"up\""; do sleep 0.1; done'

# What is wrong with the configuration does no harm at a reload, and is not tried again at a start.
sed -i 's/^n = .*/n = 0/' /etc/recalld/recalld.ini
systemctl reload recalld
timeout 30 sh -c 'until systemctl show -p StatusText recalld | grep "the last reload failed"; do sleep 0.2; done'
recallctl ready
systemctl restart recalld && exit 1
test "$(shown ExecMainStatus)" = 2
test "$(shown NRestarts)" = 0
journalctl -u recalld | grep notify_failed && exit 1
echo passed

"""A user's behaviour as teams store it, and what a request gets when Redis cannot be asked."""
import json
import os
import signal
import subprocess
import time

import pytest

from harness import RECALLCTL, ROOT, Redis, wait_until

ITEMS = ["libjansson-dev", "libmicrohttpd-dev", "libcurl4-gnutls-dev", "zlib1g-dev"]  # oldest first
POPULAR = (ROOT / "demo/popular.txt").read_text().split()


def recall(client, **fields):
    answer = client.recall(**fields)
    assert answer.status == 200, answer.body
    return answer.json()


def order_seen(client, user):
    """The history as the model saw it, oldest first."""
    answer = recall(client, user_id=user, n=5, explain=True)
    return [h["id"] for h in answer["explain"]["interests"][0]["history"]]


# ---- forms -----------------------------------------------------------------------------------------


def element(form, item, time_ms):
    if form == "id:ts":
        return f"{item}:{time_ms}"
    if form == "json:sku":
        return json.dumps({"at": time_ms, "sku": item})
    return item


@pytest.mark.parametrize("form", ["id", "id:ts", "json:sku"])
@pytest.mark.parametrize("kind,order", [("list", "newest_first"), ("list", "oldest_first"),
                                        ("zset", "oldest_first"), ("zset", "newest_first")])
def test_every_form_a_producer_may_write(start, bundle, redis, form, kind, order):
    key = f"{kind}:{order}:{form}:me"
    redis.command("DEL", key)
    for n, item in enumerate(ITEMS):
        stored = element(form, item, 1000 + n)
        if kind == "list":
            redis.command("LPUSH" if order == "newest_first" else "RPUSH", key, stored)
        else:
            redis.command("ZADD", key, n if order == "oldest_first" else -n, stored)
    daemon = start(f"--bundle.paths={bundle}", f"--redis.address={redis.socket}",
                   f"--behaviour.key={kind}:{order}:{form}:{{user_id}}", f"--behaviour.type={kind}",
                   f"--behaviour.order={order}", f"--behaviour.element={form}")
    assert order_seen(daemon, "me") == ITEMS


@pytest.mark.parametrize("form", ["id", "id:ts", "json:sku"])
@pytest.mark.parametrize("kind", ["list", "zset"])
@pytest.mark.parametrize("order", ["newest_first", "oldest_first"])
def test_what_recallctl_loads_the_daemon_reads(start, bundle, redis, tmp_path, form, kind, order):
    options = [f"--redis.address={redis.socket}", f"--behaviour.key=loaded:{form}:{kind}:{order}:{{user_id}}",
               f"--behaviour.type={kind}", f"--behaviour.order={order}", f"--behaviour.element={form}"]
    (tmp_path / "history").write_text("me\t" + " ".join(ITEMS) + "\n")
    subprocess.run([RECALLCTL, "history", "load", tmp_path / "history", *options], check=True,
                   stdin=subprocess.DEVNULL, capture_output=True)
    assert order_seen(start(f"--bundle.paths={bundle}", *options), "me") == ITEMS


def test_elements_that_cannot_be_read_are_skipped_and_counted(start, bundle, redis):
    redis.command("DEL", "broken:me")
    for stored in ["libjansson-dev:1", "no time", "x" * 300 + ":2", "libmicrohttpd-dev:3"]:
        redis.command("RPUSH", "broken:me", stored)
    daemon = start(f"--bundle.paths={bundle}", f"--redis.address={redis.socket}",
                   "--behaviour.key=broken:{user_id}", "--behaviour.element=id:ts", "--behaviour.order=oldest_first")
    assert order_seen(daemon, "me") == ["libjansson-dev", "libmicrohttpd-dev"]
    assert daemon.metrics()["recalld_behaviour_malformed_total"] == 2


def test_the_newest_elements_are_read_and_no_more(start, bundle, redis):
    redis.command("DEL", "hist:long")
    redis.command("RPUSH", "hist:long", *["libssl-dev"] * 50, *ITEMS)
    daemon = start(f"--bundle.paths={bundle}", f"--redis.address={redis.socket}", "--behaviour.read=4",
                   "--behaviour.order=oldest_first")
    assert order_seen(daemon, "long") == ITEMS


def test_user_password_database_and_tcp(start, bundle, tmp_path):
    server = Redis(tmp_path)
    port_options = ["--port", "0"]
    server.start(*port_options, "--user", "reader", "on", ">s3cret", "~*", "+@all")
    try:
        server.command("SELECT", "0")
        (tmp_path / "password").write_text("s3cret\n")
        (tmp_path / "history").write_text("me\t" + " ".join(ITEMS) + "\n")
        options = [f"--redis.address={server.socket}", "--redis.user=reader",
                   f"--redis.password_file={tmp_path / 'password'}", "--redis.db=3"]
        subprocess.run([RECALLCTL, "history", "load", tmp_path / "history", *options], check=True,
                       stdin=subprocess.DEVNULL, capture_output=True)
        assert order_seen(start(f"--bundle.paths={bundle}", *options), "me") == ITEMS
        other = start(f"--bundle.paths={bundle}", *options[:3], "--redis.db=4")
        assert recall(other, user_id="me")["degraded"] == ["empty_history"]
        (tmp_path / "wrong").write_text("guess\n")
        refused = start(f"--bundle.paths={bundle}", options[0], options[1],
                        f"--redis.password_file={tmp_path / 'wrong'}")
        assert recall(refused, user_id="me")["degraded"] in (["redis_error"], ["breaker_open"])
    finally:
        server.stop()


# ---- a Redis that fails -----------------------------------------------------------------------------


@pytest.fixture
def own_redis(tmp_path):
    server = Redis(tmp_path).start()
    server.command("LPUSH", "hist:me", *ITEMS)
    yield server
    if server.process is not None:
        server.process.send_signal(signal.SIGCONT)
    server.stop()


def test_a_wrong_type_is_that_user_s_trouble_alone(daemon, redis):
    redis.command("SET", "hist:odd", "not a list")
    redis.command("DEL", "hist:even")
    redis.command("LPUSH", "hist:even", *ITEMS)
    for _ in range(10):
        odd = recall(daemon, user_id="odd", n=5)
        assert odd["degraded"] == ["redis_error"] and odd["source"] == "popular"
        assert [i["id"] for i in odd["items"]] == POPULAR[:5]
    assert recall(daemon, user_id="even", n=5)["source"] == "model"


def test_a_stopped_redis_costs_no_request_and_comes_back_by_itself(start, bundle, own_redis):
    daemon = start(f"--bundle.paths={bundle}", f"--redis.address={own_redis.socket}", "--redis.timeout_ms=100")
    wait_until(lambda: recall(daemon, user_id="me", n=5)["source"] == "model", "Redis is read")
    own_redis.stop()
    words = set()
    for _ in range(30):
        began = time.monotonic()
        answer = recall(daemon, user_id="me", n=5)
        words.update(answer["degraded"])
        assert answer["source"] == "popular" and len(answer["items"]) == 5
        assert time.monotonic() - began < 5
    assert words == {"redis_error", "breaker_open"}
    assert recall(daemon, history=ITEMS, n=5)["degraded"] == []  # needs no Redis
    assert daemon.get("/readyz").json() == {"ready": True, "bundle": "debian-mind@1", "redis": "down"}
    own_redis.start()
    own_redis.command("LPUSH", "hist:me", *ITEMS)
    wait_until(lambda: recall(daemon, user_id="me", n=5)["source"] == "model", "Redis is read again", 10)
    assert daemon.metrics()["recalld_redis_breaker_open"] == 0


def test_a_redis_that_hangs_is_waited_for_no_longer_than_its_timeout(start, bundle, own_redis):
    daemon = start(f"--bundle.paths={bundle}", f"--redis.address={own_redis.socket}", "--redis.timeout_ms=150")
    wait_until(lambda: recall(daemon, user_id="me", n=5)["source"] == "model", "Redis is read")
    os.kill(own_redis.process.pid, signal.SIGSTOP)
    first = recall(daemon, user_id="me", n=5)
    assert first["degraded"] == ["redis_timeout"] and first["source"] == "popular"
    assert 150_000 <= first["took_us"] < 2_000_000
    os.kill(own_redis.process.pid, signal.SIGCONT)
    wait_until(lambda: recall(daemon, user_id="me", n=5)["source"] == "model", "Redis is read again", 10)


def test_a_short_deadline_ends_the_wait_and_says_so(start, bundle, own_redis):
    daemon = start(f"--bundle.paths={bundle}", f"--redis.address={own_redis.socket}", "--redis.timeout_ms=5000")
    wait_until(lambda: recall(daemon, user_id="me", n=5)["source"] == "model", "Redis is read")
    os.kill(own_redis.process.pid, signal.SIGSTOP)
    answer = recall(daemon, user_id="me", n=5, deadline_ms=400)
    os.kill(own_redis.process.pid, signal.SIGCONT)
    assert answer["degraded"] == ["deadline_behaviour"] and answer["source"] == "popular"
    assert 300_000 <= answer["took_us"] < 2_000_000

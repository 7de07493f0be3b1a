"""GET /metrics: well-formed, and counting what happens."""
import itertools
import json
import os
import shutil
import subprocess
import time

import pytest

from harness import HISTORY, TOKEN, wait_until

BODY = json.dumps({"history": HISTORY, "n": 3})


@pytest.fixture
def own(start, bundle, redis, token_file, tmp_path):
    """A daemon whose counters start at zero."""
    return start(f"--bundle.paths={bundle}", f"--redis.address={redis.socket}", f"--admin.token_file={token_file}",
                 f"--state.dir={tmp_path}", token=TOKEN)


def counted(daemon, before, name, **labels):
    return daemon.metrics()[name, labels] - before[name, labels]


def promtool():
    path = os.environ.get("PROMTOOL") or shutil.which("promtool")
    assert path, "promtool is needed: scripts/promtool.sh prints one; put it on PATH or name it in PROMTOOL"
    return path


def test_promtool_has_no_complaint(own, bundle2):
    own.recall(BODY)
    own.recall("{")
    own.recall(user_id="nobody")
    own.ask("POST", "/bundles", {"path": str(bundle2)})
    wait_until(lambda: len(own.metrics().labels("recalld_bundle_info")) == 2, "the second bundle is loaded")
    answer = own.get("/metrics")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    done = subprocess.run([promtool(), "check", "metrics"], input=answer.body, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("method, path, body, headers, route, code", [
    ("POST", "/recall", BODY, {}, "/recall", "200"),
    ("POST", "/recall", "{", {}, "/recall", "400"),
    ("POST", "/recall", BODY, {"Content-Type": "text/plain"}, "/recall", "415"),
    ("POST", "/recall", "x" * 2_000_000, {}, "/recall", "413"),
    ("GET", "/recall", None, {}, "/recall", "405"),
    ("GET", "/livez", None, {}, "/livez", "200"),
    ("HEAD", "/readyz", None, {}, "/readyz", "200"),
    ("GET", "/nothing", None, {}, "other", "404"),
    ("GET", "/bundles", None, {}, "/bundles", "200"),
    ("GET", "/bundles", None, {"Authorization": "Bearer no"}, "/bundles", "401"),
    ("PUT", "/bundles/aliases/a", {"bundle": "no@1"}, {}, "/bundles/aliases/{alias}", "404"),
    ("DELETE", "/bundles/debian-mind@1", None, {}, "/bundles/{bundle}", "409"),
    ("PUT", "/bundles/default", {}, {}, "/bundles/default", "400"),
], ids=itertools.count())
def test_every_answer_is_counted_by_route_and_code(own, method, path, body, headers, route, code):
    before = own.metrics()
    assert own.ask(method, path, body, headers).status == int(code)
    assert counted(own, before, "recalld_http_requests_total", route=route, code=code) == 1


def test_requests_are_timed_failures_included(own):
    before = own.metrics()
    for body in (BODY, BODY, "{", "{}"):
        own.recall(body)
    own.ask("POST", "/recall", BODY, {"Content-Type": "text/plain"})  # refused before it was a request
    assert counted(own, before, "recalld_http_request_seconds_count") == 4
    assert counted(own, before, "recalld_http_request_seconds_bucket", le="+Inf") == 4
    assert 0 < counted(own, before, "recalld_http_request_seconds_sum") < 60


def test_stages_and_outcomes_are_counted(own, redis):
    redis.command("DEL", "hist:metrics-user", "hist:nobody")
    redis.command("LPUSH", "hist:metrics-user", *HISTORY)
    before = own.metrics()
    assert own.recall(user_id="metrics-user", n=3).json()["source"] == "model"
    assert own.recall(user_id="nobody", n=3).json()["degraded"] == ["empty_history"]
    assert own.recall(history=["no-such-package"], n=3).json()["degraded"] == ["unknown_items"]
    assert own.recall("{").status == 400
    after = own.metrics()

    def moved(name, **labels):
        return after[name, labels] - before[name, labels]

    assert moved("recalld_answers_total", source="model") == 1
    assert moved("recalld_answers_total", source="popular") == 2
    assert moved("recalld_degraded_total", reason="empty_history") == 1
    assert moved("recalld_degraded_total", reason="unknown_items") == 1
    assert moved("recalld_rejected_total", reason="bad_request") == 1
    assert moved("recalld_stage_seconds_count", stage="parse") == 4  # the refused one too
    for stage in ("behaviour", "queue", "interests", "search", "merge", "render"):
        assert moved("recalld_stage_seconds_count", stage=stage) == 3
    assert moved("recalld_batch_size_sum") == 3
    assert moved("recalld_behaviour_items_count") == 3 and moved("recalld_behaviour_items_sum") == len(HISTORY)
    assert moved("recalld_live_interests_count") == 3 and 1 <= moved("recalld_live_interests_sum") <= 4
    assert moved("recalld_unknown_items_total") == 1
    assert after["recalld_queue_depth"] == 0
    wait_until(lambda: own.metrics()["recalld_in_flight"] == 0, "nothing is in flight")


def test_short_answers_and_dropped_interests_are_counted(own):
    before = own.metrics()
    short = own.recall(history=HISTORY, n=1000, filter={"section": ["games"]}).json()
    assert short["degraded"] == ["short_filter"]
    after = own.metrics()
    assert after["recalld_short_answers_total"] - before["recalld_short_answers_total"] == 1
    dropped = sum(after["recalld_interests_dropped_total", {"reason": r}] -
                  before["recalld_interests_dropped_total", {"reason": r}]
                  for r in ("zero", "not_finite", "similar", "unused"))
    assert dropped + short["interests"] == 4


def test_build_and_bundles_are_told(own, bundle, bundle2):
    manifest = json.loads((bundle / "manifest.json").read_text())
    metrics = own.metrics()
    assert metrics["recalld_build_info", {"version": own.get("/version").json()["version"]}] == 1
    info = metrics.labels("recalld_bundle_info")
    assert [i["bundle"] for i in info] == ["debian-mind@1"]
    assert info[0]["weights_sha256"] == manifest["weights"]["sha256"]
    assert len(info[0]["manifest_sha256"]) == 64
    assert metrics.labels("recalld_bundle_default") == [{"bundle": "debian-mind@1"}]

    own.ask("POST", "/bundles", {"path": str(bundle2)})
    wait_until(lambda: len(own.metrics().labels("recalld_bundle_info")) == 2, "the second bundle is loaded")
    assert own.metrics().labels("recalld_bundle_default") == [{"bundle": "debian-mind@1"}]
    own.ask("PUT", "/bundles/default", {"bundle": "debian-mind@2"})
    assert own.metrics().labels("recalld_bundle_default") == [{"bundle": "debian-mind@2"}]


def test_open_connections_are_a_gauge(own):
    wait_until(lambda: own.metrics()["recalld_http_connections"] == 1, "only the one that asks is open")
    held = [own.raw() for _ in range(5)]
    wait_until(lambda: own.metrics()["recalld_http_connections"] == 6, "five more are open")
    for s in held:
        s.close()
    wait_until(lambda: own.metrics()["recalld_http_connections"] == 1, "they are closed")


def test_the_process_is_told(own):
    metrics = own.metrics()
    assert metrics["process_resident_memory_bytes"] > 1e6
    assert metrics["process_open_fds"] > 5
    assert abs(metrics["process_start_time_seconds"] - time.time()) < 300

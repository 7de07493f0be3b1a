"""POST /recall against the twin: what comes back is what the formulas say, whatever path it takes."""
import json
import math
import random
import subprocess
import threading

import numpy as np
import pytest

from harness import RECALLCTL, ROOT
from twin import Twin, agree

DEMO = ROOT / "demo"
STARTERS = ["libjansson-dev", "libmicrohttpd-dev"]


@pytest.fixture(scope="module")
def twin():
    return Twin(DEMO)


@pytest.fixture(scope="module")
def users():
    """name -> items, oldest first, of the demo."""
    lines = (DEMO / "behaviour.tsv").read_text().splitlines()
    return {line.split("\t")[0]: line.split("\t")[1].split(" ") for line in lines}


@pytest.fixture(scope="module")
def some_users(users):
    return random.Random(11).sample(sorted(users), 40)


def recall(client, **fields):
    answer = client.recall(**fields)
    assert answer.status == 200, answer.body
    return answer.json()


def same(answer):
    """The part of an answer that only the request and the bundle may decide."""
    return {k: v for k, v in answer.items() if k not in ("request_id", "serve_id", "took_us", "user_id", "degraded")}


# ---- exactness -----------------------------------------------------------------------------------


def test_answers_are_the_twin_s(daemon, twin, users, some_users):
    for user in some_users:
        answer = recall(daemon, history=users[user], n=100)
        assert answer["source"] == "model" and answer["degraded"] == []
        agree(answer, twin.recall(users[user], 100))


def test_two_items_are_history_enough(daemon, twin):
    answer = recall(daemon, history=STARTERS, n=200)
    agree(answer, twin.recall(STARTERS, 200))


def test_vectors_and_scores_belong_together(daemon, twin, users, some_users):
    for user in some_users[:10]:
        answer = recall(daemon, history=users[user], n=50, vectors=True)
        wanted, _ = twin.interests(users[user])
        vectors = np.array(answer["vectors"])
        assert np.abs(vectors - wanted).max() <= 2e-6 * max(1, np.abs(wanted).max())
        for item in answer["items"]:
            score = twin.table[twin.rows[item["id"]]] @ vectors[item["interest"]]
            assert math.isclose(item["score"], score, rel_tol=1e-5, abs_tol=1e-5)


def test_the_training_run_s_own_vectors_come_out(daemon):
    expected = json.loads((DEMO / "expected.json").read_text())
    assert len(expected["vectors"]) >= 5
    for known in expected["vectors"]:
        answer = recall(daemon, history=known["history"], n=1, vectors=True)
        wanted = np.array(known["interests"])
        assert np.abs(np.array(answer["vectors"]) - wanted).max() <= 2e-6 * max(1, np.abs(wanted).max())


def test_the_training_run_s_hit_rate_comes_out(start, bundle, users):
    """The whole of demo/expected.json over HTTP: history = first 80 %, targets = the rest, nothing excluded."""
    daemon = start(f"--bundle.paths={bundle}", "--recall.exclude_history=false", "--recall.similar_interests=1",
                   "--recall.fallback=none")
    expected = json.loads((DEMO / "expected.json").read_text())
    hits = recalled = 0
    connection = daemon.connect()
    for items in users.values():
        cut = int(0.8 * len(items))
        body = {"history": items[:cut], "n": expected["top_n"]}
        answer = daemon.ask("POST", "/recall", body, connection=connection).json()
        found = {i["id"] for i in answer["items"]} & set(items[cut:])
        hits += bool(found)
        recalled += len(found) / len(items[cut:])
    connection.close()
    assert len(users) == expected["users"]
    assert abs(hits - expected["hit_rate"] * len(users)) <= 1.01
    assert abs(recalled / len(users) - expected["recall"]) <= 0.0005


def test_explain_tells_the_routing_weights(daemon, twin, users, some_users):
    items = users[some_users[0]]
    answer = recall(daemon, history=items, n=20, explain=True)
    _, weights = twin.interests(items)
    for k, interest in enumerate(answer["explain"]["interests"]):
        known = [i for i in items if i in twin.rows][-50:]
        assert [h["id"] for h in interest["history"]] == known
        for h, wanted in zip(interest["history"], weights[k]):
            assert abs(h["weight"] - wanted) <= 1e-5
    for item in answer["items"]:
        best = max(item["found_by"], key=lambda f: f["score"])
        assert best["score"] == item["score"] and best["interest"] == item["interest"]
    assert sum(i["kept"] for i in answer["explain"]["interests"]) == 20


# ---- what a request may ask for ----------------------------------------------------------------------


@pytest.mark.parametrize("sections", [["libdevel"], ["libs", "python"], ["games"], ["web", "net", "admin"]])
def test_filter(daemon, twin, sections):
    answer = recall(daemon, history=STARTERS, n=50, filter={"section": sections})
    wanted = twin.recall(STARTERS, 50, sections=sections)
    agree(answer, wanted)
    assert ("short_filter" in answer["degraded"]) == (len(wanted) < 50)


def test_excluded_items_make_room_for_the_next(daemon, twin):
    first = [i["id"] for i in recall(daemon, history=STARTERS, n=30)["items"]]
    answer = recall(daemon, history=STARTERS, n=30, exclude=first)
    agree(answer, twin.recall(STARTERS, 30, exclude=first))
    assert not set(first) & {i["id"] for i in answer["items"]}


def test_unknown_items_in_a_history_change_nothing(daemon):
    plain = recall(daemon, history=STARTERS, n=20)
    answer = recall(daemon, history=["no-such-package", *STARTERS, "nor-this"], n=20)
    assert same(answer) == same(plain)


def test_n_is_the_request_s_or_the_setting_s(daemon):
    assert len(recall(daemon, history=STARTERS)["items"]) == 200
    assert len(recall(daemon, history=STARTERS, n=1)["items"]) == 1
    assert len(recall(daemon, history=STARTERS, n=1000)["items"]) == 1000


# ---- behaviour from Redis -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def loaded(redis):
    done = subprocess.run([RECALLCTL, "history", "load", DEMO / "behaviour.tsv", f"--redis.address={redis.socket}"],
                          capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return redis


def test_a_user_in_redis_gets_what_his_history_would(daemon, loaded, users, some_users):
    for user in some_users:
        by_user = recall(daemon, user_id=user, n=100)
        assert by_user["degraded"] == [] and by_user["user_id"] == user
        assert same(by_user) == same(recall(daemon, history=users[user], n=100))


def test_a_user_nobody_knows_gets_popular_items(daemon):
    answer = recall(daemon, user_id="nobody-at-all", n=20)
    assert answer["source"] == "popular" and answer["degraded"] == ["empty_history"]
    assert [i["id"] for i in answer["items"]] == (DEMO / "popular.txt").read_text().split()[:20]
    assert all(set(i) == {"id"} for i in answer["items"])


def test_exposed_items_stay_out(start, bundle, loaded):
    daemon = start(f"--bundle.paths={bundle}", f"--redis.address={loaded.socket}",
                   "--behaviour.exposed_key=seen:{user_id}")
    loaded.command("RPUSH", "hist:exposed-user", *STARTERS)
    first = recall(daemon, user_id="exposed-user", n=10)
    loaded.command("RPUSH", "seen:exposed-user", *[i["id"] for i in first["items"]])
    second = recall(daemon, user_id="exposed-user", n=10)
    assert not {i["id"] for i in first["items"]} & {i["id"] for i in second["items"]}
    assert len(second["items"]) == 10


# ---- merge policies -------------------------------------------------------------------------------------


def test_quota_keeps_a_share_of_every_interest(start, bundle, users, some_users):
    daemon = start(f"--bundle.paths={bundle}", "--recall.merge=quota", "--recall.min_per_interest=8")
    for user in some_users[:15]:
        answer = recall(daemon, history=users[user], n=50, explain=True)
        live = [i for i in answer["explain"]["interests"] if i["dropped"] is None]
        counts = {}
        for item in answer["items"]:
            counts[item["interest"]] = counts.get(item["interest"], 0) + 1
        assert len(answer["items"]) == 50
        assert all(counts.get(i["interest"], 0) >= min(8, 50 // len(live)) for i in live)
        scores = [i["score"] for i in answer["items"]]
        assert scores == sorted(scores, reverse=True)


def greedy(pool, sections, n, weight):
    """ComiRec's controllable aggregation, plainly: `pool` is (id, score), best first."""
    chosen, counts = [], {}
    left = list(pool)
    while left and len(chosen) < n:
        def value(entry):
            return entry[1] - weight * max((counts.get(s, 0) for s in sections[entry[0]]), default=0)
        best = max(left, key=value)  # the first of equals
        left.remove(best)
        chosen.append(best[0])
        for s in sections[best[0]]:
            counts[s] = counts.get(s, 0) + 1
    return chosen


def test_diverse_is_the_greedy_over_the_pool(start, bundle, twin, users, some_users):
    daemon = start(f"--bundle.paths={bundle}", "--recall.merge=diverse", "--recall.lambda=0.25")
    plain = start(f"--bundle.paths={bundle}", "--recall.candidates=60")
    for user in some_users[:8]:
        # The pool: every item that one of the interests has among its best 60 (plus the history's places).
        pool = recall(plain, history=users[user], n=1000, explain=True)["items"]
        known = len({i for i in users[user] if i in twin.rows})
        answer = recall(daemon, history=users[user], n=60, explain=True)
        reach = []
        for item in pool:  # with the best score among the interests that reach it
            scores = [f["score"] for f in item["found_by"] if f["rank"] < 60 + known]
            if scores:
                reach.append((item["id"], max(scores)))
        reach.sort(key=lambda entry: (-entry[1], twin.rows[entry[0]]))
        assert [i["id"] for i in answer["items"]] == greedy(reach, twin.sections, 60, 0.25)


def test_diversity_rises_with_lambda(start, bundle, twin, users, some_users):
    def distinct_pairs(client):
        total = 0
        for user in some_users[:20]:
            kinds = [min(twin.sections[i], default="") for i in client.items(history=users[user], n=30)]
            total += sum(a != b for n, a in enumerate(kinds) for b in kinds[:n])
        return total
    low = distinct_pairs(start(f"--bundle.paths={bundle}", "--recall.merge=diverse", "--recall.lambda=0"))
    high = distinct_pairs(start(f"--bundle.paths={bundle}", "--recall.merge=diverse", "--recall.lambda=1"))
    assert high > 1.2 * low


# ---- engines ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", ["Flat", "HNSW32", "IVF64,Flat", "HNSW32,SQ8"])
def test_faiss_engines_return_the_exact_scores_and_nearly_all_items(start, bundle, tmp_path, twin, users, some_users,
                                                                    factory):
    out = tmp_path / "bundle"
    done = subprocess.run(
        [RECALLCTL, "bundle", "build", "--weights", DEMO / "debian-mind.safetensors", "--items", DEMO / "items.tsv",
         "--popular", DEMO / "popular.txt", "--histories", DEMO / "behaviour.tsv", "--shards", "2",
         "--name", "faiss", "--version", "1", "--engine", "faiss", "--factory", factory, "--out", out],
        capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    exact = start(f"--bundle.paths={bundle}")
    daemon = start(f"--bundle.paths={out}")
    found = wanted = 0
    for user in some_users:
        right = {i["id"]: i for i in recall(exact, history=users[user], n=100)["items"]}
        answer = recall(daemon, history=users[user], n=100)
        assert answer["bundle"] == "faiss@1"
        assert len(answer["items"]) == 100
        for item in answer["items"]:
            if item["id"] in right and item["interest"] == right[item["id"]]["interest"]:
                assert item["score"] == right[item["id"]]["score"]
        found += sum(i["id"] in right for i in answer["items"])
        wanted += 100
    assert found / wanted >= 0.95
    # A narrow filter is answered exactly, whatever the engine.
    narrow = {"section": ["games"]}
    assert (recall(daemon, history=STARTERS, n=20, filter=narrow)["items"] ==
            recall(exact, history=STARTERS, n=20, filter=narrow)["items"])


# ---- load ---------------------------------------------------------------------------------------------------


def test_load_changes_no_bit(daemon, loaded, users, some_users):
    alone = {user: same(recall(daemon, user_id=user, n=150, vectors=True)) for user in some_users}
    differences = []

    def client(seed):
        order = random.Random(seed)
        connection = daemon.connect()
        for _ in range(60):
            user = order.choice(some_users)
            body = {"user_id": user, "n": 150, "vectors": True}
            answer = daemon.ask("POST", "/recall", body, connection=connection)
            if answer.status != 200 or same(answer.json()) != alone[user]:
                differences.append((user, answer.body))
        connection.close()

    threads = [threading.Thread(target=client, args=(seed,)) for seed in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not differences

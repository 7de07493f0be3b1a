"""Experiments: who gets which arm, what arms change, how a file or a client replaces them and what survives."""
import json
import signal
import subprocess
import threading

import pytest

from harness import HISTORY, RECALLCTL, TOKEN, Load, run_recalld, wait_until

NOTHING = {"version": 0, "hash": "growthbook-v2", "layers": []}


def experiments(version, *layers, **more):
    return {"version": version, "hash": "growthbook-v2", "allow_forced": True, "layers": list(layers), **more}


def layer(name="model", sets=None, **more):
    """Two halves, the second with settings."""
    return {"name": name, "arms": [{"name": "control", "weight": 0.5},
                                   {"name": "other", "weight": 0.5, "set": sets or {}}], **more}


def all_in(name, sets, **more):
    return {"name": name, "arms": [{"name": "all", "weight": 1, "set": sets}], **more}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "experiments.json"


@pytest.fixture
def own(start, bundle, bundle2, token_file, tmp_path, file):
    """A daemon with two bundles, an experiments file and a state folder; may be started again on them."""
    def begin(content=None, *args, bundles=(bundle, bundle2), **more):
        if content is not None:
            file.write_text(content if isinstance(content, str) else json.dumps(content))
        paths = ",".join(str(b) for b in bundles)
        return start(f"--bundle.paths={paths}", "--bundle.default=debian-mind@1", f"--experiments.file={file}",
                     f"--admin.token_file={token_file}", f"--state.dir={tmp_path / 'state'}", *args, token=TOKEN,
                     **more)
    return begin


def put(daemon, content, if_match="*"):
    headers = {} if if_match is None else {"If-Match": if_match}
    return daemon.ask("PUT", "/experiments", content, headers)


def version(daemon):
    return daemon.get("/experiments").json()["version"]


def asked(daemon, **fields):
    answer = daemon.recall(**{"history": HISTORY, "n": 3, **fields})
    assert answer.status == 200, answer.body
    return answer.json()


def assigned(file, users):
    """What recallctl says: {user: {layer: arm}}."""
    done = subprocess.run([RECALLCTL, "experiments", "assign", file], input="".join(u + "\n" for u in users),
                          capture_output=True, text=True, check=True)
    arms = {}
    for line in done.stdout.splitlines()[1:]:
        user, name, _, arm = line.split("\t")
        arms.setdefault(user, {}).update({} if arm == "-" else {name: arm})
    return arms


# ---- what a request gets -------------------------------------------------------------------------


def test_arms_are_those_that_anyone_can_compute(own, file):
    daemon = own(experiments(1, layer(), layer("merge", {"merge": "quota"}, coverage=0.5)))
    users = [f"user-{i}" for i in range(60)] + ["ü", "a b"]
    expected = assigned(file, users)
    assert {len(arms) for arms in expected.values()} == {1, 2}
    for user in users:
        answer = asked(daemon, user_id=user)
        assert (answer["arms"], answer["forced"]) == (expected[user], False)
    assert asked(daemon)["arms"] == {}  # without a user nothing is assigned


def test_an_arm_changes_bundle_and_settings_and_the_request_has_the_last_word_on_n(own):
    daemon = own(experiments(1, all_in("l", {"bundle": "debian-mind@2", "n": 7, "interests": 1})))
    answer = daemon.recall(user_id="u", history=HISTORY).json()
    assert (answer["bundle"], len(answer["items"]), answer["interests"]) == ("debian-mind@2", 7, 1)
    assert len(asked(daemon, user_id="u", n=4)["items"]) == 4
    plain = daemon.recall(history=HISTORY).json()
    assert (plain["bundle"], len(plain["items"])) == ("debian-mind@1", 200)


def test_a_layer_is_for_the_requests_that_suit_it(own):
    daemon = own(experiments(1, all_in("l", {}, when={"scene": ["home"], "context.country": ["de", 7]})))
    assert asked(daemon, user_id="u", scene="home", context={"country": "de"})["arms"] == {"l": "all"}
    assert asked(daemon, user_id="u", scene="home", context={"country": 7})["arms"] == {"l": "all"}
    assert asked(daemon, user_id="u", scene="cart", context={"country": "de"})["arms"] == {}
    assert asked(daemon, user_id="u", scene="home")["arms"] == {}


def test_forced_answers_are_marked(own, file):
    daemon = own(experiments(1, layer(force={"tester": "other"}), layer("merge")))
    answer = asked(daemon, user_id="tester")
    assert (answer["arms"]["model"], answer["forced"]) == ("other", True)
    by_hash = assigned(file, ["u"])["u"]
    for arm in ("control", "other"):
        answer = asked(daemon, user_id="u", arms={"model": arm})
        assert (answer["arms"], answer["forced"]) == ({**by_hash, "model": arm}, True)
    assert asked(daemon, user_id="u", arms={})["forced"] is False


def test_arms_of_layers_that_exclude_each_other_are_refused_together(own):
    """By `when` no request is in both; one that chooses could be."""
    daemon = own(experiments(1, layer("one", {"n": 4}, when={"scene": ["home"]}),
                             layer("two", {"n": 5}, when={"scene": ["cart"]})))
    answer = daemon.recall(user_id="u", history=HISTORY, arms={"one": "other", "two": "other"})
    assert (answer.status, answer.problem()["field"]) == (400, "arms.two")
    assert answer.problem()["detail"] == "arms.two: sets n, and so does the arm of layer one"
    for i in range(20):  # nor does the hash give what the chosen arm sets as well
        answer = daemon.recall(user_id=f"u{i}", history=HISTORY, scene="cart", arms={"one": "other"}).json()
        assert (len(answer["items"]), answer["arms"]) in [(4, {"one": "other"}), (4, {"one": "other", "two": "control"})]


@pytest.mark.parametrize("arms, field", [({"model": "third"}, "arms.model"), ({"mode": "other"}, "arms.mode"),
                                         ({"model": None}, "arms.model"), ({"model": ["other"]}, "arms.model")])
def test_an_arm_that_does_not_exist_is_refused(own, arms, field):
    daemon = own(experiments(1, layer()))
    answer = daemon.recall(user_id="u", history=HISTORY, arms=arms)
    assert answer.status == 400
    assert answer.problem()["field"] == field


def test_a_request_may_choose_only_where_the_file_allows_it(own):
    daemon = own(experiments(1, layer(), allow_forced=False))
    answer = daemon.recall(user_id="u", history=HISTORY, arms={"model": "other"})
    assert (answer.status, answer.problem()["field"]) == (403, "arms")
    assert "allow_forced" in answer.problem()["detail"]


# ---- what a file may say -------------------------------------------------------------------------

BAD = [
    ("{", None),
    ([], None),
    (experiments(1, layer(colour=1)), "layers[0].colour"),
    (experiments(1, {"name": "l", "arms": [{"name": "a", "weight": 0.5}]}), "layers[0].arms"),
    (experiments(1, layer(sets={"lambda": -1})), "layers[0].arms[1].set.lambda"),
    (experiments(1, layer(sets={"bundle": "debian-mind@9"})), "layers[0].arms[1].set.bundle"),
    (experiments(1, layer(sets={"n": 1001})), "layers[0].arms[1].set.n"),
    (experiments(1, layer(sets={"n": 9}), layer("second", sets={"n": 8})), "layers[1].arms[1].set.n"),
    (experiments(1, layer(), layer()), "layers[1].name"),
    (experiments(1, layer(force={"u": "third"})), "layers[0].force"),
    (experiments(1, layer(coverage=1.5)), "layers[0].coverage"),
    (experiments(1, layer(when={"country": ["de"]})), "layers[0].when"),
    (experiments(1, hash="md5"), "hash"),
]


def test_what_is_wrong_is_named_and_nothing_changes(own, file):
    daemon = own(experiments(5, layer()))
    before = daemon.get("/experiments")
    for content, field in BAD:
        answer = put(daemon, content)
        assert (answer.status, answer.problem().get("field")) == (400, field)
        after = daemon.get("/experiments")
        assert (after.body, after.headers["ETag"]) == (before.body, before.headers["ETag"])

        file.write_text(content if isinstance(content, str) else json.dumps(content))
        line = daemon.reload()
        assert "reload_failed" in line and str(file) in line
        assert field is None or field in line
    assert version(daemon) == 5
    assert asked(daemon, user_id="u")["arms"] != {}


def test_a_daemon_does_not_start_on_a_bad_file(bundle, file):
    file.write_text(json.dumps(BAD[2][0]))
    for check in (["--check"], []):
        done = run_recalld(f"--bundle.paths={bundle}", f"--experiments.file={file}", "--http.listen=127.0.0.1:0",
                           *check)
        assert done.returncode == 1
        assert f"{file}: layers[0].colour: there is no such key" in done.stderr
    file.unlink()
    done = run_recalld(f"--bundle.paths={bundle}", f"--experiments.file={file}", "--check")
    assert done.returncode == 1 and "experiments.file" in done.stderr
    file.write_text(json.dumps(experiments(7, layer())))
    done = run_recalld(f"--bundle.paths={bundle}", f"--experiments.file={file}", "--check")
    assert done.returncode == 0 and "experiments version 7: ok (layers: 1)" in done.stdout


# ---- replacing them over HTTP --------------------------------------------------------------------


def test_what_was_given_is_given_back(own):
    text = json.dumps(experiments(3, layer()), indent=3) + "\n\n"
    daemon = own(text)
    answer = daemon.get("/experiments")
    assert (answer.status, answer.body.decode()) == (200, text)
    assert answer.headers["ETag"].strip('"').isalnum()


def test_a_put_names_what_it_replaces(own):
    daemon = own(experiments(1))
    tag = daemon.get("/experiments").headers["ETag"]
    answer = put(daemon, experiments(2, layer()), None)
    assert answer.status == 428
    answer.problem()
    answer = put(daemon, experiments(2, layer()), '"somethingelse"')
    assert answer.status == 412
    answer.problem()
    answer = put(daemon, experiments(2, layer()), tag)
    assert (answer.status, answer.json()["version"]) == (200, 2)
    got = daemon.get("/experiments")
    assert answer.headers["ETag"] == got.headers["ETag"] == f'"{answer.json()["sha256"]}"' != tag
    assert got.json() == experiments(2, layer())
    assert asked(daemon, user_id="u")["arms"] != {}
    assert put(daemon, experiments(3), tag).status == 412  # it is another one by now


def put_with(daemon, content, *if_match):
    """With a header If-Match for each value."""
    connection = daemon.connect()
    body = json.dumps(content).encode()
    try:
        connection.putrequest("PUT", "/experiments")
        for name, value in [("Authorization", f"Bearer {TOKEN}"), ("Content-Type", "application/json"),
                            ("Content-Length", str(len(body))), *(("If-Match", value) for value in if_match)]:
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def test_if_match_is_a_list_of_tags_or_a_star_alone(own):
    daemon = own(experiments(1))
    tag = daemon.get("/experiments").headers["ETag"]
    for malformed in (['*, "x"'], ["*", tag], [tag, "*"], ["nothing"], [tag + " x"]):
        status, problem = put_with(daemon, experiments(2), *malformed)
        assert (status, problem.get("field")) == (400, None)
        assert problem["detail"] == "the header If-Match must be a list of entity tags in quotes, or * alone"
    assert put_with(daemon, experiments(2), '"x"', 'W/"y"')[0] == 412
    assert version(daemon) == 1
    assert put_with(daemon, experiments(2), '"x"', tag)[0] == 200
    assert version(daemon) == 2


def test_without_a_state_folder_a_put_is_refused(start, bundle, token_file):
    daemon = start(f"--bundle.paths={bundle}", f"--admin.token_file={token_file}", token=TOKEN)
    assert daemon.get("/experiments").json() == NOTHING
    answer = put(daemon, experiments(1))
    assert answer.status == 409
    assert "state.dir" in answer.problem()["detail"]


@pytest.mark.parametrize("method, path", [("GET", "/experiments"), ("PUT", "/experiments"),
                                          ("GET", "/experiments/report")])
def test_the_token_is_needed(own, method, path):
    daemon = own(experiments(1))
    daemon.token = None
    assert daemon.ask(method, path, {} if method == "PUT" else None).status == 401


def test_of_puts_at_once_one_wins(own):
    daemon = own(experiments(0))
    for round_ in range(5):
        tag, statuses = daemon.get("/experiments").headers["ETag"], []
        threads = [threading.Thread(target=lambda v=v: statuses.append(put(daemon, experiments(v), tag).status))
                   for v in range(10 * round_ + 1, 10 * round_ + 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(statuses) == [200] + [412] * 7


def test_what_was_answered_200_survives_a_kill(own):
    daemon = own(experiments(1))
    for n in range(2, 8):
        assert put(daemon, experiments(n, layer())).status == 200
        daemon.signal(signal.SIGKILL)
        daemon.wait()
        daemon = own()
        assert version(daemon) == n
        assert daemon.reload().split()[2] == "reloaded"
        assert version(daemon) == n


def test_a_changed_file_wins_over_what_was_put(own, file):
    daemon = own(experiments(1))
    first = file.read_text()
    assert put(daemon, experiments(2)).status == 200
    file.write_text(json.dumps(experiments(3)))
    assert "reloaded" in daemon.reload()
    assert version(daemon) == 3
    assert len(daemon.log_lines("experiments_file_wins")) == 1
    file.write_text(first)  # what was put over it does not come back
    assert "reloaded" in daemon.reload()
    assert version(daemon) == 1
    file.write_text(json.dumps(experiments(3)))
    assert daemon.stop() == 0
    assert version(own()) == 3


def test_a_disk_that_takes_nothing_changes_nothing(own, tmp_path):
    daemon = own(experiments(1))
    (tmp_path / "state").write_text("where the folder should be")
    answer = put(daemon, experiments(2))
    assert answer.status == 500
    answer.problem()
    assert version(daemon) == 1


# ---- experiments and bundles ---------------------------------------------------------------------


def test_a_bundle_that_an_arm_names_stays(own):
    daemon = own(experiments(1, layer(sets={"bundle": "debian-mind@2"})))
    answer = daemon.ask("DELETE", "/bundles/debian-mind@2")
    assert answer.status == 409
    assert "layers[0].arms[1].set.bundle" in answer.problem()["detail"]
    assert put(daemon, experiments(2, layer())).status == 200
    assert daemon.ask("DELETE", "/bundles/debian-mind@2").status == 200
    answer = put(daemon, experiments(3, layer(sets={"bundle": "debian-mind@2"})))
    assert (answer.status, answer.problem()["field"]) == (400, "layers[0].arms[1].set.bundle")


def test_an_arm_may_name_an_alias(own):
    daemon = own(experiments(1))
    sets = experiments(2, all_in("l", {"bundle": "canary"}))
    assert put(daemon, sets).status == 400
    assert daemon.ask("PUT", "/bundles/aliases/canary", {"bundle": "debian-mind@2"}).status == 200
    assert put(daemon, sets).status == 200
    assert asked(daemon, user_id="u")["bundle"] == "debian-mind@2"
    daemon.signal(signal.SIGKILL)
    daemon.wait()
    assert asked(own(), user_id="u")["bundle"] == "debian-mind@2"


@pytest.fixture
def ini(tmp_path, bundle, bundle2, file, token_file):
    """Writes a recalld.ini with these bundles; its path."""
    def write(bundles, more=""):
        path = tmp_path / "recalld.ini"
        path.write_text(f"[bundle]\npaths = {','.join(str(b) for b in bundles)}\ndefault = debian-mind@1\n"
                        f"[experiments]\nfile = {file}\n[admin]\ntoken_file = {token_file}\n{more}")
        return path
    return write


def test_a_reload_takes_bundles_and_experiments_together(start, ini, file, bundle, bundle2):
    """Under load: no answer fails, and none has an arm whose bundle is not there."""
    plain, other = experiments(1, all_in("l", {})), experiments(2, all_in("l", {"bundle": "debian-mind@2"}))
    file.write_text(json.dumps(plain))
    daemon = start(f"--config={ini([bundle])}", token=TOKEN)
    with Load(daemon, body={"user_id": "u", "history": HISTORY, "n": 3}) as load:
        for content, bundles in [(other, [bundle, bundle2]), (plain, [bundle])] * 3:
            file.write_text(json.dumps(content))
            ini(bundles)
            assert "reloaded" in daemon.reload()
            seen = len(load.answers)
            wait_until(lambda: len(load.answers) > seen + 20, "requests go on")
    assert load.failures == []
    assert {a["bundle"] for a in load.answers} == {"debian-mind@1", "debian-mind@2"}
    assert {tuple(a["degraded"]) for a in load.answers} == {()}


def test_a_reload_is_all_or_nothing(start, ini, file, bundle, bundle2):
    file.write_text(json.dumps(experiments(1, layer(sets={"bundle": "debian-mind@2"}))))
    daemon = start(f"--config={ini([bundle, bundle2])}", token=TOKEN)
    # The bundle that an arm names goes, and a setting changes: neither happens.
    ini([bundle], "[recall]\nn = 5\n")
    line = daemon.reload()
    assert "reload_failed" in line and "layers[0].arms[1].set.bundle" in line
    assert len(daemon.recall(history=HISTORY).json()["items"]) == 200
    assert len(daemon.get("/bundles").json()["bundles"]) == 2
    # A bad experiments file beside a bundle that would come.
    file.write_text("{}")
    ini([bundle, bundle2], "[recall]\nn = 5\n")
    assert "reload_failed" in daemon.reload()
    assert len(daemon.recall(history=HISTORY).json()["items"]) == 200
    file.write_text(json.dumps(experiments(2, layer())))
    assert "reloaded" in daemon.reload()
    assert len(daemon.recall(history=HISTORY).json()["items"]) == 5


# ---- counts --------------------------------------------------------------------------------------


def test_report_and_metrics_count_what_was_served(own, file):
    daemon = own(experiments(4, layer(force={"tester": "other"}), layer("merge", coverage=0.5)))
    users = [f"user-{i}" for i in range(50)]
    expected = assigned(file, users)
    for user in users:
        asked(daemon, user_id=user)
    asked(daemon, user_id="tester")
    asked(daemon, user_id="user-1", arms={"model": "other"})
    report = daemon.get("/experiments/report").json()
    assert (report["version"], report["hash"]) == (4, "growthbook-v2")
    metrics = daemon.metrics()
    for entry in report["layers"]:
        name = entry["layer"]
        counts = {arm: sum(e.get(name) == arm for e in expected.values()) for arm in ("control", "other")}
        assert {a["arm"]: a["served"] for a in entry["arms"]} == counts
        assert entry["served"] == sum(counts.values())
        assert [a["share"] for a in entry["arms"]] == [n / sum(counts.values()) for n in counts.values()]
        assert 0 <= entry["sample_ratio"]["p"] <= 1
        for arm, n in counts.items():
            assert metrics["recalld_experiment_served_total", {"layer": name, "arm": arm}] == n
            assert metrics["recalld_experiment_clicked_total", {"layer": name, "arm": arm}] == 0
    assert report["layers"][0]["forced"] == 2
    assert metrics["recalld_experiments_info", {"version": "4", "sha256": report["sha256"]}] == 1
    assert put(daemon, experiments(5, layer(), layer("merge", seed="new", coverage=0.5))).status == 200
    served = [entry["served"] for entry in daemon.get("/experiments/report").json()["layers"]]
    assert served == [50, 0]  # the second layer assigns anew


def test_events_are_counted_for_the_arm_that_answered(own, tmp_path):
    daemon = own(experiments(1, layer()), f"--journal.dir={tmp_path / 'journal'}")
    shown = {"control": 0, "other": 0}
    for i in range(20):
        answer = asked(daemon, user_id=f"user-{i}", request_id=f"r-{i}")
        shown[answer["arms"]["model"]] += 3
        ids = [("serve_id", answer["serve_id"]), ("request_id", f"r-{i}")][i % 2]
        events = [{"event": "exposed", ids[0]: ids[1], "item_id": item["id"]} for item in answer["items"]]
        assert daemon.ask("POST", "/events", events).status == 202
        assert daemon.ask("POST", "/events", {**events[0], "event": "clicked"}).status == 202
    forced = asked(daemon, user_id="user-1", arms={"model": "other"})
    event = {"event": "exposed", "serve_id": forced["serve_id"], "item_id": "x"}
    assert daemon.ask("POST", "/events", event).status == 202
    arms = daemon.get("/experiments/report").json()["layers"][0]["arms"]
    assert {a["arm"]: a["exposed"] for a in arms} == shown
    assert {a["arm"]: 3 * a["clicked"] for a in arms} == shown
    metrics = daemon.metrics()
    for arm, n in shown.items():
        assert metrics["recalld_experiment_exposed_total", {"layer": "model", "arm": arm}] == n


# ---- recallctl -----------------------------------------------------------------------------------


def recallctl(*args, **more):
    return subprocess.run([RECALLCTL, "experiments", *args], capture_output=True, text=True, **more)


def table(text):
    head, *rows = [line.split("\t") for line in text.splitlines()]
    return [dict(zip(head, row)) for row in rows]


def test_check_says_whom_a_change_moves(tmp_path):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps(experiments(1, layer(coverage=0.4), layer("gone"))))
    new.write_text(json.dumps(experiments(2, layer(coverage=0.6))))
    rows = table(recallctl("check", new, "--against", old, "--users", "20000", check=True).stdout)
    moved = {(r["layer"], r["from"], r["to"]): float(r["share"]) for r in rows}
    assert moved["model", "arm", "arm"] == 0  # more coverage moves nobody between arms
    assert abs(moved["model", "any", "any"] - 0.2) < 0.02
    assert abs(moved["model", "-", "control"] - 0.1) < 0.015
    assert moved["gone", "any", "any"] == 1
    new.write_text(json.dumps(experiments(2, layer(coverage=0.4, seed="new"))))
    rows = table(recallctl("check", new, "--against", old, check=True).stdout)
    moved = {(r["layer"], r["from"], r["to"]): float(r["share"]) for r in rows}
    assert abs(moved["model", "control", "other"] - 0.04) < 0.005
    bad = recallctl("check", tmp_path / "none.json")
    assert bad.returncode == 1 and "none.json" in bad.stderr


def test_simulate_shows_shares_expected_and_observed(tmp_path):
    path, ids = tmp_path / "e.json", tmp_path / "ids"
    path.write_text(json.dumps(experiments(1, layer(coverage=0.8))))
    ids.write_text("".join(f"id-{i}\n" for i in range(10000)))
    for args in (["--ids", ids], ["--users", "10000"]):
        rows = {r["arm"]: r for r in table(recallctl("simulate", path, *args, check=True).stdout)}
        assert [float(rows[arm]["expected"]) for arm in ("control", "other", "-")] == [0.4, 0.4, 0.2]
        assert sum(int(r["users"]) for r in rows.values()) == 10000
        for row in rows.values():
            assert abs(float(row["observed"]) - float(row["expected"])) < 0.03

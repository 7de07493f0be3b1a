"""recallctl ctr on journals whose truth is known: simulated users, and one that has everything wrong that can be."""
import gzip
import json
import math
import os
import random
import re
import subprocess
import sys

import pytest

from harness import HISTORY, PATIENCE, RECALLCTL, ROOT

sys.path.insert(0, str(ROOT / "tests/ctr"))
import reference  # noqa: E402
from simulate import FIRST_MS, World  # noqa: E402
from test_docs import ADDRESS, checkout, run_page  # noqa: E402, F401  (checkout is a fixture)

MISMATCH = 3
HOUR = 3_600_000


def run(*args):
    return subprocess.run([RECALLCTL, "ctr", *map(str, args)], capture_output=True, text=True, timeout=2 * PATIENCE,
                          stdin=subprocess.DEVNULL)


def good(*args, status=0):
    done = run(*args)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def report(*args, status=0):
    return json.loads(good(*args, "--json", status=status))


def only(*args, status=0):
    """The only layer of a report, with its arms by name."""
    (layer,) = report(*args, status=status)["layers"]
    return {**layer, "arms": {arm["name"]: arm for arm in layer["arms"]}}


def refused(status, *args):
    done = run(*args)
    assert (done.returncode, done.stdout) == (status, ""), done.stdout + done.stderr
    return done.stderr.splitlines()[0].removeprefix("recallctl: ")


# ---- journals by hand ----------------------------------------------------------------------------


class Journal:
    """Lines as recalld writes them; keyword arguments set fields, None leaves one out."""

    def __init__(self, folder):
        self.folder, self.served, self.events = folder, [], []
        folder.mkdir(parents=True, exist_ok=True)

    def answer(self, user, arm, **more):
        n = len(self.served)
        line = {"v": 1, "ts_ms": FIRST_MS + n * 1000, "serve_id": f"s{n}", "request_id": f"r{n}", "user_id": user,
                "arms": {"model": arm}, "hash": "growthbook-v2", "forced": False, "experiments": 1, "bundle": "b@1",
                "settings": {}, "source": "model", "degraded": [], "history": 3, "interests": 2, "sample": 1,
                "took_us": 900, "items": ["a", "b", "c", "d"], "scores": [0.9, 0.8, 0.7, 0.6], "by": [1, 0, 1, 0], **more}
        self.served.append({k: v for k, v in line.items() if v is not None})
        return self.served[-1]

    def event(self, kind, answer, item, after_ms=5000, **more):
        at = answer["ts_ms"] + after_ms
        line = {"v": 1, "ts_ms": at, "received_ms": at + 40, "event": kind, "serve_id": answer["serve_id"],
                "item_id": item, "event_id": f"e{len(self.events)}", **more}
        self.events.append({k: v for k, v in line.items() if v is not None})

    def write(self, compressed=False):
        for kind, lines in (("served", self.served), ("events", self.events)):
            text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
            path = self.folder / f"{kind}-20260601T000000.000Z-1.jsonl"
            if compressed:
                path.with_name(path.name + ".gz").write_bytes(gzip.compress(text.encode()))
            else:
                path.write_text(text)
        return self.folder


def messy(folder, seed=5, users=300, key="both"):
    """Everything at once: users of several arms, forced and degraded answers, popular items, events that are late,
    early, repeated, sent twice, of other items, of nothing; ids beyond ASCII."""
    rng = random.Random(seed)
    j = Journal(folder)
    for u in range(users):
        user = f"u{u}" if u % 9 else f"ü{u}\"\\"
        arm = rng.choice(["control", "b", "c"])
        for _ in range(rng.randint(1, 4)):
            items = rng.sample([f"i{k}" for k in range(30)] + ["é/\""], 8)
            popular = rng.random() < 0.1
            answer = j.answer(
                user if rng.random() > 0.05 else None, arm if rng.random() > 0.01 else "b",
                arms={} if rng.random() < 0.03 else {"model": arm if rng.random() > 0.01 else "b", "merge": "max"},
                forced=rng.random() < 0.04, degraded=["effort_1"] if rng.random() < 0.15 else [], items=items,
                scores=[] if popular else [0.5] * 8, by=[] if popular else [rng.randrange(4) for _ in items])
            by = rng.choice(["serve_id", "request_id"]) if key == "both" else key
            named = {} if by == "serve_id" else {"serve_id": None, "request_id": answer["request_id"]}
            for item in rng.sample(items, 4) + rng.sample(["x", "y", "z"], 1):
                if rng.random() < 0.9:
                    j.event("exposed", answer, item, rng.choice([10, 10, 10, -20, 25 * HOUR, -HOUR]), **named,
                            position=rng.choice([None, 0, 3, 40]))
                if rng.random() < 0.3:
                    j.event("clicked", answer, item, rng.choice([9000, 9000, 9000, 30 * HOUR, -2 * HOUR]), **named)
                if rng.random() < 0.1:
                    j.event("clicked", answer, item, 12000, **named)
                if rng.random() < 0.1:
                    j.events.append(dict(j.events[-1]))
                if rng.random() < 0.1:  # the same again, from a clock that was set
                    j.events.append({**j.events[-1], "ts_ms": answer["ts_ms"] + rng.choice([50, 26 * HOUR, -3 * HOUR])})
                if rng.random() < 0.05:
                    j.event("bought", answer, item)
    j.event("clicked", {"ts_ms": FIRST_MS, "serve_id": "nobody's"}, "a",
            **({} if key != "request_id" else {"serve_id": None, "request_id": "nobody's"}))
    rng.shuffle(j.events)
    return j


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A lift of 40 % in arm b, and its journal."""
    w = World(11, users=4000, arms=(("control", 0.5, 0.0), ("b", 0.5, 0.4)))
    return w, w.write(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def mess(tmp_path_factory):
    return messy(tmp_path_factory.mktemp("mess")).write()


# ---- figures ---------------------------------------------------------------------------------------


def assert_figures(got, expected):
    for counter in ("units", *reference.COUNTERS):
        assert got[counter] == expected[counter], counter
    for name, (value, se) in expected["figures"].items():
        for key, wanted in (("value", value), ("se", se)):
            have = got["figures"][name][key]
            assert (have is None) == math.isnan(wanted), (name, key)
            assert have is None or have == pytest.approx(wanted, rel=1e-9, abs=1e-12), (name, key)


@pytest.mark.parametrize("options,more", [([], {}), (["--all-items"], {"all_items": True}),
                                          (["--window", "8s"], {"window_ms": 8000})])
def test_every_figure_of_a_messy_journal_is_as_defined(mess, options, more):
    layers = {layer["name"]: layer for layer in report("--journal", mess, *options)["layers"]}
    for name in ("model", "merge"):
        expected, crossed = reference.report(mess, name, **more)
        got = {arm["name"]: arm for arm in layers[name]["arms"]}
        assert layers[name]["in_several_arms"] == crossed
        assert set(got) == set(expected)
        for arm, truth in expected.items():
            assert_figures(got[arm], truth)
            assert_figures(got[arm]["without_degraded"], truth["without_degraded"])
            assert got[arm]["apart"] == {key: truth["apart"][key] for key in got[arm]["apart"]}


def test_interests_and_places_are_described(mess):
    expected, _ = reference.report(mess, "model")
    arms = {arm["name"]: arm for arm in report("--journal", mess)["layers"][1]["arms"]}
    for name, arm in arms.items():
        described = expected[name]["described"]
        for i, share in enumerate(arm["by_interest"]):
            assert share == {key: described["interest", i, key] for key in share}
        assert arm["by_no_interest"] == [{key: described["interest", None, key] for key in ("exposed", "clicked", "hits")}]
        assert arm["by_rank"] == [{key: sum(described["rank", r, key] for r in range(10))
                                   for key in ("exposed", "clicked", "hits")}]
        assert arm["by_position"][0]["exposed"] > 0 and arm["by_position"][20]["exposed"] > 0


def test_an_event_that_came_early_does_not_hide_a_good_repeat(tmp_path):
    j = Journal(tmp_path / "j")
    for i in range(10):
        answer = j.answer(f"u{i}", "ab"[i % 2])
        for kind in ("exposed", "clicked"):
            for after_ms in (-HOUR, 40):
                j.event(kind, answer, "a", after_ms, event_id=f"{kind}{i}")
    (layer,) = (got := report("--journal", j.write()))["layers"]
    assert [(arm["exposed"], arm["clicked"]) for arm in layer["arms"]] == [(5, 5), (5, 5)]
    assert [arm["apart"]["early_events"] for arm in layer["arms"]] == [0, 0]
    assert got["events"]["duplicates"] == 20


def test_a_lift_is_found_and_the_naive_test_is_too_sure(world):
    w, folder = world
    (x0, y0), (x1, y1) = w.sums()
    arms = only("--journal", folder)["arms"]
    (ra, sa), (rb, sb) = reference.ratio(x0, y0), reference.ratio(x1, y1)
    got = arms["b"]["figures"]["ctr"]
    z = 1.959963984540054
    assert got["difference"]["value"] == pytest.approx(rb - ra)
    assert got["difference"]["low"] == pytest.approx(rb - ra - z * math.hypot(sa, sb))
    assert got["difference"]["high"] == pytest.approx(rb - ra + z * math.hypot(sa, sb))
    assert got["p"] == pytest.approx(math.erfc(abs(rb - ra) / math.hypot(sa, sb) / math.sqrt(2)))
    assert abs(got["lift"]["value"] - 0.4) < 2 * (got["lift"]["high"] - got["lift"]["value"])  # four standard errors
    assert got["naive_p"] < got["p"] < 0.001
    assert "difference" not in arms["control"]["figures"]["ctr"]


def test_aa_splits_give_uniform_p_values(world):
    aa = only("--journal", world[1], "--aa", 200, "--seed", 7)["aa"]
    assert len(aa["p"]) == 200 and aa["p"] == sorted(aa["p"])
    distance = max(max(p - i / 200, (i + 1) / 200 - p) for i, p in enumerate(aa["p"]))
    assert aa["uniform_d"] == pytest.approx(distance)
    assert distance < 0.115  # the 1 % bound of Kolmogorov and Smirnov
    assert aa["naive_share_significant"] > 0.12 > aa["share_significant"]
    other = only("--journal", world[1], "--aa", 200, "--seed", 8)["aa"]
    assert other["p"] != aa["p"]


def test_figures_over_time_add_up(world):
    layer = only("--journal", world[1], "--bucket", "12h")
    for arm in layer["arms"].values():
        steps = arm["over_time"]
        assert sum(s["exposed"] for s in steps) == arm["exposed"]
        assert sum(s["clicked"] for s in steps) == arm["clicked"]
        assert 14 <= len(steps) <= 15 and steps[1]["from_ms"] - steps[0]["from_ms"] == 12 * HOUR
        assert all(s["low"] <= s["ctr"] <= s["high"] for s in steps if s["exposed"])


def test_figures_over_time_have_their_times_in_any_century(tmp_path):
    first = 4_294_967_290_000  # ten seconds before the seconds since 1970 need more than 32 bits
    j = Journal(tmp_path / "j")
    for i in range(20):
        j.event("exposed", j.answer(f"u{i}", "a", ts_ms=first + i * 1000), "a")
    steps = only("--journal", j.write(), "--bucket", "1s")["arms"]["a"]["over_time"]
    assert [(step["from_ms"], step["exposed"]) for step in steps] == [(first + i * 1000, 1) for i in range(20)]
    j.event("exposed", j.answer("u", "a", ts_ms=1000), "a")  # a clock that was never set
    got = report("--journal", j.write(), "--bucket", "1s")
    assert got["layers"][0]["arms"][0]["over_time"] == []
    assert any("more than 2000 stretches of 1 s" in note for note in got["notes"])


# ---- the sample ratio --------------------------------------------------------------------------------


def test_a_loss_in_one_arm_is_loud_and_changes_the_status(tmp_path):
    w = World(12, users=40000, visits=0.1, shown=1, items=2)
    folder = w.write(tmp_path / "j", keep=w.lose(1, 0.05))
    done = run("--journal", folder)
    assert done.returncode == MISMATCH
    assert "!! SAMPLE RATIO MISMATCH in layer model" in done.stdout
    assert "SAMPLE RATIO MISMATCH" in done.stderr
    layer = only("--journal", folder, status=MISMATCH)
    assert layer["sample_ratio"]["mismatch"] and layer["sample_ratio"]["p"] < 0.001
    assert "SAMPLE RATIO MISMATCH" not in good("--journal", w.write(tmp_path / "whole"))


def experiments(path, unit="user_id", **weights):
    path.write_text(json.dumps({"version": 1, "hash": "growthbook-v2", "layers": [
        {"name": "model", "seed": "s", "unit": unit,
         "arms": [{"name": name, "weight": weight} for name, weight in weights.items()]}]}))
    return path


def test_weights_come_from_the_experiments(tmp_path):
    folder = World(13, users=3000, arms=(("control", 0.8, 0.0), ("b", 0.2, 0.0))).write(tmp_path / "j")
    assert only("--journal", folder, status=MISMATCH)["sample_ratio"]["expected_from"] == "equal weights"
    file = experiments(tmp_path / "experiments.json", control=0.8, b=0.2)
    layer = only("--journal", folder, "--experiments", file)
    assert layer["sample_ratio"]["expected_from"] == "experiments" and layer["sample_ratio"]["p"] > 0.001
    assert [arm["expected_share"] for arm in layer["arms"].values()] == [0.8, 0.2]


def test_other_versions_than_that_of_the_experiments_are_told(tmp_path):
    j = Journal(tmp_path / "j")
    for i in range(60):
        j.answer(f"u{i}", "ab"[i % 2], experiments=(1, 3, 4)[i // 2 % 3])
    file = experiments(tmp_path / "experiments.json", a=0.5, b=0.5)
    text = good("--journal", j.write(), "--experiments", file)
    assert "!! the experiments file is version 1, but answers of version 3, 4 are compared" in text
    assert "version 3, 4" not in good("--journal", j.folder)
    assert "the experiments file is version" not in good("--journal", j.folder, "--experiments", file, "--only-version", 1)


def test_an_arm_that_is_lost_altogether_is_a_mismatch(tmp_path):
    folder = World(13, users=300).write(tmp_path / "j")
    file = experiments(tmp_path / "experiments.json", control=0.4, b=0.4, c=0.2)
    text = good("--journal", folder, "--experiments", file, status=MISMATCH)
    assert "SAMPLE RATIO MISMATCH" in text and "arms with 20 % of the users have none in the journal" in text
    experiments(file, control=0.5, b=0.5, c=0)
    good("--journal", folder, "--experiments", file)


def test_arms_that_the_experiments_do_not_know_cannot_be_checked(tmp_path):
    folder = World(13, users=300).write(tmp_path / "j")
    text = good("--journal", folder, "--experiments", experiments(tmp_path / "experiments.json", control=1.0))
    assert "!! layer model: the sample ratio is not checked" in text


def test_a_layer_that_is_lost_altogether_is_told(tmp_path):
    j = Journal(tmp_path / "j")
    for i in range(20):
        j.answer(f"u{i}", "ab"[i % 2], arms={"merge": "ab"[i % 2]})
    file = experiments(tmp_path / "experiments.json", a=0.5, b=0.5)
    assert "layer model of the experiments is in no answer" in good("--served", j.write(), "--experiments", file)


def test_the_unit_of_a_layer_may_be_the_request(tmp_path):
    j = Journal(tmp_path / "j")
    for i in range(200):
        j.answer(f"u{i % 10}", "ab"[i % 2])
    file = tmp_path / "experiments.json"
    layer = only("--served", j.write(), "--experiments", experiments(file, "request_id", a=0.5, b=0.5))
    assert layer["units"] == "requests" and layer["in_several_arms"] == 0
    assert [arm["units"] for arm in layer["arms"].values()] == [100, 100]
    text = good("--served", j.folder, "--experiments", experiments(file, "context.device", a=0.5, b=0.5))
    assert "its unit is not in the journal, users are taken instead" in text


def test_users_in_several_arms_count_for_none_and_are_told(tmp_path):
    j = Journal(tmp_path / "j")
    for i in range(100):
        j.answer(f"u{i}", "ab"[i % 2])
    j.answer("u0", "b", experiments=2)
    text = good("--journal", j.write())
    assert "layer model: 1 users (1 %) were in several arms" in text
    assert "a change of the experiments moves users" in text
    assert [arm["units"] for arm in only("--journal", j.folder)["arms"].values()] == [49, 50]


def test_a_changed_assignment_is_told(tmp_path):
    j = Journal(tmp_path / "j")
    for i in range(1000):
        late = i >= 500
        j.answer(f"u{i}", "a" if i % (2 if late else 10) else "b", experiments=6 + late)
    text = good("--journal", j.write(), status=MISMATCH)
    assert "layer model: its assignment changed" in text
    layer = only("--journal", j.folder, "--only-version", 7)
    assert [v["version"] for v in layer["versions"]] == [7] and layer["versions_p"] == 1
    assert sum(arm["units"] for arm in layer["arms"].values()) == 500


# ---- what is compared ----------------------------------------------------------------------------------


def test_several_arms_are_compared_with_the_control_that_is_named(tmp_path):
    arms = (("x", 0.4, 0.0), ("y", 0.3, 0.3), ("z", 0.3, 0.0))
    folder = World(14, users=3000, arms=arms).write(tmp_path / "j")
    layer = only("--journal", folder, "--control", "y", status=MISMATCH)
    assert layer["control"] == "y" and list(layer["arms"]) == ["y", "x", "z"]
    x, z = (layer["arms"][name]["figures"]["ctr"] for name in "xz")
    assert x["difference"]["value"] < 0 and z["difference"]["value"] < 0
    smaller, larger = sorted((x, z), key=lambda figure: figure["p"])
    assert smaller["p_of_all"] == pytest.approx(min(1, 2 * smaller["p"]))
    assert larger["p_of_all"] == pytest.approx(max(larger["p"], smaller["p_of_all"]))
    assert "p of all" in good("--journal", folder, status=MISMATCH)
    assert refused(2, "--journal", folder, "--control", "q") == '--control: no layer has an arm "q"'
    assert only("--journal", folder, "--control", "model=z", status=MISMATCH)["control"] == "z"


def test_times_can_be_chosen(tmp_path):
    j = Journal(tmp_path / "j")
    for day in range(4):
        j.answer(f"u{day}", "a", ts_ms=1_779_926_400_000 + day * 24 * HOUR)  # 2026-05-28
    folder = j.write()
    assert report("--journal", folder, "--since", "2026-05-29", "--until", "2026-05-31T00:00")["served"]["counted"] == 2
    assert refused(2, "--journal", folder, "--since", "2026-05-29", "--until", "2026-05-29") == \
        "--until: is not after --since"


def test_a_sample_is_told(tmp_path):
    j = Journal(tmp_path / "j")
    for i in range(20):
        j.answer(f"u{i}", "ab"[i % 2], sample=0.1)
    assert "the journal has 10 % of the users" in good("--journal", j.write())
    j.answer("u20", "a", sample=1)
    assert "different shares of the users over time, from 0.1 to 1" in good("--journal", j.write())


def test_a_journal_without_exposures_says_what_to_compare(tmp_path):
    j = Journal(tmp_path / "j")
    for i in range(40):
        answer = j.answer(f"u{i}", "ab"[i % 2])
        if i % 4 < 2:
            j.event("clicked", answer, "a")
    folder = j.write()
    assert 'there are no "exposed" events, so no CTR' in good("--journal", folder)
    figures = only("--journal", folder)["arms"]["a"]["figures"]
    assert figures["ctr"]["value"] is None and figures["clicks_per_answer"]["value"] == 0.5


# ---- reading ---------------------------------------------------------------------------------------------


def without_rounds(text):
    return re.sub(r'"rounds":\d+', "", text)


@pytest.mark.parametrize("key", ["serve_id", "request_id"])
def test_little_memory_takes_rounds_and_gives_the_same(tmp_path, key):
    j = messy(tmp_path / "j", seed=4, users=1500, key=key)
    rng = random.Random(4)
    for n, answer in enumerate(j.served):
        answer["experiments"] = rng.choice([1, 1, 2, 3, 7])
        if n % 97 == 0:
            answer["items"] = ["a", 5]
    folder = j.write()
    whole, parts = good("--journal", folder, "--json"), good("--journal", folder, "--json", "--memory", 1)
    assert json.loads(whole)["served"]["rounds"] == 1 and json.loads(parts)["served"]["rounds"] >= 2
    assert json.loads(whole)["served"]["bad_lines"] > 5
    assert without_rounds(whole) == without_rounds(parts)


def with_memory(*args):
    """The report, and how many megabytes it took at most."""
    with subprocess.Popen([RECALLCTL, "ctr", *args, "--json"], stdout=subprocess.PIPE, text=True) as running:
        got = json.loads(running.stdout.read())
        _, status, used = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
    assert running.returncode == 0
    return got, used.ru_maxrss / 1024


def test_a_journal_larger_than_the_memory_is_streamed(tmp_path):
    """100 MB of answers by a hundred users, and a click now and then."""
    items = json.dumps([f"item-{i:06}" for i in range(200)])
    rest = (f'"items":{items},"scores":{json.dumps([0.5 - i / 1000 for i in range(200)])},'
            f'"by":{json.dumps([i % 4 for i in range(200)])}}}\n')
    count = 100_000_000 // len(rest)
    journal = Journal(tmp_path)
    first = journal.answer("u", "control")
    with (tmp_path / "served-big.jsonl").open("w") as served, (tmp_path / "events-big.jsonl").open("w") as events:
        for i in range(count):
            arm = "ab"[i % 100 % 2]
            line = {**first, "serve_id": f"s{i}", "request_id": f"r{i}", "user_id": f"u{i % 100}", "arms": {"model": arm}}
            served.write(json.dumps({k: v for k, v in line.items() if k not in ("items", "scores", "by")})[:-1] + "," + rest)
            if i % 10 == 0:
                for n, kind in enumerate(("exposed", "clicked")[:1 + (i % 20 == 0)]):
                    events.write(json.dumps({"v": 1, "ts_ms": first["ts_ms"] + 9, "received_ms": first["ts_ms"] + 9, "event": kind,
                                             "serve_id": f"s{i}", "item_id": "item-000007", "event_id": f"e{i}/{n}"}) + "\n")
    journal.event("clicked", first, "a")
    _, least = with_memory("--journal", journal.write())
    got, used = with_memory("--served", served.name, "--events", events.name)
    assert sum(arm["answers"] for arm in got["layers"][0]["arms"]) == count
    assert used - least < 32


def test_rounds_need_one_way_to_name_answers(tmp_path):
    folder = messy(tmp_path / "j", users=1500).write()
    assert re.match(r"\d+ events do not fit into the memory that --memory allows.*: \d+ MB would do",
                    refused(1, "--journal", folder, "--memory", 1))


def test_an_answer_of_more_events_than_memory_is_told(tmp_path):
    j = Journal(tmp_path / "j")
    answer = j.answer("u", "a")
    for i in range(25000):
        j.event("clicked", answer, f"i{i}")
    assert "a few answers have very many of them" in refused(1, "--journal", j.write(), "--memory", 1)


def test_compressed_files_give_the_same(tmp_path, mess):
    folder = messy(tmp_path / "j").write(compressed=True)
    assert good("--journal", folder, "--json") == good("--journal", mess, "--json")


def test_a_bad_line_is_counted_and_told_or_refused(tmp_path):
    j = messy(tmp_path / "j")
    j.write()
    before = report("--journal", j.folder)
    served = j.folder / "served-20260601T000000.000Z-1.jsonl"
    lines = served.read_text().splitlines()
    lines.insert(2, '{"v":1,"ts_ms":"soon"}')
    served.write_text("\n".join(lines) + "\n" + lines[0][:50])
    after = report("--journal", j.folder)
    assert after["served"]["bad_lines"] == 1 and after["layers"] == before["layers"]
    text = good("--journal", j.folder)
    assert "!! 1 of " in text and "lines of answers could not be read" in text
    assert f"!!   {served}:3: ts_ms: is not what it must be" in text
    assert "1 files end in the middle of a line" in text
    assert refused(1, "--journal", j.folder, "--strict") == f"{served}:3: ts_ms: is not what it must be"


def test_a_file_that_retention_deletes_meanwhile_is_left_out_and_told(tmp_path):
    """Events come through a pipe: as long as nothing comes, no answer is read."""
    j = Journal(tmp_path / "j")
    for i in range(20):
        j.answer(f"u{i}", "ab"[i % 2])
    folder, pipe = j.write(), tmp_path / "pipe"
    old = folder / "served-20260501T000000.000Z-1.jsonl"
    old.write_text("".join(json.dumps({**line, "serve_id": f"old-{line['serve_id']}"}) + "\n" for line in j.served))
    os.mkfifo(pipe)
    with subprocess.Popen([RECALLCTL, "ctr", "--served", folder, "--events", pipe, "--json"], stdout=subprocess.PIPE,
                          text=True) as running:
        with pipe.open("w") as events:  # once it is open at both ends the folder has been listed
            old.unlink()
            events.write((folder / "events-20260601T000000.000Z-1.jsonl").read_text())
        got = json.loads(running.communicate(timeout=PATIENCE)[0])
    assert running.returncode == 0
    assert (got["files_gone"], got["served"]["counted"]) == (1, 20)
    assert any("1 files of the journal were deleted before they were read" in w for w in got["warnings"])


def test_files_of_another_kind_are_refused(mess, tmp_path):
    served, events = (mess / f"{kind}-20260601T000000.000Z-1.jsonl" for kind in ("served", "events"))
    assert re.fullmatch(r"--served: (\d+) of \1 lines cannot be read: .*events-.*:1: arms: is missing",
                        refused(1, "--served", events))
    assert re.match(r"--events: (\d+) of \1 lines cannot be read: .*served-.*:1: event: is missing",
                    refused(1, "--served", served, "--events", served))
    assert refused(1, "--served", tmp_path / "none").endswith("No such file or directory")
    assert refused(2) == "--journal or --served is missing"
    assert refused(2, "--journal", mess, "--window", "5") == "--window: must be a time such as 90s, 30m, 24h or 7d"


def test_a_file_read_twice_is_noticed(mess):
    text = good("--journal", mess, "--served", mess / "served-20260601T000000.000Z-1.jsonl")
    assert re.search(r"!! \d+ answers with events are in the journal twice", text)


def test_a_request_id_of_several_answers_gives_its_events_to_the_first(tmp_path):
    j = Journal(tmp_path / "j")
    for i in range(10):
        first = j.answer(f"u{i}", "ab"[i % 2], request_id=f"again{i}")
        j.answer(f"u{i}", "ab"[i % 2], request_id=f"again{i}")
        j.event("exposed", first, "b", serve_id=None, request_id=f"again{i}")
    text = good("--journal", j.write())
    assert "!! 10 events name a request_id that several answers have: the first answer took them" in text
    arms = only("--journal", j.folder)["arms"]
    assert [(arm["answers"], arm["exposed"]) for arm in arms.values()] == [(10, 5), (10, 5)]


def test_what_the_daemon_writes_is_what_it_reads(start, bundle, tmp_path):
    """Requests and events through the daemon: every exposure and click is found again, with the arm that was told."""
    file = tmp_path / "experiments.json"
    file.write_text(json.dumps({"version": 3, "hash": "growthbook-v2", "layers": [
        {"name": "model", "arms": [{"name": "control", "weight": 0.5},
                                   {"name": "few", "weight": 0.5, "set": {"interests": 1}}]}]}))
    folder = tmp_path / "journal"
    daemon = start(f"--bundle.paths={bundle}", f"--experiments.file={file}", f"--journal.dir={folder}")
    expected = {"control": [0, 0, 0], "few": [0, 0, 0]}
    for i in range(60):
        answer = daemon.recall(user_id=f"u{i}", history=HISTORY, n=10).json()
        items = [item["id"] for item in answer["items"]]
        name = {"serve_id": answer["serve_id"]} if i % 2 else {"request_id": answer["request_id"]}
        events = [{"event": "exposed", "item_id": item, "position": k, **name} for k, item in enumerate(items[:4])]
        if i % 3 == 0:
            events.append({"event": "clicked", "item_id": items[1], **name})
        assert daemon.ask("POST", "/events", events).status == 202
        mine = expected[answer["arms"]["model"]]
        mine[0], mine[1], mine[2] = mine[0] + 1, mine[1] + 4, mine[2] + (i % 3 == 0)
    assert daemon.stop() == 0
    done = report("--journal", folder, "--experiments", file, "--strict")
    (layer,) = done["layers"]
    assert {arm["name"]: [arm["units"], arm["exposed"], arm["clicked"]] for arm in layer["arms"]} == expected
    assert done["events"]["without_answer"] == 0 and [v["version"] for v in layer["versions"]] == [3]
    few = {arm["name"]: arm for arm in layer["arms"]}["few"]
    assert sum(share["exposed"] > 0 for share in few["by_interest"]) == 1


# ---- the page ----------------------------------------------------------------------------------------------


def test_the_page_needs_nothing_else_and_shows_what_the_table_says(world, tmp_path):
    page = tmp_path / "report.html"
    text = good("--journal", world[1], "--html", page)
    html = page.read_text()
    assert not re.search(r"<script|<link|<img|@import|url\(|src=|https?://", html)
    assert "prefers-color-scheme:dark" in html
    for title in ("by interest", "by place in the answer"):
        table = re.search(rf"<h3>CTR and hits {title}</h3>.*?<details>.*?<table>(.*?)</table>", html, re.S).group(1)
        described = re.search(rf"^  {title} .*?\n((?:  .+\n)+)", text, re.M).group(1)
        cells = [re.findall(r"<td>(.*?)</td>", row) for row in table.split("<tr>")[1:]]
        rows = [re.split(r"  +", line.strip()) for line in described.splitlines()]
        assert rows and [c for c in cells if c] == rows
    for label in ("CTR over time", "lift of each arm", "share of each arm", "CTR of each arm by group"):
        assert f'aria-label="{label}' in html
    ctr = re.search(r"^  b .*? (\d+\.\d+ %) ", text, re.M).group(1)
    assert f"<b>{ctr}</b>" in html
    assert "NaN" not in html and "nan" not in re.sub(r"<style>.*?</style>", "", html, flags=re.S)


def test_names_cannot_break_out_of_the_page(tmp_path):
    j = Journal(tmp_path / "j")
    for i in range(10):
        j.event("exposed", j.answer(f"u{i}", ["<script>", "&b\"\u001b[2J\u009b"][i % 2]), "a")
    page = tmp_path / "report.html"
    assert not set("\x1b\x9b") & set(good("--journal", j.write(), "--html", page))
    assert "<script" not in page.read_text() and "&lt;script&gt;" in page.read_text()


# ---- the documentation ---------------------------------------------------------------------------------------


def test_the_commands_of_ctr_md_do_what_it_says(checkout):  # noqa: F811
    (checkout / "tests").symlink_to(ROOT / "tests")
    assert run_page("ctr.md", checkout, ADDRESS) == 3
    assert "<svg" in (checkout / "report.html").read_text()

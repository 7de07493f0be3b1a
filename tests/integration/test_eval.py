"""recallctl eval on the demo: the figures of the training code, in every form of behaviour, and what it refuses."""
import json
import math
import re
import subprocess

import pytest

from harness import PATIENCE, RECALLCTL, ROOT, build_bundle
from test_docs import checkout, commands, pattern  # noqa: F401  (checkout is a fixture)

DEMO = ROOT / "demo"
FIGURES = ("users", "users_hit", "recall", "hit_rate", "ndcg")


def run(*args):
    return subprocess.run([RECALLCTL, "eval", *map(str, args)], capture_output=True, text=True, timeout=4 * PATIENCE,
                          stdin=subprocess.DEVNULL)


def good(*args):
    done = run(*args)
    assert done.returncode == 0, done.stderr
    return done.stdout


def runs(*args):
    return json.loads(good(*args, "--json"))["runs"]


def figures(*args):
    """Those of the only run."""
    (only,) = runs(*args)
    return {key: only[key] for key in FIGURES}


def refused(status, *args):
    done = run(*args)
    assert (done.returncode, done.stdout) == (status, ""), done.stdout + done.stderr
    return done.stderr.splitlines()[0].removeprefix("recallctl: ")


def histories():
    lines = (DEMO / "behaviour.tsv").read_text().splitlines()
    return {user: items.split(" ") for user, items in (line.split("\t") for line in lines)}


@pytest.fixture(scope="module")
def some(tmp_path_factory):
    """Every seventh user of the demo: {user: items} and a file of them."""
    users = {user: items for i, (user, items) in enumerate(histories().items()) if i % 7 == 0}
    path = tmp_path_factory.mktemp("eval") / "some.tsv"
    path.write_text("".join(f"{user}\t{' '.join(items)}\n" for user, items in users.items()))
    return users, path


# ---- figures -------------------------------------------------------------------------------------


def test_the_demo_gives_what_its_training_code_measured(bundle, tmp_path):
    expected = json.loads((DEMO / "expected.json").read_text())
    single = build_bundle(tmp_path / "k1", "1", model="debian-mind-k1")
    for served, wanted in (bundle, expected), (single, expected["k1"]):
        got = figures(DEMO / "behaviour.tsv", "--bundle", served, "--n", expected["top_n"])
        assert got["users"] == expected["users"]
        assert abs(got["users_hit"] - wanted["hit_rate"] * expected["users"]) <= 1
        assert got["recall"] == pytest.approx(wanted["recall"], abs=1e-4)


def ask_one_by_one(bundle, users, n):
    """The figures once more: each user's request through `recallctl recall`, counted here."""
    recall = hit = ndcg = 0
    for items in users:
        k = int(0.8 * len(items))
        done = subprocess.run([RECALLCTL, "recall", "--bundle", bundle, "--n", str(n), "--history", ",".join(items[:k]),
                               "--recall.exclude_history=false", "--recall.similar_interests=1"],
                              capture_output=True, text=True, timeout=PATIENCE, check=True)
        answer = [item["id"] for item in json.loads(done.stdout)["items"]]
        ranks = [rank for rank, item in enumerate(answer) if item in items[k:]]
        recall += len(ranks) / len(items[k:])
        hit += bool(ranks)
        ndcg += sum(1 / math.log2(r + 2) for r in ranks) / max(1, sum(1 / math.log2(r + 2) for r in range(len(ranks))))
    return {"users": len(users), "users_hit": hit, "recall": pytest.approx(recall / len(users), abs=1e-12),
            "hit_rate": hit / len(users), "ndcg": pytest.approx(ndcg / len(users), abs=1e-12)}


def test_the_answers_are_those_of_requests(bundle, some, tmp_path):
    users = dict(list(some[0].items())[:12])
    few = tmp_path / "few.tsv"
    few.write_text("".join(f"{user}\t{' '.join(items)}\n" for user, items in users.items()))
    got = figures(few, "--bundle", bundle, "--n", "20")
    assert got == ask_one_by_one(bundle, list(users.values()), 20)
    assert 0 < got["users_hit"] < 12


def test_every_form_of_behaviour_gives_the_same(bundle, some, tmp_path):
    users, tabbed = some
    expected = figures(tabbed, "--bundle", bundle, "--n", "50")
    sequences, triples = tmp_path / "sequences.txt", tmp_path / "triples.txt"
    sequences.write_text("".join(f"{i} {' '.join(items)}\n" for i, items in enumerate(users.values())))
    triples.write_text("".join(f"{user},{item},{place}\n" for user, items in users.items()
                               for place, item in reversed(list(enumerate(items)))))
    assert figures(sequences, "--bundle", bundle, "--n", "50") == expected
    assert figures(triples, "--bundle", bundle, "--n", "50") == expected
    assert figures(triples, "--bundle", bundle, "--n", "50", "--threads", "1") == expected
    assert figures(triples, "--bundle", bundle, "--n", "50", "--exact") == expected


def test_the_settings_of_a_request_can_be_turned(bundle, some):
    plain = figures(some[1], "--bundle", bundle, "--n", "20")
    fewer = figures(some[1], "--bundle", bundle, "--n", "20", "--recall.interests=1")
    without = figures(some[1], "--bundle", bundle, "--n", "20", "--recall.exclude_history=true")
    assert fewer["recall"] < plain["recall"] < without["recall"]  # a package names no dependency twice


def test_leave_one_out_has_one_target_per_user(bundle, some):
    (got,) = runs(some[1], "--bundle", bundle, "--n", "50", "--protocol", "leave-one-out")
    assert got["targets"] == got["users"] == len(some[0])
    assert got["history"] == sum(len(items) - 1 for items in some[0].values())
    assert got["recall"] == got["hit_rate"] > 0.3


def test_mind_tests_one_user_in_twenty_on_a_drawn_target(bundle, some):
    args = (some[1], "--bundle", bundle, "--n", "50", "--protocol", "mind")
    (got,) = runs(*args)
    assert got["targets"] == got["users"] == len(some[0]) // 20
    everyone = [figures(*args, "--every", "1", "--seed", seed) for seed in "112"]
    assert everyone[0]["users"] == len(some[0])
    assert everyone[0] == everyone[1] != everyone[2]


def test_seed_asks_for_normalised_interests(bundle, some, tmp_path):
    message = refused(2, some[1], "--bundle", bundle, "--protocol", "seed")
    assert message.endswith("build it with --model.normalize_user=true")
    normalised = tmp_path / "normalised"
    subprocess.run([RECALLCTL, "bundle", "build", "--weights", DEMO / "debian-mind.safetensors", "--items",
                    DEMO / "items.tsv", "--name", "normal", "--model.normalize_user=true", "--out", normalised],
                   check=True, capture_output=True, stdin=subprocess.DEVNULL)
    by_seed = figures(some[1], "--bundle", normalised, "--n", "50", "--protocol", "seed")
    assert by_seed == figures(some[1], "--bundle", normalised, "--n", "50")
    assert by_seed != figures(some[1], "--bundle", bundle, "--n", "50")


def test_each_ndcg_says_which_it_is(bundle, some):
    by_kind = {}
    for kind in ("master", "standard", "paper"):
        text = good(some[1], "--bundle", bundle, "--n", "50", "--ndcg", kind)
        assert f"\nNDCG       {kind}: gains " in text
        by_kind[kind] = figures(some[1], "--bundle", bundle, "--n", "50", "--ndcg", kind)
    assert by_kind["standard"]["ndcg"] < by_kind["master"]["ndcg"] < by_kind["paper"]["ndcg"]
    assert len({got["recall"] for got in by_kind.values()}) == 1


def test_diverse_trades_recall_for_diversity(bundle, some):
    got = runs(some[1], "--bundle", bundle, "--n", "50", "--lambda", "0,0.5,2")
    assert [one["settings"]["lambda"] for one in got] == [0, 0.5, 2]
    assert {one["settings"]["merge"] for one in got} == {"diverse"}
    diversity = [one["diversity"] for one in got]
    assert diversity == sorted(diversity) and diversity[2] > diversity[0] + 0.05
    assert got[2]["recall"] < got[0]["recall"]
    plain = runs(some[1], "--bundle", bundle, "--n", "50", "--diversity-attribute", "section")[0]
    for key in ("recall", "ndcg", "diversity"):
        assert plain[key] == got[0][key]


def test_by_interests_prints_the_table_over_k(bundle, some):
    lines = good(some[1], "--bundle", bundle, "--n", "10,20", "--by", "interests").splitlines()
    table = [line.split("  ") for line in lines[lines.index("") + 2:]]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in table]
    assert [cell[:3] for cell in cells] == [["debian-mind@1", of, n] for of in ("1 of 4", "2 of 4", "4")
                                            for n in ("10", "20")]
    for interests, cell in zip("12", cells[1:4:2]):
        cut = figures(some[1], "--bundle", bundle, "--n", "20", f"--recall.interests={interests}")
        assert cell[3] == f"{cut['recall']:.4f}"
    assert cells[1][3] < cells[5][3]


def test_bundles_are_compared(bundle, bundle2, some):
    got = runs(some[1], "--bundle", bundle, f"--bundle={bundle2}", "--n", "5")
    assert [one["bundle"] for one in got] == ["debian-mind@1", "debian-mind@2"]
    assert got[0]["recall"] == got[1]["recall"]


def test_the_table_tells_what_was_measured(bundle, some, tmp_path):
    partly = tmp_path / "partly.txt"
    partly.write_text(some[1].read_text() + "u1 libjansson-dev no-such zlib1g-dev also-none\nu2 alone\n")
    text = good(partly, "--bundle", bundle, "--n", "20", "--recall.effort", "2")
    users = len(some[0])
    assert text.startswith(f"behaviour  {users + 2} users of {partly} (user item item ...): "
                           f"{users + 1} tested, 1 too short\nprotocol   comirec: ")
    assert "\nsettings   effort = 2\n" in text
    assert "\nbundle         interests      N  Recall  HitRate    NDCG  users/s  index\n" in text
    assert "\nNot in debian-mind@1: 0.0 % of the items asked with, 0." in text


def test_the_commands_of_evaluation_md_print_what_it_says(checkout):  # noqa: F811
    for command, expected in commands("evaluation.md"):
        done = subprocess.run(["sh", "-c", command], cwd=checkout, capture_output=True, text=True, timeout=4 * PATIENCE,
                              check=True)
        assert re.fullmatch(pattern(expected), done.stdout, re.S), done.stdout
    assert command.startswith("build/release/recallctl eval ")


# ---- refusals ------------------------------------------------------------------------------------


def test_bad_behaviour_is_named(bundle, tmp_path):
    bad = tmp_path / "bad.txt"
    for text, message in [
        ("u a b\n\tc d\n", "line 2: begins with a separator, not with a user"),
        ("u a b\nu2\n", "line 2: a user without items"),
        ("user,item,time\n1,2,3\n", "line 1: position: must be a whole number"),
        ("1,2,3\n1,2\n", "line 2: must be user,item,position"),
        ("\n", "has no users"),
    ]:
        bad.write_text(text)
        message = f"{bad}: {message}"
        assert refused(1, bad, "--bundle", bundle) == message
    assert refused(1, tmp_path / "none", "--bundle", bundle) == f"{tmp_path}/none: cannot open: No such file or directory"
    bad.write_text("u 1 2 3\n")
    assert refused(2, bad, "--bundle", bundle) == (
        "bundle debian-mind@1 has none of the items that users are asked with")


@pytest.mark.parametrize("args, message", [
    ([], "--bundle is missing"),
    (["--protocol", "mindd"], "--protocol: must be one of comirec, leave-one-out, mind, seed"),
    (["--ndcg", "best"], "--ndcg: must be one of master, standard, paper"),
    (["--n", "0"], "--n: must be at most 32 numbers from 1 to 10000 between commas"),
    (["--n", "20;50"], "--n: must be at most 32 numbers from 1 to 10000 between commas"),
    (["--n", ""], "--n: is empty"),
    (["--lambda", "-1"], "--lambda: must be from 0 to 10"),
    (["--merge", "max", "--lambda", "0.1"], "--lambda belongs to --merge diverse"),
    (["--merge", "best"], "--merge: must be one of max, quota, diverse"),
    (["--by", "n"], "--by: must be interests"),
    (["--by", "interests", "--recall.interests=2"], "--recall.interests: --by interests sets it"),
    (["--recall.n=5"], "--recall.n: is no setting of an evaluation"),
    (["--redis.address=x"], "--redis.address: is no setting of an evaluation"),
    (["--recall.effort=0"], "--recall.effort: must be from 0.05 to 16"),
    (["--diversity-attribute", "colour"], "bundle debian-mind@1 has no attribute colour to tell diversity by"),
])
def test_options_are_checked(bundle, some, args, message):
    assert refused(2, some[1], *(["--bundle", bundle] if args else []), *args) == message

"""recallctl as its users meet it: what it prints, what it refuses, and with which exit status."""
import json
import os
import struct
import subprocess

import pytest

from harness import HISTORY, PATIENCE, RECALLCTL, ROOT, copy_bundle

DEMO = ROOT / "demo"
INPUTS = ["--weights", DEMO / "debian-mind.safetensors", "--items", DEMO / "items.tsv"]
SAMPLES = ["--histories", DEMO / "behaviour.tsv"]


def run(*args, stdin=None, env=None):
    # Without waiting threads a build on a busy machine takes seconds instead of minutes.
    return subprocess.run([RECALLCTL, *map(str, args)], input=stdin, capture_output=True, text=True,
                          timeout=2 * PATIENCE, env={**os.environ, "OMP_WAIT_POLICY": "passive", **(env or {})})


def good(*args, **more):
    """The output of a run that must succeed."""
    done = run(*args, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(status, *args, **more):
    """The error message of a run that must fail with `status`."""
    done = run(*args, **more)
    assert done.returncode == status, done.stdout + done.stderr
    assert done.stderr.startswith("recallctl: ")
    return done.stderr.splitlines()[0].removeprefix("recallctl: ")


# ---- the command line ----------------------------------------------------------------------------


def test_help_lists_every_command():
    text = good("help")
    for command in ("bundle build", "bundle verify", "bundle show", "interests", "recall", "history load",
                    "history show"):
        assert f"  {command} " in text
    assert good("--help") == text


def test_help_of_a_group_lists_its_commands_only():
    assert [line.split()[:2] for line in good("bundle", "help").splitlines()] == [
        ["bundle", "build"], ["bundle", "verify"], ["bundle", "show"]]


def test_help_of_a_command_lists_its_options():
    text = good("help", "bundle", "build")
    assert text.startswith("usage: recallctl bundle build [options]\n")
    for option in ("--weights FILE", "--recall-floor X", "--model.KEY VALUE"):
        assert option in text
    assert good("bundle", "build", "--help") == text


def test_without_a_command_it_is_misused():
    done = run()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: recallctl COMMAND")


def test_an_unknown_command_is_refused():
    assert refused(2, "bundel") == 'no command "bundel"; these are known:'
    assert refused(2, "bundle", "destroy") == 'no command "bundle"; these are known:'


def test_the_version_is_told():
    assert good("--version").count(".") == 2


@pytest.mark.parametrize("args, message", [
    (["--wieghts", "x"], "--wieghts: unknown option"),
    (["--weights"], "--weights: needs a value"),
    (["--shards", "two"], "--shards: must be a whole number from 0 to 256"),
    (["--shards=257"], "--shards: must be a whole number from 0 to 256"),
    (["--recall-floor", "nan"], "--recall-floor: must be a number from 0 to 1"),
    (["--redis.address", "x"], "--redis.address: unknown option"),
    (["stray"], '"stray": one argument too many'),
    ([], "--weights is missing"),
    ([*INPUTS, "--out", "x"], "--name is missing"),
])
def test_options_are_checked(args, message):
    assert refused(2, "bundle", "build", *args) == message


# ---- bundle --------------------------------------------------------------------------------------


def test_build_says_what_it_chose_and_why(tmp_path):
    out = tmp_path / "made"
    lines = good("bundle", "build", *INPUTS, *SAMPLES, "--out", out, "--name", "demo", "--version", "1").splitlines()
    manifest = json.loads((out / "manifest.json").read_text())
    rows = manifest["items"]["count"]
    assert lines == [
        f"{rows:,} rows: exact search (below 200,000 rows it costs less than a graph and misses nothing)",
        "recall@200 on 500 interests of 125 sample users: 1.0000 (floor 0.98)",
        f"built {out}"]
    assert manifest["name"] == "demo"
    assert manifest["index"]["shards"] == [{"first_row": 1, "rows": rows}]
    assert os.listdir(tmp_path) == ["made"]


def test_a_graph_is_tuned_until_it_finds_enough(tmp_path):
    out = tmp_path / "graph"
    good("bundle", "build", *INPUTS, *SAMPLES, "--out", out, "--name", "demo", "--factory", "HNSW16",
         "--shards", "2", "--recall-floor", "0.9", "--threads", "1")
    index = json.loads((out / "manifest.json").read_text())["index"]
    assert (index["engine"], index["factory"], len(index["shards"])) == ("faiss", "HNSW16", 2)
    assert index["search"]["efSearch"] >= 25
    assert 0.92 <= index["recall"] <= 1
    assert good("bundle", "verify", out).startswith("ok: demo@")


def test_an_index_that_finds_too_little_is_refused(tmp_path):
    message = refused(1, "bundle", "build", *INPUTS, *SAMPLES, "--out", tmp_path / "poor", "--name", "demo",
                      "--factory", "IVF64,Flat", "--effort", "1", "--threads", "1")
    assert message.startswith("recall@200 on sample histories is 0.")
    assert message.endswith("at nprobe 1, below the floor of 0.98: try more effort (0 measures how much is "
                            "needed), another factory, or the engine exact")
    assert os.listdir(tmp_path) == []


def test_model_options_override_the_checkpoint(tmp_path):
    good("bundle", "build", *INPUTS, *SAMPLES, "--out", tmp_path / "b", "--name", "demo",
         "--model.normalize_user=true", "--model.normalize_item", "true")
    model = json.loads((tmp_path / "b" / "manifest.json").read_text())["model"]
    assert model["normalize_user"] is True
    assert model["normalize_item"] is True
    assert model["variant"] == "thudm-mind"


def test_verify_tells_a_good_bundle_from_a_bad_one(bundle, tmp_path):
    assert good("bundle", "verify", bundle) == f"ok: debian-mind@1, {count(bundle)} items\n"
    bad = copy_bundle(bundle, tmp_path / "bad", "1")
    with open(bad / "items.tsv", "ab") as f:
        f.write(b"\n")
    assert refused(1, "bundle", "verify", bad).startswith(f"{bad}/items.tsv: SHA-256 is ")
    assert refused(1, "bundle", "verify", tmp_path / "none") == (
        f"{tmp_path}/none/manifest.json: cannot open: No such file or directory")
    assert refused(2, "bundle", "verify") == "bundle verify: DIR is missing"


def count(bundle):
    return json.loads((bundle / "manifest.json").read_text())["items"]["count"]


def test_show_tells_the_facts_to_people_and_programs(bundle):
    facts = json.loads(good("bundle", "show", bundle, "--json"))
    assert facts["name"] == "debian-mind@1"
    assert facts["engine"] == "exact"
    assert facts["items"] == count(bundle)
    assert facts["memory"] > 0
    text = good("bundle", "show", bundle)
    assert "bundle     debian-mind@1\n" in text
    assert "model      thudm-mind, 4 interests of 64 dimensions\n" in text
    assert f"memory     {facts['memory'] / 1e6:.1f} MB\n" in text


# ---- interests -----------------------------------------------------------------------------------


def test_interests_are_those_of_the_training_code(bundle):
    for case in json.loads((DEMO / "expected.json").read_text())["vectors"]:
        got = json.loads(good("interests", "--bundle", bundle, "--history", ",".join(case["history"])))
        assert got["used"] == min(len(case["history"]), 50)
        assert got["unknown"] == []
        for mine, theirs in zip(got["interests"], case["interests"], strict=True):
            assert mine == pytest.approx(theirs, abs=1e-5)


def test_interests_have_the_digits_a_float_needs(bundle):
    text = good("interests", "--bundle", bundle, "--history", ",".join(HISTORY), "--json")
    assert text.count("\n") == 1
    for vector in json.loads(text)["interests"]:
        for value in vector:
            assert float(f"{struct.unpack('f', struct.pack('f', value))[0]:.9g}") == value
    spread = good("interests", "--bundle", bundle, "--history", ",".join(HISTORY))
    assert json.loads(spread) == json.loads(text)
    assert spread.count("\n") > 4


def test_unknown_items_are_named_not_fatal(bundle):
    got = json.loads(good("interests", "--bundle", bundle, "--history", 'libjansson-dev,no"such,x'))
    assert (got["used"], got["unknown"]) == (1, ['no"such', "x"])
    got = json.loads(good("interests", "--bundle", bundle, "--history", "x"))
    assert (got["used"], got["unknown"]) == (0, ["x"])
    assert not any(any(vector) for vector in got["interests"])


# ---- recall --------------------------------------------------------------------------------------


def answer(*args, **more):
    """Without what differs from call to call."""
    got = json.loads(good("recall", *args, **more))
    for key in ("request_id", "serve_id", "took_us"):
        del got[key]
    return got


def test_recall_answers_as_the_daemon_does(bundle, start):
    request = {"history": HISTORY, "n": 20, "filter": {"section": ["libdevel"]}}
    daemon = start(f"--bundle.paths={bundle}")
    theirs = daemon.recall(request).json()
    mine = answer("--bundle", bundle, "--request", json.dumps(request))
    assert mine["items"] == theirs["items"]
    assert len(mine["items"]) == 20
    assert mine["bundle"] == "debian-mind@1"


def test_a_request_is_given_in_parts_or_whole(bundle):
    whole = json.dumps({"history": HISTORY, "n": 7, "explain": False})
    parts = answer("--bundle", bundle, "--history", ",".join(HISTORY), "--n", "7")
    assert answer("--bundle", bundle, "--request", whole) == parts
    assert answer("--bundle", bundle, "--request=-", stdin=whole) == parts
    assert answer("--bundle", bundle, "--history", ",".join(HISTORY), "--recall.n=7") == parts
    assert "explain" in answer("--bundle", bundle, "--history", ",".join(HISTORY), "--explain")


def test_recall_refuses_what_the_daemon_would(bundle):
    assert refused(2, "recall", "--bundle", bundle) == "--history, --user or --request is missing"
    assert "colour" in refused(2, "recall", "--bundle", bundle, "--request", '{"colour": 1}')
    assert refused(2, "recall", "--bundle", bundle, "--request", "{}", "--n", "3") == (
        "--request is the whole request: no other part beside it")
    assert "recall.m" in refused(2, "recall", "--bundle", bundle, "--history", "x", "--recall.m=7")


# ---- history -------------------------------------------------------------------------------------


def test_histories_are_written_as_the_daemon_reads_them(redis, bundle, tmp_path):
    address = f"--redis.address={redis.socket}"
    history = tmp_path / "history.tsv"
    history.write_text("c1\tlibjansson-dev libmicrohttpd-dev\nc2\tzlib1g-dev\tlibssl-dev\tcmake\n\nc3 make gcc\n")
    text = good("history", "load", history, address)
    assert text.startswith("3 users, 7 items written in ")
    assert redis.command("LRANGE", "hist:c2", "0", "-1") == ["cmake", "libssl-dev", "zlib1g-dev"]
    assert good("history", "show", "c2", address) == "zlib1g-dev\nlibssl-dev\ncmake\n"
    assert good("history", "show", "nobody", address) == ""
    from_redis = answer("--bundle", bundle, "--user", "c1", "--n", "5", address)
    assert from_redis["items"] == answer("--bundle", bundle, "--history", ",".join(HISTORY), "--n", "5")["items"]


def test_a_history_is_replaced_by_the_next_load(redis):
    address = f"--redis.address={redis.socket}"
    good("history", "load", "-", address, stdin="r1 a b c\n")
    good("history", "load", "-", address, stdin="r1 d\n")
    assert good("history", "show", "r1", address) == "d\n"


@pytest.mark.parametrize("options", [
    ["--behaviour.order=oldest_first"],
    ["--behaviour.type=zset", "--behaviour.element=id:ts"],
    ["--behaviour.type=zset", "--behaviour.element=json:item"],
    ["--behaviour.element=json:item", "--behaviour.key=other/{user_id}/items"],
])
def test_every_form_of_behaviour_reads_back(redis, options):
    options = [f"--redis.address={redis.socket}", "--redis.db=3", *options]
    redis.command("FLUSHALL")
    good("history", "load", "-", *options, stdin="f1\ta b\tc:d\té\n")
    assert good("history", "show", "f1", *options) == "a b\nc:d\né\n"


def test_many_users_come_through(redis):
    lines = "".join(f"m{i} item{i} item{i + 1} item{i + 2}\n" for i in range(1000))
    address = f"--redis.address={redis.socket}"
    assert good("history", "load", "-", address, stdin=lines).startswith("1000 users, 3000 items written in ")
    assert good("history", "show", "m0", address) == "item0\nitem1\nitem2\n"
    assert good("history", "show", "m999", address) == "item999\nitem1000\nitem1001\n"


def test_settings_come_from_a_file_the_environment_and_the_command_line(redis, tmp_path):
    config = tmp_path / "recalld.ini"
    config.write_text(f"[redis]\naddress = {redis.socket}\n[behaviour]\nkey = ini:{{user_id}}\n")
    good("history", "load", "-", "--config", config, stdin="s1 a\n")
    assert redis.command("LRANGE", "ini:s1", "0", "-1") == ["a"]
    good("history", "load", "-", "--config", config, stdin="s1 a\n", env={"RECALLD_BEHAVIOUR_KEY": "env:{user_id}"})
    assert redis.command("LRANGE", "env:s1", "0", "-1") == ["a"]
    good("history", "load", "-", "--config", config, "--behaviour.key", "arg:{user_id}", stdin="s1 a\n",
         env={"RECALLD_BEHAVIOUR_KEY": "env:{user_id}"})
    assert redis.command("LRANGE", "arg:s1", "0", "-1") == ["a"]


def test_bad_lines_are_named(redis, tmp_path):
    address = f"--redis.address={redis.socket}"
    bad = tmp_path / "bad.tsv"
    for text, message in [
        ("u1 a\n\tb c\n", "line 2: begins with a separator, not with a user"),
        ("u1 a\nu2\n", "line 2: a user without items"),
        (f"u1 a {'b' * 257}\n", "line 1: item 2: an id is at most 256 bytes of UTF-8"),
        (f"{'u' * 257} a\n", "line 1: user: an id is at most 256 bytes of UTF-8"),
    ]:
        bad.write_text(text)
        assert refused(1, "history", "load", bad, address) == f"{bad}: {message}"
    bad.write_bytes(b"u1 a\nu1 \xff\n")
    assert refused(1, "history", "load", bad, address) == f"{bad}: line 2: item 1: an id is at most 256 bytes of UTF-8"
    assert refused(1, "history", "load", tmp_path / "none", address) == (
        f"{tmp_path}/none: cannot open: No such file or directory")


def test_an_absent_redis_is_a_clear_error(tmp_path):
    assert refused(2, "history", "load", "-", stdin="") == "--redis.address is missing"
    message = refused(1, "history", "load", "-", f"--redis.address={tmp_path}/none.sock", stdin="u a\n")
    assert f"{tmp_path}/none.sock" in message
    assert refused(1, "history", "show", "u", f"--redis.address={tmp_path}/none.sock") == message

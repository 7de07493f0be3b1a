"""The journal of answers: every one is written, as it was given, whatever happens around it."""
import contextlib
import gzip
import hashlib
import hmac
import json
import shutil
import signal
import subprocess

import pytest

from harness import HISTORY, Load, run_recalld, wait_until


def lines(folder, kind="served"):
    """The records of all files; a last line that is not whole is left out. Each worker's are in order."""
    records = []
    for path in sorted(folder.glob(f"{kind}-*.jsonl*")):
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        records += [json.loads(line) for line in text.split(b"\n")[:-1]]
    return records


def written(daemon, kind="served"):
    return daemon.metrics()["recalld_journal_lines_total", {"kind": kind}]


def dropped(daemon, reason, kind="served"):
    return daemon.metrics()["recalld_journal_dropped_total", {"kind": kind, "reason": reason}]


@pytest.fixture
def own(start, bundle, tmp_path):
    """own(*args): a daemon that writes into tmp_path/journal."""
    def begin(*args, **more):
        return start(f"--bundle.paths={bundle}", f"--journal.dir={tmp_path / 'journal'}", "--journal.compress=none",
                     *args, **more)
    return begin


def asked(daemon, **fields):
    answer = daemon.recall(**fields)
    assert answer.status == 200, answer.body
    return answer.json()


# ---- what is written -----------------------------------------------------------------------------


def test_a_line_is_what_was_answered(own, tmp_path):
    daemon = own()
    answers = [asked(daemon, user_id="u42", history=HISTORY, n=3, scene="home", request_id="r-1"),
               asked(daemon, history=HISTORY),
               asked(daemon, user_id="ü \"7\"", history=["nothing known"], n=5)]
    assert daemon.stop() == 0
    by_id = {r["request_id"]: r for r in lines(tmp_path / "journal")}
    assert set(by_id) == {a["request_id"] for a in answers}
    records = [by_id[a["request_id"]] for a in answers]
    for record, answer in zip(records, answers):
        model = answer["source"] == "model"
        for key in ("serve_id", "bundle", "arms", "forced", "source", "degraded", "history", "interests", "took_us"):
            assert record[key] == answer[key], key
        assert record.get("user_id") == answer.get("user_id")
        assert record["items"] == [item["id"] for item in answer["items"]]
        assert record["scores"] == ([item["score"] for item in answer["items"]] if model else [])
        assert record["by"] == ([item["interest"] for item in answer["items"]] if model else [])
        assert (record["v"], record["sample"]) == (1, 1)
    assert records[0]["scene"] == "home" and "scene" not in records[1]
    assert records[0]["settings"] == {"n": 3} and records[1]["settings"] == {}
    assert records[2]["source"] == "popular"


def test_settings_that_differ_are_written(own, tmp_path):
    daemon = own("--recall.merge=quota", "--recall.min_per_interest=2", "--recall.exclude_history=false",
                 "--recall.similar_interests=0.5")
    asked(daemon, history=HISTORY)
    assert daemon.stop() == 0
    assert lines(tmp_path / "journal")[0]["settings"] == {
        "merge": "quota", "min_per_interest": 2, "exclude_history": False, "similar_interests": 0.5}


def test_arms_and_how_they_were_assigned_are_written(own, tmp_path):
    (tmp_path / "experiments.json").write_text(json.dumps({
        "version": 7, "hash": "growthbook-v2", "allow_forced": True,
        "layers": [{"name": "merge", "arms": [{"name": "control", "weight": 0.5},
                                              {"name": "diverse", "weight": 0.5, "set": {"merge": "diverse"}}]}]}))
    daemon = own(f"--experiments.file={tmp_path / 'experiments.json'}")
    answers = {a["request_id"]: a for a in (asked(daemon, user_id=f"u{i}", history=HISTORY, n=2) for i in range(20))}
    forced = asked(daemon, user_id="u1", history=HISTORY, n=2, arms={"merge": "diverse"})
    assert daemon.stop() == 0
    records = {r["request_id"]: r for r in lines(tmp_path / "journal")}
    for name, answer in answers.items():
        assert (records[name]["arms"], records[name]["forced"]) == (answer["arms"], False)
        assert (records[name]["hash"], records[name]["experiments"]) == ("growthbook-v2", 7)
        assert records[name]["settings"].get("merge") == {"diverse": "diverse"}.get(answer["arms"]["merge"])
    assert {a["arms"]["merge"] for a in answers.values()} == {"control", "diverse"}
    assert records[forced["request_id"]]["forced"] is True


def test_what_is_refused_is_not_written(own, tmp_path):
    daemon = own()
    assert daemon.recall(history=HISTORY, filter={"colour": "red"}).status == 400
    assert daemon.recall(n=3).status == 400
    asked(daemon, history=HISTORY, request_id="the-only-one")
    assert daemon.stop() == 0
    assert [r["request_id"] for r in lines(tmp_path / "journal")] == ["the-only-one"]


def test_under_load_every_answer_is_written_once(own, tmp_path):
    daemon = own("--journal.rotate_bytes=200K")
    with Load(daemon, threads=6) as load:
        wait_until(lambda: len(load.answers) >= 2000, "2000 answers")
    assert daemon.stop() == 0
    assert not load.failures
    served = [r["serve_id"] for r in lines(tmp_path / "journal")]
    assert len(served) == len(set(served))
    assert set(served) == {a["serve_id"] for a in load.answers}
    assert len(list((tmp_path / "journal").iterdir())) > 1


def test_a_sample_holds_whole_users(own, tmp_path):
    daemon = own("--journal.sample=0.5")
    for _ in range(2):
        for user in range(100):
            asked(daemon, user_id=f"u{user}", history=HISTORY, n=1)
    assert daemon.stop() == 0
    records = lines(tmp_path / "journal")
    assert all(r["sample"] == 0.5 for r in records)
    times = [sum(r["user_id"] == f"u{user}" for r in records) for user in range(100)]
    assert set(times) == {0, 2} and 25 <= times.count(2) <= 75


def test_users_can_be_hashed_with_a_key(own, tmp_path):
    key = tmp_path / "key"
    key.write_text("a key of the tests, long enough\n")
    daemon = own("--journal.user=hmac", f"--journal.user_key_file={key}")
    asked(daemon, user_id="u42", history=HISTORY, n=1)
    event = {"event": "clicked", "request_id": "r", "item_id": "i", "user_id": "u42"}
    assert daemon.ask("POST", "/events", event).status == 202
    assert daemon.stop() == 0
    expected = hmac.new(b"a key of the tests, long enough", b"u42", hashlib.sha256).hexdigest()[:32]
    assert lines(tmp_path / "journal")[0]["user_id"] == expected
    assert lines(tmp_path / "journal", "events")[0]["user_id"] == expected
    assert b"u42" not in b"".join(path.read_bytes() for path in (tmp_path / "journal").iterdir())


def test_closed_files_are_compressed(own, tmp_path):
    daemon = own("--journal.compress=gzip", "--journal.rotate_bytes=1K", "--journal.fsync_ms=10")
    n = 0

    def compressed():
        nonlocal n
        asked(daemon, history=HISTORY, n=50, request_id=f"r-{n}")
        n += 1
        return len(list((tmp_path / "journal").glob("*.gz"))) >= 2

    wait_until(compressed, "two files are compressed")
    assert daemon.stop() == 0
    assert sorted(r["request_id"] for r in lines(tmp_path / "journal")) == sorted(f"r-{i}" for i in range(n))


# ---- trouble -------------------------------------------------------------------------------------


def test_after_kill_9_everything_that_was_written_is_there(own, tmp_path):
    daemon = own()
    with Load(daemon, threads=2) as load:
        wait_until(lambda: len(load.answers) >= 300, "300 answers")
        before = [a["serve_id"] for a in list(load.answers)]
        most = written(daemon)  # answers that came later may be there as well
        wait_until(lambda: written(daemon) >= most + len(before), "they are written")
        daemon.signal(signal.SIGKILL)
        daemon.wait()
    served = [r["serve_id"] for r in lines(tmp_path / "journal")]
    assert set(before) <= set(served)
    again = own()
    asked(again, history=HISTORY, request_id="after")
    assert again.stop() == 0
    assert lines(tmp_path / "journal")[-1]["request_id"] == "after"


def test_a_file_in_place_of_the_folder_costs_lines_and_no_request(own, tmp_path):
    (tmp_path / "journal").write_text("in the way")
    daemon = own("--journal.ring_bytes=64K")
    wait_until(lambda: asked(daemon, history=HISTORY) and dropped(daemon, "write_failed"), "the ring is full")
    assert daemon.metrics()["recalld_journal_failing"] == 1
    assert daemon.metrics()["recalld_journal_ring_fill"] > 0.5
    assert 1 <= len(daemon.log_lines("journal_failing")) <= 2
    (tmp_path / "journal").unlink()
    wait_until(lambda: daemon.log_lines("journal_resumed"), "the journal goes on")
    last = asked(daemon, history=HISTORY)
    assert daemon.stop() == 0
    assert last["serve_id"] in [r["serve_id"] for r in lines(tmp_path / "journal")]


def test_what_could_not_be_written_until_the_end_is_told(own, tmp_path):
    (tmp_path / "journal").write_text("in the way")
    daemon = own()
    for _ in range(3):
        asked(daemon, history=HISTORY)
    assert daemon.stop() == 0
    assert [line for line in daemon.log_lines("journal_lost") if "lines=3 " in line]


def test_what_is_written_is_synced_within_the_interval(own):
    daemon = own("--journal.fsync_ms=50")
    asked(daemon, history=HISTORY)
    wait_until(lambda: daemon.metrics()["recalld_journal_sync_seconds_count"] >= 1, "the line is synced")
    before = daemon.metrics()["recalld_journal_sync_seconds_count"]
    asked(daemon, history=HISTORY)
    wait_until(lambda: daemon.metrics()["recalld_journal_sync_seconds_count"] > before, "the next line is synced")
    assert daemon.metrics()["recalld_journal_sync_failures_total"] == 0


def test_a_removed_folder_is_made_again(own, tmp_path):
    daemon = own()
    asked(daemon, history=HISTORY)
    wait_until(lambda: written(daemon) == 1, "the line is written")
    shutil.rmtree(tmp_path / "journal")
    last = asked(daemon, history=HISTORY)
    assert daemon.stop() == 0
    assert [r["serve_id"] for r in lines(tmp_path / "journal")] == [last["serve_id"]]


@contextlib.contextmanager
def little_disk(folder):
    """A file system of 1 MB where the system lets us have one."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], stderr=subprocess.DEVNULL).returncode:
        yield False
        return
    try:
        yield True
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def limit_files(daemon, most):
    """No file of the daemon's may grow beyond that: what anybody may ask for, unlike a disk."""
    subprocess.run(["prlimit", "--pid", str(daemon.process.pid), f"--fsize={most}:"], check=True)


def test_a_full_disk_costs_lines_and_no_request(own, tmp_path):
    with little_disk(tmp_path / "journal") as mounted:
        (tmp_path / "journal" / "others").write_bytes(bytes(900_000))
        daemon = own("--journal.ring_bytes=64K")
        if not mounted:
            limit_files(daemon, 100_000)
        wait_until(lambda: asked(daemon, history=HISTORY) and dropped(daemon, "write_failed") >= 3, "the disk is full")
        full = lines(tmp_path / "journal")  # whole lines, all of them
        assert len(full) == written(daemon)
        assert len(daemon.log_lines("journal_failing")) == 1
        for path in (tmp_path / "journal").iterdir():
            path.unlink()
        if not mounted:
            limit_files(daemon, "unlimited")
        wait_until(lambda: daemon.log_lines("journal_resumed"), "the journal goes on")
        last = asked(daemon, history=HISTORY)
        assert daemon.stop() == 0
        assert last["serve_id"] in [r["serve_id"] for r in lines(tmp_path / "journal")]


def test_a_read_only_folder_costs_no_request_and_no_line_that_the_rings_hold(own, tmp_path):
    folder = tmp_path / "journal"
    with little_disk(folder) as mounted:
        def allow(writing):
            if mounted:
                subprocess.run(["mount", "-o", f"remount,{'rw' if writing else 'ro'}", folder], check=True)
            else:
                folder.chmod(0o755 if writing else 0o555)
        allow(False)
        daemon = own()
        served = [asked(daemon, history=HISTORY)["serve_id"] for _ in range(3)]
        wait_until(lambda: daemon.log_lines("journal_failing"), "a warning says so")
        assert written(daemon) == 0
        allow(True)
        wait_until(lambda: written(daemon) == 3, "the journal goes on")
        wait_until(lambda: daemon.log_lines("journal_resumed"), "and says so")
        assert daemon.stop() == 0
        assert sorted(r["serve_id"] for r in lines(folder)) == sorted(served)


def test_two_daemons_do_not_write_into_one_folder(own, tmp_path, bundle):
    own()
    second = run_recalld(f"--bundle.paths={bundle}", "--http.listen=127.0.0.1:0",
                         f"--journal.dir={tmp_path / 'journal'}")
    assert second.returncode == 1
    assert "another process writes here" in second.stderr


def test_check_says_what_is_wrong_with_the_journal(tmp_path):
    (tmp_path / "journal").write_text("in the way")
    (tmp_path / "key").write_text("short")
    refused = run_recalld("--check", f"--journal.dir={tmp_path / 'journal'}")
    assert refused.returncode == 1 and "not a folder" in refused.stderr
    refused = run_recalld("--check", f"--journal.dir={tmp_path / 'none'}", "--journal.user=hmac",
                          f"--journal.user_key_file={tmp_path / 'key'}")
    assert refused.returncode == 1 and "a key has 16 bytes at least" in refused.stderr
    refused = run_recalld("--check", "--journal.user=hmac")
    assert refused.returncode == 2 and "journal.user_key_file" in refused.stderr
    assert not (tmp_path / "none").exists()

"""Bundles that must be refused, files that change under the daemon's hands, and swaps: all while it is being asked.

Every answer is compared with what the bundle it names is known to answer to that request.
"""
import os
import random
import re
import threading
import time

import pytest

from asked import Asked, bundles, holds, known_answers, make_default, memory, p99, post, unload
from broken import FAULTS, Victim, as_float32, cases, wanted
from harness import ROOT, TOKEN, build_bundle, wait_until

MB = 1 << 20


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """debian-mind@1, on two Faiss shards; the item table is stored as it is used."""
    directory = tmp_path_factory.mktemp("one")
    weights = as_float32(ROOT / "demo/debian-mind.safetensors", directory / "w")
    return build_bundle(directory / "bundle", "1", "--weights", weights, "--engine", "faiss", "--factory", "Flat")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """debian-mind@2: the items' vectors in another order, so that every answer differs."""
    directory = tmp_path_factory.mktemp("two")
    weights = as_float32(ROOT / "demo/debian-mind.safetensors", directory / "w", lambda table: table[::-1])
    return build_bundle(directory / "bundle", "2", "--weights", weights)


@pytest.fixture
def served(start, one, token_file, tmp_path):
    """A daemon that serves `one`, takes bundles by HTTP and by SIGHUP, and is asked all the time."""
    def configure(*more):
        (tmp_path / "new").write_text(f"[bundle]\npaths = {','.join(map(str, (one, *more)))}\n"
                                      "default = debian-mind@1\n")
        (tmp_path / "new").rename(tmp_path / "recalld.ini")

    configure()
    # What AddressSanitizer keeps back is no leak.
    sanitizer = os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=1"
    daemon = start(f"--config={tmp_path}/recalld.ini", f"--admin.token_file={token_file}",
                   f"--state.dir={tmp_path}/state", "--workers.count=2", token=TOKEN,
                   env={"ASAN_OPTIONS": sanitizer})
    daemon.configure = configure
    return daemon


def both_known(daemon, two):
    """Loads `two` beside `one`; what each answers."""
    known = {"debian-mind@1": known_answers(daemon)}
    assert post(daemon, two)["state"] == "ready"
    make_default(daemon, "debian-mind@2")
    known["debian-mind@2"] = known_answers(daemon)
    make_default(daemon, "debian-mind@1")
    assert not set(known["debian-mind@1"][:-1]) & set(known["debian-mind@2"])
    return known


# ---- faults --------------------------------------------------------------------------------------


def by_post(daemon, directory):
    entry = post(daemon, directory)
    assert entry["state"] == "failed"
    return entry["error"]


def by_sighup(daemon, directory):
    daemon.configure(directory)
    line = daemon.reload()
    daemon.configure()
    assert "reload_failed" in line
    return line.split("nothing was changed: ", 1)[1]


def refuse_all(daemon, bundle, directory, ways):
    """Every fault, each refused in the same words whichever way the bundle comes."""
    for i, (fault, message, breaks) in enumerate(cases()):
        victim = Victim(bundle, directory / f"victim{i}", "9")
        breaks(victim)
        for way in ways:
            told = way(daemon, victim.dir)
            assert re.fullmatch(wanted(message, breaks, victim.dir), told), (fault, told)
            assert bundles(daemon) == {"debian-mind@1"}


def test_a_faulty_bundle_is_refused_with_the_reason_and_leaves_nothing_behind(served, one, tmp_path):
    known = {"debian-mind@1": known_answers(served)}
    with Asked(served, known) as asked:
        refuse_all(served, one, tmp_path / "first", [by_post, by_sighup])
        before = memory(served), holds(served)
        refuse_all(served, one, tmp_path / "again", [by_post])
        # One bundle takes 12 MB, and dozens were half loaded.
        assert memory(served) < before[0] + 16 * MB
        assert holds(served) == before[1]
        assert "reloaded" in served.reload()
    assert asked.wrong == []
    assert asked.seen == {"debian-mind@1"}


def test_the_table_of_faults_is_the_one_in_operations_md():
    text = (ROOT / "docs/operations.md").read_text().split("<!-- bundles -->")[1].split("<!-- overload -->")[0]
    rows = re.findall(r"^\| ([^|`]+) \| `([^`]+)` \|$", text, re.M)
    assert rows == [(fault, message) for fault, message, _ in FAULTS]


# ---- files that change ---------------------------------------------------------------------------


FILES = ("weights.safetensors", "items.tsv", "popular.txt", "shards/0000.faiss", "shards/0001.faiss", "manifest.json")


def spoil_in_place(path):
    """As `cp` over a file does: it is emptied, then written again, here with rubbish, and cut."""
    size = path.stat().st_size
    for data in (b"", os.urandom(size), os.urandom(size // 3)):
        path.write_bytes(data)


def test_what_happens_to_the_files_of_a_loaded_bundle_changes_no_answer(served, one, tmp_path):
    known = {"debian-mind@1": known_answers(served)}
    victim = Victim(one, tmp_path / "victim", "3")
    for name in FILES:
        victim.put(name, victim.read(name))  # bytes of its own, no links
    assert post(served, victim.dir)["state"] == "ready"
    make_default(served, "debian-mind@3")
    known["debian-mind@3"] = known["debian-mind@1"]
    with Asked(served, known, threads=2) as asked:
        for name in FILES:
            spoil_in_place(victim.dir / name)
            assert known_answers(served) == known["debian-mind@3"]
        for name in FILES:
            (victim.dir / name).unlink()
            assert known_answers(served) == known["debian-mind@3"]
    assert asked.wrong == []


class Chaos:
    """Somebody who keeps putting files of two bundles into one directory, in every wrong way."""

    def __init__(self, directory, sources, seed):
        self.directory, self.sources, self.random = directory, sources, random.Random(seed)
        self.over = False
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        while not self.over:
            name = self.random.choice(FILES)
            data = (self.random.choice(self.sources) / name).read_bytes()
            way = self.random.randrange(4)
            if way == 0:  # as one should
                (self.directory / "beside").write_bytes(data)
                (self.directory / "beside").rename(self.directory / name)
            elif way == 1:  # cp
                (self.directory / name).write_bytes(data)
            elif way == 2:  # cp, and a full disk
                (self.directory / name).write_bytes(data[:self.random.randrange(len(data))])
            else:
                os.truncate(self.directory / name, 0)
            time.sleep(self.random.random() * 0.02)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over = True
        self.thread.join()


def restore(directory, source):
    for name in FILES:
        (directory / name).write_bytes((source / name).read_bytes())


def test_a_bundle_that_is_rewritten_while_it_loads_is_refused_or_served_as_verified(served, one, tmp_path):
    known = {"debian-mind@1": known_answers(served)}
    sources = [Victim(one, tmp_path / version, version).dir for version in ("a", "b")]
    for source in sources:
        known[f"debian-mind@{source.name}"] = known["debian-mind@1"]
    directory = tmp_path / "victim"
    (directory / "shards").mkdir(parents=True)
    restore(directory, sources[0])

    def load_once():
        entry = post(served, directory)
        if entry["state"] == "ready":
            make_default(served, entry["name"])
            assert known_answers(served) == known[entry["name"]]
            make_default(served, "debian-mind@1")
            unload(served, entry["name"])
        else:
            assert str(directory) in entry["error"]
        return entry["state"]

    with Asked(served, known) as asked:
        for attempt in range(8):
            with Chaos(directory, sources, attempt):
                for _ in range(4):
                    load_once()
            restore(directory, sources[attempt % 2])
            assert load_once() == "ready"
    assert asked.wrong == []


# ---- swaps ---------------------------------------------------------------------------------------


def swap(daemon, times):
    for i in range(times):
        make_default(daemon, f"debian-mind@{2 - i % 2}")


def come_and_go(daemon, bundle, directory, times):
    """A new version is loaded, takes over, gives back and is unloaded."""
    for i in range(times):
        victim = Victim(bundle, directory / f"victim{i}", "3")
        assert post(daemon, victim.dir)["state"] == "ready"
        make_default(daemon, "debian-mind@3")
        make_default(daemon, "debian-mind@1")
        unload(daemon, "debian-mind@3")


def test_swaps_lose_nothing_mix_nothing_and_leave_nothing_behind(served, one, two, tmp_path):
    known = both_known(served, two)
    known["debian-mind@3"] = known["debian-mind@1"]
    with Asked(served, known, threads=2) as asked:
        wait_until(lambda: len(asked.took) >= 500 or asked.wrong, "requests are being answered")
        quiet = p99(asked.took)
        swap(served, 10)
        come_and_go(served, one, tmp_path / "first", 5)
        before = memory(served), holds(served), len(asked.took)
        swap(served, 100)
        come_and_go(served, one, tmp_path / "again", 15)
        wait_until(lambda: len(asked.took) >= before[2] + 200 or asked.wrong, "requests are being answered")
    assert asked.wrong == []
    assert asked.seen == set(known)
    assert bundles(served) == {"debian-mind@1", "debian-mind@2"}
    # The last one is given back within a moment. One bundle takes 12 MB, and 15 came and went.
    wait_until(lambda: memory(served) < before[0] + 16 * MB, "memory is given back", 10)
    assert holds(served) == before[1]
    # As a rule at most twice as long; but the machine may be busy.
    assert p99(asked.took[before[2]:]) < 5 * quiet + 0.1

"""A recalld under load for a long time: nothing grows, nothing fails, swaps cost little.

    soak.py FOLDER      where recalld, recallctl and bench/load were built

First 1,000 swaps of the default between two bundles, and 100 times another that is loaded and unloaded, compared with
the same load left alone. Then SOAK_SECONDS (600) of mixed requests at 70 % of the capacity, which is measured first, while
every few seconds something happens: a reload, a swap, a bundle that comes and goes, a bad bundle, a Redis that is
restarted. A thread of its own compares answers with known ones all the time. Prints a summary; the exit status is 0
only when everything held.
"""
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

if __name__ == "__main__":
    BUILT = Path(sys.argv[1]).resolve()
    os.environ.update(RECALLD_BIN=str(BUILT / "recalld"), RECALLCTL_BIN=str(BUILT / "recallctl"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integration"))

from asked import BODIES, Asked, bundles, holds, known_answers, make_default, memory, post, unload
from broken import Victim, as_float32
from harness import ROOT, TOKEN, Daemon, Redis, build_bundle, wait_until

SECONDS = int(os.environ.get("SOAK_SECONDS", 600))
SHARE = 0.7  # of the capacity
SWAP_SHARE = 0.5  # the same, where latencies are compared: nearer to the limit a little work is much delay
SWAPS, RELOADS = 1000, 100
ROUND, ROUNDS = 5, 10  # seconds; each round of swaps is compared with a quiet one
GROWTH_MAX = 100  # KB a minute
KEPT_MAX = 8 << 20  # bytes after the swaps: less than one bundle
P99_MAX = 2  # times as long during swaps
BAD = 20  # one body in so many is malformed
USERS = 400
CONNECTIONS = 64
LOST = "lost, or without an answer 2 s after the load ended (is the machine too busy for this rate?)"

DEMO = ROOT / "demo"
BEHAVIOUR = [line.split("\t") for line in (DEMO / "behaviour.tsv").read_text().splitlines()]
BEHAVIOUR = [(user, items.split()) for user, items in BEHAVIOUR]


# ---- what is asked -------------------------------------------------------------------------------


def body_of(i, user, items):
    """The i-th of the mixed bodies; every BAD-th is one that must be answered 400."""
    if i % BAD == 0:
        return [{"user_id": user, "n": 0}, {"history": items, "unknown": 1}, {"n": 5},
                {"user_id": user, "filter": {"colour": ["red"]}}][i // BAD % 4]
    return [{"user_id": user},
            {"user_id": user, "n": 500, "exclude": items[:3]},
            {"history": items, "n": 50},
            {"user_id": user, "filter": {"section": ["libs", "python"]}},
            {"history": items, "filter": {"section": ["no-such-section"]}},
            {"user_id": user, "explain": True, "n": 20},
            {"user_id": f"nobody-{user}"},
            {"history": items[-1:], "vectors": True, "n": 10}][i % 8]


def write_bodies(path):
    users = BEHAVIOUR[:USERS]
    path.write_text("".join(json.dumps(body_of(i, *users[i % USERS])) + "\n" for i in range(8 * BAD * 5)))
    return path


def fill(redis):
    for user, items in BEHAVIOUR[:USERS]:
        redis.command("RPUSH", f"hist:{user}", *reversed(items))


class Load:
    """The load generator against one daemon."""

    def __init__(self, daemon, bodies):
        self.command = [str(BUILT / "bench/load"), "--port", str(daemon.port), "--bodies", str(bodies)]

    def start(self, rate, seconds, connections=CONNECTIONS):
        return subprocess.Popen([*self.command, "--rate", f"{rate:.1f}", "--seconds", f"{seconds:.1f}",
                                 "--connections", str(connections)], stdout=subprocess.PIPE, text=True)

    def run(self, *what, **more):
        return self.result(self.start(*what, **more))

    @staticmethod
    def result(process):
        out, _ = process.communicate()
        assert process.returncode == 0
        return json.loads(out.splitlines()[-1])


# ---- verdicts ------------------------------------------------------------------------------------


class Report:
    def __init__(self):
        self.failed = False

    def say(self, text):
        print(f"  {text}", flush=True)

    def check(self, holds_, text):
        self.failed |= not holds_
        print(f"  {'ok    ' if holds_ else 'FAILED'} {text}", flush=True)


def slope(samples):
    """(seconds, bytes) to KB a minute: the median of the slopes of all pairs that are far apart, which a few
    outliers do not move."""
    far = (samples[-1][0] - samples[0][0]) / 3
    pairs = [(b[1] - a[1]) / (b[0] - a[0]) for i, a in enumerate(samples) for b in samples[i + 1:] if b[0] - a[0] >= far]
    return statistics.median(pairs) * 60 / 1024


def check_counts(report, results):
    total = {}
    for result in results:
        for what, n in [*result["status"].items(), (LOST, result["errors"])]:
            total[what] = total.get(what, 0) + n
    asked = sum(total.values())
    good, bad = total.pop("200"), total.pop("400")
    others = ", ".join(f"{n} {what}" for what, n in total.items() if n)
    report.check(not others and bad <= asked / BAD + len(results),
                 f"{asked} requests: {good} answered 200, {bad} answered 400 as they should, {others or 'no others'}")


# ---- swaps ---------------------------------------------------------------------------------------


def while_loaded(load, rate, act, times):
    """The result of a load during which act(i) is called so many times, evenly spread."""
    began = time.monotonic()
    process = load.start(rate, ROUND)
    for i in range(times):
        time.sleep(max(0.0, began + i * ROUND / times - time.monotonic()))
        act(i)
    return load.result(process)


def compare(report, what, load, rate, act, times):
    """Quiet and busy rounds in turn: the machine's moods strike both alike."""
    quiet, busy = [], []
    for _ in range(ROUNDS):
        quiet.append(load.run(rate, ROUND))
        busy.append(while_loaded(load, rate, act, times // ROUNDS))
    before, during = (statistics.median(r["ms"]["p99"] for r in rs) for rs in (quiet, busy))
    ratio = statistics.median(b["ms"]["p99"] / q["ms"]["p99"] for q, b in zip(quiet, busy))
    report.check(ratio <= P99_MAX, f"{times} times {what}: p99 {during:.1f} ms, left alone {before:.1f} ms, "
                                   f"median of the ratios {ratio:.2f} (at most {P99_MAX})")
    return quiet + busy


class Bundles:
    """Two that stay, and a third that comes and goes."""

    def __init__(self, daemon, directory, one):
        self.daemon, self.directory, self.one, self.n = daemon, directory, one, 0

    def swap(self, i):
        make_default(self.daemon, f"debian-mind@{2 - i % 2}")

    def come_and_go(self, _):
        self.n += 1
        victim = Victim(self.one, self.directory / f"victim{self.n}", "3")
        assert post(self.daemon, victim.dir)["state"] == "ready"
        make_default(self.daemon, "debian-mind@3")
        make_default(self.daemon, "debian-mind@1")
        unload(self.daemon, "debian-mind@3")


def soak_swaps(report, daemon, load, rate, change):
    # The allocator keeps what the first few bundles gave back, for the next ones.
    while_loaded(load, rate, change.come_and_go, RELOADS // ROUNDS)
    before, already = (memory(daemon), holds(daemon)), change.n
    results = compare(report, "the default was changed", load, rate, change.swap, SWAPS)
    make_default(daemon, "debian-mind@1")
    results += compare(report, "a bundle was loaded, chosen and unloaded", load, rate, change.come_and_go, RELOADS)
    check_counts(report, results)
    with contextlib.suppress(AssertionError):
        wait_until(lambda: memory(daemon) < before[0] + KEPT_MAX, "memory is given back", 10)
    grown = memory(daemon) - before[0]
    report.check(grown < KEPT_MAX, f"memory {before[0] >> 20} MB before them, {grown >> 10:+} KB after them; "
                                   f"{change.n - already} bundles of 12 MB came and went")
    report.check(holds(daemon) == before[1] and bundles(daemon) == {"debian-mind@1", "debian-mind@2"},
                 "no descriptor, mapping or bundle is left of them")


# ---- the long run --------------------------------------------------------------------------------


class Events:
    """What happens now and then."""

    def __init__(self, daemon, redis, change):
        self.daemon, self.redis, self.change = daemon, redis, change
        self.all = [self.reload, self.swap, self.bundle, self.bad_bundle, self.restart_redis]
        self.done = dict.fromkeys((e.__name__ for e in self.all), 0)

    def next(self, i):
        event = self.all[i % len(self.all)]
        event()
        self.done[event.__name__] += 1

    def reload(self):
        assert "reloaded" in self.daemon.reload()

    def swap(self):
        for i in range(20):
            self.change.swap(i)

    def bundle(self):
        self.change.come_and_go(0)

    def bad_bundle(self):
        assert post(self.daemon, self.change.directory)["state"] == "failed"

    def restart_redis(self):
        self.redis.stop()
        time.sleep(0.5)
        self.redis.start()
        fill(self.redis)
        wait_until(lambda: self.daemon.get("/readyz").json()["redis"] == "up", "Redis is connected again")


def soak_long(report, daemon, load, rate, events):
    samples, fds, results = [], [], []
    began, every = time.monotonic(), max(1.0, min(5.0, SECONDS / 60))
    process, i = load.start(rate, SECONDS), 0
    while process.poll() is None:
        due = began + (i + 1) * every
        events.next(i)
        i += 1
        time.sleep(max(0.0, due - time.monotonic()))
        samples.append((time.monotonic() - began, memory(daemon)))  # as long after an event as can be
        fds.append(len(holds(daemon)[0]))
    results.append(load.result(process))
    warm = samples[len(samples) // 3:-1]
    check_counts(report, results)
    report.say(f"p50 {results[0]['ms']['p50']:.1f} ms, p99 {results[0]['ms']['p99']:.1f} ms, "
               f"longest {results[0]['ms']['max']:.0f} ms; meanwhile "
               + ", ".join(f"{n} {name}" for name, n in events.done.items()))
    growth = slope(warm)
    report.check(growth <= GROWTH_MAX, f"memory {warm[0][1] >> 20} MB after warm-up, {warm[-1][1] >> 20} MB at the end: "
                                       f"{growth:+.0f} KB a minute (at most {GROWTH_MAX})")
    report.check(max(fds[len(fds) // 3:]) <= max(fds[:len(fds) // 3 + 1]), f"descriptors beside connections: "
                                                                          f"{fds[0]} to {fds[-1]}, at most {max(fds)}")


# ---- all of it -----------------------------------------------------------------------------------


def capacity(load):
    """Answers a second with 16 requests always under way; the worst of three. Before, all connections at once: as many
    requests under way as there will ever be, so that what they need is not taken for growth afterwards."""
    load.run(0, 10, connections=CONNECTIONS)
    return min(load.run(0, 3, connections=16)["answers_per_s"] for _ in range(3))


def run(directory, report):
    (directory / "token").write_text(TOKEN + "\n")
    weights = DEMO / "debian-mind.safetensors"
    one = build_bundle(directory / "bundle1", "1", "--engine", "faiss", "--factory", "Flat",
                       "--weights", as_float32(weights, directory / "w1"))
    two = build_bundle(directory / "bundle2", "2", "--weights", as_float32(weights, directory / "w2", lambda t: t[::-1]))
    (directory / "recalld.ini").write_text(f"[bundle]\npaths = {one},{two}\ndefault = debian-mind@1\n")
    redis = Redis(directory).start()
    daemon = Daemon(directory, f"--config={directory}/recalld.ini", f"--redis.address={redis.socket}",
                    f"--admin.token_file={directory}/token", f"--state.dir={directory}/state", token=TOKEN)
    try:
        fill(redis)
        daemon.start()
        known = {"debian-mind@1": known_answers(daemon)}
        make_default(daemon, "debian-mind@2")
        known["debian-mind@2"] = known_answers(daemon)
        make_default(daemon, "debian-mind@1")
        known["debian-mind@3"] = known["debian-mind@1"]
        load = Load(daemon, write_bodies(directory / "bodies"))
        most = capacity(load)
        report.say(f"capacity {most:.0f} requests/s with 16 under way; the load is {SWAP_SHARE:.0%}, then {SHARE:.0%}")
        change = Bundles(daemon, directory, one)
        with Asked(daemon, known, pause=0.02) as asked:
            soak_swaps(report, daemon, load, SWAP_SHARE * most, change)
            soak_long(report, daemon, load, SHARE * most, Events(daemon, redis, change))
        report.check(asked.wrong == [] and asked.seen == set(known),
                     f"{len(asked.took)} answers compared with those of the bundle they name: {len(asked.wrong)} differ")
        report.check(daemon.stop() == 0, "the daemon stopped as it should")
    except BaseException:
        print(daemon.log()[-4000:])
        raise
    finally:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.stop()
        redis.stop()


def main():
    report = Report()
    with tempfile.TemporaryDirectory(prefix="recalld-soak-") as directory:
        run(Path(directory), report)
    print("failed" if report.failed else "everything held")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/python3
"""recalld beside the service a team would otherwise write (peer/service.py): CPU time, memory,
requests a second and latency for the same work. `compare.py [--rounds N] [--rows N] [--dry]`.

On Amazon's CDs, where recalld searches exactly, and on a catalogue of a million items made from them
(catalogue.py), where both walk the same graph. First the peer is tuned: every choice is measured with
the best of those before it (peer/launch.py). Then both run side by side on the same cores and are loaded
in turn, round after round; medians are reported. CPU time is that of all processes of a service, not
of Redis or the load generator.

Needs RECALLD_DATA (../shared/data beside the checkout unless set); without it nothing is compared.
What takes long is kept in RECALLD_BENCH_CACHE (a folder of the temporary one unless set): the peer's
virtual environment, the large catalogue, the graphs. The first run takes half an hour for them.
Programs are those of BENCH_BIN, see rig.py."""
import argparse
import contextlib
import json
import os
import pathlib
import shutil
import statistics
import sys
import tempfile

import page
import rig
from harness import RECALLCTL, Client

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peer"))

import launch  # noqa: E402

CACHE = rig.CACHE
CHECKPOINT = rig.CDS / "mind/mind-k4.safetensors"
ENVIRONMENT = launch.Environment(CACHE)
PATIENT = ["--recall.deadline_ms=5000", "--redis.timeout_ms=5000"]
N = 200
USERS = 200       # whose answers are compared; while tuning
TRY_USERS = 50
CONNECTIONS = 8   # that ask without a pause, for saturation; an offered load has more
SHARE = 0.5       # of what the peer can do: the load both get
SECONDS = 4
TRY_SECONDS = 2   # while tuning
TRIES = 5
GAIN = 0.95       # a choice is kept when it takes at most so much of the best before
WORKERS = [1, 2, 3]
SMALL_RECALL, LARGE_RECALL = 0.98, 0.99  # of the exact answers: of the graphs, and of the peer
EFFORTS = [0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.2, 1.5, 2, 3]  # times the graph's efSearch
SLACK = 0.001     # of its answers that the peer may find less than recalld


def say(text):
    print(text, flush=True)


# ---- catalogues ----------------------------------------------------------------------------------


def kept(path, what, make):
    """Made once, in the cache; a half-made one does not count."""
    if not path.exists():
        say(f"making {what} ...")
        half = path.with_name(path.name + ".half")
        shutil.rmtree(half, ignore_errors=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        make(half)
        half.rename(path)
    return path


class Catalogue:
    """Inputs, and two bundles of them: exact search and a graph. recalld serves one of the two."""

    def __init__(self, name, title, weights, items, recall, folder):
        self.title, self.recall, self.inputs = title, recall, (weights, items)
        self.exact = folder / f"{name}-exact"
        self.build(self.exact, "--engine", "exact")
        # The effort that bundle build looks for lies a fifth of the way from the floor to 1.
        floor = 1 - (1 - recall) * 1.25
        self.graph = kept(CACHE / f"{name}-graph", f"a graph of {title}", lambda out: self.build(
            out, "--factory", "HNSW32", "--recall-floor", floor))
        about = json.loads((self.graph / "manifest.json").read_text(encoding="utf-8"))
        self.effort = about["index"]["search"]["efSearch"]

    def build(self, out, *options):
        weights, items = self.inputs
        rig.run("nice", "-n", "15", RECALLCTL, "bundle", "build", "--weights", weights, "--items", items,
                "--histories", rig.CDS / "sequences.txt", "--name", "bench", "--version", "1",
                "--threads", 1, "--out", out, *options)


def small_catalogue(folder):
    items = folder / "items.tsv"
    names = rig.first_column(rig.CDS / "items.tsv")
    items.write_text("row\tid\n" + "".join(f"{name}\t{name}\n" for name in names), encoding="utf-8")
    return Catalogue("cds", f"Amazon CDs, {len(names):,} items", CHECKPOINT, items, SMALL_RECALL, folder)


def large_catalogue(rows, folder):
    inputs = kept(CACHE / f"{rows}-inputs", f"{rows:,} items", lambda out: rig.run(
        "nice", "-n", "15", ENVIRONMENT.python, HERE / "catalogue.py", CHECKPOINT, rows, out))
    return Catalogue(str(rows), f"resampled, {rows:,} items", inputs / "weights.safetensors",
                     inputs / "items.tsv", LARGE_RECALL, folder)


# ---- services ------------------------------------------------------------------------------------


def family(pid):
    """The process and all that descend from it."""
    found = [pid]
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text(encoding="ascii").split():
            found += family(int(child))
    return found


def memory(pid):
    """Resident bytes; what is shared with other processes counts in part."""
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return 1024 * sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))


class Service:
    def __init__(self, title, pid, port):
        self.title, self.pid, self.port = title, pid, port

    def cpu(self):
        return sum(map(rig.cpu_seconds, family(self.pid)))

    def memory(self):
        return sum(map(memory, family(self.pid)))

    def items(self, user):
        answer = Client("127.0.0.1", self.port).recall(user_id=user, n=N)
        assert answer.status == 200, answer.body
        return [item["id"] for item in answer.json()["items"]]

    def load(self, requests, rate=0, seconds=SECONDS):
        """What the load generator says, and the CPU milliseconds of a request. Its errors are answers
        that it did not wait for."""
        before = self.cpu()
        got = rig.load(self.port, requests, rate=rate, seconds=seconds, warmup=0,
                       connections=4 * CONNECTIONS if rate else CONNECTIONS)
        if got["status"] != {"200": got["answered"]}:
            sys.exit(f"{self.title}: {got['status']}")
        return got | {"cpu_ms": (self.cpu() - before) / got["answered"] * 1e3}


@contextlib.contextmanager
def our_service(bundle, redis, folder, effort=1):
    folder.mkdir(exist_ok=True)
    with rig.recalld(folder, f"--bundle.paths={bundle}", f"--redis.address={redis.socket}",
                     f"--recall.effort={effort}", *PATIENT) as daemon:
        yield Service("recalld", daemon.process.pid, daemon.port)


@contextlib.contextmanager
def their_service(catalogue, choices, workers, redis, folder):
    settings = choices | {"bundle": str(catalogue.exact), "redis": redis.socket}
    if choices.get("index") == "hnsw":
        settings = {"effort": catalogue.effort} | settings | {"bundle": str(catalogue.graph)}
    log = folder / f"peer-{workers}.log"
    with launch.started(ENVIRONMENT, settings, workers, log) as (pid, port):
        yield Service("the peer", pid, port)


def answers(service, requests, count):
    """{user: items} of the first users who ask."""
    with open(requests, encoding="utf-8") as file:
        users = dict.fromkeys(json.loads(line)["user_id"] for line, _ in zip(file, range(count)))
    return {user: service.items(user) for user in users}


def found(service, truth):
    """Which share of the right items it returns."""
    return statistics.mean(len(set(items) & set(service.items(user))) / len(items)
                           for user, items in truth.items())


# ---- tuning --------------------------------------------------------------------------------------


def beside(theirs, mine, requests):
    """The peer's CPU time for a request, and how many times recalld's that is: medians."""
    pairs = [[service.load(requests, seconds=TRY_SECONDS)["cpu_ms"] for service in (theirs, mine)]
             for _ in range(TRIES)]
    return statistics.median(a for a, _ in pairs), statistics.median(a / b for a, b in pairs)


def tune(catalogue, mine, truth, requests, redis, folder):
    """The best choices, and what was tried: (title, choices, CPU, ratio, recall, whether kept)."""
    best, least, tried = {}, float("inf"), []
    for title, change in launch.TUNING:
        choices = best | change
        with their_service(catalogue, choices, 1, redis, folder) as theirs:
            recall = found(theirs, truth)
            cpu, ratio = beside(theirs, mine, requests)
        good = ratio < GAIN * least and recall >= catalogue.recall
        if good:
            best, least = choices, ratio
        tried.append((title, choices, cpu, ratio, recall, good))
        say(f"  {title}: {cpu:.2f} ms, {ratio:.1f} times, recall {recall:.4f}")
    return best, tried


def least_effort(catalogue, truth, redis, folder):
    """Of recalld, where a graph is served: the least that finds the share that is wanted."""
    for effort in EFFORTS:
        with our_service(catalogue.graph, redis, folder / f"effort-{effort}", effort) as mine:
            share = found(mine, truth)
        say(f"  recalld at efSearch {effort * catalogue.effort:.0f}: {share:.4f}")
        if share >= catalogue.recall:
            return effort, share
    sys.exit(f"{catalogue.title}: the graph does not find {catalogue.recall} of the answers")


def least_rows(catalogue, choices, truth, wanted, folder):
    """Of the peer: rows of each interest and efSearch that find as much with the least CPU time."""
    users = rig.source().users
    asked = folder / "asked.json"
    asked.write_text(json.dumps({user: {"elements": users[user][::-1][:rig.READ], "items": items}
                                 for user, items in truth.items()}), encoding="utf-8")
    settings = choices | {"bundle": str(catalogue.graph), "effort": catalogue.effort}
    got = json.loads(ENVIRONMENT.run(settings, "tune.py", asked, wanted - SLACK))
    for t in got["tried"]:
        say(f"  the peer with {t['take']} rows of each interest, efSearch {t['effort']}: "
            f"{t['ms']:.2f} ms, {t['found']:.4f}")
    if got["best"] is None:
        sys.exit(f"{catalogue.title}: the peer does not find {wanted} of the answers")
    return choices | {key: got["best"][key] for key in ("take", "effort")}


def most_requests(catalogue, choices, requests, redis, folder):
    """The least number of workers that answers nearly most, and {workers: requests a second}."""
    with contextlib.ExitStack() as up:
        services = {workers: up.enter_context(their_service(catalogue, choices, workers, redis, folder))
                    for workers in WORKERS}
        runs = [{workers: service.load(requests, seconds=TRY_SECONDS)["answers_per_s"]
                 for workers, service in services.items()} for _ in range(TRIES)]
    rates = {workers: statistics.median(run[workers] for run in runs) for workers in WORKERS}
    say(f"  requests a second by workers: {rates}")
    return next(w for w in WORKERS if rates[w] > 0.95 * max(rates.values())), rates


# ---- side by side --------------------------------------------------------------------------------


def measure(theirs, mine, requests, rounds):
    """({(who, load): figures of every round}, the load both get, recalld's own)."""
    pair = (("peer", theirs), ("recalld", mine))
    for _, service in pair:
        service.load(requests, seconds=TRY_SECONDS)  # warm
    same, own = (round(SHARE * service.load(requests)["answers_per_s"]) for _, service in pair)
    runs = {}
    for at in range(rounds):
        say(f"  round {at + 1} of {rounds}")
        for load, rate in (("full", 0), ("same", same)):
            for who, service in pair:
                runs.setdefault((who, load), []).append(service.load(requests, rate=rate))
        runs.setdefault(("recalld", "own"), []).append(mine.load(requests, rate=own))
    return runs, same, own


class Result:
    """Both services on one catalogue."""

    def __init__(self, catalogue, served, choices, workers, requests, rounds, redis, folder):
        say(f"{catalogue.title}, side by side")
        self.catalogue = catalogue
        with our_service(catalogue.exact, redis, folder / "truth") as exact:
            truth = answers(exact, requests, USERS)
        self.effort = 1
        if choices.get("index") == "hnsw":
            self.effort, share = least_effort(catalogue, truth, redis, folder)
            choices = least_rows(catalogue, choices, truth, share, folder)
        self.choices = choices
        with (their_service(catalogue, choices, workers, redis, folder) as theirs,
              our_service(served, redis, folder / "served", self.effort) as mine):
            self.found = {"peer": found(theirs, truth), "recalld": found(mine, truth)}
            say(f"  found {self.found}")
            self.runs, self.same, self.own = measure(theirs, mine, requests, rounds)
            self.memory = {"peer": theirs.memory(), "recalld": mine.memory()}

    def each(self, who, load, *path):
        """One figure of every round."""
        values = self.runs[who, load]
        for key in path:
            values = [value[key] for value in values]
        return values

    def ratio(self, load, key, upside_down=False):
        """How many times recalld's the peer's is, round by round, or the other way round."""
        pairs = zip(self.each("peer", load, key), self.each("recalld", load, key))
        return [b / a if upside_down else a / b for a, b in pairs]


# ---- the page ------------------------------------------------------------------------------------


def spread(values, digits=1):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def figures(r):
    def row(title, cell):
        return [title, cell("peer"), cell("recalld")]

    def latency(who, load):
        return " / ".join(f"{statistics.median(r.each(who, load, 'ms', which)):.1f}"
                          for which in ("p50", "p99"))
    return page.table([r.catalogue.title, "the peer", "recalld"], [
        row("CPU per request at the same load, ms", lambda who: spread(r.each(who, "same", "cpu_ms"), 2)),
        row("CPU per request when saturated, ms", lambda who: spread(r.each(who, "full", "cpu_ms"), 2)),
        row("requests a second when saturated",
            lambda who: spread(r.each(who, "full", "answers_per_s"), 0)),
        row(f"p50 / p99 at {r.same} requests a second, ms", lambda who: latency(who, "same")),
        [f"p50 / p99 at {r.own} requests a second, ms", "", latency("recalld", "own")],
        row("resident memory, MB", lambda who: f"{r.memory[who] / 1e6:,.0f}"),
        row("share of the exact answer", lambda who: f"{100 * r.found[who]:.1f} %"),
    ])


def verdict(r):
    return (f"{r.catalogue.title}: a request costs the peer "
            f"{spread(r.ratio('same', 'cpu_ms'))} times the CPU time that it costs recalld at the same "
            f"load, {spread(r.ratio('full', 'cpu_ms'))} times when both are saturated; recalld answers "
            f"{spread(r.ratio('full', 'answers_per_s', upside_down=True))} times as many requests.")


def tuning_table(tried):
    return page.table(["choice, with the best before it", "CPU per request, ms", "times recalld's",
                       "recall", "kept"],
                      [[title, f"{cpu:.2f}", f"{ratio:.1f}", f"{recall:.3f}", "yes" if good else "no"]
                       for title, _, cpu, ratio, recall, good in tried])


def least(tried, *indexes):
    """The least ratio of what was tried with PyTorch and one of these indexes."""
    return min(ratio for _, choices, _, ratio, _, _ in tried
               if choices.get("model") != "numpy" and choices.get("index", "flat") in indexes)


def section(results, tried, workers, rates):
    versions = ENVIRONMENT.versions("fastapi", "uvicorn", "torch", "faiss-cpu", "redis", "numpy")
    counts = ", ".join(f"{rate:.0f} with {number}" for number, rate in rates.items())
    return [
        "## Beside the service a team would otherwise write",
        page.paragraph(
            f"FastAPI, uvicorn, PyTorch, Faiss and redis-py (tests/bench/peer): {versions}; uvloop, "
            "httptools, orjson, hiredis, a connection pool, no access log, everything loaded once. Both "
            f"answer the same users of Amazon's CDs with {N} items from 4 interests, the history read from "
            f"the same Redis, on the same {page.machine()}, which other programs share, in turn. "
            "Medians of the rounds, in brackets least and most. CPU time is that of all processes of a "
            f"service. The same load is {SHARE:.0%} of what the peer can do. Deadlines were lifted."),
        *(part for result in results for part in (page.paragraph(verdict(result)), figures(result))),
        page.paragraph(
            "The large catalogue holds the real items and others made from them (tests/bench/"
            "catalogue.py); there both search the same HNSW32 file, and that search is most of what "
            "either does. Each has the choice that finds "
            f"{100 * results[-1].catalogue.recall:.0f} % of the exact answers with the least CPU time: "
            f"recalld efSearch {results[-1].effort * results[-1].catalogue.effort:.0f}, the peer "
            f"{results[-1].choices['take']} rows of each interest and efSearch "
            f"{results[-1].choices['effort']}."),
        "How the peer came about: one worker, saturated, on Amazon's CDs.",
        tuning_table(tried),
        page.paragraph(
            f"So with PyTorch and exact search in Faiss the best takes {least(tried, 'flat'):.1f} times "
            "the CPU time of recalld, with PyTorch and any of these indexes "
            f"{least(tried, 'flat', 'numpy', 'hnsw', 'fastscan'):.1f} times. Left to choose their threads, "
            "PyTorch and Faiss take every core and wait for each other busily, which other programs "
            "beside them make worse."),
        page.paragraph(f"Requests a second by number of workers: {counts}; {workers} it is."),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1000000, help="of the large catalogue")
    parser.add_argument("--dry", action="store_true", help="do not write the page")
    args = parser.parse_args()
    if not rig.CDS.is_dir():
        say(f"compare: no folder {rig.CDS}, nothing to compare on (RECALLD_DATA names another)")
        return
    ENVIRONMENT.install()
    with rig.scratch() as folder, rig.redis_with(rig.CDS / "sequences.txt", folder) as redis:
        requests = rig.bodies(folder / "requests", rig.source().users)
        small, large = small_catalogue(folder), large_catalogue(args.rows, folder)
        common = requests, args.rounds, redis, folder
        say(f"tuning the peer on {small.title}")
        with our_service(small.exact, redis, folder / "tuning") as mine:
            truth = answers(mine, requests, TRY_USERS)
            choices, tried = tune(small, mine, truth, requests, redis, folder)
        workers, rates = most_requests(small, choices, requests, redis, folder)
        results = [Result(small, small.exact, choices, workers, *common),
                   Result(large, large.graph, choices | {"index": "hnsw"}, workers, *common)]
    parts = section(results, tried, workers, rates)
    if args.dry:
        say("\n\n".join(parts))
    else:
        page.write("peer", parts)


if __name__ == "__main__":
    main()

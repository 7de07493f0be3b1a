#!/usr/bin/python3
"""How fast recalld serves: `serving.py [--dry] [--rounds N] [PART ...]`, all parts when none is named.

bare     recalld on 1,000 items beside a libmicrohttpd server that does nothing but send as many
         bytes (bare.c): the same load on both, in turn
workers  requests a second when saturated, latency at 70 % of that, by number of compute threads
batch    the same by workers.batch
queue    by workers.queue, at twice what recalld can do: what is answered in time, what refused

A round measures every setting once, so that a busy machine spoils none of them alone; the medians of
the rounds are reported. docs/performance.md is written when all parts were run and other programs
left the machine alone: CPU time stands a busy machine, requests a second and latencies do not."""
import argparse
import collections
import contextlib
import os
import statistics
import subprocess

import page
import rig
import shares

SECONDS = 2
SMALL = 1000
QUIET = 0.2  # of the machine: when others take more, requests a second and latencies mean little
AIM = 40  # percent of the bare server's requests a second
DEADLINE = ["--recall.deadline_ms=50", "--redis.timeout_ms=15"]  # the defaults
PATIENT = ["--recall.deadline_ms=5000", "--redis.timeout_ms=5000"]
WORKERS = [1, 2, 3, 4]
SATURATED = {"rate": 0, "connections": 64}
BATCHES = [1, 2, 4, 8, 16, 32]
QUEUES = [16, 32, 64, 128, 256, 512, 1024]


def median(figures, *path):
    values = []
    for figure in figures:
        for key in path:
            figure = figure[key]
        values.append(figure)
    return statistics.median(values)


disturbance = []  # of every load: the share of the machine that others took


def load(port, pid, requests, **options):
    """The load generator's figures, with the server's microseconds of CPU time for each answer."""
    before, others = rig.cpu_seconds(pid), rig.Others()
    figures = rig.load(port, requests, seconds=SECONDS, warmup=0, **options)
    figures["cpu_us"] = (rig.cpu_seconds(pid) - before) / figures["answered"] * 1e6
    disturbance.append(others.share())
    return figures


# ---- beside a bare server ----------------------------------------------------------------------


@contextlib.contextmanager
def bare(size):
    """(port, pid) of the server that answers with as many bytes, on an event thread for each core."""
    with subprocess.Popen([rig.BIN / "bench/bare", str(os.cpu_count()), str(size)], stdout=subprocess.PIPE,
                          text=True) as server:
        try:
            yield int(server.stdout.readline()), server.pid
        finally:
            server.terminate()


def answer_size(daemon, requests, count=200):
    """Mean bytes of an answer."""
    with open(requests, encoding="utf-8") as file:
        sizes = [len(daemon.recall(line.strip()).body) for line, _ in zip(file, range(count))]
    return round(statistics.mean(sizes))


def beside_bare(rounds, source, folder):
    small = rig.most_frequent(source, SMALL, folder)
    histories = rig.bodies(folder / "histories", small.users, brings_history=True)
    ids = rig.bodies(folder / "ids", small.users)
    runs, profile = collections.defaultdict(list), None
    with (rig.redis_with(small.histories, folder) as redis,
          rig.recalld(folder, f"--bundle.paths={small.build(folder)}",
                      f"--redis.address={redis.socket}", *PATIENT) as daemon,
          bare(answer_size(daemon, histories)) as (port, pid)):
        for _ in range(rounds):
            runs["bare"].append(load(port, pid, histories, rate=0))
            runs["history"].append(load(daemon.port, daemon.process.pid, histories, rate=0))
            runs["Redis"].append(load(daemon.port, daemon.process.pid, ids, rate=0))
        if shares.available():
            profile = shares.profile(daemon, histories, 0, SECONDS, folder)
    return small, runs, profile


def where_it_goes(profile):
    if profile is None:
        return "Where the time goes was not measured: this machine has no perf."
    stages = [(name, sum(us)) for name, us in profile.stages.items()]
    listed = ", ".join(f"{name} {us:.0f}" for name, us in sorted(stages, key=lambda s: -s[1]) if us >= 1)
    return f"Where recalld's {profile.total:.0f} µs with the history in the request go: {listed}."


def bare_parts(rounds, source, folder):
    small, runs, profile = beside_bare(rounds, source, folder)
    names = {"bare": "bare libmicrohttpd", "history": "recalld, history in the request",
             "Redis": "recalld, history in Redis"}
    rows = []
    for kind, name in names.items():
        ratios = [100 * mine["answers_per_s"] / theirs["answers_per_s"]
                  for mine, theirs in zip(runs[kind], runs["bare"])]
        rows.append([name, f"{median(runs[kind], 'answers_per_s'):,.0f}",
                     f"{statistics.median(ratios):.0f} %", f"{min(ratios):.0f} to {max(ratios):.0f} %",
                     f"{median(runs[kind], 'ms', 'p99'):.1f}", f"{median(runs[kind], 'cpu_us'):.0f}"])
    return [
        "### Beside a bare HTTP server",
        page.paragraph(
            f"recalld on {small.title}, n = 200, beside a libmicrohttpd server that reads the same "
            "requests and sends as many bytes, the same for everyone. A closed loop over 16 "
            "connections, in turn; in the middle columns the ratios of single rounds. "
            f"The aim was {AIM} %. CPU time is the server's own; the load generator shares the cores."),
        page.table(["", "requests/s", "of bare", "spread", "p99 ms", "CPU µs"], rows),
        page.paragraph(where_it_goes(profile)),
    ]


# ---- settings ----------------------------------------------------------------------------------


class Stand:
    """The catalogue, its users in a Redis, and what recalld can do with its defaults."""

    def __init__(self, source, folder, redis):
        self.folder, self.requests = folder, rig.bodies(folder / "requests", source.users)
        self.options = [f"--bundle.paths={source.build(folder)}", f"--redis.address={redis.socket}"]
        self.capacity = median(self.run(PATIENT, *[SATURATED] * 3), "answers_per_s")

    def run(self, options, *loads):
        """Figures of a recalld started for them, one for each load; after some to warm it."""
        with rig.recalld(self.folder, *self.options, *options) as daemon:
            rig.load(daemon.port, self.requests, rate=0, seconds=0.5, warmup=0)
            return [load(daemon.port, daemon.process.pid, self.requests, **each) for each in loads]


def in_rounds(rounds, values, measure):
    """{value: [its figures in each round]}"""
    runs = {value: [] for value in values}
    for _ in range(rounds):
        for value in values:
            runs[value].append(measure(value))
    return runs


def saturated_and_not(stand, rounds, option, values):
    """Lines of a table: throughput of a closed loop, latency at 70 % of what the defaults can do."""
    part = {"rate": round(0.7 * stand.capacity), "connections": 64}
    runs = in_rounds(rounds, values, lambda value: stand.run([*PATIENT, f"--{option}={value}"],
                                                             SATURATED, part))
    return [[str(value), f"{median(of, 0, 'answers_per_s'):,.0f}", f"{median(of, 0, 'cpu_us'):.0f}",
             f"{median(of, 0, 'ms', 'p99'):.1f}", f"{median(of, 1, 'ms', 'p50'):.2f}",
             f"{median(of, 1, 'ms', 'p99'):.1f}"] for value, of in runs.items()]


def sweep_parts(stand, rounds, option, values):
    head = [f"`{option}`", "requests/s", "CPU µs", "p99 ms", "p50 ms at 70 %", "p99 ms at 70 %"]
    return [page.table(head, saturated_and_not(stand, rounds, option, values))]


def queue_parts(stand, rounds):
    rate = round(2 * stand.capacity)
    twice = {"rate": rate, "connections": 2048, "deadline_ms": 50}
    runs = in_rounds(rounds, QUEUES, lambda value: stand.run([*DEADLINE, f"--workers.queue={value}"],
                                                             twice)[0])
    rows = [[str(value), f"{median(of, 'answers_per_s'):,.0f}", f"{median(of, 'goodput'):,.0f}",
             f"{median(of, 'ms', 'p50'):.1f}", f"{median(of, 'ms', 'p99'):.1f}",
             f"{median(of, 'refused_ms', 'p99'):.1f}"] for value, of in runs.items()]
    head = ["`workers.queue`", "answered/s", "within 50 ms/s", "p50 ms", "p99 ms", "p99 ms of a 503"]
    return [page.paragraph(f"At {rate:,} requests a second, twice the capacity, over 2,048 connections "
                           "and with the default deadline of 50 ms:"),
            page.table(head, rows)]


def settings_parts(o, source, folder, parts):
    with rig.redis_with(source.histories, folder) as redis:
        stand = Stand(source, folder, redis)
        text = ["### Workers, batches, queue", page.paragraph(
            f"{source.title}, n = 200, four interests, behaviour from Redis, which with the load "
            f"generator shares the cores. Saturated: a closed loop over 64 connections. At 70 %: "
            f"{0.7 * stand.capacity:,.0f} requests a second at random moments.")]
        if "workers" in parts:
            text += sweep_parts(stand, o.rounds, "workers.count", WORKERS)
        if "batch" in parts:
            text += sweep_parts(stand, o.rounds, "workers.batch", BATCHES)
        if "queue" in parts:
            text += queue_parts(stand, o.rounds)
    return text


def main():
    known = ["bare", "workers", "batch", "queue"]
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(known))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dry", action="store_true", help="leave docs/performance.md as it is")
    o = parser.parse_args()
    parts = o.parts or known
    if set(parts) - set(known):
        parser.error(f"a part is one of {', '.join(known)}")
    text = ["## Serving"]
    with rig.scratch() as folder:
        source = rig.source()
        if "bare" in parts:
            text += bare_parts(o.rounds, source, folder)
        if set(parts) - {"bare"}:
            text += settings_parts(o, source, folder, parts)
    text.insert(1, page.paragraph(
        f"On {page.machine()}; each figure is the median of {o.rounds} rounds. Meanwhile other programs "
        f"took {100 * statistics.median(disturbance):.0f} % of the machine (median; at most "
        f"{100 * max(disturbance):.0f} %)."))
    if o.dry or set(parts) != set(known) or statistics.median(disturbance) > QUIET:
        print("\n\n".join(text))
        if not o.dry:
            print("\nserving: docs/performance.md left as it is: not all parts, or a busy machine")
    else:
        page.write("serving", text)


if __name__ == "__main__":
    main()

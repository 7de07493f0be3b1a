#!/usr/bin/python3
"""What recalld does with two and five times the requests it can answer, with the effort controller and without:
`overload.py [--short]`.

First the capacity: the most that is answered within the deadline at full effort, over several rates. Then half a load,
a minute of twice the capacity, and half a load again, with and without the controller; and ten seconds of five times.
The same, but shorter, for the exact engine, which knows no effort. The daemon has one core and one worker, the load
generator the other core; as root it runs at real-time priority, so that what else the machine does delays no request
before it is sent. Writes docs/overload.svg and a section of docs/performance.md, unless --short only tries it out."""
import argparse
import contextlib
import json
import os
import shutil
import threading
import time
from xml.sax.saxutils import escape

import page
import rig

DEADLINE_MS = 50
SERIES_MS = 500
LEVEL_EVERY_S = 0.05
DAEMON_CORE, LOAD_CORE = 0, 1
PICTURE = page.PAGE.parent / "overload.svg"
FULL_SPEED_MS = 5  # a refusal should take no longer

# ---- runs ------------------------------------------------------------------------------------------------------------


def pin(pid, core):
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), {core})


@contextlib.contextmanager
def service(folder, bundle, control):
    options = [f"--bundle.paths={bundle}", "--workers.count=1", f"--recall.deadline_ms={DEADLINE_MS}",
               "--redis.timeout_ms=15", f"--workers.effort_control={'true' if control else 'false'}"]
    with rig.recalld(folder, *options) as daemon:
        pin(daemon.process.pid, DAEMON_CORE)
        yield daemon


def load(daemon, requests, seconds, **options):
    """(intervals, the whole), as the generator reports them."""
    command = rig.load_command(daemon.port, requests, seconds=seconds, deadline_ms=DEADLINE_MS, series=SERIES_MS,
                               **options)
    urgent = ["chrt", "--fifo", "1"] if os.geteuid() == 0 else []
    *intervals, whole = map(json.loads, rig.run("taskset", "-c", LOAD_CORE, *urgent, *command).splitlines())
    begins = [0, *(interval["t"] for interval in intervals)]
    return [interval for begin, interval in zip(begins, intervals)
            if interval["t"] - begin > SERIES_MS / 2000], whole  # not the scrap at the end


def capacity(daemon, requests, seconds):
    """The best goodput of several rates around what a closed loop answers."""
    _, closed = load(daemon, requests, seconds, rate=0, connections=4, warmup=1)
    rates = [closed["answers_per_s"] * share for share in (0.85, 0.95, 1.05)]
    open_ = [load(daemon, requests, seconds, rate=rate, connections=256, warmup=1)[1] for rate in rates]
    return max(run["goodput"] for run in [closed, *open_])


class Levels:
    """The level over time, read from the daemon's figures: [(seconds since the start, level)]."""

    def __init__(self, daemon):
        self.daemon, self.points, self.start, self.stopped = daemon, [], time.monotonic(), False
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def watch(self):
        while not self.stopped:
            level = int(self.daemon.metrics()["recalld_effort_level"])
            self.points.append((time.monotonic() - self.start, level))
            time.sleep(LEVEL_EVERY_S)

    def stop(self):
        self.stopped = True
        self.thread.join()


class Run:
    """Half a load, an overload, half a load: what came of it."""

    def __init__(self, daemon, requests, full, times, calm_s, seconds):
        before = daemon.metrics()
        levels = Levels(daemon)
        self.series, parts = [], []
        for share, length in ((0.5, calm_s), (times, seconds), (0.5, calm_s)):
            begin = time.monotonic() - levels.start
            intervals, whole = load(daemon, requests, length, rate=full * share, connections=256, warmup=0)
            self.series += [interval | {"at": begin + interval["t"]} for interval in intervals]
            parts.append((begin, whole))
        levels.stop()
        self.levels, self.burst = levels.points, parts[1][1]
        self.begin, self.end = parts[1][0], parts[1][0] + seconds
        self.goodput_share = self.burst["goodput"] / full
        self.refusals = refusal_times(before, daemon.metrics())

    def restored_after(self):
        """From the end of the overload to full effort, in words."""
        full = [at - self.end for at, level in self.levels if level == 0 and at > self.end]
        return f"{full[0]:.1f} s" if full else "more than all the time it was watched"

    def changes(self, settled_s=3):
        """How often the level changed once it had had time to settle."""
        steady = [level for at, level in self.levels if self.begin + settled_s < at < self.end]
        return sum(a != b for a, b in zip(steady, steady[1:]))

    def mean_level(self):
        steady = [level for at, level in self.levels if self.begin < at < self.end]
        return sum(steady) / len(steady)


def refusal_times(before, after):
    """(refusals, how many of them took at most FULL_SPEED_MS by the server's clock)."""
    def moved(name, *labels):
        return int(after[(name, *labels)] - before[(name, *labels)])
    name = "recalld_overload_refusal_seconds"
    return moved(f"{name}_count", {}), moved(f"{name}_bucket", {"le": f"{FULL_SPEED_MS / 1000:g}"})


# ---- the picture -----------------------------------------------------------------------------------------------------

WIDTH, LEFT, RIGHT = 860, 64, 20
PANEL, GAP, TOP, BOTTOM = 150, 66, 84, 44
WITH, WITHOUT, OFFERED = "#1f6fb4", "#d1495b", "#777"
STYLE = ("text{font:13px sans-serif;fill:#222}.title{font-weight:bold;font-size:16px}.panel{font-weight:bold}"
         ".grid{stroke:#e4e4e4}.end{text-anchor:end}.middle{text-anchor:middle}"
         "polyline{fill:none;stroke-width:1.8;stroke-linejoin:round}.dashed{stroke-dasharray:6 4}")


def text(x, y, words, kind="", colour=None):
    style = f' style="fill:{colour}"' if colour else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}"{style}>{escape(words)}</text>'


def line(x1, y1, x2, y2, kind, colour=None):
    stroke = f' stroke="{colour}"' if colour else ""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"{stroke}/>'


class Panel:
    """One of the diagrams that share the time axis."""

    def __init__(self, number, title, high, ticks, seconds):
        self.top = TOP + number * (PANEL + GAP)
        self.high, self.seconds = high, seconds
        self.parts = [text(LEFT, self.top - 28, title, "panel")]
        for tick in ticks:
            self.parts += [line(LEFT, self.y(tick), WIDTH - RIGHT, self.y(tick), "grid"),
                           text(LEFT - 8, self.y(tick) + 4, f"{tick:g}", "end")]

    def x(self, at):
        return LEFT + at / self.seconds * (WIDTH - LEFT - RIGHT)

    def y(self, value):
        return self.top + PANEL * (1 - min(value, self.high) / self.high)

    def curve(self, points, colour, kind=""):
        words = " ".join(f"{self.x(at):.1f},{self.y(value):.1f}" for at, value in points)
        self.parts.append(f'<polyline points="{words}" stroke="{colour}" class="{kind}"/>')

    def steps(self, points, colour):
        self.curve([corner for (at, level), (then, _) in zip(points, points[1:])
                    for corner in ((at, level), (then, level))], colour)

    def level_line(self, value, colour):
        self.parts.append(line(LEFT, self.y(value), WIDTH - RIGHT, self.y(value), "dashed", colour))

    def legend(self, names):
        """[(words, colour, kind)] above the diagram, from left to right."""
        at = LEFT
        for words, colour, kind in names:
            self.parts += [line(at, self.top - 12, at + 24, self.top - 12, kind, colour),
                           text(at + 30, self.top - 8, words)]
            at += 52 + 7.2 * len(words)


def nice_ticks(high):
    """At most six round numbers from 0 on, the last not below `high`."""
    step = next(m * 10 ** e for e in range(6) for m in (1, 2, 5) if m * 10 ** e * 5 >= high)
    return [step * i for i in range(int(-(-high // step)) + 1)]


def curve_of(run, value):
    return [(interval["at"], value(interval)) for interval in run.series]


def p99(interval):
    return interval["ms"]["p99"]


def draw(path, title, full, with_, without):
    seconds = max(run.levels[-1][0] for run in (with_, without))
    ticks = nice_ticks(max(interval["offered"] for interval in with_.series + without.series))
    rates = Panel(0, "requests a second", ticks[-1], ticks, seconds)
    rates.legend([("offered", OFFERED, ""), ("in time, with the controller", WITH, ""),
                  ("in time, without", WITHOUT, ""), ("capacity at full effort", OFFERED, "dashed")])
    rates.level_line(full, OFFERED)
    rates.curve(curve_of(with_, lambda i: i["offered"]), OFFERED)
    rates.curve(curve_of(without, lambda i: i["goodput"]), WITHOUT)
    rates.curve(curve_of(with_, lambda i: i["goodput"]), WITH)
    high = nice_ticks(max(DEADLINE_MS, *map(p99, with_.series + without.series)))
    latency = Panel(1, "99th percentile of answered requests, ms", high[-1], high, seconds)
    latency.legend([("with the controller", WITH, ""), ("without", WITHOUT, ""), ("deadline", OFFERED, "dashed")])
    latency.level_line(DEADLINE_MS, OFFERED)
    latency.curve(curve_of(without, p99), WITHOUT)
    latency.curve(curve_of(with_, p99), WITH)
    level = Panel(2, "effort level: 0 full, 1 to 3 less search effort, 4 fewer interests as well", 4, range(5), seconds)
    level.steps(with_.levels, WITH)
    height = TOP + 3 * PANEL + 2 * GAP + BOTTOM
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
           f'<style>{STYLE}</style><rect width="100%" height="100%" fill="#fff"/>', text(LEFT, 24, title, "title")]
    for panel in (rates, latency, level):
        out += panel.parts
    for tick in range(0, int(seconds) + 1, 10):
        out.append(text(level.x(tick), height - BOTTOM + 18, f"{tick} s", "middle"))
    path.write_text("\n".join([*out, "</svg>"]) + "\n", encoding="utf-8")


# ---- the report ------------------------------------------------------------------------------------------------------


class Measured:
    """A bundle's capacity, and its runs with and without the controller: {times: Run}."""

    def __init__(self, name, folder, bundle, requests, lengths, probe_s, calm_s):
        self.name = name
        with service(folder, bundle, False) as daemon:
            self.full = capacity(daemon, requests, probe_s)
            self.without = {times: Run(daemon, requests, self.full, times, calm_s, length)
                            for times, length in lengths.items()}
        with service(folder, bundle, True) as daemon:
            self.with_ = {times: Run(daemon, requests, self.full, times, calm_s, length)
                          for times, length in lengths.items()}

    def rows(self):
        for control, runs in (("with", self.with_), ("without", self.without)):
            for times, run in runs.items():
                yield [self.name, control, f"{times} times", *figures(run)]


def figures(run):
    sent = sum(run.burst["status"].values())
    count, fast = run.refusals
    return [f"{run.burst['offered']:.0f}", f"{run.burst['goodput']:.0f}", f"{100 * run.goodput_share:.0f} %",
            f"{run.burst['ms']['p99']:.0f} ms", f"{100 * run.burst['status'].get('503', 0) / sent:.0f} %",
            f"{100 * fast / count:.2f} %" if count else "–", f"{run.mean_level():.1f}"]


HEAD = ["engine", "controller", "load", "offered/s", "in time/s", "of capacity", "p99 answered", "refused",
        "refused within 5 ms", "mean level"]


def report(where, graph, exact):
    twice, five = graph.with_[2], graph.with_[5]
    page.write("overload", [
        "## Overload",
        page.paragraph(
            f"{where}, n = 200, deadline {DEADLINE_MS} ms, on {page.machine()}. The daemon has one core and one "
            "worker, the load generator, which asks at random moments of a fixed rate on 256 connections, the other "
            "core. The capacity is the most that is answered within the deadline at full effort, over several rates: "
            f"{graph.full:.0f} requests a second with {graph.name}, {exact.full:.0f} with the exact engine. Then a "
            f"minute ({graph.name}, twice) or ten seconds of more. Times are the client's, from the moment a request "
            "was due; refusals are timed by the server, from the complete body to the refusal:"),
        page.table(HEAD, [*graph.rows(), *exact.rows()]),
        page.paragraph(
            "Reading a request and refusing it costs some 20 µs, most of it the kernel's. Where an answer costs little "
            "more than ten times that, as with the exact engine here, refusing four of five takes a third of the "
            "core."),
        page.paragraph(
            f"In the minute of twice the capacity the level changed {twice.changes()} times once it had settled (3 s). "
            f"Full effort was back {twice.restored_after()} after its end, and {five.restored_after()} after the end of "
            "five times the capacity. `tests/bench/overload.py` measures all this again and draws:"),
        "![requests, latency and effort level over a minute of twice the capacity](overload.svg)",
    ])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true", help="seconds instead of a minute; write nothing")
    short = parser.parse_args().short
    minute, ten, calm, probe = (6, 3, 2, 2) if short else (60, 10, 5, 6)
    with rig.scratch() as folder:
        source = rig.source()
        requests = rig.bodies(folder / "requests", source.users, brings_history=True)
        bundle = source.build(folder, "--engine", "faiss", "--factory", "HNSW32")
        graph = Measured("HNSW32", folder, bundle, requests, {2: minute, 5: ten}, probe, calm)
        shutil.rmtree(bundle)
        bundle = source.build(folder, "--engine", "exact")
        exact = Measured("exact", folder, bundle, requests, {2: ten, 5: ten}, probe, calm)
    if short:
        print(page.table(HEAD, [*graph.rows(), *exact.rows()]))
        return
    report(source.title, graph, exact)
    draw(PICTURE, f"{source.title}, HNSW32, one worker: a minute of twice the capacity", graph.full, graph.with_[2],
         graph.without[2])


if __name__ == "__main__":
    main()

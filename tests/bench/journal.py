#!/usr/bin/python3
"""What the journal costs: `journal.py [--help]`.

bench_journal alone first: 20,000 answers of 200 items a second through rings and writer. Then
recalld as fast as it can, with and without a journal in turn: CPU time for each request, that of
the journal's own threads, and what was dropped."""
import argparse
import contextlib
import json
import statistics
import time

import page
import rig


def alone(folder, o, compress):
    """Figures of one run."""
    return json.loads(rig.run(rig.BIN / "bench/bench_journal", folder, "20000", o.alone_seconds, compress))


def journal_seconds(pid):
    """CPU time of the threads that write, sync and compress."""
    ticks = 0
    for task in rig.Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            name, rest = (task / "stat").read_text(encoding="ascii").split("(", 1)[1].rsplit(")", 1)
            if name.startswith("journal"):
                ticks += sum(map(int, rest.split()[11:13]))
    return ticks / rig.TICKS


def counted(daemon, name):
    metrics = daemon.metrics()
    return sum(value for (n, _), value in metrics.samples.items() if n == name)


def saturated(o, bundle, requests, folder, *options):
    """CPU microseconds for each request, the journal threads' part of it, requests a second, drops."""
    with rig.recalld(folder, f"--bundle.paths={bundle}", *options) as daemon:
        rig.load(daemon.port, requests, rate=0, seconds=2)
        pid = daemon.process.pid
        before = [counted(daemon, "recalld_answers_total"), rig.cpu_seconds(pid), journal_seconds(pid), time.time()]
        rig.load(daemon.port, requests, rate=0, seconds=o.seconds)
        after = [counted(daemon, "recalld_answers_total"), rig.cpu_seconds(pid), journal_seconds(pid), time.time()]
        n, cpu, threads, took = (now - then for now, then in zip(after, before))
        dropped = counted(daemon, "recalld_journal_dropped_total") if options else 0
        return cpu / n * 1e6, threads / n * 1e6, n / took, dropped


def end_to_end(o, folder):
    source = rig.source()
    requests = rig.bodies(folder / "bodies", source.users, brings_history=True)
    bundle = source.build(folder)
    runs = {"off": [], "on": []}
    for i in range(o.rounds):
        runs["off"].append(saturated(o, bundle, requests, folder))
        runs["on"].append(saturated(o, bundle, requests, folder, f"--journal.dir={folder / f'journal{i}'}",
                                   "--journal.compress=none"))
    return source, runs


def spread(values, digits=1):
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def section(o, alone_runs, source, runs):
    first = alone_runs["none"]
    rows = [[f"alone, compression {c}", f"{r['lines']:,}", f"{r['dropped']:,}", f"{r['mb_per_s']:.0f}",
             f"{r['encode_us']:.1f} + {r['push_us']:.1f}", f"{100 * r['writer_cores']:.0f} %",
             f"{100 * (r['sync_cores'] + r['keep_cores']):.0f} %", f"{64 * r['ring_fill_most']:.1f} MB"]
            for c, r in alone_runs.items()]
    off, on = ([[run[i] for run in runs[k]] for i in range(4)] for k in ("off", "on"))
    more = statistics.median(b / a for a, b in zip(off[0], on[0]))
    return [
        "## Journal",
        page.paragraph(
            f"Two threads hand 20,000 answers of 200 items a second, {first['line_bytes'] / 1000:.1f} KB each, to rings "
            f"and writer for {o.alone_seconds} s, on {page.machine()} that other programs share, with rings of 64 MB. "
            "CPU time as shares of one core:"),
        page.table(["", "written", "dropped", "MB/s", "encode + push, µs", "writer", "sync and compression",
                    "most in a ring"], rows),
        page.paragraph(
            "A ring needs room for what comes while the disk takes nothing, which other programs' syncs cause; "
            "8 MB, the default, are nearly a second of what the daemon below writes."),
        page.paragraph(
            f"In the daemon, as fast as it answers ({source.title}, n = 200, requests bring their history, no "
            f"compression), {o.rounds} times with and without a journal in turn, medians, in brackets least and most: "
            f"{spread(off[0])} µs of CPU time for a request without, "
            f"{spread(on[0])} µs with, {more:.3f} times as much; {spread(on[1])} µs of that are the journal's "
            f"threads. {spread(off[2], 0)} and {spread(on[2], 0)} requests a second, "
            f"{sum(on[3]):.0f} lines dropped. `tests/bench/journal.py` measures it again."),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=int, default=8, help="of each run of the daemon")
    parser.add_argument("--alone-seconds", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dry", action="store_true", help="leave docs/performance.md as it is")
    o = parser.parse_args()
    with rig.scratch() as folder:
        alone_runs = {compress: alone(folder, o, compress) for compress in ("none", "zstd")}
        parts = section(o, alone_runs, *end_to_end(o, folder))
    if o.dry:
        print("\n\n".join(parts))
    else:
        page.write("journal", parts)


if __name__ == "__main__":
    main()

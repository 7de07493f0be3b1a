#!/usr/bin/python3
"""Exact search against graphs and lists, by the size of the catalogue: `border.py [--rows MAX | --again]`.

Runs bench_index on the CDs' bundle (the demo's where that data is missing) and writes a table and
docs/border.svg. A graph over a million rows takes half an hour to build on two cores; it is kept, see
rig.py. So are the lines that were measured last: --again writes the page from them."""
import argparse
import math

import page
import plot
import rig

EXACT = "exact"
OTHERS = {"HNSW32": "HNSW32", "Faiss:HNSW32": "HNSW32 walked by Faiss", "IVF": "IVF"}
PICTURE = page.PAGE.parent / "border.svg"


class Line:
    def __init__(self, text):
        rows, engine, one, batched, recall, effort = text.split()
        self.rows, self.engine = int(rows), engine.split(",")[0]
        self.kind = "IVF" if engine.startswith("IVF") else engine
        self.us = {1: float(one), 8: float(batched)}
        self.recall, self.effort = float(recall), int(effort)


def measure(o, source, folder):
    """{rows: {kind: Line}}"""
    lines = rig.CACHE / "border.txt"
    rig.CACHE.mkdir(parents=True, exist_ok=True)
    if not o.again:
        lines.write_text(rig.run("nice", "-n", "15", rig.BIN / "bench/bench_index", source.build(folder),
                                 source.histories, o.rows, rig.CACHE), encoding="ascii")
    found = {}
    for line in map(Line, lines.read_text(encoding="ascii").splitlines()):
        found.setdefault(line.rows, {})[line.kind] = line
    return found


def batch_effect(found):
    """What a batch changes for the others, at most, in percent."""
    others = [line for by_kind in found.values() for kind, line in by_kind.items() if kind != EXACT]
    return max(abs(100 * (line.us[8] / line.us[1] - 1)) for line in others)


def border(found, batch):
    """Where exact begins to cost more than the best of the others, on a straight line between two
    sizes (of logarithms); None when it does not."""
    before = None
    for rows, by_kind in found.items():
        others = min(line.us[batch] for kind, line in by_kind.items() if kind != EXACT)
        ahead = math.log(others / by_kind[EXACT].us[batch])
        if ahead < 0 and before:
            share = before[1] / (before[1] - ahead)
            return math.exp(math.log(before[0]) + share * math.log(rows / before[0]))
        before = rows, ahead
    return None


def verdict(found, batch, what):
    rows = border(found, batch)
    if rows:
        return f"for {what} near {float(f'{rows:.1g}'):,.0f} rows"
    last = max(found)
    others = min(line.us[batch] for kind, line in found[last].items() if kind != EXACT)
    return (f"for {what} beyond {last:,} rows, where exact still costs "
            f"{found[last][EXACT].us[batch] / others:.2f} of the best other")


def section(source, found):
    rows = []
    for n, by_kind in found.items():
        ours = by_kind[EXACT].us
        rows.append([f"{n:,}", f"{ours[1]:,.0f}", f"{ours[8]:,.0f}"] + [
            f"{by_kind[kind].us[1]:,.0f} ({by_kind[kind].us[1] / ours[1]:.1f})" for kind in OTHERS])
    return [
        "## Exact or graph, by size of the catalogue",
        page.paragraph(
            f"CPU time of the search for one request, in microseconds, on {page.machine()}: the four "
            f"interests that the model makes of real users ({source.title}), the 200 best rows over all. Larger "
            "catalogues than the real one are drawn from its vectors, each moved among its neighbours. "
            "Graph and lists at the least effort that finds 98 % of the exact answer; in brackets, how "
            f"many times exact search they cost; a batch of eight changes that by {batch_effect(found):.0f} % "
            "at most. The border "
            f"lies {verdict(found, 1, 'single requests')}, and {verdict(found, 8, 'batches of eight')}."),
        page.table(["rows", "exact", "exact, batch of 8", *OTHERS.values()], rows),
        f"![CPU time by rows]({PICTURE.name})",
    ]


def draw(found):
    series = {"exact": (EXACT, 1), "exact, batch of 8": (EXACT, 8), "HNSW32": ("HNSW32", 1), "IVF": ("IVF", 1)}
    plot.lines(PICTURE, "CPU time of a request's search, recall 0.98", "rows", "µs",
               {name: [(rows, by_kind[kind].us[batch]) for rows, by_kind in found.items()]
                for name, (kind, batch) in series.items()})


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1000000, help="the largest catalogue")
    parser.add_argument("--again", action="store_true", help="do not measure: the lines of the last run")
    parser.add_argument("--dry", action="store_true", help="leave docs/ as it is")
    o = parser.parse_args()
    with rig.scratch() as folder:
        source = rig.source()
        found = measure(o, source, folder)
    parts = section(source, found)
    if o.dry:
        print("\n\n".join(parts))
        return
    draw(found)
    page.write("catalogue", parts)


if __name__ == "__main__":
    main()

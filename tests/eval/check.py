#!/usr/bin/python3
"""recallctl eval against what PyTorch measured on real checkpoints (`make check-data`).

The data may be used but not redistributed, so it is no part of this repository: RECALLD_DATA names the folder that
has it, ../shared/data beside the checkout unless set. Without it nothing is checked. With it every deviation is a
failure: HitRate beyond one user, Recall and NDCG beyond 0.0005, an approximate index that loses more than 1 % of
Recall@50. The last line is `N passed, N failed`.
"""
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("RECALLD_DATA", ROOT.parent / "shared/data"))
CDS = DATA / "amazon-cds"
RECALLCTL = os.environ.get("RECALLCTL_BIN", str(ROOT / "build/release/recallctl"))
TOLERANCE = 0.0005
LOSS_MAX = 0.01  # of Recall@50, relative
FACTORIES = ("HNSW32", "IVF256,Flat")
FACTORY_MODEL = "k4"

passed = failed = 0


def verdict(good, what, detail):
    global passed, failed
    passed, failed = passed + good, failed + (not good)
    print(f"  {'ok    ' if good else 'FAILED'} {what}: {detail}", flush=True)


def recallctl(*args):
    done = subprocess.run([RECALLCTL, *map(str, args)], capture_output=True, text=True, stdin=subprocess.DEVNULL,
                          env={**os.environ, "OMP_WAIT_POLICY": "passive"})
    if done.returncode != 0:
        raise RuntimeError(f"recallctl {args[0]}: {done.stderr.strip()}")
    return done.stdout


def build(out, weights, *args):
    """The model's items are known by their row numbers, as in the behaviour files."""
    items = out.parent / "items.tsv"
    if not items.exists():
        rows = [line.split("\t")[0] for line in (CDS / "items.tsv").read_text().splitlines()]
        items.write_text("row\tid\n" + "".join(f"{row}\t{row}\n" for row in rows))
    recallctl("bundle", "build", "--weights", weights, "--items", items, "--histories", CDS / "sequences.txt",
              "--name", "cds", "--version", "1", "--out", out, *args)
    return out


def evaluate(bundle, part, *args):
    """{N: figures}"""
    report = recallctl("eval", CDS / f"comirec-split/{part}.txt", "--bundle", bundle, "--json", *args)
    return {one["n"]: one for one in json.loads(report)["runs"]}


def check_figures(name, got, expected, n):
    users = round(expected[f"hitrate@{n}"] * got["users"])
    verdict(abs(got["users_hit"] - users) <= 1, f"{name} HitRate@{n}",
            f"{got['users_hit']} of {got['users']} users hit, expected {users}")
    for figure in ("recall", "ndcg"):
        mine, theirs = got[figure], expected[f"{figure}@{n}"]
        verdict(abs(mine - theirs) <= TOLERANCE, f"{name} {figure}@{n}", f"{mine:.6f}, expected {theirs:.6f}")


def check_model(model, expected, folder):
    bundle = build(folder / model, CDS / "mind" / expected["file"])
    for part in ("valid", "test"):
        got = evaluate(bundle, part, "--n", "20,50")
        for n in (20, 50):
            check_figures(f"{model} {part}", got[n], expected[part], n)


def check_index(factory, weights, folder):
    bundle = build(folder / factory, weights, "--factory", factory)
    for part in ("valid", "test"):
        exact = evaluate(bundle, part, "--n", "50", "--exact")[50]
        got = evaluate(bundle, part, "--n", "50")[50]
        loss = 1 - got["recall"] / exact["recall"]
        verdict(loss <= LOSS_MAX, f"{got['index']} {part} recall@50",
                f"{got['recall']:.6f} of {exact['recall']:.6f}, {100 * loss:.2f} % lost")


def attempt(what, check, *args):
    try:
        check(*args)
    except Exception as why:  # whatever it is, something that must work did not
        verdict(False, what, why)


def main():
    if not DATA.is_dir():
        print(f"check-data: no folder {DATA}, nothing to check against (RECALLD_DATA names another)")
        return 0
    with tempfile.TemporaryDirectory(prefix="recalld-eval-") as name:
        folder = Path(name)
        expected = json.loads((CDS / "mind/expected.json").read_text())["results"]
        for model, figures in expected.items():
            attempt(model, check_model, model, figures, folder)
        for factory in FACTORIES:
            attempt(factory, check_index, factory, CDS / "mind" / expected[FACTORY_MODEL]["file"], folder)
    print(f"{passed} passed, {failed} failed")
    return 0 if failed == 0 and passed > 0 else 1


if __name__ == "__main__":
    sys.exit(main())

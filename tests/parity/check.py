#!/usr/bin/python3
"""Holds recalld against what the frameworks computed: check.py RECALLCTL FOLDER prints a table of the
cases in FOLDER (cases.py says what a case is) and fails when one misses its bound or is not there.

Of each case a bundle is built from the checkpoint as it is, and asked with `recallctl interests`.
Needs nothing but Python: tests/integration/test_parity.py does the same with the cases that are kept in
tests/golden/parity."""

import json
import pathlib
import subprocess
import sys
import tempfile

# Codebases as tests/parity/README.md names them. A case of FOLDER that is not here, and one of
# these that is not there, are both errors.
CASES = (
    "th-mind th-mind-book th-dr th-sa "
    "pr-mind pr-mind-static pr22-mind pr22-mind-static pr22b-mind pr21-mind "
    "dw-mind dw-mind-type1 dw-dr sc-mind sc-mind-relu sc-dr sc-sa "
    "rh-mind rh-mind-dynamic rh-dr rh-sa "
    "er-mind er-mind-all dm-mind dm-mind-dynamic dm-sa fr-mind "
    "format-pdparams-2 format-pdparams-4 format-pt-zip format-pt-legacy format-tf-shards format-tf-partitioned "
    "format-savedmodel").split()
ITEMS = 40
SECONDS = 120


def read_case(folder):
    """The case, or an exception that names what is missing."""
    case = json.loads((folder / "case.json").read_text())
    for file in case["files"]:
        if not (folder / file).is_file():
            raise FileNotFoundError(f"{folder.name}: {file} is missing")
    return case


def run(*command, **more):
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=SECONDS, **more)


def build(recallctl, folder, case, out):
    """recallctl's own answer."""
    items = out.with_suffix(".tsv")
    items.write_text("row\tid\n" + "".join(f"{row}\t{row}\n" for row in range(1, ITEMS)))
    options = [text for key, value in case["options"].items() for text in (f"--model.{key}", value)]
    return run(recallctl, "bundle", "build", "--weights", case["weights"], "--items", items, "--out", out,
               "--name", "parity", "--version", "1", *options, cwd=folder)


def interests(recallctl, bundle, history):
    """Of a history of rows; an id that nobody knows stands for none at all."""
    done = run(recallctl, "interests", "--json", "--bundle", bundle, "--history",
               ",".join(map(str, history)) or "nothing")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["interests"]


def difference(ours, theirs):
    """The largest one; both are of the same shape."""
    assert [len(v) for v in ours] == [len(v) for v in theirs]
    return max(abs(a - b) for x, y in zip(ours, theirs) for a, b in zip(x, y))


def vectors(recallctl, folder, case, out):
    """Ours, of every history, from a bundle of that case."""
    done = build(recallctl, folder, case, out)
    assert done.returncode == 0, done.stderr
    variant = json.loads((out / "manifest.json").read_text())["model"]["variant"]
    assert variant == case["variant"]
    return [interests(recallctl, out, history) for history in case["histories"]]


def check(recallctl, folder):
    """(case, largest difference), the latter None for what was refused as it must be; AssertionError when
    something else happened, FileNotFoundError when a file is missing."""
    case = read_case(folder)
    with tempfile.TemporaryDirectory() as place:
        out = pathlib.Path(place) / "bundle"
        if "refused" in case:
            done = build(recallctl, folder, case, out)
            assert done.returncode != 0 and case["refused"] in done.stderr, f"not refused so: {done.stderr}"
            return case, None
        ours = vectors(recallctl, folder, case, out)
        if "same_as" in case:
            twin = folder.parent / case["same_as"]
            assert ours == vectors(recallctl, twin, read_case(twin), out.with_name("twin")), "other bits than its twin"
    return case, max(difference(a, b) for a, b in zip(ours, case["interests"], strict=True))


def names(folder):
    return {path.name for path in folder.iterdir() if path.is_dir()}


def main(recallctl, folder):
    folder = pathlib.Path(folder)
    bad = [f"{name}: no such case" for name in sorted(set(CASES) ^ names(folder))]
    print(f"{'case':22} {'codebase':8} {'format':28} {'tensors':>7} {'difference':>10} {'bound':>7}")
    for name in (name for name in CASES if name in names(folder)):
        try:
            case, largest = check(recallctl, folder / name)
        except (AssertionError, FileNotFoundError) as why:
            bad.append(f"{name}: {why}")
            continue
        ok = largest is None or largest <= case["bound"]
        if not ok:
            bad.append(f"{name}: {largest:.1e} is more than {case['bound']:.0e}")
        found = f"{'refused':>10} {'':7}" if largest is None else f"{largest:10.1e} {case['bound']:7.0e}"
        print(f"{name:22} {case['codebase']:8} {case['format']:28} {len(case['tensors']):7} {found}",
              "ok" if ok else "MISS")
    print("".join(f"{line}\n" for line in bad), end="")
    return len(bad) > 0


if __name__ == "__main__":
    sys.exit(main(str(pathlib.Path(sys.argv[1]).resolve()), sys.argv[2]))

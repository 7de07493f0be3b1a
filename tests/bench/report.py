#!/usr/bin/python3
"""Runs bench_model, has PyTorch and ONNX Runtime compute the same interests where an interpreter has
them, and writes the figures into docs/performance.md.

Interpreters are this one, `python3`, and those of BENCH_PYTHON (a list with colons), for instance
one of a virtual environment with onnxruntime in it. What none of them has is left out, and said."""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from page import machine, paragraph, table, write

HERE = pathlib.Path(__file__).resolve().parent
BIN = pathlib.Path(os.environ.get("BENCH_BIN", HERE.parents[1] / "build/release"))
MODELS = {"thudm-mind": "MIND", "thudm-comirec-dr": "ComiRec-DR", "thudm-comirec-sa": "ComiRec-SA"}
FRAMEWORKS = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime"}
BATCHES = [1, 8, 16]


def run(command):
    """What it printed, as {(variant, batch): ns}."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: failed")
    lines = [line.split() for line in done.stdout.splitlines()]
    return {(variant, int(batch)): float(ns) for variant, batch, ns in lines}


def version_in(python, module):
    """The module's version there, or None."""
    done = subprocess.run([python, "-c", f"import {module}; print({module}.__version__)"],
                          capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def interpreters():
    named = os.environ.get("BENCH_PYTHON", "").split(":")
    found = [sys.executable, shutil.which("python3")] + [name for name in named if name]
    return list(dict.fromkeys(path for path in found if path))


def frameworks(folder):
    """[(title, figures)], and what was left out."""
    measured, left_out = [], []
    for module, title in FRAMEWORKS.items():
        if module == "onnxruntime" and not (folder / "thudm-mind.onnx").exists():
            left_out.append(f"{title} (PyTorch is needed to write the models it reads)")
            continue
        for python in interpreters():
            version = version_in(python, module)
            if version:
                title += " " + ".".join(re.findall(r"\d+", version)[:2])
                print(f"measuring {title} ...", flush=True)
                measured.append((title, run([python, HERE / "framework.py", module, folder])))
                break
        else:
            print(f"no {module} in {', '.join(interpreters())}")
            left_out.append(f"{title} (no interpreter has it; BENCH_PYTHON=PATH names another)")
    return measured, left_out


def cell(ns, ours):
    return f"{ns / 1000:.1f} µs ({ns / ours:.1f})"


def section(ours, others, left_out):
    titles = [title for title, _ in others]
    single = [[name, f"{ours[v, 1] / 1000:.1f} µs"] +
              [cell(figures[v, 1], ours[v, 1]) for _, figures in others]
              for v, name in MODELS.items()]
    dr = "thudm-comirec-dr"
    batched = [[str(batch), f"{ours[dr, batch] / 1000:.1f} µs"] +
               [cell(figures[dr, batch], ours[dr, batch]) for _, figures in others]
               for batch in BATCHES]
    parts = [
        "## Interests",
        paragraph("One user's interests: K = 4, S = 50, D = H = 64, a history of 50 items out of "
                  f"200,000, one thread on {machine()}. In brackets, how many times ours that is. "
                  "All give the same answers to the same users, one at a time, which is checked; "
                  "recalld has mapped the items at load, which costs memory (models.md), the "
                  "frameworks map a history's at every call, as the published code does. Best of "
                  "several rounds. The aim was 30 times PyTorch and 10 times ONNX Runtime: MIND "
                  "reaches it; ComiRec-DR and -SA do not, for they are bound by the memory they "
                  "read, 3.3 MB of weights and 1 KB per history item."),
        table(["model", "recalld"] + titles, single),
        "ComiRec-DR has a map for every slot, 3.3 MB here, which a batch reads once. Time for each "
        "user of a batch:",
        table(["batch", "recalld"] + titles, batched),
    ]
    if left_out:
        parts.append(paragraph("Left out: " + "; ".join(left_out) + "."))
    return parts


def main():
    with tempfile.TemporaryDirectory(prefix="recalld-bench-") as folder:
        ours = run([BIN / "bench/bench_model", folder])
        others, left_out = frameworks(pathlib.Path(folder))
    write("interests", section(ours, others, left_out))
    for what in left_out:
        print(f"left out: {what}")


if __name__ == "__main__":
    main()

"""The golden vectors are what their script computes, so that neither can change alone."""
import shutil
import subprocess
import sys

from harness import ROOT

GOLDEN = ROOT / "tests/golden"


def read(path):
    lines = [line.split(" ") for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return {name: [float(v) for v in values] for name, *values in lines}


def test_the_script_computes_the_vectors_that_are_kept(tmp_path):
    script = shutil.copy(GOLDEN / "model.py", tmp_path)
    subprocess.run([sys.executable, script], check=True, stdin=subprocess.DEVNULL)
    made, kept = read(tmp_path / "model.txt"), read(GOLDEN / "model.txt")
    assert made.keys() == kept.keys() and len(kept) >= 14
    for name, values in kept.items():
        assert len(made[name]) == len(values)
        assert all(abs(a - b) <= 1e-6 for a, b in zip(made[name], values)), name

"""Installs the peer, starts it, and knows the ways to write it that are tried."""
import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess

import rig
from harness import wait_until

HERE = pathlib.Path(__file__).resolve().parent
PATIENCE = 600  # seconds until it is up: torch.compile takes a minute or more

# Every choice in the order it is made: each is measured with the best of those before it. The first
# is the start.
TUNING = [
    ("as first written: pydantic, PyTorch eager, IndexFlatIP", {"checked": True}),
    ("threads left to PyTorch and Faiss: every core", {"threads": 0}),
    ("orjson and plain dicts instead of pydantic", {"checked": False}),
    ("sync endpoint: thread pool, blocking Redis client", {"endpoint": "sync"}),
    ("Faiss multiplies with BLAS", {"blas": True}),
    ("numpy's product and partition instead of Faiss", {"index": "numpy"}),
    ("HNSW32 instead of exact search", {"index": "hnsw"}),
    ("4-bit fast scan, the best scored again", {"index": "fastscan", "effort": 4}),
    ("torch.jit, frozen", {"model": "jit"}),
    ("torch.compile", {"model": "compile"}),
    ("numpy instead of PyTorch", {"model": "numpy"}),
]


class Environment:
    """A virtual environment with what the peer needs, in the cache."""

    def __init__(self, cache):
        self.folder = cache / "peer"
        self.python = self.folder / "bin/python"

    def install(self):
        wanted, stamp = HERE / "requirements.txt", self.folder / "installed"
        if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted.read_text(encoding="utf-8"):
            return
        print("installing the peer's packages ...", flush=True)
        rig.run("/usr/bin/python3", "-m", "venv", "--clear", self.folder)
        rig.run("nice", self.python, "-m", "pip", "install", "-q", "-r", wanted)
        stamp.write_text(wanted.read_text(encoding="utf-8"), encoding="utf-8")

    def versions(self, *names):
        code = "import importlib.metadata as m, sys; print(*map(m.version, sys.argv[1:]))"
        found = rig.run(self.python, "-c", code, *names).split()
        return ", ".join(f"{name.removesuffix('-cpu')} {version.split('+')[0]}"
                         for name, version in zip(names, found))

    def command(self, port, workers):
        return [self.python, "-m", "uvicorn", "service:app", "--port", str(port), "--workers",
                str(workers), "--loop", "uvloop", "--http", "httptools", "--no-access-log"]

    def run(self, settings, script, *arguments):
        """What a script of this folder prints."""
        return subprocess.run([self.python, script, *map(str, arguments)], cwd=HERE, check=True, text=True,
                              stdout=subprocess.PIPE, env=self.variables(settings)).stdout

    def variables(self, settings):
        threads = settings.get("threads", 1)
        fixed = {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)} if threads else {}
        return os.environ | fixed | {"PEER": json.dumps(settings), "PYTHONDONTWRITEBYTECODE": "1"}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def stop(process):
    """The whole group: a worker that hangs must not be left behind."""
    for how, seconds in ((signal.SIGTERM, 20), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return


@contextlib.contextmanager
def started(environment, settings, workers, log):
    """(pid, port) of the peer, once every worker has loaded what it serves."""
    port = free_port()
    with open(log, "wb") as out:
        process = subprocess.Popen(environment.command(port, workers), cwd=HERE, stdout=out, stderr=out,
                                   stdin=subprocess.DEVNULL, process_group=0,
                                   env=environment.variables(settings))

    def ready():
        text = log.read_text(encoding="utf-8", errors="replace")
        assert process.poll() is None, text
        return "Uvicorn running" in text and text.count("startup complete") == workers
    try:
        wait_until(ready, "the peer's workers are up", PATIENCE)
        yield process.pid, port
    finally:
        stop(process)

"""What a measurement of the whole service needs: a bundle, users in a Redis, a recalld, load on it.

Programs come from BENCH_BIN (build/release when unset), real behaviour from RECALLD_DATA
(../shared/data beside the checkout). Without that data the demo's bundle and users take its place,
and the report says so. What takes long to make is kept in RECALLD_BENCH_CACHE (a folder of the
temporary one unless set)."""
import collections
import contextlib
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("BENCH_BIN", ROOT / "build/release")).resolve()
os.environ.setdefault("RECALLD_BIN", str(BIN / "recalld"))
os.environ.setdefault("RECALLCTL_BIN", str(BIN / "recallctl"))
sys.path.insert(0, str(ROOT / "tests/integration"))

from harness import RECALLCTL, Daemon, Redis  # noqa: E402

# Taken out: recalld refuses variables that start like its own and are not.
CDS = Path(os.environ.pop("RECALLD_DATA", ROOT.parent / "shared/data")) / "amazon-cds"
CACHE = Path(os.environ.pop("RECALLD_BENCH_CACHE", None) or Path(tempfile.gettempdir()) / "recalld-bench")
READ = 100  # behaviour.read
TICKS = os.sysconf("SC_CLK_TCK")


def run(*command):
    """What the command printed; its failure is ours."""
    done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, check=False,
                          stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}: failed")
    return done.stdout


# ---- data --------------------------------------------------------------------------------------


class Source:
    """A checkpoint, the ids of its items from row 1 on, and its users' behaviour, oldest first."""

    def __init__(self, title, weights, ids, histories):
        self.title, self.weights, self.ids, self.histories = title, weights, ids, histories
        with open(histories, encoding="utf-8") as file:
            self.users = {user: items for user, *items in map(str.split, file)}

    def build(self, folder, *options):
        """The bundle, in a folder of this one."""
        items = folder / "items.tsv"
        items.write_text("row\tid\n" + "".join(f"{row}\t{name}\n" for row, name in
                                              enumerate(self.ids, 1)), encoding="utf-8")
        run(RECALLCTL, "bundle", "build", "--weights", self.weights, "--items", items, "--histories",
            self.histories, "--name", "bench", "--version", "1", "--out", folder / "bundle", *options)
        return folder / "bundle"


def first_column(path):
    with open(path, encoding="utf-8") as file:
        return [line.split("\t", 1)[0].rstrip() for line in file]


def source():
    """Amazon's CDs with four interests where the data is, else the demo's Debian packages."""
    if CDS.is_dir():
        return Source("Amazon CDs", CDS / "mind/mind-k4.safetensors", first_column(CDS / "items.tsv"),
                      CDS / "sequences.txt")
    demo = ROOT / "demo"
    with open(demo / "items.tsv", encoding="utf-8") as file:
        ids = [line.split("\t")[1].rstrip() for line in file][1:]
    return Source("the demo", demo / "debian-mind.safetensors", ids, demo / "behaviour.tsv")


def with_fewer_rows(weights, rows, out):
    """A copy of the checkpoint whose largest tensor has only these rows."""
    bytes_ = weights.read_bytes()
    size, = struct.unpack_from("<Q", bytes_)
    header, data = json.loads(bytes_[8:8 + size]), bytes_[8 + size:]
    metadata = {"__metadata__": header.pop("__metadata__", {})}
    span = {name: tensor["data_offsets"] for name, tensor in header.items()}
    table = max(header, key=lambda name: span[name][1] - span[name][0])
    parts = {name: data[slice(*span[name])] for name in header}
    width = len(parts[table]) // header[table]["shape"][0]
    parts[table] = b"".join(parts[table][row * width:(row + 1) * width] for row in rows)
    header[table]["shape"][0] = len(rows)
    at = 0
    for name, part in parts.items():
        header[name]["data_offsets"] = [at, at + len(part)]
        at += len(part)
    text = json.dumps(metadata | header).encode()
    out.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts.values()))
    return out


def most_frequent(whole, count, folder):
    """The same model and users with only the items that occur most often."""
    often = collections.Counter(item for items in whole.users.values() for item in items)
    kept = {item for item, _ in often.most_common(count)}
    rows = [row for row, name in enumerate(whole.ids, 1) if name in kept]
    histories = folder / "histories.txt"
    with open(histories, "w", encoding="utf-8") as file:
        for user, items in whole.users.items():
            left = [item for item in items if item in kept]
            if len(left) >= 5:
                print(user, *left, file=file)
    return Source(f"the {len(rows):,} items of {whole.title} that occur most often",
                  with_fewer_rows(whole.weights, [0] + rows, folder / "weights.safetensors"),
                  [whole.ids[row - 1] for row in rows], histories)


def bodies(path, users, brings_history=False, n=200, seed=1, count=20000):
    """Requests of the users in random order, the same with every run. `brings_history`: with what
    recalld would read of it from Redis."""
    draw, names = random.Random(seed), list(users)
    with open(path, "w", encoding="utf-8") as file:
        for user in draw.choices(names, k=count):
            who = {"history": users[user][-READ:]} if brings_history else {"user_id": user}
            print(json.dumps(who | {"n": n}), file=file)
    return path


# ---- processes ---------------------------------------------------------------------------------


@contextlib.contextmanager
def scratch():
    with tempfile.TemporaryDirectory(prefix="recalld-bench-") as name:
        yield Path(name)


@contextlib.contextmanager
def redis_with(histories, folder):
    """A Redis that holds the users' behaviour."""
    server = Redis(folder).start()
    try:
        run(RECALLCTL, "history", "load", histories, "--redis.address", server.socket)
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def recalld(folder, *options):
    daemon = Daemon(folder, *options)
    try:
        yield daemon.start()
    finally:
        daemon.stop()


def load(port, requests, **options):
    """One run of the load generator: its figures. Keys are its options, _ for -."""
    return json.loads(run(*load_command(port, requests, **options)).splitlines()[-1])


def load_command(port, requests, **options):
    words = [f"--{key.replace('_', '-')}={value}" for key, value in options.items()]
    return [str(BIN / "bench/load"), f"--port={port}", f"--bodies={requests}", *words]


def stat_fields(pid):
    """Of /proc/PID/stat what follows the name."""
    text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    return text.rsplit(")", 1)[1].split()


def cpu_seconds(pid):
    """CPU time the process has taken so far, user and system."""
    return sum(map(int, stat_fields(pid)[11:13])) / TICKS


class Others:
    """What share of the machine other programs, and other machines on the same host, take."""

    def __init__(self):
        self.before = self.now()

    @staticmethod
    def now():
        """Ticks so far: of all cores, of those idle, of this session's processes."""
        with open("/proc/stat", encoding="ascii") as file:
            cpu = list(map(int, file.readline().split()[1:9]))
        ours, session = 0, str(os.getsid(0))
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                fields = stat_fields(pid)
                if fields[3] == session:
                    ours += sum(map(int, fields[11:15]))  # with children that have ended
        return sum(cpu), cpu[3] + cpu[4], ours

    def share(self):
        total, idle, ours = (now - then for now, then in zip(self.now(), self.before))
        return max(0, (total - idle - ours) / total)

"""A daemon that is asked while its bundles change: requests with known answers, what it holds on to, and the routes
that load, choose and unload."""
import contextlib
import json
import os
import threading
import time
from pathlib import Path

from harness import ROOT, wait_until

HISTORIES = [line.split("\t")[1].split() for line in (ROOT / "demo/behaviour.tsv").read_text().splitlines()[::150]]
BODIES = [{"history": history, "n": 20} for history in HISTORIES] + [{"history": [], "n": 20}]


def essence(answer):
    """What depends on nothing but the bundle and the request."""
    return json.dumps({key: answer[key] for key in ("source", "degraded", "history", "interests", "items")})


def known_answers(daemon):
    return [essence(daemon.recall(body).json()) for body in BODIES]


class Asked:
    """Requests one after the other in a few threads; `wrong` is what was not a 200 with the answer of the bundle it
    names."""

    def __init__(self, daemon, known, threads=1, pause=0.005):
        self.daemon, self.known, self.pause = daemon, known, pause
        self.bodies = [json.dumps(body) for body in BODIES]
        self.wrong, self.took, self.seen, self.over = [], [], set(), False
        self.threads = [threading.Thread(target=self.run, args=(i,), daemon=True) for i in range(threads)]

    def run(self, i):
        connection = self.daemon.connect()
        while not self.over and not self.wrong:
            i = (i + 1) % len(self.bodies)
            try:
                self.ask(i, connection)
            except Exception as why:  # whatever it is, the request was lost
                self.wrong.append(repr(why))
            time.sleep(self.pause)
        connection.close()

    def ask(self, i, connection):
        began = time.monotonic()
        answer = self.daemon.ask("POST", "/recall", self.bodies[i], connection=connection)
        self.took.append(time.monotonic() - began)
        document = answer.json()
        if answer.status != 200 or essence(document) != self.known[document["bundle"]][i]:
            self.wrong.append((answer.status, i, answer.body))
        self.seen.add(document["bundle"])

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        wait_until(lambda: len(self.took) >= 20 or self.wrong, "requests are being answered")
        return self

    def __exit__(self, *_):
        self.over = True
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive(), "a request was never answered"


def p99(took):
    return sorted(took)[int(len(took) * 0.99)]


# ---- the daemon's resources ----------------------------------------------------------------------


def memory(daemon):
    """Bytes that are resident and no file."""
    return int(daemon.metrics()["recalld_resident_anonymous_bytes"])


def holds(daemon):
    """What a bundle could leave behind, apart from memory: descriptors that are no connections, mapped files."""
    proc = Path(f"/proc/{daemon.process.pid}")
    mapped = [line for line in (proc / "maps").read_text().splitlines() if "/bundle" in line or "/victim" in line]
    fds = []
    for fd in (proc / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            fds.append(os.readlink(fd))
    return sorted(fd for fd in fds if not fd.startswith("socket:")), mapped


def bundles(daemon):
    return {labels["bundle"] for labels in daemon.metrics().labels("recalld_bundle_info")}


# ---- loading -------------------------------------------------------------------------------------


def post(daemon, path):
    """The entry of a directory in GET /bundles, once it is loaded or refused."""
    def outcome():
        for entry in daemon.get("/bundles").json()["bundles"]:
            if entry["dir"] == str(path) and entry["state"] in ("ready", "failed"):
                return entry
        return None

    answer = daemon.ask("POST", "/bundles", {"path": str(path)})
    assert answer.status == 202, answer.body
    return wait_until(outcome, "the bundle is loaded or refused")


def make_default(daemon, name):
    answer = daemon.ask("PUT", "/bundles/default", {"bundle": name})
    assert answer.status == 200, answer.body


def unload(daemon, name):
    answer = daemon.ask("DELETE", f"/bundles/{name}")
    assert answer.status == 200, answer.body

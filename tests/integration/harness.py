"""Starts what the tests talk to (redis-server, recalld, bundles) and speaks to it, with the standard library alone.

RECALLD_BIN and RECALLCTL_BIN name the programs under test (build/release/... when unset).
"""
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECALLD = str(Path(os.environ.get("RECALLD_BIN", ROOT / "build/release/recalld")).resolve())
RECALLCTL = str(Path(os.environ.get("RECALLCTL_BIN", ROOT / "build/release/recallctl")).resolve())
PATIENCE = 60  # seconds; generous, because sanitizers on a busy machine are slow
TOKEN = "a-token-for-the-tests"
HISTORY = ["libjansson-dev", "libmicrohttpd-dev"]


def wait_until(true, what, seconds=PATIENCE):
    """Returns the first truthy value of true(), or fails naming what was awaited."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = true()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"after {seconds} s still not: {what}")


# ---- Redis -------------------------------------------------------------------------------------


class Redis:
    """A private redis-server on a unix socket."""

    def __init__(self, directory):
        self.socket = str(directory / "redis.sock")
        self.log = directory / "redis.log"
        self.process = None

    def start(self, *options):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                ["redis-server", "--port", "0", "--unixsocket", self.socket, "--save", "",
                 "--appendonly", "no", "--daemonize", "no", *options],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            wait_until(self.answers, "redis-server answers PING")
        except AssertionError:
            print(self.log.read_text())
            self.stop()
            raise
        return self

    def answers(self):
        assert self.process.poll() is None, f"redis-server ended: {self.log.read_text()}"
        with contextlib.suppress(OSError):
            return self.command("PING") == "PONG"
        return False

    def stop(self):
        if self.process is not None:
            self.process.terminate()
            self.process.wait()
            self.process = None

    def command(self, *words):
        """One command; its reply as str, int, None, list or an exception."""
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(self.socket)
            s.settimeout(PATIENCE)
            encoded = [w if isinstance(w, bytes) else str(w).encode() for w in words]
            s.sendall(b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in encoded))
            with s.makefile("rb") as reply:
                return read_reply(reply)


def read_reply(stream):
    line = stream.readline()
    kind, rest = line[:1], line[1:-2]
    if kind == b"+":
        return rest.decode()
    if kind == b":":
        return int(rest)
    if kind == b"-":
        raise RuntimeError(rest.decode())
    if kind == b"$":
        return None if rest == b"-1" else stream.read(int(rest) + 2)[:-2].decode()
    if kind == b"*":
        return [read_reply(stream) for _ in range(int(rest))]
    raise ConnectionError(f"no reply from Redis: {line!r}")


# ---- HTTP --------------------------------------------------------------------------------------


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)

    def problem(self):
        """The problem document, after checking what all of them have in common."""
        document = self.json()
        assert self.headers["Content-Type"] == "application/problem+json"
        assert document["type"] == "about:blank"
        assert document["status"] == self.status
        assert document["title"] == http.client.responses.get(self.status, "").replace(
            "Request Entity Too Large", "Content Too Large")
        assert document["detail"]
        assert document["request_id"] == self.headers["X-Request-Id"]
        if self.status == 503:
            assert self.headers["Retry-After"] == "1"
        return document


class Client:
    """One daemon, reached over HTTP; a new connection for every request."""

    def __init__(self, host, port, token=None):
        self.host, self.port, self.token = host, port, token

    def connect(self):
        return http.client.HTTPConnection(self.host, self.port, timeout=PATIENCE)

    def raw(self):
        s = socket.create_connection((self.host, self.port), timeout=PATIENCE)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return s

    def ask(self, method, path, body=None, headers=None, connection=None):
        """`body`: bytes or str as they are, anything else as JSON. Sends the token when there is one."""
        headers = dict(headers or {})
        if body is not None and not isinstance(body, (bytes, str)):
            body = json.dumps(body)
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
        if self.token is not None:
            headers.setdefault("Authorization", f"Bearer {self.token}")
        own = connection or self.connect()
        try:
            own.request(method, path, body, headers)
            got = own.getresponse()
            return Answer(got.status, got.headers, got.read())
        finally:
            if connection is None:
                own.close()

    def get(self, path, **more):
        return self.ask("GET", path, **more)

    def recall(self, body=None, **fields):
        return self.ask("POST", "/recall", body if body is not None else fields)

    def items(self, **fields):
        """The ids of a recall that must succeed."""
        answer = self.recall(**fields)
        assert answer.status == 200, answer.body
        return [item["id"] for item in answer.json()["items"]]

    def metrics(self):
        answer = self.get("/metrics")
        assert answer.status == 200
        return Metrics(answer.body.decode())


class Metrics:
    """Samples by name and labels: metrics["name"], metrics["name", {"label": "value"}]."""

    SAMPLE = re.compile(r'([a-z_]+)(?:\{(.*)\})? (\S+)')
    LABEL = re.compile(r'([a-z_0-9]+)="((?:[^"\\]|\\.)*)"')

    def __init__(self, text):
        self.text = text
        self.samples = {}
        for line in text.splitlines():
            if not line.startswith("#"):
                name, labels, value = self.SAMPLE.fullmatch(line).groups()
                self.samples[name, frozenset(self.LABEL.findall(labels or ""))] = float(value)

    def __getitem__(self, key):
        name, labels = key if isinstance(key, tuple) else (key, {})
        return self.samples[name, frozenset(labels.items())]

    def labels(self, name):
        return [dict(labels) for n, labels in self.samples if n == name]


# ---- recalld -----------------------------------------------------------------------------------


class Daemon(Client):
    """A recalld of our own: any free port, a log to show when something fails."""

    def __init__(self, directory, *args, env=None, token=None):
        super().__init__("127.0.0.1", None, token)
        self.port_file = directory / "port"
        self.log_file = directory / "recalld.log"
        self.args = [RECALLD, "--http.listen=127.0.0.1:0", f"--http.port_file={self.port_file}",
                     # The usual few milliseconds are missed now and then on a busy machine.
                     "--recall.deadline_ms=5000", "--redis.timeout_ms=5000", "--redis.connect_ms=5000", *args]
        self.env = {**os.environ, **(env or {})}
        self.process = None

    def start(self, ready=True):
        with open(self.log_file, "ab") as log:
            self.process = subprocess.Popen(self.args, stdout=log, stderr=log, env=self.env,
                                            stdin=subprocess.DEVNULL)
        self.port = int(wait_until(self.read_port, "the port file is written"))
        if ready:
            wait_until(self.is_ready, "/readyz answers 200")
        return self

    def check_alive(self):
        assert self.process.poll() is None, f"recalld ended with {self.process.returncode}\n{self.log()}"

    def read_port(self):
        self.check_alive()
        return self.port_file.exists() and self.port_file.read_text().strip()

    def is_ready(self):
        self.check_alive()
        return self.get("/readyz").status == 200

    def log(self):
        return self.log_file.read_text(errors="replace")

    def log_lines(self, event):
        return [line for line in self.log().splitlines() if re.match(rf"\S+ +\w+ +{event}\b", line)]

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self):
        return self.process.wait(timeout=PATIENCE)

    def stop(self):
        """SIGTERM; the exit status. Killed only when it does not end by itself."""
        if self.process is None:
            return None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def reload(self):
        """SIGHUP, and wait for its result: the log line that tells it."""
        before = self.log_lines("reload(ed|_failed)")
        self.signal(signal.SIGHUP)
        wait_until(lambda: len(self.log_lines("reload(ed|_failed)")) > len(before), "the reload is over")
        return self.log_lines("reload(ed|_failed)")[-1]


def run_recalld(*args, env=None):
    """Runs it to its end: for --check and refused configurations."""
    return subprocess.run([RECALLD, *args], env={**os.environ, **(env or {})}, capture_output=True, text=True,
                          timeout=PATIENCE, stdin=subprocess.DEVNULL)


# ---- bundles -----------------------------------------------------------------------------------


def build_bundle(out, version, *options, model="debian-mind"):
    demo = ROOT / "demo"
    subprocess.run([RECALLCTL, "bundle", "build", "--weights", demo / f"{model}.safetensors",
                    "--items", demo / "items.tsv", "--popular", demo / "popular.txt",
                    "--histories", demo / "behaviour.tsv", "--shards", "2", "--name", model,
                    "--version", version, "--out", out, *options],
                   check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return out


def copy_bundle(bundle, out, version):
    """The same bundle under another version: only the manifest differs."""
    shutil.copytree(bundle, out)
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["version"] = version
    (out / "manifest.json").write_text(json.dumps(manifest))
    return out


# ---- load --------------------------------------------------------------------------------------


class Load:
    """Threads that ask POST /recall over and over until told to stop, or until nobody listens any more.

    Every request that was sent on an established connection must be answered 200; what was not goes into
    `failures`. A server may close a connection that waits for its next request only after having said so
    (Connection: close), and http.client then opens a new one.
    """

    def __init__(self, client, threads=4, body=None):
        self.client = client
        self.body = json.dumps(body or {"history": HISTORY, "n": 5})
        self.answers, self.failures, self.stopped = [], [], False
        self.threads = [threading.Thread(target=self.run, daemon=True) for _ in range(threads)]

    def run(self):
        connection = self.client.connect()
        while not self.stopped:
            try:
                if connection.sock is None:
                    connection.connect()
            except ConnectionRefusedError:
                return
            try:
                answer = self.client.ask("POST", "/recall", self.body, connection=connection)
            except Exception as why:  # whatever it is, the request was lost
                self.failures.append(repr(why))
                return
            if answer.status == 200:
                self.answers.append(answer.json())
            else:
                self.failures.append((answer.status, answer.body))

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        wait_until(lambda: len(self.answers) >= 50 or self.failures, "the load is under way")
        return self

    def __exit__(self, *_):
        self.stopped = True
        self.join()

    def join(self):
        for thread in self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive(), "a request was never answered"

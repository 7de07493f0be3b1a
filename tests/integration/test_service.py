"""What a service manager and a container see of the daemon: systemd's notifications, and recallctl ready."""
import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
import time

import pytest

from harness import HISTORY, PATIENCE, RECALLCTL, copy_bundle, run_recalld, wait_until

# ---- notifications -------------------------------------------------------------------------------


class Manager:
    """Stands for systemd: a datagram socket, and what arrived on it."""

    def __init__(self, name):
        self.name = name
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + name[1:] if name.startswith("@") else name)
        self.socket.settimeout(PATIENCE)
        self.env = {"NOTIFY_SOCKET": name}

    def next(self):
        """One message as a dictionary."""
        return dict(line.split("=", 1) for line in self.socket.recv(4096).decode().splitlines())

    def silent(self):
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            return not self.socket.recv(4096)
        self.socket.settimeout(PATIENCE)
        return True


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    made = Manager(str(tmp_path / "notify") if request.param == "path" else f"@recalld-test-{os.getpid()}")
    yield made
    made.socket.close()


def test_the_manager_is_told_of_start_reload_and_stop(start, manager, bundle):
    daemon = start(f"--bundle.paths={bundle}", "--http.drain_ms=300", env=manager.env, ready=False)
    assert manager.next() == {"READY": "1", "STATUS": "serving debian-mind@1"}
    assert daemon.get("/readyz").status == 200

    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    daemon.signal(signal.SIGHUP)
    told = manager.next()
    assert told["RELOADING"] == "1"
    assert before <= int(told["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert manager.next() == {"READY": "1", "STATUS": "serving debian-mind@1"}

    daemon.signal(signal.SIGTERM)
    told = manager.next()
    assert told["STOPPING"] == "1" and int(told["EXTEND_TIMEOUT_USEC"]) > 300_000
    assert daemon.wait() == 0
    assert manager.silent()


def test_a_refused_reload_ends_ready_and_says_so(start, bundle, tmp_path):
    manager = Manager(str(tmp_path / "notify"))
    copy = copy_bundle(bundle, tmp_path / "copy", "7")
    daemon = start(f"--bundle.paths={copy}", env=manager.env)
    assert manager.next()["STATUS"] == "serving debian-mind@7"
    (copy / "manifest.json").write_text("{")
    daemon.signal(signal.SIGHUP)
    assert manager.next()["RELOADING"] == "1"
    assert manager.next() == {"READY": "1", "STATUS": "serving debian-mind@7; the last reload failed"}
    assert daemon.get("/readyz").status == 200


def test_a_start_without_a_bundle_is_over_too(start, tmp_path):
    manager = Manager(str(tmp_path / "notify"))
    start(env=manager.env, ready=False)
    assert manager.next() == {"READY": "1", "STATUS": "no default bundle"}


def test_a_failed_start_is_never_called_ready(tmp_path):
    manager = Manager(str(tmp_path / "notify"))
    assert run_recalld("--http.listen=127.0.0.1:0", "--bundle.paths=/no/such/bundle", env=manager.env).returncode == 1
    assert manager.silent()


@pytest.mark.parametrize("name", ["/no/such/socket", "vsock:2:1", "/" + "x" * 200])
def test_a_manager_that_cannot_be_reached_is_logged_and_does_no_harm(start, bundle, name):
    daemon = start(f"--bundle.paths={bundle}", env={"NOTIFY_SOCKET": name})
    assert len(wait_until(lambda: daemon.log_lines("notify_failed"), "the log tells")) == 1
    assert daemon.recall(history=HISTORY, n=3).status == 200


# ---- recallctl ready -----------------------------------------------------------------------------


def ready(*args, env=None):
    return subprocess.run([RECALLCTL, "ready", *args], capture_output=True, text=True, timeout=2 * PATIENCE,
                          stdin=subprocess.DEVNULL, env={**os.environ, **(env or {})})


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


def test_a_ready_daemon_is_found_by_file_environment_or_option(daemon, tmp_path):
    address = f"127.0.0.1:{daemon.port}"
    (tmp_path / "recalld.ini").write_text(f"[http]\nlisten = {address}\n")
    for done in (ready("--http.listen", address), ready(env={"RECALLD_HTTP_LISTEN": f"0.0.0.0:{daemon.port}"}),
                 ready("--config", str(tmp_path / "recalld.ini")), ready(f"--http.listen=localhost:{daemon.port}")):
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == daemon.get("/readyz").body.decode()


def test_a_daemon_that_is_not_ready_gives_its_reason(start):
    daemon = start(ready=False)
    done = ready(f"--http.listen=127.0.0.1:{daemon.port}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"recallctl: 127.0.0.1:{daemon.port}: not ready: no default bundle is loaded yet\n"


def test_where_nobody_listens_it_says_so():
    port = free_port()
    done = ready(f"--http.listen=127.0.0.1:{port}")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"recallctl: 127.0.0.1:{port}: cannot connect: Connection refused\n"


@pytest.mark.parametrize("says,complaint", [
    (b"", "what answers there is not recalld"),
    (b"220 mail\r\n\r\n", "what answers there is not recalld"),
    (b"HTTP/1.1 200", "what answers there is not recalld"),
    (b"HTTP/1.1 503 x\r\n\r\nnot JSON", "not ready: it answers without a reason"),
    (b"HTTP/1.1 503 x\r\n\r\n" + b"x" * 100_000, "connected, but no answer came"),
    (None, "connected, but no answer came"),
])
def test_whatever_else_answers_is_not_ready(says, complaint):
    with socket.create_server(("127.0.0.1", 0)) as server:
        def answer():
            with contextlib.suppress(OSError), server.accept()[0] as s:
                s.recv(4096)
                if says is None:
                    s.recv(4096)  # until the client gives up
                else:
                    s.sendall(says)

        thread = threading.Thread(target=answer)
        thread.start()
        port = server.getsockname()[1]
        done = ready(f"--http.listen=127.0.0.1:{port}")
        thread.join()
    assert (done.returncode, done.stderr) == (1, f"recallctl: 127.0.0.1:{port}: {complaint}\n")


def test_it_waits_for_a_daemon_that_is_still_to_come(start, bundle):
    port = free_port()
    waiting = subprocess.Popen([RECALLCTL, "ready", "--wait", str(PATIENCE), f"--http.listen=127.0.0.1:{port}"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert waiting.poll() is None
        start(f"--http.listen=127.0.0.1:{port}", f"--bundle.paths={bundle}")
        out, complaint = waiting.communicate(timeout=2 * PATIENCE)
    finally:
        waiting.kill()
    assert (waiting.returncode, complaint) == (0, "")
    assert re.match(r'\{"ready":true,"bundle":"debian-mind@1"', out)


def test_a_bad_option_is_misuse():
    assert ready("--wait", "long").returncode == 2
    assert ready("--http.lisen", "x:1").returncode == 2

"""scripts/run.sh, the demo behind `make run`: it answers a question, and nothing outlives it."""
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from harness import RECALLCTL, RECALLD, ROOT, wait_until

DEMO = Path(RECALLD).parents[1] / "demo"  # `make` has built it beside the variants


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


def children_of(pid):
    """{name: pid} of the processes that `pid` started."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            before, after = stat.read_text().rsplit(") ", 1)
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(after.split()[1]) == pid:
            found[before.split("(", 1)[1]] = int(stat.parent.name)
    return found


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Demo:
    def __init__(self, build, port):
        build.mkdir(exist_ok=True)
        (build / "demo").symlink_to(DEMO)
        self.output = build / "output"
        env = dict(os.environ, PORT=str(port), RECALLD_BIN=RECALLD, RECALLCTL_BIN=RECALLCTL)
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen([ROOT / "scripts/run.sh", build], env=env, stdin=subprocess.DEVNULL,
                                            stdout=output, stderr=subprocess.STDOUT)

    def text(self):
        return self.output.read_text()

    def started(self):
        assert self.process.poll() is None, self.text()
        return "until you press Ctrl-C" in self.text()

    def ended(self):
        """The exit status; no process is left, which is what every test here is about."""
        status = self.process.wait(60)
        for name, pid in self.children.items():
            wait_until(lambda: not is_alive(pid), f"{name} is gone", 10)
        return status


@pytest.fixture
def demo(tmp_path):
    d = Demo(tmp_path / "b", free_port())
    try:
        wait_until(d.started, "the demo has asked its question")
        d.children = children_of(d.process.pid)
        assert {"recalld", "redis-server"} <= set(d.children)
        yield d
    finally:
        d.process.terminate()
        d.process.wait(60)


def test_the_question_is_answered_from_redis_by_the_model(demo):
    text = demo.text()
    assert "What else would my-project want?" in text
    assert "from libmicrohttpd-dev" in text or "from libjansson-dev" in text
    assert "libssl-dev" in text
    assert "2 known items" in text
    assert text.count("curl -s http://127.0.0.1:") == 2


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_all_of_it_cleanly(demo, how):
    demo.process.send_signal(how)
    assert demo.ended() == 0
    assert "stopping" in demo.text()
    assert not (demo.output.parent / "run/redis.sock").exists()


def test_nothing_survives_even_an_outright_kill(demo):
    demo.process.kill()
    assert demo.ended() == -signal.SIGKILL


@pytest.mark.parametrize("which", ["recalld", "redis-server"])
def test_when_one_part_dies_the_other_is_stopped_and_the_demo_fails(demo, which):
    os.kill(demo.children[which], signal.SIGKILL)
    assert demo.ended() == 1
    assert f"recalld: {which} has ended" in demo.text()


def test_a_second_demo_in_the_same_place_is_refused(demo):
    second = subprocess.run([ROOT / "scripts/run.sh", demo.output.parent], capture_output=True, text=True,
                            env=dict(os.environ, PORT=str(free_port())))
    assert second.returncode == 1
    assert second.stderr == "recalld: the demo already runs from this directory\n"


@pytest.mark.parametrize("port, says", [
    ("taken", "is taken; stop what listens there, or choose another with PORT=8081 make run"),
    ("80a", "PORT=80a is not a port number"),
    ("0", "PORT=0 is not a port number"),
    ("65536", "PORT=65536 is not a port number"),
])
def test_a_port_that_cannot_be_had_is_one_sentence_and_starts_nothing(tmp_path, port, says):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        if port == "taken":
            port = str(taken.getsockname()[1])
        done = subprocess.run([ROOT / "scripts/run.sh", tmp_path], capture_output=True, text=True,
                              env=dict(os.environ, PORT=port))
    assert done.returncode == 1
    assert says in done.stderr and done.stderr.count("\n") == 1 and done.stdout == ""
    assert not (tmp_path / "run/redis.log").exists()


def test_a_directory_too_deep_for_a_socket_is_one_sentence(tmp_path):
    done = subprocess.run([ROOT / "scripts/run.sh", tmp_path / ("deep" * 30)], capture_output=True, text=True,
                          env=dict(os.environ, PORT=str(free_port())))
    assert done.returncode == 1
    assert "is too long for the path of a socket; choose a shorter BUILD=" in done.stderr

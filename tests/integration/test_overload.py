"""More requests than the daemon can answer: who is refused, what the others get, and what is left of it afterwards.

How long a request takes here decides how many are too many and which deadline is fair, so both follow from what
the machine does when it is quiet.
"""
import array
import json
import random
import statistics
import struct
import subprocess
import threading
import time

import pytest

from harness import RECALLCTL, Daemon, wait_until

ROWS, DIM, INTERESTS, HISTORY_MAX = 60000, 64, 4, 10
SECONDS = 3
EFFORT = {"effort_1", "effort_2", "effort_3", "interests_cut"}
LATE = {"deadline_search", "short_candidates"}  # a search that the machine held up


# ---- a bundle that is slow enough ----------------------------------------------------------------------------------


def floats(draw, count):
    """Evenly spread over -1 .. 1."""
    value = [byte / 127.5 - 1 for byte in range(256)]
    return array.array("f", map(value.__getitem__, draw.randbytes(count))).tobytes()


def write_weights(path):
    draw = random.Random(7)
    shapes = {"mid_embedding_var": [ROWS, DIM], "capsule_network/bilinear/dense/kernel": [DIM, DIM],
              "routing_logits": [1, INTERESTS, HISTORY_MAX]}
    header = {"__metadata__": {"variant": "thudm-mind", "interests": str(INTERESTS), "max_history": str(HISTORY_MAX),
                               "init": "tensor:routing_logits"}}
    data = []
    for name, shape in shapes.items():
        begin = sum(map(len, data))
        data.append(floats(draw, shape[-1] * shape[-2]))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [begin, begin + len(data[-1])]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(data))
    return path


@pytest.fixture(scope="module")
def slow_bundle(tmp_path_factory):
    """Every list of an IVF index is searched at full effort: about as slow as reading every row."""
    folder = tmp_path_factory.mktemp("overload")
    weights = write_weights(folder / "weights.safetensors")
    (folder / "items.tsv").write_text("row\tid\n" + "".join(f"{row}\t{row}\n" for row in range(1, ROWS)))
    subprocess.run([RECALLCTL, "bundle", "build", "--weights", weights, "--items", folder / "items.tsv",
                    "--engine", "faiss", "--factory", "IVF64,Flat", "--effort", "64", "--name", "slow",
                    "--version", "1", "--out", folder / "bundle"], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return folder / "bundle"


# ---- load ------------------------------------------------------------------------------------------------------------


BODIES = [{"history": [str(17 * i + j + 1) for j in range(HISTORY_MAX)], "n": 100} for i in range(20)]


def plain(daemon):
    """The items of every body's answer, all the time it takes allowed; nothing may be missing from it."""
    answers = [daemon.recall(**body, deadline_ms=60000).json() for body in BODIES]
    assert all(answer["degraded"] == [] for answer in answers)
    return [answer["items"] for answer in answers]


class Burst:
    """More clients than a queue of one deadline holds, however fast or slow the machine is just then. Each asks again
    as soon as it has an answer, and after a while when it was refused: [(which body, answer)]."""

    CLIENTS = 100

    def __init__(self, daemon, pause):
        self.daemon, self.pause, self.answers = daemon, pause, []
        self.end = time.monotonic() + SECONDS
        self.threads = [threading.Thread(target=self.run, args=(client,), daemon=True)
                        for client in range(self.CLIENTS)]
        for thread in self.threads:
            thread.start()

    def join(self):
        for thread in self.threads:
            thread.join()
        return self

    def run(self, which):
        connection = self.daemon.connect()
        while time.monotonic() < self.end:
            which = (which + 1) % len(BODIES)
            answer = self.daemon.ask("POST", "/recall", BODIES[which], connection=connection)
            self.answers.append((which, answer))
            if answer.status != 200:
                time.sleep(self.pause)

    def with_status(self, status):
        return [(which, answer) for which, answer in self.answers if answer.status == status]


@pytest.fixture(scope="module")
def deadline_ms(tmp_path_factory, slow_bundle):
    """Twenty times what this machine takes for one request."""
    daemon = Daemon(tmp_path_factory.mktemp("pace"), f"--bundle.paths={slow_bundle}", "--workers.count=1").start()
    try:
        took = statistics.median(daemon.recall(BODIES[0]).json()["took_us"] for _ in range(30))
    finally:
        daemon.stop()
    return int(took * 20 / 1000) + 1


def check_answers(burst, deadline_ms, before):
    """What holds under load with control or without: all are answered, those with an answer in time, and one that is
    not marked is the very same as without load."""
    answered, refused = burst.with_status(200), burst.with_status(503)
    late = burst.with_status(504)
    assert len(answered) + len(refused) + len(late) == len(burst.answers)
    assert len(late) <= len(burst.answers) / 5  # hardly any, when nothing else runs
    took = [answer.json()["took_us"] / 1000 for _, answer in answered]
    assert sum(ms <= deadline_ms for ms in took) >= 0.8 * len(took)
    for which, answer in answered:
        if answer.json()["degraded"] == []:
            assert answer.json()["items"] == before[which]
    for _, answer in refused:
        assert answer.problem()["detail"].startswith("overloaded")


def check_refusals(metrics, count):
    """By the server's own clock; a busy machine may interrupt a few."""
    name = "recalld_overload_refusal_seconds"
    assert metrics[f"{name}_count"] == count
    assert metrics[f"{name}_bucket", {"le": "0.005"}] >= 0.9 * count
    assert count == sum(metrics["recalld_rejected_total", {"reason": reason}]
                        for reason in ("expected_wait", "queue_full"))


@pytest.fixture
def begin(start, slow_bundle, deadline_ms):
    def one_worker(*args):
        return start(f"--bundle.paths={slow_bundle}", "--workers.count=1", f"--recall.deadline_ms={deadline_ms}", *args)
    return one_worker


# ---- tests -----------------------------------------------------------------------------------------------------------


def test_effort_is_lowered_under_load_and_comes_back(begin, deadline_ms):
    daemon = begin()
    before = plain(daemon)
    assert daemon.metrics()["recalld_expected_wait_seconds"] == 0
    burst = Burst(daemon, deadline_ms / 1000)
    wait_until(lambda: daemon.metrics()["recalld_expected_wait_seconds"] > 0, "requests wait")
    burst.join()
    ended = time.monotonic()
    assert daemon.metrics()["recalld_effort_level"] > 0
    wait_until(lambda: daemon.metrics()["recalld_effort_level"] == 0, "full effort again")
    assert time.monotonic() - ended < 4  # half of that, when nothing else runs
    check_answers(burst, deadline_ms, before)
    words = [word for _, answer in burst.with_status(200) for word in answer.json()["degraded"]]
    assert EFFORT <= set(words) <= EFFORT | LATE
    metrics = daemon.metrics()
    for word in EFFORT:
        assert metrics["recalld_degraded_total", {"reason": word}] == words.count(word)
    check_refusals(metrics, len(burst.with_status(503)))
    assert plain(daemon) == before


def test_without_control_answers_stay_whole_and_more_is_refused(begin, deadline_ms):
    daemon = begin("--workers.effort_control=false")
    before = plain(daemon)
    burst = Burst(daemon, deadline_ms / 1000).join()
    assert daemon.metrics()["recalld_effort_level"] == 0
    check_answers(burst, deadline_ms, before)
    assert all(set(answer.json()["degraded"]) <= LATE for _, answer in burst.with_status(200))
    refused = len(burst.with_status(503))
    assert refused > len(burst.answers) / 4
    metrics = daemon.metrics()
    check_refusals(metrics, refused)
    assert metrics["recalld_rejected_total", {"reason": "expected_wait"}] > 0
    assert plain(daemon) == before

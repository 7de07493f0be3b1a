"""POST /events: what is accepted is in the journal, once; the rest is refused with its reason."""
import json
import time

import pytest

from harness import HISTORY, Daemon, wait_until
from test_journal import lines

EVENT = {"event": "clicked", "serve_id": "s-1", "item_id": "nettle-dev"}


@pytest.fixture
def own(start, bundle, tmp_path):
    def begin(*args):
        return start(f"--bundle.paths={bundle}", f"--journal.dir={tmp_path / 'journal'}", "--journal.compress=none",
                     *args)
    return begin


@pytest.fixture(scope="module")
def open_journal(tmp_path_factory, bundle):
    directory = tmp_path_factory.mktemp("events")
    daemon = Daemon(directory, f"--bundle.paths={bundle}", f"--journal.dir={directory / 'journal'}").start()
    yield daemon
    assert daemon.stop() == 0


def post(daemon, body):
    return daemon.ask("POST", "/events", body)


def test_one_event_and_a_list_are_accepted_and_written(own, tmp_path):
    daemon = own()
    before = int(time.time() * 1000)
    everything = {**EVENT, "request_id": "r-1", "user_id": 42, "position": 3, "ts_ms": before - 5000, "event_id": "e-1"}
    assert post(daemon, EVENT).json() == {"accepted": 1, "duplicates": 0, "rejected": []}
    answer = post(daemon, [everything, {**EVENT, "event": "added.to-cart", "item_id": 7}])
    assert (answer.status, answer.json()["accepted"]) == (202, 2)
    assert daemon.stop() == 0
    first, second, third = lines(tmp_path / "journal", "events")
    received = first.pop("received_ms")
    assert before <= received <= time.time() * 1000 and first.pop("ts_ms") == received
    assert first == {"v": 1, **EVENT}
    assert second.pop("received_ms") >= before
    assert second == {"v": 1, **everything, "user_id": "42"}
    assert (third["event"], third["item_id"]) == ("added.to-cart", "7")


BAD = [
    ({"serve_id": "s", "item_id": "i"}, "event", "event: is required"),
    ({"event": "clicked", "serve_id": "s"}, "item_id", "item_id: is required"),
    ({"event": "clicked", "item_id": "i"}, "serve_id", "serve_id: serve_id or request_id is required"),
    ({**EVENT, "colour": "red"}, "colour", "colour: is not a field of an event"),
    ({**EVENT, "": 1}, '""', '"": is not a field of an event'),
    ({**EVENT, "event": "two words"}, "event", "event: must be 1 to 64 characters of A-Z a-z 0-9 . _ : -"),
    ({**EVENT, "event": "x" * 65}, "event", "event: must be 1 to 64 characters of A-Z a-z 0-9 . _ : -"),
    ({**EVENT, "serve_id": 7}, "serve_id", "serve_id: must be 1 to 64 characters of A-Z a-z 0-9 . _ : -"),
    ({**EVENT, "item_id": ""}, "item_id", "item_id: must not be empty"),
    ({**EVENT, "item_id": "x" * 257}, "item_id", "item_id: is longer than 256 bytes"),
    ({**EVENT, "item_id": None}, "item_id", "item_id: must be a string or an integer"),
    ({**EVENT, "user_id": 1.5}, "user_id", "user_id: must be a string or an integer"),
    ({**EVENT, "position": -1}, "position", "position: must be an integer from 0 to 10000000"),
    ({**EVENT, "position": "3"}, "position", "position: must be an integer from 0 to 10000000"),
    ({**EVENT, "ts_ms": 1764000000}, "ts_ms", "ts_ms: must be milliseconds since 1970"),
    ({**EVENT, "ts_ms": 9764000000000}, "ts_ms", "ts_ms: is more than a day ahead"),
]


@pytest.mark.parametrize("event, field, detail", BAD)
def test_a_bad_event_is_refused_with_its_field(open_journal, event, field, detail):
    answer = post(open_journal, event)
    assert answer.status == 400
    problem = answer.problem()
    assert (problem["field"], problem["detail"]) == (field, detail)
    answer = post(open_journal, [EVENT, event])
    assert answer.status == 202
    assert answer.json() == {"accepted": 1, "duplicates": 0, "rejected": [{"index": 1, "detail": detail}]}


@pytest.mark.parametrize("body, detail", [
    ("", "body: line 1, column 0: '[' or '{' expected near end of file"),
    ("{", "body: line 1, column 1: string or '}' expected near end of file"),
    ('{"event":"a","event":"b"}', "body: line 1, column 20: duplicate object key near '\"event\"'"),
    (json.dumps([EVENT] * 1001), "body: has more than 1000 events"),
])
def test_a_bad_body_is_refused_as_a_whole(open_journal, body, detail):
    answer = post(open_journal, body)
    assert answer.status == 400
    assert (answer.problem()["detail"], answer.problem().get("field")) == (detail, None)


def test_a_list_without_any_good_event_is_400_with_all_reasons(open_journal):
    answer = post(open_journal, [3, {**EVENT, "when": 1}])
    assert answer.status == 400
    problem = answer.problem()
    assert problem["accepted"] == 0
    assert problem["rejected"] == [{"index": 0, "detail": "body: an event must be a JSON object"},
                                   {"index": 1, "detail": "when: is not a field of an event"}]
    assert post(open_journal, []).json() == {"accepted": 0, "duplicates": 0, "rejected": []}


def test_an_event_that_is_sent_again_counts_once(own, tmp_path):
    daemon = own()
    batch = [{**EVENT, "event_id": f"e-{i}"} for i in range(1000)]
    assert post(daemon, batch).json()["accepted"] == 1000
    assert post(daemon, batch).json() == {"accepted": 0, "duplicates": 1000, "rejected": []}
    assert post(daemon, [batch[0], {**EVENT, "event_id": "new"}, {**EVENT, "event_id": "new"}]).json() == {
        "accepted": 1, "duplicates": 2, "rejected": []}
    metrics = daemon.metrics()
    assert metrics["recalld_events_total", {"outcome": "accepted"}] == 1001
    assert metrics["recalld_events_total", {"outcome": "duplicate"}] == 1002
    assert daemon.stop() == 0
    ids = [e["event_id"] for e in lines(tmp_path / "journal", "events")]
    assert len(ids) == len(set(ids)) == 1001


def test_without_a_journal_events_are_409(daemon):  # the tests' usual one has none
    answer = post(daemon, EVENT)
    assert answer.status == 409
    assert answer.problem()["detail"] == "the journal is off: no journal.dir is configured"


def test_events_need_no_token_but_json(open_journal):
    assert open_journal.ask("POST", "/events", b"x", {"Content-Type": "text/plain"}).status == 415
    assert open_journal.get("/events").status == 405


def test_a_full_ring_is_503_with_what_was_taken_and_nothing_is_lost(own, tmp_path):
    (tmp_path / "journal").write_text("in the way: nothing can be written")
    daemon = own("--journal.ring_bytes=64K")
    sent, answer = 0, None

    def batch():
        return [{**EVENT, "event_id": str(i)} for i in range(sent, sent + 100)]

    while (answer := post(daemon, batch())).status == 202:
        sent += 100
        assert sent < 5000
    assert answer.status == 503
    problem = answer.problem()
    assert problem["accepted"] == problem["next"] < 100
    assert daemon.recall(history=HISTORY).status == 200
    (tmp_path / "journal").unlink()
    wait_until(lambda: daemon.log_lines("journal_resumed"), "the journal goes on")
    again = post(daemon, batch()).json()  # the whole batch, as a client that saw no answer would
    assert (again["accepted"], again["duplicates"]) == (100 - problem["next"], problem["next"])
    assert daemon.stop() == 0
    assert [e["event_id"] for e in lines(tmp_path / "journal", "events")] == [str(i) for i in range(sent + 100)]

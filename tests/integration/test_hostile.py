"""Clients that are broken, hostile or slow, on raw sockets against the real server.

TABLE says what is sent, what is answered and under which route that is counted. The tests are made from it, and
it is the table in docs/operations.md word for word.
"""
import contextlib
import json
import os
import random
import re
import resource
import socket
import threading
import time

import pytest

from harness import HISTORY, PATIENCE, ROOT, TOKEN, Daemon, wait_until
from test_http import BODY, chunked, post, read_answer

ROW, DAEMON, NOTHING = "/recall", "malformed", "nothing"
MAX_BODY = 256 << 10
DEEP = b"[" * 100_000


def fields(**given):
    return json.dumps({"history": HISTORY, **given}).encode()


def with_text(*texts):
    """Bodies with the same bytes as an id, as a key and in the free-form part."""
    return [form % text for text in texts
            for form in (b'{"user_id":"%s"}', b'{"history":["a","%s"]}', b'{"user_id":"u","%s":1}',
                         b'{"user_id":"u","context":{"%s":[{"k":"v"}]}}')]


def admin(path, body):
    return post(body, path, f"Authorization: Bearer {TOKEN}").replace(b"POST", b"PUT", path.count("default"))


def get(*headers, path="/livez", version="HTTP/1.1"):
    return "\r\n".join([f"GET {path} {version}", *headers]).encode() + b"\r\n\r\n"


def in_chunks(raw):
    return post(raw, "/recall", "Transfer-Encoding: chunked")


# ---- the table -----------------------------------------------------------------------------------

# Sent, answered, counted as. Numbers are statuses; "field" promises the member `field`, "line" that the detail names
# the place; "closed" that the connection ends. Examples are whole requests; without any, a test below shows the row.
TABLE = [
    ("no body, no JSON, more after its end, a byte order mark", "400, line", "/recall",
     [post(b) for b in (b"", b" ", b"x", b"{", b'{"n":1}}', BODY + BODY, b"\xef\xbb\xbf" + BODY, b"\0" * 100)]),
    ("JSON that is no object", "400", "/recall", [post(b) for b in (b"[]", b"[1,2]", b'[{"n":1}]')]),
    ("lists or objects nested 100,000 deep", "400, line", "/recall",
     [post(b) for b in (DEEP, b'{"context":' + DEEP, DEEP + b"]" * 100_000, b'{"context":' + b'{"a":' * 20_000)]),
    ("a key twice, at any depth", "400, line", "/recall",
     [post(b) for b in (b'{"n":1,"n":1}', b'{"user_id":"u","context":{"a":{"b":1,"b":2}}}')]),
    ("text that is not UTF-8, or a NUL in it", "400, line", "/recall",
     [post(b) for b in with_text(b"\xc0\xaf", b"\xe0\x80\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc3", b"\xff", b"\x80",
                                 b"\\ud800", b"\\udc00x", b"\\u0000", b"\0", b"a\nb")]),
    ("a number that no double or 64-bit integer holds", "400, line", "/recall",
     [post(b'{"history":["a"],"%s":%s}' % (key, number)) for key in (b"n", b"context", b"user_id")
      for number in (b"1e400", b"-1e400", b"9223372036854775808", b"-9223372036854775809", b"1" * 400)]),
    ("what only looks like a number", "400, line", "/recall",
     [post(b'{"history":["a"],"n":%s}' % n) for n in (b"NaN", b"Infinity", b"01", b"+1", b".5", b"1.", b"0x10")]),
    ("a field of the wrong type or out of bounds", "400, field", "/recall",
     [post(fields(**{name: value}))
      for name, wrong in {
          "n": (0, -1, 1001, 1.5, 2.0, 2 ** 31, 2 ** 63 - 1, -2 ** 63, "1", None, True, [], {}),
          "deadline_ms": (0, -1, 60001, 1.5, "1", None, True, []),
          "user_id": ("", "u" * 257, 1.5, None, True, [], {}),
          "scene": ("", "s" * 65, 1, None, [], {}),
          "request_id": ("", "r" * 65, "a b", "a\r\nX: y", "\u00e9", 1, None, []),
          "history": ("a", 1, None, {}, ["a", 1.5], [None], [["a"]], [""], ["x" * 257], ["a"] * 10_001),
          "exclude": ("a", 1, None, {}, [True], [""], ["a"] * 10_001),
          "filter": ("a", 1, None, [], {"section": None}, {"section": [1.5]}, {"section": [[]]},
                     {"section": ["a"] * 1001}, {"colour": "red"}, {f"a{i}": "b" for i in range(1000)}),
          "features": ([], 1, None, {"a": 1}), "arms": ([], 1, None, "a"),
          "explain": (1, "true", None, []), "vectors": (0, "true", None, {}), "context": (1, "a", None, []),
      }.items() for value in wrong]),
    ("an unknown field", "400, field", "/recall",
     [post(fields(**{name: 1})) for name in ("N", "n ", "limit", "x" * 1000, "\u00e9" * 500, "\U0001f600" * 99, "a\tb", '"')]),
    ("any of this to an administrative route", "400", "/bundles/default",
     [admin("/bundles/default", b) for b in (b"", b"[]", b"{", DEEP, b'{"bundle":1}', b'{"bundle":"\xff"}', b'{"bundle":""}',
                                             b'{"bundle":"a","bundle":"b"}', b'{"path":"a"}', b'{"bundle":"a","x":1}')]),
    ("`Content-Length` below 0, empty, no number, a list", "400, closed", "malformed",
     [post(BODY, "/recall", f"Content-Length:{n}") for n in (" -1", "", " x", " 5x", " 0x10", " 5, 5", " +5", " 1.5", " 1e3")]),
    ("`Content-Length` beyond 64 bits", "413, closed", "malformed",
     [post(BODY, "/recall", f"Content-Length: {n}") for n in (2 ** 64, 10 ** 30)]),
    ("`Content-Length` over `http.max_body`", "413, closed", "/recall",
     [post(BODY, "/recall", f"Content-Length: {n}", *more) for n in (MAX_BODY + 1, 2 ** 32, 2 ** 63, 2 ** 64 - 2)
      for more in ((), ("Expect: 100-continue",))]),
    ("`Content-Length` twice, or with `Transfer-Encoding`; another coding than `chunked`, or any in HTTP/1.0",
     "400, closed", "/recall",
     [post(BODY, "/recall", f"Content-Length: {len(BODY)}", "Content-Length: 5"),
      post(BODY, "/recall", f"Content-Length: {len(BODY)}", f"content-length: {len(BODY)}"),
      post(chunked(BODY), "/recall", "Content-Length: 5", "Transfer-Encoding: chunked"),
      post(chunked(BODY), "/recall", "Transfer-Encoding: chunked", "Content-Length: 5"),
      post(chunked(BODY), "/recall", "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
      in_chunks(chunked(BODY)).replace(b"HTTP/1.1", b"HTTP/1.0"),
      *[in_chunks(chunked(BODY)).replace(b": chunked", b": " + coding)
        for coding in (b"gzip, chunked", b"chunked, gzip", b"identity", b"xchunked", b"chunked;a", b"\x0bchunked", b"")]]),
    ("a header's name with a blank or a control character", "400, closed", "/recall",
     [post(BODY, "/recall").replace(b"Content-Length:", name) for name in (b"Content-Length :", b"Content Length:", b"Content\x0bLength:")]),
    ("no `Host`, two of them, two of another header that may be there once", "400, closed", "/recall",
     [post(BODY).replace(b"Host: test\r\n", host) for host in (b"", b"Host: a\r\nHost: b\r\n", b"Host: a\r\nHost: a\r\n",
                                                               b"Host: a\r\nContent-Type: text/plain\r\n")]),
    ("a chunked body over `http.max_body`", "413", "/recall",
     [in_chunks(chunked(*[b" " * size] * (2 * MAX_BODY // size))) for size in (64, 4096, 2 * MAX_BODY)]),
    ("the same over four times `http.max_body`", "closed", "nothing", None),
    ("a chunk without a size, or with more or less in it than that", "400, closed", "malformed",
     [in_chunks(raw) for raw in (b"zz\r\n", b"\r\n", b";a\r\n", b"-1\r\n", b"0x5\r\n", b" 5\r\n", b"5\r\nhello, world\r\n", b"5 \r\nhello\r\n")]),
    ("a chunk size beyond 64 bits", "413, closed", "malformed", [in_chunks(b"1" + b"0" * 16 + b"\r\nx")]),
    ("HTTP/0.9, no version, no path, a header without a colon", "400, closed", "malformed",
     [b"GET /livez\r\n\r\n", b"GET \r\n\r\n", b"GET /livez HTTP/1.1x\r\n\r\n", b"GET /livez http/1.1\r\n\r\n",
      b"GET /livez HTTP/1.1\r\nHost: t\r\nno colon\r\n\r\n", b"GET /livez HTTP/11.1\r\n\r\n"]),
    ("another version than HTTP/1, as HTTP/2 says at first", "505, closed", "malformed",
     [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET /livez HTTP/9.9\r\n\r\n", b"GET /livez HTTP/0.9\r\n\r\n"]),
    ("a request line over 16 KB", "414, closed", "malformed",
     [get("Host: t", path="/" + "x" * size) for size in (20_000, 1_000_000)]),
    ("headers that with it exceed 16 KB, by length or number", "431, closed", "malformed",
     [get("Host: t", "X: " + "x" * 20_000), get("Host: t", *[f"X{i}: {i}" for i in range(5000)]), get("Host: t", "X: " + "x" * 1_000_000)]),
    ("an `HTTP/1.0` request", "200, closed", "/livez", [get(version="HTTP/1.0"), get("Host: t", version="HTTP/1.0")]),
    ("chunks of one byte, and trailers", "200", "/recall",
     [in_chunks(b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\nX-Trailer: t\r\n\r\n"), in_chunks(chunked(BODY))]),
    ("empty lines before the request", "200", "/livez", [b"\r\n" * 20 + get("Host: t")]),
    ("`Expect: 100-continue`", "100, then 200", "/recall", None),
    ("many requests at once", "each in order", "each", None),
    ("a body shorter than `Content-Length`, and nothing more", "closed after `http.idle_s`", "nothing", None),
    ("a body longer than `Content-Length`", "the rest is read as the next request", "each", None),
    ("a request whose sender closes, or shuts down its side, before its end", "closed within 2 s", "nothing", None),
    ("a whole request whose sender then shuts down its side", "200, closed within 2 s", "/recall", None),
    ("a request whose sender leaves before the answer", "worked for in vain", "/recall", None),
    ("a request, or its headers, that lasts longer than `http.idle_s`, a byte now and then", "closed", "cut off", None),
    ("a request line that lasts longer than twice `http.idle_s`", "closed", "cut off", None),
    ("answers that nobody takes for `http.idle_s`", "closed", "each", None),
    ("nothing for `http.idle_s`", "closed", "nothing", None),
    ("a first line without a blank, such as the greeting of TLS", "closed", "nothing", None),
    ("no line at all", "closed after `http.idle_s`", "nothing", None),
    ("bodies over 16 KB that fill more than 64 times `http.max_body`", "503; smaller ones are answered", "/recall", None),
    ("more connections than `http.connections`", "wait until one closes", "nothing", None),
]
ROWS = {sent: (answered, counted) for sent, answered, counted, _ in TABLE}
shown = {sent for sent, _, _, examples in TABLE if examples}


def shows(*rows):
    """Marks the test of a row without examples."""
    assert set(rows) <= set(ROWS) - shown, set(rows) - set(ROWS)
    shown.update(rows)
    return lambda test: test


def test_the_table_is_the_one_in_operations_md_and_every_row_is_tested():
    text = (ROOT / "docs/operations.md").read_text()
    section = text[text.index("<!-- clients -->"):]
    section = section[:section.index("<!-- bundles -->")]
    rows = [tuple(cell.strip() for cell in line.strip("|").split("|"))
            for line in section.splitlines() if line.count("|") == 4]
    assert rows[2:] == [row[:3] for row in TABLE]  # without the heading and the line below it
    assert len(ROWS) == len(TABLE)
    assert shown == set(ROWS)


# ---- helpers -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory, bundle, token_file):
    it = Daemon(tmp_path_factory.mktemp("hostile"), f"--bundle.paths={bundle}", f"--http.max_body={MAX_BODY}",
                f"--admin.token_file={token_file}").start()
    yield it
    assert it.stop() == 0


@pytest.fixture(scope="module")
def hasty(tmp_path_factory, bundle):
    """Waits for nobody longer than a second."""
    it = Daemon(tmp_path_factory.mktemp("hasty"), f"--bundle.paths={bundle}", "--http.idle_s=1").start()
    yield it
    assert it.stop() == 0


@pytest.fixture(autouse=True)
def it_still_works(request):
    """After each test the daemon answers as ever, and keeps nothing of what was sent."""
    yield
    for name in {"server", "hasty"} & set(request.fixturenames):
        it = request.getfixturevalue(name)
        it.check_alive()
        assert it.recall(BODY).status == 200
        wait_until(lambda: it.metrics()["recalld_http_connections"] == 1, "the connections of the test are closed")
        assert it.metrics()["recalld_http_bodies_bytes"] == 0
        assert it.metrics()["recalld_in_flight"] == 0


def counted(metrics, route, status):
    return metrics["recalld_http_requests_total", {"route": route, "code": str(status)}]


def rest(s):
    """All that comes until the server closes; b"" too when it resets the connection."""
    got = b""
    with contextlib.suppress(ConnectionResetError):
        while (more := s.recv(65536)):
            got += more
    return got


def send(s, data):
    """As much as the server takes: it may answer and close before the end."""
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        s.sendall(data)


def is_library_1(server):
    return not server.get("/version").json()["libmicrohttpd"].startswith("0.")


def check_problem(status, headers, body, answered):
    document = json.loads(body)
    assert headers["content-type"] == "application/problem+json"
    assert (document["status"], document["request_id"]) == (status, headers["x-request-id"])
    if status == 503:
        assert headers["retry-after"] == "1"
    assert document["detail"]
    if "field" in answered:
        assert document["field"] in document["detail"] != ""
    if "line" in answered:
        assert re.search(r"line \d+, column \d+", document["detail"]), document


# ---- rows with examples --------------------------------------------------------------------------


@pytest.mark.parametrize("sent, answered, counts, examples", [row for row in TABLE if row[3]], ids=[row[0] for row in TABLE if row[3]])
def test_each_is_answered_and_counted_as_the_table_says(server, sent, answered, counts, examples):
    expected = int(answered[:3])
    before = server.metrics()
    for example in examples:
        with server.raw() as s, s.makefile("rb") as answers:
            send(s, example)
            if counts == "malformed":  # the library's own answer is not always well-formed
                text = rest(s)
                assert text.startswith(b"HTTP/1.1 "), example[:200]
                if not is_library_1(server):
                    assert int(text[9:12]) == expected, example[:200]
                continue
            status, headers, body = read_answer(answers)
            assert status == expected, (example[:200], body)
            if status != 200 and "content-type" in headers:
                check_problem(status, headers, body, answered)
            if "closed" in answered:
                assert headers["connection"] == "close"
                assert answers.read() == b""
            else:
                s.sendall(post(BODY))
                assert read_answer(answers)[0] == 200
    if not is_library_1(server):
        assert counted(server.metrics(), counts, expected) - counted(before, counts, expected) == \
            len(examples) * (1 + (expected == 200 and counts == "/recall"))


# ---- framing -------------------------------------------------------------------------------------


@shows("the same over four times `http.max_body`")
def test_an_endless_body_is_cut_off(server):
    with server.raw() as s:
        s.sendall(in_chunks(b""))
        with pytest.raises(OSError):
            for _ in range(10_000):
                s.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")


@shows("`Expect: 100-continue`")
def test_a_client_that_asks_first_is_told_to_go_on(server):
    with server.raw() as s, s.makefile("rb") as answers:
        for _ in range(2):
            s.sendall(post(BODY, "/recall", "Expect: 100-continue")[:-len(BODY)])
            assert answers.readline() + answers.readline() == b"HTTP/1.1 100 Continue\r\n\r\n"
            s.sendall(BODY)
            assert read_answer(answers)[0] == 200


@shows("many requests at once")
def test_many_requests_at_once_are_answered_in_order_whatever_they_are(server):
    kinds = [(post(fields(n=1)), 200), (post(b"{"), 400), (get("Host: t"), 200), (get("Host: t", path="/no"), 404),
             (in_chunks(chunked(b"{}", b" ")), 400), (post(fields(n=2), "/livez"), 405), (get("Host: t", path="/bundles"), 401)]
    order = random.Random(3).choices(kinds, k=400)
    with server.raw() as s, s.makefile("rb") as answers:
        sender = threading.Thread(target=s.sendall, args=(b"".join(raw for raw, _ in order),))
        sender.start()
        assert [read_answer(answers)[0] for _ in order] == [status for _, status in order]
        sender.join()


@shows("a body longer than `Content-Length`")
def test_what_follows_a_body_is_the_next_request(server):
    smuggled = get("Host: t", path="/version")
    with server.raw() as s, s.makefile("rb") as answers:
        s.sendall(post(BODY + smuggled, "/recall", f"Content-Length: {len(BODY)}"))
        assert read_answer(answers)[0] == 200
        assert json.loads(read_answer(answers)[2])["name"] == "recalld"
        s.sendall(post(BODY + b"\r\nGET / HTTP/9.9\r\n\r\n", "/recall", f"Content-Length: {len(BODY)}"))
        assert read_answer(answers)[0] == 200
        assert read_answer(answers)[0] == 505
    with server.raw() as s, s.makefile("rb") as answers:
        s.sendall(post(BODY, "/recall", "Content-Length: 5"))
        assert read_answer(answers)[0] == 400


# ---- clients that leave --------------------------------------------------------------------------

PARTS = [b"GE", b"GET /livez HTT", get("Host: t")[:-2], post(BODY)[:60], post(BODY)[:-1], in_chunks(chunked(BODY))[:-7],
         in_chunks(b"5"), in_chunks(b"")]


@shows("a request whose sender closes, or shuts down its side, before its end")
@pytest.mark.parametrize("leave", [socket.SHUT_WR, socket.SHUT_RDWR, "close", "reset"])
def test_half_a_request_ends_with_its_sender(server, leave):
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        left = []
        for part in PARTS * 10:
            s = server.raw()
            s.sendall(part)
            if leave == "reset":
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            if leave in ("reset", "close"):
                s.close()
                continue
            left.append(stack.enter_context(s))
            s.shutdown(leave)
        if leave == socket.SHUT_WR:
            assert {rest(s) for s in left} == {b""}
        wait_until(lambda: server.metrics()["recalld_http_connections"] == 1, "none of them is open")
    assert time.monotonic() - began < 20  # http.idle_s is 60 seconds


@shows("a whole request whose sender then shuts down its side")
def test_a_whole_request_is_answered_though_its_sender_has_shut_down_its_side(server):
    """Also when the end arrives while the request is at work, whatever other connections do meanwhile."""
    with contextlib.ExitStack() as stack:
        others = [stack.enter_context(server.raw()) for _ in range(8)]
        began = time.monotonic()
        for count in (1, 3):
            asking = [stack.enter_context(server.raw()) for _ in range(50)]
            for s in asking:
                s.sendall(post(BODY) * count)
                s.shutdown(socket.SHUT_WR)
            for s in asking:
                assert rest(s).count(b"HTTP/1.1 200 OK\r\n") == count
        with server.raw() as s:
            s.sendall(get("Host: t"))
            s.shutdown(socket.SHUT_WR)
            assert rest(s).startswith(b"HTTP/1.1 200 ")
        assert time.monotonic() - began < 20
        for s in others:
            s.sendall(get("Host: t"))
            assert s.recv(9) == b"HTTP/1.1 "


@shows("a request whose sender leaves before the answer")
def test_a_request_whose_sender_is_gone_harms_nobody(server):
    before = counted(server.metrics(), "/recall", 200)
    for i in range(100):
        s = server.raw()
        if i % 2:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        s.sendall(post(BODY) * (1 + i % 3))
        s.close()
    assert server.recall(BODY).status == 200
    wait_until(lambda: server.metrics()["recalld_http_connections"] == 1, "they are closed")
    assert counted(server.metrics(), "/recall", 200) > before


# ---- clients that are slow -----------------------------------------------------------------------


def drip(sockets, seconds):
    """Sends each socket its bytes, one every 100 ms; how long it took until the server closed it."""
    began, lasted = time.monotonic(), {}
    while len(lasted) < len(sockets):
        assert time.monotonic() - began < seconds, f"{len(sockets) - len(lasted)} are still open"
        for s, data in sockets.items():
            if s not in lasted:
                try:
                    s.send(data[:1])
                    sockets[s] = data[1:] + data[:1]
                    if s.recv(65536) == b"":
                        raise ConnectionResetError
                except BlockingIOError:
                    continue
                except OSError:
                    lasted[s] = time.monotonic() - began
        time.sleep(0.1)
    return lasted


@shows("a request, or its headers, that lasts longer than `http.idle_s`, a byte now and then",
       "a request line that lasts longer than twice `http.idle_s`")
def test_a_slow_sender_is_cut_off_and_holds_up_nobody(hasty):
    before = hasty.metrics()["recalld_http_cut_off_total"]
    with contextlib.ExitStack() as stack:
        sockets = {}
        for begin, slow in [(post(b"", "/recall", "Content-Length: 1000"), b"x"), (in_chunks(b""), b"1\r\nx\r\n"),
                            (b"GET /livez HTTP/1.1\r\n", b"X: y\r\n"), (b"POST /recall HTTP/1.1\r\nX: ", b"y"), (b"", b"G")]:
            for _ in range(4):
                s = stack.enter_context(hasty.raw())
                s.sendall(begin)
                s.setblocking(False)
                sockets[s] = slow
        lasted = {}
        dripping = threading.Thread(target=lambda: lasted.update(drip(dict(sockets), 20)))
        dripping.start()
        while dripping.is_alive():
            assert hasty.recall(BODY).status == 200
        assert len(lasted) == len(sockets)
        assert all(1 <= seconds for seconds in lasted.values())
    assert hasty.metrics()["recalld_http_cut_off_total"] - before >= len(sockets)
    assert hasty.log_lines("cut_off")


@shows("a body shorter than `Content-Length`, and nothing more", "nothing for `http.idle_s`")
def test_who_says_no_more_is_cut_off(hasty):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(hasty.raw()) for _ in range(5)]
        for s, data in zip(sockets, (b"", b"GET /li", b"GET /livez HTTP/1.1\r\nHo", post(BODY)[:-1], in_chunks(b"5\r\nhel"))):
            s.sendall(data)
        assert [rest(s) for s in sockets] == [b""] * 5


@shows("answers that nobody takes for `http.idle_s`")
def test_who_does_not_take_the_answers_is_cut_off(hasty):
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.settimeout(PATIENCE)
        s.connect((hasty.host, hasty.port))
        sender = threading.Thread(target=send, args=(s, post(fields(n=1000)) * 400))
        sender.start()
        wait_until(lambda: hasty.metrics()["recalld_http_connections"] == 1, "the connection is closed")
        sender.join()


# ---- what is no HTTP -----------------------------------------------------------------------------

TLS = bytes.fromhex("16030100c8010000c40303") + bytes(range(32)) + b"\x20" + bytes(range(180))


def cases(seed, n):
    """Random bytes, and requests with some of their bytes changed, left out or repeated."""
    random_ = random.Random(seed)
    for i in range(n):
        if i % 3 == 0:
            yield random_.randbytes(random_.randrange(1, 2000))
            continue
        raw = bytearray(random_.choice([post(BODY), in_chunks(chunked(BODY[:9], BODY[9:])), get("Host: t", path="/metrics")]))
        for _ in range(random_.randrange(1, 8)):
            at = random_.randrange(len(raw))
            raw[at:at + random_.randrange(3)] = random_.randbytes(random_.randrange(3))
        yield bytes(raw)


@shows("a first line without a blank, such as the greeting of TLS", "no line at all")
def test_bytes_that_are_no_http_are_refused_or_waited_out(hasty):
    with contextlib.ExitStack() as stack:
        pairs = []
        for data in (TLS, TLS + b"\r\n\r\n", b"x" * 50 + b"\n", b"\r\n" * 5000, b"\0" * 1000, b" ", *cases(1, 300)):
            s = stack.enter_context(hasty.raw())
            send(s, data)
            pairs.append((s, data))
        for s, data in pairs:
            got = rest(s)
            assert got == b"" or got.startswith(b"HTTP/1.1 "), (data, got)
            if b"\n" not in data or b" " not in data:
                assert got == b"", (data, got)


def sanitized(daemon):
    return re.search("lib[at]san", open(f"/proc/{daemon.process.pid}/maps").read())


def test_nothing_of_all_this_stays_behind(server):
    """Once everything in the table has been sent, sending it again takes no more descriptors and no more memory."""
    def play():
        everything = [example for _, _, _, examples in TABLE for example in (examples or [])[:20]]
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(server.raw()) for _ in everything]
            for s, example in zip(sockets, everything):
                send(s, example)
                with contextlib.suppress(OSError):
                    s.shutdown(socket.SHUT_WR)
            for s in sockets:
                rest(s)
            for data in cases(2, 100):
                send(stack.enter_context(server.raw()), data)
        wait_until(lambda: server.metrics()["recalld_http_connections"] == 1, "all are closed")
        return server.metrics()["recalld_resident_anonymous_bytes"]

    def descriptors():
        return len(os.listdir(f"/proc/{server.process.pid}/fd"))

    opened, resident, again = descriptors(), play(), play()
    wait_until(lambda: descriptors() == opened, "no descriptor more is open than before")
    if not sanitized(server):  # which keeps what was freed, and looks for leaks itself
        assert again - resident < 4e6


# ---- too many ------------------------------------------------------------------------------------


@shows("bodies over 16 KB that fill more than 64 times `http.max_body`")
def test_large_bodies_share_a_budget_and_small_ones_need_none(server):
    padded = BODY + b" " * (MAX_BODY - len(BODY))
    head = post(padded)[:-len(padded)]
    with contextlib.ExitStack() as stack:
        sending = [stack.enter_context(server.raw()) for _ in range(80)]
        for s in sending:
            s.sendall(head + padded[:-1])
        full = 64 * MAX_BODY
        wait_until(lambda: server.metrics()["recalld_http_bodies_bytes"] > full - MAX_BODY, "the budget is used up")
        assert server.metrics()["recalld_http_bodies_bytes"] <= full
        assert server.recall(BODY).status == 200
        assert server.recall(padded[:16 << 10]).status == 200
        answer = server.recall(padded)
        assert answer.status == 503
        assert "large bodies" in answer.problem()["detail"]
        for s in sending:
            send(s, padded[-1:])
        statuses = []
        for s in sending:
            with s.makefile("rb") as answers:
                status, headers, body = read_answer(answers)
                statuses.append(status)
                if status == 503:
                    check_problem(status, headers, body, "503")
        assert set(statuses) == {200, 503}
        assert statuses.count(200) >= 63
    wait_until(lambda: server.recall(padded).status == 200, "there is room again")


@shows("more connections than `http.connections`")
def test_ten_thousand_idle_connections_cost_memory_and_no_time(start, bundle):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 10_000 if hard == resource.RLIM_INFINITY else min(10_000, hard - 700)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    daemon = start(f"--bundle.paths={bundle}", f"--http.connections={wanted + 2}")
    request, idle = post(fields(n=10)), []

    def took(connection, n=100):
        times = []
        with connection.makefile("rb") as answers:
            for _ in range(n):
                began = time.monotonic()
                connection.sendall(request)
                assert read_answer(answers)[0] == 200
                times.append(time.monotonic() - began)
        return sorted(times)[n // 2]

    def size():
        return daemon.metrics()["recalld_resident_anonymous_bytes"]

    try:
        with daemon.raw() as asking:
            alone, before = took(asking), size()
            for i in range(wanted):
                idle.append(socket.create_connection((daemon.host, daemon.port), PATIENCE, (f"127.0.0.{1 + i % 20}", 0)))
            wait_until(lambda: daemon.metrics()["recalld_http_connections"] == wanted + 2, "all are open")
            assert took(asking) < 3 * alone + 0.005
            unused = size() - before
            for s in idle:
                s.sendall(get("Host: t"))
            for s in idle:
                assert s.recv(9) == b"HTTP/1.1 "
            used = size() - before
            assert took(asking) < 3 * alone + 0.005
            if not sanitized(daemon):  # docs/operations.md states what one takes
                assert unused < wanted * 8e3
                assert used < wanted * 24e3
            with daemon.raw(), daemon.raw() as waiting:  # the first of the two is the last there is room for
                waiting.sendall(request)
                waiting.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    waiting.recv(1)
                idle.pop().close()
                idle.pop().close()
                waiting.settimeout(PATIENCE)
                assert waiting.recv(9) == b"HTTP/1.1 "
    finally:
        for s in idle:
            s.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    wait_until(lambda: daemon.metrics()["recalld_http_connections"] == 1, "all are closed")
    assert daemon.stop() == 0

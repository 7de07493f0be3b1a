"""The HTTP interface of a running recalld: routes, refusals, and what connections may do."""
import itertools
import json
import re
import socket
import time

import pytest

from harness import HISTORY, ROOT, Client, Daemon, wait_until

UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
BODY = json.dumps({"history": HISTORY, "n": 3}).encode()
GET_ROUTES = ["/livez", "/healthz", "/readyz", "/metrics", "/version", "/openapi.json", "/bundles",
              "/experiments", "/experiments/report"]


def post(body, path="/recall", *headers):
    lines = [f"POST {path} HTTP/1.1", "Host: test", "Content-Type: application/json", *headers]
    if not any(h.lower().startswith(("transfer-encoding", "content-length")) for h in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chunked(*pieces):
    return b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces if p) + b"0\r\n\r\n"


def read_answer(stream):
    """(status, headers, body) of the next answer, or None at the end of the connection."""
    line = stream.readline()
    if not line:
        return None
    status, headers = int(line.split()[1]), {}
    while (line := stream.readline().rstrip(b"\r\n")):
        name, value = line.decode().split(":", 1)
        headers[name.lower()] = value.strip()
    return status, headers, stream.read(int(headers.get("content-length", 0)))


# ---- probes and documents ------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/livez", "/healthz"])
def test_alive(daemon, path):
    answer = daemon.get(path)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == {"status": "alive", "ready": True, "bundle": "debian-mind@1", "redis": "up"}


def test_ready(daemon):
    answer = daemon.get("/readyz")
    assert answer.status == 200
    assert answer.json() == {"ready": True, "bundle": "debian-mind@1", "redis": "up"}


def test_version_is_the_program_s(daemon):
    answer = daemon.get("/version").json()
    assert answer["name"] == "recalld"
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", answer["version"])


def test_openapi_is_the_document_in_docs_and_names_every_route(daemon):
    answer = daemon.get("/openapi.json")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.body == (ROOT / "docs/openapi.json").read_bytes()
    paths = answer.json()["paths"]
    routes = set(re.findall(r'\{"([A-Z]+)", "(/[^"]*)"', (ROOT / "src/http/routes.c").read_text()))
    assert len(routes) > 10
    assert {(m.upper(), p) for p, methods in paths.items() for m in methods if m != "parameters"} == routes


@pytest.mark.parametrize("path", GET_ROUTES)
def test_head_is_get_without_the_body(daemon, path):
    get, head = daemon.get(path), daemon.ask("HEAD", path)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Type"] == get.headers["Content-Type"]
    if path != "/metrics":  # which counts the requests between the two
        assert int(head.headers["Content-Length"]) == len(get.body)


def test_every_answer_carries_a_request_id_of_its_own(daemon):
    ids = {daemon.get("/livez").headers["X-Request-Id"] for _ in range(20)}
    assert len(ids) == 20
    assert all(UUID7.fullmatch(i) for i in ids)


# ---- recall --------------------------------------------------------------------------------------


def test_recall_answers_with_items_best_first(daemon):
    answer = daemon.recall(history=HISTORY, n=10)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    body = answer.json()
    assert body["bundle"] == "debian-mind@1"
    assert (body["source"], body["degraded"], body["history"]) == ("model", [], 2)
    scores = [item["score"] for item in body["items"]]
    assert len(scores) == 10 and scores == sorted(scores, reverse=True)
    assert not {item["id"] for item in body["items"]} & set(HISTORY)


def test_the_same_request_always_gets_the_same_items(daemon):
    first = daemon.recall(history=HISTORY, n=100).json()["items"]
    assert all(daemon.recall(history=HISTORY, n=100).json()["items"] == first for _ in range(10))


def test_the_client_s_request_id_comes_back(daemon):
    answer = daemon.recall(history=HISTORY, request_id="r-1:a.b_C")
    assert answer.json()["request_id"] == answer.headers["X-Request-Id"] == "r-1:a.b_C"


def test_a_request_without_id_gets_a_uuid7(daemon):
    answer = daemon.recall(history=HISTORY)
    assert UUID7.fullmatch(answer.json()["request_id"])
    assert answer.json()["request_id"] == answer.headers["X-Request-Id"]


def test_a_user_s_behaviour_comes_from_redis(start, bundle, redis):
    daemon = start(f"--bundle.paths={bundle}", f"--redis.address={redis.socket}")
    redis.command("DEL", "hist:http-user")
    redis.command("LPUSH", "hist:http-user", *HISTORY)  # the newest is at the head
    of_user = daemon.recall(user_id="http-user", n=20).json()
    given = daemon.recall(history=HISTORY, n=20).json()
    assert of_user["user_id"] == "http-user"
    assert of_user["items"] == given["items"]


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize("body, field", [
    ({"history": HISTORY, "hystory": []}, "hystory"),
    ({"history": HISTORY, "n": 0}, "n"),
    ({"history": HISTORY, "n": 1001}, "n"),
    ({"history": HISTORY, "n": "5"}, "n"),
    ({"history": HISTORY, "n": 1.5}, "n"),
    ({"history": "zlib1g"}, "history"),
    ({"history": ["zlib1g", None]}, "history[1]"),
    ({"history": [""]}, "history[0]"),
    ({"history": ["x" * 257]}, "history[0]"),
    ({"history": HISTORY, "exclude": [[]]}, "exclude[0]"),
    ({"history": HISTORY, "filter": []}, "filter"),
    ({"history": HISTORY, "filter": {"section": [True]}}, "filter.section"),
    ({"history": HISTORY, "filter": {"colour": ["red"]}}, "filter.colour"),
    ({"history": HISTORY, "deadline_ms": 0}, "deadline_ms"),
    ({"history": HISTORY, "request_id": "no blanks"}, "request_id"),
    ({"history": HISTORY, "request_id": "x" * 65}, "request_id"),
    ({"history": HISTORY, "explain": 1}, "explain"),
    ({"history": HISTORY, "vectors": "yes"}, "vectors"),
    ({"history": HISTORY, "context": []}, "context"),
    ({"history": HISTORY, "arms": ["mind-v3"]}, "arms"),
    ({"history": HISTORY, "features": {"price": 1}}, "features"),
    ({"user_id": ""}, "user_id"),
    ({"user_id": "u" * 257}, "user_id"),
    ({"n": 5}, "user_id"),
    ({}, "user_id"),
])
def test_a_bad_field_is_refused_by_name(daemon, body, field):
    answer = daemon.recall(body)
    assert answer.status == 400
    problem = answer.problem()
    assert problem["field"] == field
    assert field in problem["detail"]


@pytest.mark.parametrize("body, detail", [
    (b"", "body"),
    (b"{", "line 1"),
    (b"[]", "must be a JSON object"),
    (b'"history"', "line 1"),
    (b'{"n": 1, "n": 2}', "duplicate"),
    (b'{"user_id": "\xff\xfe"}', "byte 0xff"),
    (b'{"user_id": "\xed\xa0\x80"}', "byte 0xed"),
    (b'{"user_id": "a\\u0000b"}', "u0000"),
    (b'{"user_id": "u"} trailing', "end of file"),
    (b'{"n": 1e999, "user_id": "u"}', "overflow"),
    (b'{"history": ' + b"[" * 5000 + b"]" * 5000 + b"}", "depth"),
], ids=itertools.count())
def test_a_body_that_is_no_json_object_is_refused(daemon, body, detail):
    answer = daemon.recall(body)
    assert answer.status == 400
    assert detail in answer.problem()["detail"]


def test_a_refusal_carries_the_client_s_request_id(daemon):
    answer = daemon.recall(history=HISTORY, request_id="mine", n=0)
    assert answer.problem()["request_id"] == "mine"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonx",
                                  "application/json; charset=latin-1", "application/json; charset=utf-8; x"])
def test_a_body_that_does_not_say_json_is_415(daemon, kind):
    answer = daemon.ask("POST", "/recall", BODY, {"Content-Type": kind})
    assert answer.status == 415
    assert "application/json" in answer.problem()["detail"]


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON", "application/json;charset=UTF-8",
                                  'application/json ; charset="utf-8" '])
def test_json_may_say_that_it_is_utf8(daemon, kind):
    assert daemon.ask("POST", "/recall", BODY, {"Content-Type": kind}).status == 200


def test_a_compressed_body_is_415(daemon):
    answer = daemon.ask("POST", "/recall", BODY, {"Content-Encoding": "gzip"})
    assert answer.status == 415
    assert "Content-Encoding" in answer.problem()["detail"]


# ---- paths and methods ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/recall/", "/recalls", "/Recall", "//recall", "/bundles/aliases/",
                                  "/bundles/a/b", "/event", "/experiments/", "/%2Frecall", "/recall%00"])
def test_unknown_paths_are_404(daemon, path):
    for method in ("GET", "POST", "PUT", "DELETE"):
        answer = daemon.ask(method, path, b"{}" if method in ("POST", "PUT") else None)
        assert answer.status == 404
        answer.problem()


@pytest.mark.parametrize("method, path, allow", [
    ("GET", "/recall", "POST"),
    ("DELETE", "/recall", "POST"),
    ("OPTIONS", "/recall", "POST"),
    ("BREW", "/recall", "POST"),
    ("POST", "/livez", "GET, HEAD"),
    ("PUT", "/metrics", "GET, HEAD"),
    ("DELETE", "/bundles", "GET, HEAD, POST"),
    ("GET", "/bundles/default", "PUT"),
    ("DELETE", "/bundles/default", "PUT"),
    ("GET", "/bundles/aliases/stable", "PUT"),
    ("GET", "/bundles/a@1", "DELETE"),
])
def test_a_wrong_method_is_405_and_says_what_is_allowed(daemon, method, path, allow):
    answer = daemon.ask(method, path)
    assert answer.status == 405
    assert answer.headers["Allow"] == allow
    assert method in answer.problem()["detail"]


def test_a_query_does_not_change_the_route(daemon):
    assert daemon.get("/livez?probe=1").status == 200


# ---- size ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory, bundle):
    """A recalld with narrow limits."""
    it = Daemon(tmp_path_factory.mktemp("small"), f"--bundle.paths={bundle}", "--http.max_body=1K",
                "--http.idle_s=1", "--http.connections=8").start()
    yield it
    assert it.stop() == 0


def test_a_content_length_over_the_limit_is_refused_before_the_body(small):
    with small.raw() as s, s.makefile("rb") as answers:
        s.sendall(post(b"", "/recall", "Content-Length: 1025"))
        status, headers, body = read_answer(answers)
        assert status == 413
        assert "1024" in json.loads(body)["detail"]
        assert headers["connection"] == "close"
        assert answers.read() == b""  # closed


def test_a_client_that_sends_it_all_the_same_reads_the_refusal(small):
    answer = small.recall(b"x" * 3_000_000)
    assert answer.status == 413
    answer.problem()


def test_a_body_of_exactly_the_limit_is_read(small):
    body = json.dumps({"history": HISTORY, "n": 3}).encode()
    assert small.recall(body + b" " * (1024 - len(body))).status == 200


@pytest.mark.parametrize("size, status", [(1024, 200), (1025, 413), (4000, 413)])
def test_chunks_are_counted(small, size, status):
    body = BODY + b" " * (size - len(BODY))
    pieces = [body[i:i + 100] for i in range(0, size, 100)]
    with small.raw() as s, s.makefile("rb") as answers:
        s.sendall(post(chunked(*pieces), "/recall", "Transfer-Encoding: chunked"))
        assert read_answer(answers)[0] == status
        s.sendall(post(BODY))  # the connection is still of use
        assert read_answer(answers)[0] == 200


def test_endless_chunks_are_cut_off(small):
    with small.raw() as s:
        s.sendall(post(b"", "/recall", "Transfer-Encoding: chunked"))
        with pytest.raises(OSError):
            for _ in range(100_000):
                s.sendall(b"64\r\n" + b"x" * 100 + b"\r\n")
    assert small.get("/livez").status == 200


def test_a_body_where_none_belongs_does_no_harm(small):
    with small.raw() as s, s.makefile("rb") as answers:
        for method, path, status in [("GET", "/livez", 200), ("DELETE", "/recall", 405), ("POST", "/no", 404)]:
            s.sendall(f"{method} {path} HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nhello".encode())
            assert read_answer(answers)[0] == status


# ---- connections ---------------------------------------------------------------------------------


def test_a_connection_serves_many_requests_and_survives_refusals(daemon):
    connection = daemon.connect()
    connection.connect()
    sock = connection.sock
    for body, status in [(BODY, 200), (b"{", 400), (BODY, 200), (b'{"x":1}', 400), (BODY, 200)] * 5:
        assert daemon.ask("POST", "/recall", body, connection=connection).status == status
        assert connection.sock is sock
    assert daemon.get("/nothing", connection=connection).status == 404
    assert connection.sock is sock
    connection.close()


def test_pipelined_requests_are_answered_in_order(daemon):
    bodies = [json.dumps({"history": HISTORY, "n": 1 + i % 7, "request_id": f"p{i}"}).encode() for i in range(50)]
    with daemon.raw() as s, s.makefile("rb") as answers:
        s.sendall(b"".join(post(b) for b in bodies))
        for i in range(50):
            status, headers, body = read_answer(answers)
            assert (status, headers["x-request-id"]) == (200, f"p{i}")
            assert len(json.loads(body)["items"]) == 1 + i % 7


def test_a_request_may_arrive_byte_by_byte(daemon):
    with daemon.raw() as s, s.makefile("rb") as answers:
        for byte in post(BODY):
            s.sendall(bytes([byte]))
        assert read_answer(answers)[0] == 200


def test_a_chunked_body_is_read(daemon):
    with daemon.raw() as s, s.makefile("rb") as answers:
        s.sendall(post(chunked(BODY[:7], BODY[7:8], BODY[8:]), "/recall", "Transfer-Encoding: chunked"))
        status, _, body = read_answer(answers)
        assert (status, len(json.loads(body)["items"])) == (200, 3)


def test_expect_100_is_answered(daemon):
    with daemon.raw() as s, s.makefile("rb") as answers:
        s.sendall(post(BODY, "/recall", "Expect: 100-continue")[:-len(BODY)])
        assert answers.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert answers.readline() == b"\r\n"
        s.sendall(BODY)
        assert read_answer(answers)[0] == 200


def test_http_1_0_closes_after_the_answer(daemon):
    with daemon.raw() as s:
        s.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        text = s.makefile("rb").read()
    assert b" 200 OK\r\n" in text and text.endswith(b"}\n")


def test_a_client_that_has_finished_sending_still_gets_its_answer(daemon):
    with daemon.raw() as s, s.makefile("rb") as answers:
        s.sendall(post(BODY) + post(BODY))
        s.shutdown(socket.SHUT_WR)
        assert [read_answer(answers)[0] for _ in range(2)] == [200, 200]


def test_clients_that_vanish_do_no_harm(daemon):
    before = daemon.metrics()["recalld_http_connections"]
    for i in range(200):
        s = daemon.raw()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # reset, not close
        s.sendall(post(BODY)[:None if i % 2 else 40 + i])
        s.close()
    assert daemon.recall(BODY).status == 200
    wait_until(lambda: daemon.metrics()["recalld_http_connections"] <= before + 1, "their connections are closed")


@pytest.mark.parametrize("line", [b"nonsense\r\n\r\n", b"GET\r\n\r\n", b"GET /livez HTTP/9.9\r\n\r\n",
                                  b"GET /livez HTTP/1.1\r\nbad header\r\n\r\n", b"\x16\x03\x01\x02\n\n"])
def test_what_is_not_http_is_refused_or_cut_off(daemon, line):
    with daemon.raw() as s:
        s.sendall(line)
        text = s.makefile("rb").read()
    assert text == b"" or re.match(rb"HTTP/1\.[01] [45]\d\d ", text)
    assert daemon.get("/livez").status == 200


def test_very_long_headers_are_refused(daemon):
    with daemon.raw() as s:
        s.sendall(b"GET /livez HTTP/1.1\r\nHost: t\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n")
        text = s.makefile("rb").read()
    assert re.match(rb"HTTP/1\.[01] 4\d\d ", text)


def test_an_idle_connection_is_closed(small):
    with small.raw() as s:
        began = time.monotonic()
        assert s.recv(1) == b""
        assert 0.5 < time.monotonic() - began < 10


def test_connections_over_the_limit_wait_for_a_place(small):
    wait_until(lambda: small.metrics()["recalld_http_connections"] == 1, "earlier connections are gone")
    held = [small.raw() for _ in range(8)]
    with small.raw() as waiting, waiting.makefile("rb") as answers:
        waiting.sendall(post(BODY))
        waiting.settimeout(0.2)
        with pytest.raises(TimeoutError):
            waiting.recv(1)
        held.pop().close()
        waiting.settimeout(30)
        with waiting.makefile("rb") as answers:
            assert read_answer(answers)[0] == 200
    for s in held:
        s.close()


# ---- load ----------------------------------------------------------------------------------------


def flood(client, bodies):
    """All at once, each on a connection of its own; the answers."""
    sockets = [client.raw() for _ in bodies]
    for s, body in zip(sockets, bodies):
        s.sendall(post(body))
    got = []
    for s in sockets:
        with s, s.makefile("rb") as answers:
            got.append(read_answer(answers))
    return got


def test_an_overload_is_refused_at_once(start, bundle):
    daemon = start(f"--bundle.paths={bundle}", "--workers.count=1", "--workers.batch=1", "--workers.queue=1")
    body = json.dumps({"history": HISTORY * 20, "n": 1000}).encode()
    got = flood(daemon, [body] * 64)
    assert {status for status, _, _ in got} == {200, 503}
    for status, headers, text in got:
        if status == 503:
            assert headers["retry-after"] == "1"
            assert "queue is full" in json.loads(text)["detail"]
    assert daemon.recall(BODY).status == 200
    refused = sum(status == 503 for status, _, _ in got)
    metrics = daemon.metrics()
    assert metrics["recalld_http_requests_total", {"route": "/recall", "code": "503"}] == refused
    assert metrics["recalld_rejected_total", {"reason": "queue_full"}] == refused


def test_a_request_whose_deadline_has_passed_is_504(start, bundle):
    daemon = start(f"--bundle.paths={bundle}", "--workers.count=1", "--workers.batch=1")
    body = json.dumps({"history": HISTORY * 20, "n": 1000, "deadline_ms": 1}).encode()
    got = flood(daemon, [body] * 128)
    late = [json.loads(text) for status, _, text in got if status == 504]
    assert late
    assert "deadline" in late[0]["detail"] and late[0]["status"] == 504


def test_nothing_loaded_is_503(start):
    daemon = start(ready=False)
    assert daemon.get("/livez").json() == {"status": "alive", "ready": False, "bundle": None, "redis": "off"}
    answer = daemon.get("/readyz")
    assert answer.status == 503
    problem = answer.problem()
    assert (problem["ready"], problem["bundle"], problem["redis"]) == (False, None, "off")
    answer = daemon.recall(BODY)
    assert answer.status == 503
    answer.problem()


def test_an_ipv6_address_is_served(start, bundle):
    daemon = start(f"--bundle.paths={bundle}", "--http.listen=[::1]:0", ready=False)
    assert Client("::1", daemon.port).get("/livez").status == 200

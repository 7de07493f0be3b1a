"""The command line of recalld, its start, its stop, and what SIGHUP does."""
import contextlib
import json
import re
import signal
import socket
import threading
import time

import pytest

from harness import HISTORY, ROOT, Load, copy_bundle, run_recalld, wait_until

BODY = json.dumps({"history": HISTORY, "n": 3}).encode()
HEAD = b"POST /recall HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY)


# ---- command line --------------------------------------------------------------------------------


def test_help_and_version():
    shown = run_recalld("--help")
    assert shown.returncode == 0
    for word in ("--config=FILE", "--check", "--print-config", "SIGTERM", "SIGHUP"):
        assert word in shown.stdout
    shown = run_recalld("--version")
    assert shown.returncode == 0
    assert re.fullmatch(r"recalld \d+\.\d+\.\d+\S*\n", shown.stdout)


def test_print_config_is_the_file_in_conf():
    shown = run_recalld("--print-config")
    assert shown.returncode == 0
    assert shown.stdout == (ROOT / "conf/recalld.ini").read_text()


def test_the_printed_configuration_is_accepted_again(tmp_path, bundle):
    (tmp_path / "recalld.ini").write_text(run_recalld("--print-config").stdout)
    done = run_recalld(f"--config={tmp_path}/recalld.ini", "--check", f"--bundle.paths={bundle}")
    assert (done.returncode, done.stderr) == (0, "")


def test_check_verifies_configuration_and_bundles(bundle, bundle2):
    done = run_recalld("--check", f"--bundle.paths={bundle}, {bundle2}", "--bundle.default=debian-mind@2")
    assert done.returncode == 0
    assert done.stdout.splitlines() == ["bundle debian-mind@1: ok", "bundle debian-mind@2: ok (default)",
                                        "configuration: ok"]


@pytest.mark.parametrize("text, complaint", [
    ("[http]\nlisten = 127.0.0.1:0\nlisen = 1\n", ":3: "),
    ("[recall]\n\nn = 0\n", ":3: "),
    ("[nothing]\nx = 1\n", ":1: "),
    ("[http]\nloops = 1\nloops = 2\n", ":3: "),
])
@pytest.mark.parametrize("task", [["--check"], []])
def test_a_bad_file_is_refused_with_its_line(tmp_path, text, complaint, task):
    path = tmp_path / "bad.ini"
    path.write_text(text)
    done = run_recalld(f"--config={path}", *task)
    assert done.returncode == 2
    assert done.stderr.startswith(f"recalld: {path}{complaint}")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("args, env, complaint", [
    (["--http.loop=2"], {}, "http.loop"),
    (["--http.loops=none"], {}, "http.loops"),
    (["--nonsense"], {}, "--nonsense"),
    (["nonsense"], {}, "nonsense"),
    (["--config=/no/such/file"], {}, "/no/such/file"),
    ([], {"RECALLD_HTTP_LOOPS": "many"}, "RECALLD_HTTP_LOOPS"),
    ([], {"RECALLD_HTTP_LOOP": "2"}, "RECALLD_HTTP_LOOP"),
])
def test_a_bad_argument_or_variable_is_refused_by_name(args, env, complaint):
    done = run_recalld(*args, env=env)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_command_line_is_stronger_than_the_environment_and_that_than_the_file(start, tmp_path, bundle):
    (tmp_path / "a.ini").write_text(f"[bundle]\npaths = {bundle}\n[recall]\nn = 3\ncandidates = 500\n")
    file_only = start(f"--config={tmp_path}/a.ini")
    assert len(file_only.items(history=HISTORY)) == 3
    with_env = start(f"--config={tmp_path}/a.ini", env={"RECALLD_RECALL_N": "4"})
    assert len(with_env.items(history=HISTORY)) == 4
    with_args = start(f"--config={tmp_path}/a.ini", "--recall.n=5", env={"RECALLD_RECALL_N": "4"})
    assert len(with_args.items(history=HISTORY)) == 5


# ---- start ---------------------------------------------------------------------------------------


def failed_start(*args):
    """The one line that says why recalld did not start."""
    done = run_recalld("--http.listen=127.0.0.1:0", *args)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if " error " in line]
    assert len(lines) == 1 and "start_failed" in lines[0]
    return lines[0]


def test_a_taken_port_is_one_clear_sentence():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "127.0.0.1:%d" % taken.getsockname()[1]
        done = run_recalld(f"--http.listen={address}")
    assert done.returncode == 1
    assert f"cannot listen on {address}: another process listens there" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_address_of_another_machine_is_refused():
    done = run_recalld("--http.listen=192.0.2.1:8080")
    assert done.returncode == 1
    assert "cannot listen on 192.0.2.1:8080: no interface of this machine has that address" in done.stderr


def test_a_bundle_that_does_not_verify_ends_the_start(bundle, tmp_path):
    broken = copy_bundle(bundle, tmp_path / "broken", "1")
    (broken / "popular.txt").write_text("no-such-package\n")
    assert str(broken) in failed_start(f"--bundle.paths={broken}")
    assert "popular.txt" in failed_start(f"--bundle.paths={broken}")
    assert str(tmp_path / "missing") in failed_start(f"--bundle.paths={tmp_path}/missing")
    done = run_recalld("--check", f"--bundle.paths={broken}")
    assert done.returncode == 1 and "popular.txt" in done.stderr


def test_an_unknown_default_ends_the_start(bundle):
    assert "other@1" in failed_start(f"--bundle.paths={bundle}", "--bundle.default=other@1")


@pytest.mark.parametrize("content, complaint", [(None, "No such file"), ("", "one line"), ("two words\n", "one line"),
                                                ("two\nlines\n", "one line")])
def test_a_token_file_without_a_token_ends_the_start(bundle, tmp_path, content, complaint):
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
    line = failed_start(f"--bundle.paths={bundle}", f"--admin.token_file={path}")
    assert str(path) in line and complaint in line


def test_the_port_file_comes_with_the_listener_and_goes_with_it(start, bundle):
    daemon = start(f"--bundle.paths={bundle}")
    assert daemon.port_file.read_text() == f"{daemon.port}\n"
    assert daemon.stop() == 0
    assert not daemon.port_file.exists()


def test_the_log_says_when_it_is_ready_and_how_long_that_took(start, bundle):
    daemon = start(f"--bundle.paths={bundle}")
    line = wait_until(lambda: daemon.log_lines("ready"), "the line is written")[0]
    assert re.search(rf"port={daemon.port} bundle=debian-mind@1 experiments=0 redis=off ms=\d+$", line)


def test_log_lines_may_be_json(start, bundle):
    daemon = start(f"--bundle.paths={bundle}", "--log.format=json")
    wait_until(lambda: "ready" in daemon.log(), "the line is written")
    lines = [json.loads(line) for line in daemon.log().splitlines()]
    assert [line["event"] for line in lines] == ["listening", "ready"]


# ---- stop ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_under_load_loses_no_request(start, bundle, number):
    daemon = start(f"--bundle.paths={bundle}")
    with Load(daemon, threads=8) as work:
        daemon.signal(number)
        assert daemon.wait() == 0
        work.join()  # each thread ends when it finds nobody listening
    assert work.failures == []
    assert daemon.log_lines("stopped")


def test_clients_that_open_a_connection_per_request_lose_none_either(start, bundle):
    daemon = start(f"--bundle.paths={bundle}")
    lost, answered = [], []

    def run():
        while True:
            try:
                connection = daemon.connect()
                connection.connect()
            except ConnectionRefusedError:
                return
            try:
                answered.append(daemon.ask("POST", "/recall", BODY, connection=connection).status)
            except Exception as why:
                lost.append(repr(why))
            finally:
                connection.close()

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(answered) > 100, "the load is under way")
    assert daemon.stop() == 0
    for thread in threads:
        thread.join()
    assert lost == [] and set(answered) == {200}


def test_a_request_that_is_half_sent_is_still_answered(start, bundle):
    daemon = start(f"--bundle.paths={bundle}")
    with daemon.raw() as s:
        s.sendall(HEAD + BODY[:10])
        wait_until(lambda: daemon.get("/livez").status == 200, "the daemon has read it")
        daemon.signal(signal.SIGTERM)
        wait_until(lambda: refuses(daemon), "the listener is closed")
        s.sendall(BODY[10:])
        text = s.makefile("rb").read()
    assert text.startswith(b"HTTP/1.1 200 OK") and b"Connection: close" in text
    assert daemon.wait() == 0


def refuses(daemon):
    try:
        daemon.raw().close()
    except ConnectionRefusedError:
        return True
    return False


def test_a_client_that_never_finishes_does_not_hold_up_the_stop_for_ever(start, bundle):
    daemon = start(f"--bundle.paths={bundle}")
    with daemon.raw() as s:
        s.sendall(HEAD + BODY[:10])
        time.sleep(0.1)
        began = time.monotonic()
        assert daemon.stop() == 0
        assert 1 < time.monotonic() - began < 20


def test_idle_connections_do_not_hold_up_the_stop(start, bundle):
    daemon = start(f"--bundle.paths={bundle}")
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(daemon.raw()) for _ in range(20)]
        daemon.get("/livez")
        began = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - began < 4
        assert all(s.recv(1) == b"" for s in idle)


def test_while_draining_it_serves_but_is_not_ready(start, bundle):
    daemon = start(f"--bundle.paths={bundle}", "--http.drain_ms=60000")
    daemon.signal(signal.SIGTERM)
    answer = wait_until(lambda: not_ready(daemon), "/readyz answers 503")
    assert "stopping" in answer.problem()["detail"]
    assert answer.problem()["bundle"] == "debian-mind@1"
    assert daemon.get("/livez").status == 200
    answer = daemon.recall(BODY)
    assert answer.status == 200
    assert answer.headers["Connection"] == "close"
    daemon.signal(signal.SIGHUP)  # too late
    wait_until(lambda: daemon.log_lines("reload_failed"), "the reload is refused")
    began = time.monotonic()
    daemon.signal(signal.SIGTERM)  # the second ends the wait
    assert daemon.wait() == 0
    assert time.monotonic() - began < 20


def not_ready(daemon):
    answer = daemon.get("/readyz")
    return answer if answer.status == 503 else None


def test_draining_takes_as_long_as_configured(start, bundle):
    daemon = start(f"--bundle.paths={bundle}", "--http.drain_ms=700")
    began = time.monotonic()
    assert daemon.stop() == 0
    assert 0.7 <= time.monotonic() - began < 20


# ---- reload --------------------------------------------------------------------------------------


@pytest.fixture
def ini(tmp_path):
    """ini(text) replaces the configuration file in one step and returns the argument that names it."""
    def write(text):
        (tmp_path / "new.ini").write_text(text)
        (tmp_path / "new.ini").rename(tmp_path / "recalld.ini")
        return f"--config={tmp_path}/recalld.ini"
    return write


def test_a_reload_changes_what_may_change(start, ini, bundle, bundle2, tmp_path):
    (tmp_path / "token").write_text("new-token\n")
    daemon = start(ini(f"[bundle]\npaths = {bundle}\n[recall]\nn = 3\nn_max = 10\n"))
    assert len(daemon.items(history=HISTORY)) == 3
    assert daemon.get("/bundles").status == 403
    ini(f"[bundle]\npaths = {bundle},{bundle2}\ndefault = debian-mind@2\n[recall]\nn = 6\nn_max = 20\n"
        f"[admin]\ntoken_file = {tmp_path}/token\n[log]\nformat = json\n")
    daemon.signal(signal.SIGHUP)
    wait_until(lambda: '"event":"reloaded"' in daemon.log(), "the reload is over")
    answer = daemon.recall(history=HISTORY).json()
    assert (answer["bundle"], len(answer["items"])) == ("debian-mind@2", 6)
    assert len(daemon.items(history=HISTORY, n=20)) == 20
    assert daemon.get("/bundles").status == 401
    assert daemon.get("/bundles", headers={"Authorization": "Bearer new-token"}).status == 200
    assert daemon.metrics()["recalld_reloads_total", {"result": "done"}] == 1


def test_a_reload_takes_a_new_token_from_the_same_file(start, bundle, tmp_path):
    path = tmp_path / "token"
    path.write_text("old")
    daemon = start(f"--bundle.paths={bundle}", f"--admin.token_file={path}")
    for token in ("old", "new"):
        path.write_text(token)
        assert "reloaded" in daemon.reload()
        assert daemon.get("/bundles", headers={"Authorization": f"Bearer {token}"}).status == 200
    assert daemon.get("/bundles", headers={"Authorization": "Bearer old"}).status == 401


@pytest.mark.parametrize("text, complaint", [
    ("[recall]\nn = 6\nnn = 1\n", "recalld.ini:5: "),
    ("[recall]\nn = 6\nn_max = 0\n", "recalld.ini:5: "),
    ("[recall]\nn = 6\n[http]\nloops = 7\n[workers]\nqueue = 9\n", "http.loops, workers.queue"),
    ("[recall]\nn = 6\n[admin]\ntoken_file = /no/such/token\n", "/no/such/token"),
    ("default = other@1\n[recall]\nn = 6\n", "other@1"),
])
def test_a_bad_reload_changes_nothing_and_says_why(start, ini, bundle, text, complaint):
    daemon = start(ini(f"[bundle]\npaths = {bundle}\n[recall]\nn = 3\n"))
    ini(f"[bundle]\npaths = {bundle}\n{text}")
    line = daemon.reload()
    assert "reload_failed" in line and "nothing was changed" in line and complaint in line
    assert len(daemon.items(history=HISTORY)) == 3
    assert daemon.metrics()["recalld_reloads_total", {"result": "failed"}] == 1
    assert len([x for x in daemon.log().splitlines() if " error " in x]) == 1


def test_an_emptied_file_does_not_end_the_service(start, ini, bundle):
    daemon = start(ini(f"[bundle]\npaths = {bundle}\n"))
    ini("")
    line = daemon.reload()
    assert "reload_failed" in line and "bundle.paths" in line
    assert daemon.recall(BODY).status == 200


def test_a_reload_with_a_bundle_that_does_not_verify_keeps_the_old_one(start, ini, bundle, tmp_path):
    broken = copy_bundle(bundle, tmp_path / "broken", "9")
    (broken / "weights.safetensors").write_bytes(b"\0" * 64)
    daemon = start(ini(f"[bundle]\npaths = {bundle}\n[recall]\nn = 3\n"))
    ini(f"[bundle]\npaths = {broken}\n[recall]\nn = 6\n")
    assert "weights.safetensors" in daemon.reload()
    answer = daemon.recall(history=HISTORY).json()
    assert (answer["bundle"], len(answer["items"])) == ("debian-mind@1", 3)


def test_a_reload_can_change_where_behaviour_is_read(start, ini, bundle, redis):
    for key, item in [("old:u", "zlib1g"), ("new:u", "libjansson-dev")]:
        redis.command("DEL", key)
        redis.command("LPUSH", key, item)
    common = f"[bundle]\npaths = {bundle}\n[redis]\naddress = {redis.socket}\n[behaviour]\n"
    daemon = start(ini(common + "key = old:{user_id}\n"))
    wait_until(lambda: daemon.get("/readyz").json()["redis"] == "up", "Redis is connected")
    with Load(daemon, body={"user_id": "u", "n": 5}) as work:
        before = daemon.items(user_id="u", n=5)
        ini(common + "key = new:{user_id}\n")
        assert "reloaded" in daemon.reload()
        after = daemon.items(user_id="u", n=5)
    assert before == daemon.items(history=["zlib1g"], n=5)
    assert after == daemon.items(history=["libjansson-dev"], n=5)
    assert work.failures == []
    assert all(a["degraded"] == [] for a in work.answers)
    assert daemon.get("/readyz").json()["redis"] == "up"


def test_reloads_under_load_lose_no_request(start, ini, bundle, bundle2):
    daemon = start(ini(f"[bundle]\npaths = {bundle}\n"))
    with Load(daemon) as work:
        for i in range(6):
            path = (bundle2, bundle)[i % 2]
            ini(f"[bundle]\npaths = {path}\n[recall]\nn = {i + 1}\n")
            assert "reloaded" in daemon.reload()
    assert work.failures == []
    assert {a["bundle"] for a in work.answers} == {"debian-mind@1", "debian-mind@2"}


def test_many_reloads_at_once_end_with_the_last_file(start, ini, bundle):
    daemon = start(ini(f"[bundle]\npaths = {bundle}\n[recall]\nn = 1\n"))
    for n in range(2, 12):
        ini(f"[bundle]\npaths = {bundle}\n[recall]\nn = {n}\n")
        daemon.signal(signal.SIGHUP)
    wait_until(lambda: len(daemon.items(history=HISTORY)) == 11, "the last file is in effect")
    assert daemon.stop() == 0


def test_an_open_connection_survives_a_reload(start, bundle):
    daemon = start(f"--bundle.paths={bundle}")
    connection = daemon.connect()
    daemon.ask("POST", "/recall", BODY, connection=connection)
    sock = connection.sock
    assert "reloaded" in daemon.reload()
    assert daemon.ask("POST", "/recall", BODY, connection=connection).status == 200
    assert connection.sock is sock
    connection.close()

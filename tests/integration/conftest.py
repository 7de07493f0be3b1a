"""Fixtures: a private Redis, the demo bundle, a recalld for all tests of a file, and recallds of a test's own.

DAEMON=host:port (with DAEMON_TOKEN) lets tests that need no daemon of their own use one started elsewhere,
under a debugger for instance.
"""
import os

import pytest

from harness import TOKEN, Client, Daemon, Redis, build_bundle, copy_bundle


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    setattr(item, f"failed_{report.when}", report.failed)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """debian-mind@1."""
    return build_bundle(tmp_path_factory.mktemp("bundle") / "one", "1")


@pytest.fixture(scope="session")
def demo_bundle(tmp_path_factory):
    """As `make run` builds it: on two Faiss shards."""
    return build_bundle(tmp_path_factory.mktemp("demo") / "debian-mind", "2026-11-24", "--engine", "faiss",
                        "--factory", "Flat")


@pytest.fixture(scope="session")
def bundle2(bundle):
    """debian-mind@2, with the same weights."""
    return copy_bundle(bundle, bundle.parent / "two", "2")


@pytest.fixture(scope="session")
def redis(tmp_path_factory):
    server = Redis(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def token_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("token") / "token"
    path.write_text(TOKEN + "\n")
    return path


@pytest.fixture
def start(tmp_path_factory, request):
    """start(*args, ready=True, env={}, token=None): a recalld of the test's own, stopped whatever happens."""
    daemons = []

    def begin(*args, ready=True, **more):
        daemons.append(Daemon(tmp_path_factory.mktemp("recalld"), *args, **more))
        return daemons[-1].start(ready)

    yield begin
    for daemon in daemons:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.stop()
    if getattr(request.node, "failed_call", False):
        for daemon in daemons:
            print(f"---- {daemon.log_file}\n{daemon.log()}")


@pytest.fixture(scope="module")
def shared(tmp_path_factory, bundle, redis, token_file):
    """The client of a recalld that all tests of a file share, with Redis, a token and the demo bundle."""
    address = os.environ.get("DAEMON")
    if address:
        host, port = address.rsplit(":", 1)
        yield Client(host, int(port), os.environ.get("DAEMON_TOKEN"))
        return
    directory = tmp_path_factory.mktemp("shared")
    daemon = Daemon(directory, f"--bundle.paths={bundle}", f"--redis.address={redis.socket}",
                    f"--admin.token_file={token_file}", f"--state.dir={directory}", token=TOKEN).start()
    yield daemon
    status = daemon.stop()
    if status != 0:
        print(daemon.log())
    assert status == 0


@pytest.fixture
def daemon(shared, request):
    """The shared recalld; its log is shown when the test fails."""
    yield shared
    if getattr(request.node, "failed_call", False) and isinstance(shared, Daemon):
        print(f"---- {shared.log_file}\n{shared.log()}")

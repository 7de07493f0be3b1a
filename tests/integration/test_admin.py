"""The administrative routes: who may use them, and bundles that come, go and take over under load."""
import json
import shutil

import pytest

from harness import HISTORY, TOKEN, Load, copy_bundle, wait_until

ADMIN = [("GET", "/experiments", None), ("PUT", "/experiments", {}), ("GET", "/experiments/report", None),
         ("GET", "/bundles", None), ("POST", "/bundles", {"path": "/nowhere"}),
         ("PUT", "/bundles/aliases/stable", {"bundle": "debian-mind@1"}),
         ("PUT", "/bundles/default", {"bundle": "debian-mind@1"}), ("DELETE", "/bundles/debian-mind@1", None)]


@pytest.fixture
def own(start, bundle, token_file, tmp_path):
    """A daemon that keeps what is changed, and can be started again on the same state."""
    def begin(*args):
        return start(f"--bundle.paths={bundle}", f"--admin.token_file={token_file}", f"--state.dir={tmp_path}",
                     *args, token=TOKEN)
    return begin


def load(daemon, path):
    answer = daemon.ask("POST", "/bundles", {"path": str(path)})
    assert answer.status == 202, answer.body
    assert answer.json() == {"path": str(path), "state": "loading", "progress": "/bundles"}
    return wait_until(lambda: outcome(daemon, path), "the bundle is loaded or refused")


def outcome(daemon, path):
    for entry in daemon.get("/bundles").json()["bundles"]:
        if entry["dir"] == str(path) and entry["state"] in ("ready", "failed"):
            return entry
    return None


# ---- the token -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method, path, body", ADMIN)
def test_without_a_configured_token_administration_is_off(start, bundle, method, path, body):
    daemon = start(f"--bundle.paths={bundle}", token=TOKEN)
    answer = daemon.ask(method, path, body)
    assert answer.status == 403
    assert "admin.token_file" in answer.problem()["detail"]


@pytest.mark.parametrize("method, path, body", ADMIN)
@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer ", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x",
                                   f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN.upper()}"])
def test_a_missing_or_wrong_token_is_401(daemon, method, path, body, given):
    daemon_headers = {} if given is None else {"Authorization": given}
    token, daemon.token = daemon.token, None
    try:
        answer = daemon.ask(method, path, body, daemon_headers)
    finally:
        daemon.token = token
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert TOKEN not in answer.body.decode()
    answer.problem()


@pytest.mark.parametrize("given", [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER   {TOKEN}"])
def test_the_right_token_opens(daemon, given):
    assert daemon.get("/bundles", headers={"Authorization": given}).status == 200


def test_recall_and_probes_need_no_token(start, bundle, token_file):
    daemon = start(f"--bundle.paths={bundle}", f"--admin.token_file={token_file}")
    assert daemon.recall(history=HISTORY).status == 200
    for path in ("/livez", "/healthz", "/readyz", "/metrics", "/version", "/openapi.json"):
        assert daemon.get(path).status == 200


def test_the_token_is_asked_for_before_the_body_is_judged(daemon):
    wrong = {"Authorization": "Bearer no"}
    assert daemon.ask("POST", "/bundles", b"{", {**wrong, "Content-Type": "text/plain"}).status == 401


# ---- bodies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method, path, key", [("POST", "/bundles", "path"), ("PUT", "/bundles/default", "bundle"),
                                               ("PUT", "/bundles/aliases/stable", "bundle")])
def test_a_body_must_say_the_one_thing(daemon, method, path, key):
    for body, field in [({}, key), ({key: 1}, key), ({key: ""}, key), ({key: None}, key),
                        ({key: "x", "more": 1}, "more")]:
        answer = daemon.ask(method, path, body)
        assert answer.status == 400
        assert answer.problem()["field"] == field
    for body in (b"", b"{", b"[]", b'"x"', b'{"%s":"a","%s":"b"}' % (key.encode(), key.encode())):
        answer = daemon.ask(method, path, body)
        assert answer.status == 400
        answer.problem()
    assert daemon.ask(method, path, b"{}", {"Content-Type": "text/plain"}).status == 415


# ---- bundles -------------------------------------------------------------------------------------


def test_the_list_shows_what_is_loaded(own, bundle):
    manifest = json.loads((bundle / "manifest.json").read_text())
    answer = own().get("/bundles").json()
    assert answer["default"] == "debian-mind@1"
    entry = answer["bundles"][0]
    assert (entry["name"], entry["state"], entry["dir"]) == ("debian-mind@1", "ready", str(bundle))
    assert entry["items"] == manifest["items"]["count"]
    assert entry["weights_sha256"] == manifest["weights"]["sha256"]


def test_a_bundle_is_loaded_named_and_made_the_default(own, bundle2):
    daemon = own()
    assert load(daemon, bundle2)["name"] == "debian-mind@2"
    assert daemon.get("/readyz").json()["bundle"] == "debian-mind@1"  # loading switches nothing

    answer = daemon.ask("PUT", "/bundles/aliases/stable", {"bundle": "debian-mind@2"})
    assert (answer.status, answer.json()) == (200, {"alias": "stable", "bundle": "debian-mind@2"})
    answer = daemon.ask("PUT", "/bundles/default", {"bundle": "stable"})
    assert (answer.status, answer.json()) == (200, {"default": "stable"})
    assert daemon.recall(history=HISTORY).json()["bundle"] == "debian-mind@2"
    assert daemon.get("/readyz").json()["bundle"] == "debian-mind@2"
    listed = daemon.get("/bundles").json()
    assert (listed["default"], listed["aliases"]) == ("stable", {"stable": "debian-mind@2"})


def test_what_was_changed_survives_a_restart(own, bundle2):
    daemon = own()
    load(daemon, bundle2)
    assert daemon.ask("PUT", "/bundles/aliases/canary", {"bundle": "debian-mind@1"}).status == 200
    assert daemon.ask("PUT", "/bundles/default", {"bundle": "debian-mind@2"}).status == 200
    assert daemon.stop() == 0
    again = own()
    listed = again.get("/bundles").json()
    assert (listed["default"], listed["aliases"]) == ("debian-mind@2", {"canary": "debian-mind@1"})
    assert again.recall(history=HISTORY).json()["bundle"] == "debian-mind@2"


def test_what_is_referenced_cannot_be_deleted(own, bundle2):
    daemon = own()
    load(daemon, bundle2)
    assert daemon.ask("DELETE", "/bundles/debian-mind@1").status == 409  # the default
    daemon.ask("PUT", "/bundles/aliases/canary", {"bundle": "debian-mind@2"})
    answer = daemon.ask("DELETE", "/bundles/debian-mind@2")
    assert answer.status == 409
    assert "canary" in answer.problem()["detail"]
    daemon.ask("PUT", "/bundles/aliases/canary", {"bundle": "debian-mind@1"})
    answer = daemon.ask("DELETE", "/bundles/debian%2Dmind%402")
    assert (answer.status, answer.json()) == (200, {"unloaded": "debian-mind@2"})
    assert [b["name"] for b in daemon.get("/bundles").json()["bundles"]] == ["debian-mind@1"]
    assert daemon.ask("DELETE", "/bundles/debian-mind@2").status == 404


@pytest.mark.parametrize("method, path, body", [
    ("PUT", "/bundles/default", {"bundle": "debian-mind@99"}),
    ("PUT", "/bundles/aliases/stable", {"bundle": "debian-mind@99"}),
    ("DELETE", "/bundles/debian-mind@99", None),
])
def test_a_bundle_that_is_not_loaded_is_404(daemon, method, path, body):
    answer = daemon.ask(method, path, body)
    assert answer.status == 404
    assert "debian-mind@99" in answer.problem()["detail"]


@pytest.mark.parametrize("path", ["/bundles/%", "/bundles/%4", "/bundles/%zz", "/bundles/%ff", "/bundles/%00a",
                                  "/bundles/a%0ab"])
def test_a_badly_encoded_path_is_400(daemon, path):
    answer = daemon.ask("DELETE", path)
    assert answer.status == 400
    answer.problem()


@pytest.mark.parametrize("method, path, body", [c for c in ADMIN if c[0] != "GET"])
def test_without_a_state_directory_changes_are_409(start, bundle, token_file, method, path, body):
    daemon = start(f"--bundle.paths={bundle}", f"--admin.token_file={token_file}", token=TOKEN)
    answer = daemon.ask(method, path, body)
    assert answer.status == 409
    assert "state.dir" in answer.problem()["detail"]
    assert daemon.get("/bundles").status == 200


def test_a_bundle_that_does_not_verify_is_refused_with_the_reason(own, bundle, tmp_path):
    daemon = own()
    broken = copy_bundle(bundle, tmp_path / "broken", "3")
    with open(broken / "items.tsv", "ab") as f:
        f.write(b"\n")
    entry = load(daemon, broken)
    assert entry["state"] == "failed"
    assert "items.tsv" in entry["error"]
    assert load(daemon, tmp_path / "missing")["state"] == "failed"
    assert daemon.recall(history=HISTORY).json()["bundle"] == "debian-mind@1"


def test_bundles_are_swapped_under_load_without_a_failed_request(own, bundle2):
    daemon = own()
    load(daemon, bundle2)
    with Load(daemon) as work:
        for i in range(20):
            name = f"debian-mind@{2 - i % 2}"
            assert daemon.ask("PUT", "/bundles/default", {"bundle": name}).status == 200
            assert daemon.recall(history=HISTORY).json()["bundle"] == name
    assert work.failures == []
    assert {a["bundle"] for a in work.answers} == {"debian-mind@1", "debian-mind@2"}
    assert len({json.dumps(a["items"]) for a in work.answers}) == 1  # the weights are the same


def test_a_bundle_comes_and_goes_under_load(own, bundle, tmp_path):
    daemon = own()
    with Load(daemon) as work:
        for version in ("4", "5"):
            fresh = copy_bundle(bundle, tmp_path / version, version)
            assert load(daemon, fresh)["state"] == "ready"
            assert daemon.ask("PUT", "/bundles/default", {"bundle": f"debian-mind@{version}"}).status == 200
            assert daemon.ask("PUT", "/bundles/default", {"bundle": "debian-mind@1"}).status == 200
            assert daemon.ask("DELETE", f"/bundles/debian-mind@{version}").status == 200
            shutil.rmtree(fresh)
    assert work.failures == []

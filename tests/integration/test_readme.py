"""What the README shows is what a reader gets."""
import json
import re
import shlex
import subprocess

from harness import RECALLCTL, RECALLD, ROOT

README = (ROOT / "README.md").read_text()


def blocks(language):
    """The fenced blocks of a language, "" for those that name none."""
    parts = [part.split("\n", 1) for part in README.split("```")[1::2]]
    return [text for name, text in parts if name == language]


def test_the_request_gets_the_answer_that_is_shown(daemon):
    command = next(b for b in blocks("") if b.startswith("curl"))
    command = command.replace("127.0.0.1:8080", f"{daemon.host}:{daemon.port}")
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    got, shown = json.loads(done.stdout), json.loads(blocks("json")[0])
    assert list(got) == list(shown)
    for varies in ("request_id", "serve_id", "took_us", "bundle"):
        del got[varies], shown[varies]
    assert got == shown


def test_the_demo_has_the_user_it_names():
    user = re.search(r'"user_id": "([^"]+)"', README).group(1)
    assert any(line.startswith(user + "\t") for line in (ROOT / "demo/behaviour.tsv").open())


def test_a_bundle_is_built_and_served_as_shown(tmp_path):
    shown = next(b for b in blocks("") if "bundle build" in b).splitlines()
    build, serve = shlex.split(shown[0]), shlex.split(shown[1])
    build[build.index("FILE")] = str(ROOT / "demo/debian-mind.safetensors")
    build[build.index("items.tsv")] = str(ROOT / "demo/items.tsv")
    assert build[0].endswith("/recallctl") and serve[0].endswith("/recalld")
    done = subprocess.run([RECALLCTL, *build[1:]], cwd=tmp_path, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([RECALLD, "--check", *serve[1:]], cwd=tmp_path, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr


def test_every_file_it_points_to_exists():
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert len(links) >= 5
    assert [link for link in links if not (ROOT / link).exists()] == []

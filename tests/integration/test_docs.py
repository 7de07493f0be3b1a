"""Every `console` block of the pages below is run, and must print what the page says. `…` stands for anything."""
import re
import shutil
import subprocess

import pytest

from harness import HISTORY, RECALLCTL, RECALLD, ROOT, TOKEN, build_bundle

ADDRESS = "127.0.0.1:8080"


def commands(page):
    """(command, expected output) of each `$ ` line in the console blocks of a page."""
    text = (ROOT / "docs" / page).read_text()
    for block in re.findall(r"^```console\n(.*?)^```", text, re.M | re.S):
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            command, _, output = part.partition("\n")
            yield command, output


def pattern(output):
    return ".*?".join(re.escape(part) for part in output.split("…"))


@pytest.fixture
def checkout(tmp_path, demo_bundle):
    """A folder that looks as after `make run`, as far as the pages need it."""
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    (tmp_path / "build/demo").mkdir(parents=True)
    (tmp_path / "build/release").mkdir()
    (tmp_path / "build/release/recalld").symlink_to(RECALLD)
    (tmp_path / "build/release/recallctl").symlink_to(RECALLCTL)
    shutil.copytree(demo_bundle, tmp_path / "build/demo/debian-mind")
    return tmp_path


def run_page(page, directory, address):
    ran = 0
    for command, expected in commands(page):
        done = subprocess.run(["sh", "-c", command.replace(ADDRESS, address)], cwd=directory, capture_output=True,
                              text=True, timeout=60)
        assert re.fullmatch(pattern(expected), done.stdout + done.stderr, re.S), \
            f"{page}: $ {command}\n{done.stdout}{done.stderr}\ninstead of\n{expected}"
        ran += 1
    return ran


def test_the_commands_of_api_md_do_what_it_says(start, checkout, redis):
    assert shutil.which("curl") and shutil.which("jq")
    redis.command("DEL", "hist:src:emacs", "hist:nobody")
    redis.command("LPUSH", "hist:src:emacs", *HISTORY)
    (checkout / "token").write_text(TOKEN + "\n")
    daemon = start(f"--bundle.paths={checkout}/build/demo/debian-mind", f"--redis.address={redis.socket}",
                   f"--admin.token_file={checkout}/token", f"--state.dir={checkout}",
                   f"--journal.dir={checkout}/journal")
    assert run_page("api.md", checkout, f"{daemon.host}:{daemon.port}") > 15


def test_the_commands_of_configuration_md_do_what_it_says(checkout):
    assert run_page("configuration.md", checkout, ADDRESS) == 3


def test_the_commands_of_experiments_md_do_what_it_says(start, checkout):
    """Visitors of the demo's experiment among them."""
    single = build_bundle(checkout / "build/demo/debian-mind-k1", "2026-11-24", "--engine", "faiss", "--factory", "Flat",
                          model="debian-mind-k1")
    daemon = start(f"--bundle.paths={checkout}/build/demo/debian-mind,{single}",
                   "--bundle.default=debian-mind@2026-11-24", f"--experiments.file={ROOT}/demo/experiments.json",
                   f"--journal.dir={checkout}/build/run/journal", "--recall.deadline_ms=5000")
    assert run_page("experiments.md", checkout, f"{daemon.host}:{daemon.port}") >= 12


def test_the_command_of_journal_md_does_what_it_says(checkout):
    assert run_page("journal.md", checkout, ADDRESS) == 1

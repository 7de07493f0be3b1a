"""make install puts what was built where the system looks for it, make uninstall takes it away again.

The programs are those under test; nothing is built.
"""
import os
import re
import subprocess
from pathlib import Path

import pytest

from harness import PATIENCE, RECALLCTL, RECALLD, ROOT

BUILT = Path(RECALLD).parent


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL)


def make(goal, *variables):
    env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    return subprocess.run(["make", "-C", ROOT, "--no-print-directory", goal, f"FROM={BUILT}", *variables],
                          capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL, env=env,
                          preexec_fn=lambda: os.umask(0o077))


def files(root):
    return {str(p.relative_to(root)): oct(p.stat().st_mode & 0o777) for p in root.rglob("*") if not p.is_dir()}


@pytest.fixture
def root(tmp_path):
    """A DESTDIR with everything below /usr, and a blank in its name."""
    made = tmp_path / "a root"
    done = make("install", f"DESTDIR={made}", "prefix=/usr")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return made


def test_everything_is_where_it_belongs_whatever_the_umask(root):
    assert files(root) == {"usr/bin/recalld": "0o755", "usr/bin/recallctl": "0o755", "etc/recalld/recalld.ini": "0o644",
                           "usr/lib/systemd/system/recalld.service": "0o644"}
    assert {oct(p.stat().st_mode & 0o777) for p in root.rglob("*") if p.is_dir()} == {"0o755"}


def test_what_is_installed_runs(root, bundle):
    assert run(root / "usr/bin/recalld", "--version").stdout == run(RECALLD, "--version").stdout != ""
    assert run(root / "usr/bin/recallctl", "--version").stdout == run(RECALLCTL, "--version").stdout != ""
    done = run(root / "usr/bin/recalld", "--check", f"--config={root}/etc/recalld/recalld.ini",
               f"--bundle.paths={bundle}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("configuration: ok\n")


def test_what_is_installed_needs_neither_the_tree_nor_the_cache(root):
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "recalld"
    for program in ("recalld", "recallctl"):
        libraries = run("ldd", root / "usr/bin" / program).stdout
        assert "not found" not in libraries and "libc.so" in libraries
        for path in re.findall(r"=> (/\S+)", libraries):
            for place in (cache, ROOT, BUILT):
                assert not Path(path).is_relative_to(place), path


def test_a_program_names_the_processors_it_needs(root):
    """So that the loader refuses others with a sentence instead of an illegal instruction."""
    level = re.search(r"^MARCH := -march=(\S+)$", (BUILT.parent / "setup.mk").read_text(), re.M)[1]
    notes = run("readelf", "--notes", root / "usr/bin/recalld").stdout
    needed = re.findall(r"x86-64-v\d", notes)
    assert needed == ([level] if re.fullmatch(r"x86-64-v\d", level) else [])


def test_the_unit_names_what_was_installed(tmp_path, root):
    unit = (root / "usr/lib/systemd/system/recalld.service").read_text()
    assert re.findall("^ExecStart=(.*)$", unit, re.M) == ["/usr/bin/recalld --config=/etc/recalld/recalld.ini"]
    other = tmp_path / "other"
    done = make("install", f"DESTDIR={other}", "prefix=/opt/r", "sysconfdir=/opt/etc", "unitdir=/units")
    assert done.returncode == 0, done.stderr
    assert set(files(other)) == {"opt/r/bin/recalld", "opt/r/bin/recallctl", "opt/etc/recalld/recalld.ini",
                                 "units/recalld.service"}
    unit = (other / "units/recalld.service").read_text()
    assert re.findall("^ExecStart=(.*)$", unit, re.M) == ["/opt/r/bin/recalld --config=/opt/etc/recalld/recalld.ini"]


def test_a_configuration_of_one_s_own_is_kept_and_a_program_replaced(root):
    mine = root / "etc/recalld/recalld.ini"
    mine.write_text("[recall]\nn = 7\n")
    (root / "usr/bin/recalld").write_text("an older one")
    assert make("install", f"DESTDIR={root}", "prefix=/usr").returncode == 0
    assert mine.read_text() == "[recall]\nn = 7\n"
    assert run(root / "usr/bin/recalld", "--version").returncode == 0
    assert make("uninstall", f"DESTDIR={root}", "prefix=/usr").returncode == 0
    assert list(files(root)) == ["etc/recalld/recalld.ini"]


def test_uninstall_removes_what_was_installed(root):
    (root / "etc/other.conf").touch()
    done = make("uninstall", f"DESTDIR={root}", "prefix=/usr")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(files(root)) == ["etc/other.conf"]
    assert not (root / "etc/recalld").exists()


def test_where_nothing_was_built_it_says_what_to_do(tmp_path):
    done = make("install", f"DESTDIR={tmp_path}", f"FROM={tmp_path}/none")
    assert done.returncode != 0
    assert done.stderr.startswith(f'recalld: nothing was built in {tmp_path}/none: run "make" first\n')
    assert files(tmp_path) == {}

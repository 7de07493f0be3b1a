"""Set-up on machines that lack something: one clear sentence, a status that is not 0, nothing half-done.

The scripts run with a PATH of their own, in which package manager, sudo and disk are stand-ins.
"""
import os
import shutil
import subprocess

import pytest

from harness import ROOT

TOOLS = ("sh awk sed cat env dirname mktemp tee grep head tail tr rm mkdir mv cp ls sort paste chmod flock date "
         "basename cut uname id df nproc gcc").split()


class Machine:
    """A PATH with the ordinary tools and what a test adds or takes away."""

    def __init__(self, directory):
        self.bin = directory / "bin"
        self.bin.mkdir()
        self.cache = directory / "cache"
        self.calls = directory / "calls"
        self.calls.touch()
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))

    def has(self, name, script):
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>{self.calls}\n{script}\n')
        path.chmod(0o755)

    def has_packages(self, names):
        self.has("dpkg-query", "\n".join(f"echo '{name} installed'" for name in names))

    def run(self, script, *args, **env):
        return subprocess.run([ROOT / "scripts" / script, *args], capture_output=True, text=True, timeout=60,
                              stdin=subprocess.DEVNULL, cwd=self.bin,
                              env={"PATH": str(self.bin), "HOME": str(self.bin), "XDG_CACHE_HOME": str(self.cache),
                                   **env})

    def called(self, name):
        return [line for line in self.calls.read_text().splitlines() if line.startswith(name + " ")]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def every_package():
    table = (ROOT / "scripts/deps.sh").read_text().split("<<'TABLE'\n")[1].split("\nTABLE")[0]
    return [line.split()[1] for line in table.splitlines() if line.startswith("all ")]


# ---- deps.sh ---------------------------------------------------------------------------------------


def test_where_nothing_is_missing_nothing_is_said_or_done(machine):
    machine.has("apt-get", "exit 1")
    machine.has_packages(every_package())
    done = machine.run("deps.sh")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert machine.called("apt-get") == []


def test_without_root_and_sudo_the_command_for_an_administrator_is_printed(machine):
    machine.has("apt-get", "exit 1")
    machine.has("id", "echo 1000")
    machine.has_packages([p for p in every_package() if p not in ("jq", "libjansson-dev")])
    done = machine.run("deps.sh")
    assert done.returncode == 1
    assert done.stderr.endswith("  apt-get update && apt-get install --no-install-recommends libjansson-dev jq\n")
    assert machine.called("apt-get") == []


def test_with_sudo_only_what_is_missing_is_installed(machine, tmp_path):
    others = [p for p in every_package() if p != "jq"]
    machine.has("id", "echo 1000")
    machine.has("sudo", '"$@"')
    machine.has("apt-get", f'case " $* " in *" install "*) touch {tmp_path}/installed ;; esac')
    machine.has("dpkg-query", "\n".join(f"echo '{p} installed'" for p in others) +
                f"\n[ ! -e {tmp_path}/installed ] || echo 'jq installed'")
    (machine.bin / "touch").symlink_to(shutil.which("touch"))
    done = machine.run("deps.sh")
    assert done.returncode == 0, done.stderr
    install = next(c for c in machine.called("apt-get") if " install " in c)
    assert install.split()[-1] == "jq" and not set(install.split()) & set(others)
    assert all("apt-get" in c for c in machine.called("sudo"))


def test_without_apt_the_list_is_given(machine):
    done = machine.run("deps.sh")
    assert done.returncode == 1
    assert "this machine has no apt" in done.stderr and "libmicrohttpd-dev" in done.stderr


@pytest.mark.parametrize("says,sentence", [
    ("E: Failed to fetch http://x/ Could not resolve 'x'", "the package archive cannot be reached; is there a network?"),
    ("E: Failed to fetch http://x/jq.deb  404  Not Found [IP: 192.0.2.1 80]", "the package archive lacks a file that its "
                                                                              "lists name"),
    ("E: You don't have enough free space in /var/cache/apt/archives/.", "the disk is full"),
    ("E: Could not get lock /var/lib/dpkg/lock-frontend", "another package manager is at work; try again when it has "
                                                          "finished"),
    ("E: Unable to locate package jq", "Unable to locate package jq: no enabled apt source has it (on Ubuntu, enable "
                                       "universe)"),
])
def test_a_failing_apt_is_told_in_one_sentence(machine, says, sentence):
    machine.has("id", "echo 0")
    machine.has("apt-get", f'echo "{says}"; exit 100')
    machine.has_packages([p for p in every_package() if p != "jq"])
    done = machine.run("deps.sh")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"recalld: cannot install packages: {sentence}"


# ---- faiss.sh ---------------------------------------------------------------------------------------


def fake_faiss(prefix, version=(1, 7, 3), c_api=True, libraries=("libfaiss.a", "libfaiss_c.a")):
    (prefix / "include/faiss/c_api").mkdir(parents=True)
    (prefix / "lib").mkdir()
    names = zip(("MAJOR", "MINOR", "PATCH"), version)
    (prefix / "include/faiss/Index.h").write_text("".join(f"#define FAISS_VERSION_{n} {v}\n" for n, v in names))
    if c_api:
        (prefix / "include/faiss/c_api/Index_c.h").touch()
    for library in libraries:
        (prefix / "lib" / library).touch()
    return prefix


@pytest.mark.parametrize("kind", ["a", "so"])
def test_a_faiss_of_one_s_own_is_taken_static_or_shared(machine, tmp_path, kind):
    mine = fake_faiss(tmp_path / "mine", (1, 9, 0), libraries=(f"libfaiss.{kind}", f"libfaiss_c.{kind}"))
    done = machine.run("faiss.sh", FAISS_PREFIX=str(mine))
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/mine\n")


@pytest.mark.parametrize("kind,complaint", [
    ("old", "is Faiss 1.7.2, older than 1.7.3"),
    ("none", "has no include/faiss/Index.h"),
    ("plain", "has no include/faiss/c_api: build Faiss with FAISS_ENABLE_C_API=ON"),
    ("mixed", "lacks libfaiss and libfaiss_c, both as .a or both as .so"),
])
def test_a_faiss_that_will_not_do_is_refused_with_the_reason(machine, tmp_path, kind, complaint):
    prefix = tmp_path / "mine"
    if kind == "old":
        fake_faiss(prefix, (1, 7, 2))
    elif kind == "plain":
        fake_faiss(prefix, c_api=False)
    elif kind == "mixed":
        fake_faiss(prefix, libraries=("libfaiss.a", "libfaiss_c.so"))
    done = machine.run("faiss.sh", FAISS_PREFIX=str(prefix))
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == f"recalld: FAISS_PREFIX={prefix} {complaint}\n"


def cached(machine):
    """Where faiss.sh keeps what it builds."""
    level = machine.run("cpu-level.sh").stdout.strip()
    release = subprocess.run(["sh", "-c", '. /etc/os-release && echo "$ID${VERSION_ID-}"'], capture_output=True,
                             text=True).stdout.strip()
    return machine.cache / "recalld" / f"faiss-1.7.3-{release}-{level}"


def test_what_was_built_before_is_found_again(machine):
    prefix = fake_faiss(cached(machine))
    done = machine.run("faiss.sh")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{prefix}\n", "")


def test_a_shared_one_in_the_cache_is_built_again(machine):
    """An installed program would need the cache for ever."""
    fake_faiss(cached(machine), libraries=("libfaiss.so", "libfaiss_c.so"))
    machine.has("df", "echo Avail; echo 7")
    done = machine.run("faiss.sh")
    assert done.returncode == 1 and "building Faiss takes" in done.stderr


def left_in(cache):
    return sorted(p.name for p in cache.glob("recalld/*") if p.name not in ("faiss.lock", "faiss-build.log"))


def test_a_disk_too_small_is_told_before_anything_is_fetched(machine):
    machine.has("apt-get", "exit 1")
    machine.has("df", "echo Avail; echo 7")
    done = machine.run("faiss.sh")
    assert done.returncode == 1
    assert "MB of disk" in done.stderr and done.stderr.endswith("7 MB are free\n")
    assert machine.called("apt-get") == [] and left_in(machine.cache) == []


def test_without_a_network_no_faiss_is_left_half_built(machine):
    machine.has("apt-get", "echo \"Err:1 http://x Could not resolve 'x'\"; exit 100")
    for name in ("apt-config", "dpkg", "find", "cmp", "wc"):
        (machine.bin / name).symlink_to(shutil.which(name))
    done = machine.run("faiss.sh")
    assert done.returncode == 1
    assert "the package archive cannot be reached; is there a network?" in done.stderr.splitlines()[-1]
    assert done.stdout == "" and left_in(machine.cache) == []


# ---- cpu-level.sh -----------------------------------------------------------------------------------


def test_the_level_can_be_chosen_and_nonsense_is_refused(machine):
    assert machine.run("cpu-level.sh", LEVEL="x86-64").stdout == "x86-64\n"
    refused = machine.run("cpu-level.sh", LEVEL="x86-65")
    assert refused.returncode != 0 and "x86-65" in refused.stderr
    assert os.environ.get("LEVEL") or machine.run("cpu-level.sh").stdout.strip() in (
        "x86-64", "x86-64-v3", "x86-64-v4", "arm64")


def test_a_portable_level_does_not_depend_on_this_processor(machine):
    machine.has("uname", "echo x86_64")
    assert machine.run("cpu-level.sh", LEVEL="portable").stdout == "x86-64-v3\n"
    machine.has("uname", "echo aarch64")
    assert machine.run("cpu-level.sh", LEVEL="portable").stdout == "arm64\n"

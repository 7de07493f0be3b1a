#!/usr/bin/python3
"""Turns the distribution's package indexes into behaviour a recommender can learn from.

A user is a package, its behaviour the packages it asks for in the order its maintainer wrote
them: Build-Depends for a source package (user `src:NAME`), Pre-Depends and Depends for a binary
one (user `NAME`). An item is a package that is asked for; its attribute is its archive section.
Only names and relations are read.

The indexes are fetched with a private apt configuration: the machine's own sources with deb-src
added, everything in a temporary directory, always for amd64, so that every machine sees the same
names. Nothing below /etc/apt or /var/lib/apt is written.

Writes items.tsv, popular.txt and behaviour.tsv beside this script, and build/demo/users.tsv
(every user, with its part of the split) for train.py.
"""

import argparse
import collections
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ARCH = "amd64"
MIN_USERS_PER_ITEM = 5
MIN_ITEMS_PER_USER = 5
POPULAR = 1000
BEHAVIOUR_USERS = 3000
BEHAVIOUR_LONGEST = 100  # items; longer lists are meta-packages

# What a package is built, documented and packaged with, and what every package needs, says nothing
# about what it does: compilers, build systems, their helpers, the C library.
NOISE = re.compile(
    r"debhelper|dh-.*|.*-debhelper|.*-debian-helper|.*-pkg-tools|pkg-.*-tools|dpkg|dpkg-dev|quilt"
    r"|cdbs|devscripts|haskell-devscripts.*|lintian|debconf|po-debconf|fakeroot|chrpath|gem2deb"
    r"|init-system-helpers|ucf|adduser|lsb-base|sysvinit-utils|procps"
    r"|libc6|libc6-dev|libgcc-s1|libstdc\+\+6|libgomp1|libgmp10|libmpfr6|libmpc3|libisl23"
    r"|python3|python3-(all|dev|all-dev|setuptools|pkg-resources|wheel|pbr)|pybuild-plugin-.*"
    r"|perl|libmodule-build-perl|cargo|rustc|libstd-rust-dev|ghc|ghc-prof|ghc-doc|golang-any"
    r"|r-base-core|r-base-dev|ruby|default-jdk|default-jre.*|ant|javahelper|maven-repo-helper"
    r"|cmake|extra-cmake-modules|meson|ninja-build|autoconf|autoconf-archive|automake|libtool"
    r"|autotools-dev|pkgconf|pkg-config|gettext|intltool|texinfo|help2man|doxygen|graphviz"
    r"|xsltproc|docbook.*|asciidoc.*|gtk-doc-tools|bison|flex|valac|xvfb|xauth|bash-completion")

# Well-known packages are held out on purpose: people will ask for them by name, and the answer
# should be one the model has to infer.
SHOWCASE = ("bind9 collectd curl emacs ffmpeg freeradius gimp git gnupg2 haproxy i3-wm inkscape "
            "mosquitto mpd mpv mutt nginx nmap openssh openvpn postgresql-15 qemu rsyslog "
            "suricata systemd tmux transmission vim vlc weechat wget wireshark").split()


# ---- the package indexes -------------------------------------------------------------------


def private_sources(directory):
    """Copies the machine's apt sources into `directory`, each also as a deb-src."""
    etc = pathlib.Path("/etc/apt")
    files = [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]
    for path in files:
        if not path.is_file() or path.suffix not in (".list", ".sources"):
            continue
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".sources":
            text = re.sub(r"(?mi)^Types:.*$", "Types: deb deb-src", text)
        else:
            lines = re.findall(r"(?m)^deb\s+(.*)$", text)
            text = "".join(f"deb {line}\ndeb-src {line}\n" for line in lines)
        (directory / path.name).write_text(text, encoding="utf-8")


def private_configuration(directory):
    """Writes apt.conf: the machine's settings (a proxy, say) without its hooks, which clean up
    below /var, and with every place that is written to in `directory`."""
    dump = subprocess.run(["apt-config", "dump"], check=True, capture_output=True,
                          text=True).stdout
    dropped = ("APT::Update::", "APT::Architecture", "DPkg::", "Dir::", "Acquire::Languages")
    kept = [line for line in dump.splitlines() if not line.startswith(dropped)]
    own = {
        "Dir::State::lists": f"{directory}/lists", "Dir::Cache": f"{directory}/cache",
        "Dir::Etc::sourcelist": "/dev/null", "Dir::Etc::sourceparts": f"{directory}/sources.list.d",
        "Dir::Etc::main": "/dev/null", "Dir::Etc::parts": "/dev/null",
        "APT::Architecture": ARCH, "APT::Architectures::": ARCH, "Acquire::Languages": "none",
    }
    kept += [f'{key} "{value}";' for key, value in own.items()]
    path = directory / "apt.conf"
    path.write_text("\n".join(kept) + "\n", encoding="utf-8")
    return path


def fetch_indexes(directory):
    """Downloads Packages and Sources; returns their paths as (binary, source) lists."""
    for name in ("lists/partial", "cache", "sources.list.d"):
        (directory / name).mkdir(parents=True)
    private_sources(directory / "sources.list.d")
    os.chmod(directory, 0o755)  # apt drops its privileges to download
    environment = dict(os.environ, APT_CONFIG=str(private_configuration(directory)))
    print("fetching the package indexes (about 20 MB) ...", flush=True)
    # A third-party source that fails is not our business; what we need is checked below.
    subprocess.run(["apt-get", "-qq", "update"], env=environment, check=False)
    listing = subprocess.run(
        ["apt-get", "indextargets", "--format",
         "$(CREATED_BY) $(ORIGIN) $(COMPONENT) $(FILENAME)"],
        env=environment, check=True, capture_output=True, text=True).stdout
    found = {"Packages": [], "Sources": []}
    for line in listing.splitlines():
        kind, origin, component, path = line.split(" ", 3)
        if kind in found and origin in ("Debian", "Ubuntu") and component == "main":
            found[kind].append(path)
    if not found["Packages"] or not found["Sources"]:
        sys.exit("prepare.py: apt fetched no index of a Debian or Ubuntu archive (see above)")
    return found["Packages"], found["Sources"]


def stanzas(paths, wanted):
    """Yields each package's wanted fields; of several versions the first index's one wins."""
    seen = set()
    for path in paths:
        text = subprocess.run(["/usr/lib/apt/apt-helper", "cat-file", path],
                              check=True, capture_output=True).stdout.decode("utf-8")
        for stanza in text.split("\n\n"):
            fields = {}
            for line in re.sub(r"\n[ \t]+", " ", stanza).splitlines():
                key, _, value = line.partition(":")
                if key in wanted:
                    fields[key] = value.strip()
            name = fields.get("Package")
            if name and name not in seen:
                seen.add(name)
                yield name, fields


# ---- relations -----------------------------------------------------------------------------


def on_this_architecture(restriction):
    """Reads the inside of `[...]`: all names negated, or none."""
    names = restriction.split()
    here = {ARCH, "any", "linux-any", f"any-{ARCH}"}
    if names[0].startswith("!"):
        return not any(name[1:] in here for name in names)
    return any(name in here for name in names)


def relations(field):
    """The names in a dependency field in written order: of alternatives the first one."""
    for clause in field.split(","):
        for choice in clause.split("|"):
            arch = re.search(r"\[([^\]]+)\]", choice)
            if arch and not on_this_architecture(arch.group(1)):
                continue
            name = re.match(r"\s*([a-z0-9][a-z0-9+.-]+)", choice)
            if name:
                yield name.group(1)
                break


def read_archive(packages, sources):
    """Returns ({user: (source package, [names])}, {binary: section}, {virtual: provider})."""
    wanted = {}
    sections = {}
    providers = collections.defaultdict(set)
    for name, f in stanzas(packages, {"Package", "Source", "Section", "Pre-Depends", "Depends",
                                      "Provides"}):
        sections[name] = f.get("Section", "unknown").rpartition("/")[2]
        source = f.get("Source", name).split(" ")[0]
        field = ",".join(f[k] for k in ("Pre-Depends", "Depends") if k in f)
        wanted[name] = (source, list(relations(field)))
        for virtual in relations(f.get("Provides", "")):
            providers[virtual].add(name)
    for name, f in stanzas(sources, {"Package", "Build-Depends", "Build-Depends-Arch",
                                     "Build-Depends-Indep"}):
        field = ",".join(f[k] for k in ("Build-Depends", "Build-Depends-Arch",
                                        "Build-Depends-Indep") if k in f)
        wanted["src:" + name] = (name, list(relations(field)))
    only = {v: next(iter(p)) for v, p in providers.items() if len(p) == 1}
    return wanted, sections, only


def behaviour_of(wanted, sections, provider):
    """Maps virtual names to their only provider and drops noise, unknown names and repeats."""
    users = {}
    for user, (source, names) in wanted.items():
        real = (n if n in sections else provider.get(n) for n in names)
        kept = dict.fromkeys(n for n in real if n and n != user and not NOISE.fullmatch(n))
        users[user] = (source, list(kept))
    return users


def dense_core(users):
    """Drops rare items, then users with too few items left."""
    count = collections.Counter(item for _, items in users.values() for item in items)
    core = {}
    for user, (source, items) in users.items():
        items = [item for item in items if count[item] >= MIN_USERS_PER_ITEM]
        if len(items) >= MIN_ITEMS_PER_USER:
            core[user] = (source, items)
    return core


def part_of(source):
    """80/10/10 by source package: a library and its own packages never sit on both sides."""
    if source in SHOWCASE:
        return "test"
    bucket = int.from_bytes(hashlib.sha256(source.encode()).digest()[:8], "big") % 10
    return ("valid", "test")[bucket] if bucket < 2 else "train"


# ---- output --------------------------------------------------------------------------------


def shown_users(users):
    """The held-out users the demo ships: the well-known ones, then others by hash."""
    shown = [u for u, (source, items) in users.items()
             if part_of(source) == "test" and len(items) <= BEHAVIOUR_LONGEST]
    shown.sort(key=lambda u: (u.removeprefix("src:") not in SHOWCASE,
                              hashlib.sha256(u.encode()).digest()))
    return sorted(shown[:BEHAVIOUR_USERS])


def write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    print(f"{path.name}: {len(lines)} lines, {path.stat().st_size / 1e6:.2f} MB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--work", type=pathlib.Path, default=HERE.parent / "build" / "demo",
                        help="where users.tsv goes (default: build/demo)")
    args = parser.parse_args()

    if not shutil.which("apt-get"):
        sys.exit("prepare.py: needs apt (Debian or Ubuntu)")
    with tempfile.TemporaryDirectory(prefix="recalld-demo-") as directory:
        indexes = fetch_indexes(pathlib.Path(directory))
        wanted, sections, provider = read_archive(*indexes)
    users = dense_core(behaviour_of(wanted, sections, provider))
    count = collections.Counter(item for _, items in users.values() for item in items)
    print(f"{len(users)} users, {len(count)} items, {sum(count.values())} relations")

    popular = sorted(count, key=lambda item: (-count[item], item))[:POPULAR]
    write(HERE / "items.tsv", ["row\tid\tsection"] + [
        f"{row}\t{item}\t{sections[item]}" for row, item in enumerate(sorted(count), start=1)])
    write(HERE / "popular.txt", popular)
    write(HERE / "behaviour.tsv",
          [f"{user}\t{' '.join(users[user][1])}" for user in shown_users(users)])
    write(args.work / "users.tsv",
          [f"{user}\t{part_of(source)}\t{' '.join(items)}"
           for user, (source, items) in sorted(users.items())])


if __name__ == "__main__":
    main()

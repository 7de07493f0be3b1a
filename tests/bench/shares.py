#!/usr/bin/python3
"""Where the CPU time of a request goes: `shares.py [--help]`.

recalld serves requests whose users' behaviour is in Redis, at a fixed rate and as fast as it can.
Over a window of each the kernel tells how much CPU time the process took, /metrics how many
requests it answered, and perf what it was doing: samples of every thread, each sorted into a stage
by STAGES below. Of the kernel's the call chain tells for whom it worked; the libraries have no frame
pointers, so elsewhere the function alone must tell. Samples that no row claims are shown as such."""
import argparse
import bisect
import collections
import re
import shutil
import subprocess
import sys
import time

import page
import rig

# What the kernel did, by the first of these that a function of the call chain matches.
KERNEL = [
    ("interrupt", re.compile(r"asm_sysvec_|asm_common_interrupt|irq_exit|task_work")),
    ("unix", re.compile(r"unix_|__sys_sendto")),  # Redis' socket here
    ("inet", re.compile(r"tcp_|inet_|inet6_|__sys_sendmsg")),  # the clients'
    ("wait", re.compile(r"epoll|futex|poll")),
]
# thread, object, code -> stage: the first row whose patterns all match. Objects are `recalld`,
# `kernel`, or a library's name; code is `source file:symbol`, in the kernel `what:symbol`.
WORKER = "worker"
STAGES = [
    (r".*", "kernel", r"interrupt:.*", "interrupts"),
    (r".*", "kernel", r"unix:.*", "Redis"),
    (r".*", "kernel", r"inet:.*", "HTTP"),
    (WORKER, "kernel", r".*", "waiting"),
    (r"behaviour|timekeeper", ".*", r".*", "Redis"),
    (r"journal.*", "kernel|libc", r".*", "journal"),
    (r"accept", ".*", r".*", "HTTP"),
    (r".*", "libmicrohttpd", r".*", "HTTP"),
    (r".*", "libhiredis", r".*", "Redis"),
    (r".*", r"libc|recalld|\[vdso\]", r".*:.*(clock_|metric_|figures_|vdso_time).*",
     "clocks and metrics"),
    (r".*", "libjansson", r".*", "JSON"),
    (r".*", "recalld", r"src/(http/.*|.*:uuid7.*)", "HTTP"),
    (r".*", "recalld", r"src/recall/request.*", "JSON"),
    (r".*", "recalld", r"src/(redis|behaviour)/.*", "Redis"),
    (r".*", "recalld", r"src/journal/.*", "journal"),
    (r".*", "recalld", r"src/experiment/.*", "experiments"),
    (r".*", "recalld", r"src/base/poller\.c:.*", "waiting"),
    (r".*", "recalld", r"src/recall/(workers|call|direct|effort)\.c:.*|src/base/(queue|snapshot)\.c:.*",
     "hand-over"),
    (WORKER, "recalld|libm", r"src/index/.*|.*:vec_dot.*|:.*(nextafter|fmin|fmax).*", "search"),
    (WORKER, "recalld", r"src/(vec|model)/.*", "routing"),
    (WORKER, "recalld", r"src/recall/(merge|diverse|rowset)\.c:.*", "merge"),
    (WORKER, "recalld", r"src/recall/render\.c:.*|src/base/(bytes|number)\.c:.*|.*:items_ids?",
     "render"),
    (WORKER, "recalld|libxxhash", r"src/(recall|items|bundle|settings|base)/.*|:XXH.*", "prepare"),
    (r".*", "libc", r":(_int_|__libc_)?(c?free|malloc|calloc|realloc|memalign).*", "allocations"),
    (r".*", "libc", r":.*(mem|str)(cpy|set|cmp|move|len|chr).*", "copies"),
    (r".*", "libc", r":.*(mutex|rwlock|cond|sem|futex).*", "hand-over"),
    (r".*", "libc", r".*", "HTTP"),
]
SEARCH, UNKNOWN, ALL, REST = "search", "unknown", "all", "all but search"


# ---- samples -----------------------------------------------------------------------------------


class Symbols:
    """Which function of the program an address in its file is in, and its source file: two may share a name."""

    def __init__(self):
        self.at, self.what = [], []
        for line in rig.run("nm", "--numeric-sort", "--defined-only", "--line-numbers",
                            rig.BIN / "recalld").splitlines():
            found = re.match(r"(\S+) [tTwW] ([^\s@]+)(?:\s.*/((?:src|include)/[^:]+):\d+)?$", line)
            if found:
                self.at.append(int(found[1], 16))
                self.what.append((found[2].split(".")[0], found[3] or ""))

    def find(self, address):
        return self.what[bisect.bisect(self.at, address) - 1]


def thread_names(pid):
    """{tid: name}; compute threads bear the program's name, as does the main thread, which rests."""
    named = {}
    for task in (rig.Path(f"/proc/{pid}/task")).iterdir():
        name = (task / "comm").read_text(encoding="utf-8").strip()
        named[task.name] = WORKER if name in ("recalld", "worker") else name
    return named


FRAME = re.compile(r"\s*([0-9a-f]+)\s+(.*) \((.*)\)$")


def kernel_work(chain):
    for what, pattern in KERNEL:
        if any(pattern.match(symbol) for symbol in chain):
            return what
    return ""


def samples(data, pid):
    """Counter of (thread, object, source file, symbol)."""
    threads, symbols = thread_names(pid), Symbols()
    counted = collections.Counter()
    for sample in rig.run("perf", "script", "-i", data, "-F", "tid,ip,sym,dso").split("\n\n"):
        tid, *frames = sample.strip().splitlines() or [""]
        chain = [FRAME.match(frame).groups() for frame in frames]
        if not chain:
            continue
        address, symbol, dso = chain[0]
        file = ""
        dso = re.sub(r"\.so.*", "", dso.rsplit("/", 1)[-1])
        if dso == "recalld":
            symbol, file = symbols.find(int(address, 16))
        elif "kernel" in dso or int(address, 16) >> 63:
            dso, file = "kernel", kernel_work([frame[1] for frame in chain])
        counted[threads.get(tid.strip(), "?"), dso, file, symbol] += 1
    return counted


def stage_of(thread, dso, file, symbol):
    code = f"{file}:{symbol}"
    for of_thread, of_object, of_code, stage in STAGES:
        if (re.fullmatch(of_thread, thread) and re.fullmatch(of_object, dso) and
                re.fullmatch(of_code, code)):
            return stage
    return UNKNOWN


# ---- the run -----------------------------------------------------------------------------------


def available():
    return shutil.which("perf") is not None


def answered(daemon):
    return daemon.metrics()["recalld_http_request_seconds_count"]


def record(daemon, data, seconds):
    """Samples into the file; (requests, seconds of CPU time) of the same window."""
    pid = daemon.process.pid
    before, cpu = answered(daemon), rig.cpu_seconds(pid)
    done = subprocess.run(["perf", "record", "-o", data, "-F", "1999", "-g", "-p", str(pid), "--",
                           "sleep", str(seconds)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"perf record: {done.stderr.strip()}")
    cpu = rig.cpu_seconds(pid) - cpu
    return answered(daemon) - before, cpu


class Profile:
    """Microseconds of CPU time for each request, by stage: [user, system]."""

    def __init__(self, counted, requests, cpu):
        self.counted, self.total = counted, cpu / requests * 1e6
        self.each = self.total / counted.total()
        self.stages = collections.defaultdict(lambda: [0, 0])
        for (thread, dso, file, symbol), n in counted.items():
            kind = int(dso == "kernel")
            self.stages[stage_of(thread, dso, file, symbol)][kind] += n * self.each

    def rows(self):
        """{name: (user, system)}, costliest stage first, sums last."""
        order = sorted(self.stages, key=lambda stage: (stage == UNKNOWN, -sum(self.stages[stage])))
        rows = {stage: tuple(self.stages[stage]) for stage in order}
        everything = tuple(map(sum, zip(*rows.values())))
        rest = tuple(a - b for a, b in zip(everything, self.stages[SEARCH]))
        return rows | {ALL: everything, REST: rest}


def profile(daemon, requests, rate, seconds, folder):
    """Of a running recalld under this load; rate 0 is a closed loop."""
    with subprocess.Popen(rig.load_command(daemon.port, requests, rate=rate, seconds=seconds + 4),
                          stdout=subprocess.DEVNULL) as generator:
        try:
            time.sleep(2)
            figures = record(daemon, folder / "perf.data", seconds)
            return Profile(samples(folder / "perf.data", daemon.process.pid), *figures)
        finally:
            generator.terminate()


def measure(o, source, folder):
    """{rate: Profile}"""
    requests = rig.bodies(folder / "bodies", source.users, o.history)
    bundle = source.build(folder)
    with (rig.redis_with(source.histories, folder) as redis,
          rig.recalld(folder, f"--bundle.paths={bundle}",
                      f"--redis.address={redis.socket}") as daemon):
        return {rate: profile(daemon, requests, rate, o.seconds, folder) for rate in (o.rate, 0)}


# ---- the report --------------------------------------------------------------------------------


def cell(us):
    return f"{us:.1f}" if us >= 0.05 else ""


def section(o, source, profiles):
    slow, fast = profiles[o.rate].rows(), profiles[0].rows()
    none = (0, 0)
    rows = []
    for stage in dict.fromkeys([*fast, *slow]):
        both = [of.get(stage, none) for of in (fast, slow)]
        share = sum(both[0]) / profiles[0].total
        rows.append([stage] + [cell(us) for one in both for us in (sum(one), one[1])] +
                    [f"{100 * share:.1f} %"])
    return [
        "## CPU time of a request",
        page.paragraph(
            f"Microseconds of CPU time that recalld takes for one request over 16 connections on "
            f"{page.machine()}, saturated and at {o.rate} requests a second, where every request wakes "
            f"threads and finds caches cold: {source.title}, n = 200, four interests, behaviour from "
            f"Redis. Time from the kernel over {o.seconds} s, shares from perf; the kernel's share "
            "counts for the stage that called it. The aim was at most 60 without the search."),
        page.table(["stage", "saturated", "of it system", f"at {o.rate}/s", "of it system",
                    "share, saturated"], rows),
    ]


def symbols_text(of, count):
    lines = []
    for (thread, dso, file, symbol), n in of.counted.most_common(count):
        lines.append(f"{n * of.each:7.2f} us {100 * n / of.counted.total():5.1f} %  "
                     f"{stage_of(thread, dso, file, symbol):18} {thread:10} {file or dso:28} {symbol}")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rate", type=int, default=1000, help="requests a second, beside a closed loop")
    parser.add_argument("--seconds", type=int, default=15)
    parser.add_argument("--items", type=int, default=0, help="only the N most frequent; not for the page")
    parser.add_argument("--history", action="store_true", help="requests bring theirs; not for the page")
    parser.add_argument("--symbols", type=int, default=0, help="print the N costliest functions")
    parser.add_argument("--dry", action="store_true", help="leave docs/performance.md as it is")
    o = parser.parse_args()
    if not available():
        print("shares: no perf on this machine (package linux-perf), so no shares are measured")
        return
    with rig.scratch() as folder:
        source = rig.source()
        if o.items > 0:
            source = rig.most_frequent(source, o.items, folder)
        profiles = measure(o, source, folder)
    parts = section(o, source, profiles)
    if o.dry or o.items > 0 or o.history:
        print("\n\n".join(parts))
    else:
        page.write("shares", parts)
    for rate, of in profiles.items():
        if o.symbols > 0:
            print(f"\n{rate or 'saturated'}\n{symbols_text(of, o.symbols)}")


if __name__ == "__main__":
    main()

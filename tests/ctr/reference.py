"""The figures of recallctl ctr once more, from docs/ctr.md, with dictionaries and numpy: slow and obvious."""
import json
import math
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

EARLY_MS = 60_000
COUNTERS = ("answers", "exposed", "clicked", "clicks", "hits")
FIGURES = {"ctr": ("clicked", "exposed"), "clicks_per_answer": ("clicks", "answers"), "clicks_per_user": ("clicks", None),
           "online_hit_rate": ("hits", "clicks")}


def lines(folder, kind):
    return [json.loads(line) for path in sorted(Path(folder).glob(f"{kind}-*")) for line in path.read_text().splitlines()]


def by_answer(events):
    """{answer's name: {(item, kind): events}}"""
    found = defaultdict(lambda: defaultdict(list))
    for e in events:
        if e["event"] in ("exposed", "clicked"):
            name = ("s", e["serve_id"]) if "serve_id" in e else ("r", e["request_id"])
            found[name][e["item_id"], e["event"]].append(e)
    return found


def answer_counts(answer, events, window_ms, all_items):
    """What one answer adds to its user, and what of it is described or counted apart."""
    items = {}
    apart = Counter()
    for (item, kind), repeats in events.items():
        after = sorted(e["ts_ms"] - answer["ts_ms"] for e in repeats)
        if any(-EARLY_MS <= ms <= window_ms for ms in after):
            items.setdefault(item, set()).add(kind)
        else:
            apart["late_events" if after[0] > 0 else "early_events"] += 1
    n = Counter(answers=1)
    described = Counter()
    for item, kinds in items.items():
        rank = answer["items"].index(item) if item in answer["items"] else None
        exposed = "exposed" in kinds and (rank is not None or all_items)
        clicked = "clicked" in kinds
        n["exposed"] += exposed
        n["clicked"] += exposed and clicked
        n["clicks"] += clicked
        n["hits"] += clicked and rank is not None
        apart["clicks_without_exposure"] += clicked and "exposed" not in kinds
        apart["exposed_not_in_answer"] += "exposed" in kinds and rank is None
        if rank is not None:
            by = answer["by"][rank] if answer["by"] else None
            for group in (("interest", by), ("rank", rank)):
                described[*group, "exposed"] += exposed
                described[*group, "clicked"] += exposed and clicked
                described[*group, "hits"] += clicked
    return n, apart, described


def ratio(x, y):
    """Sum x / sum y and its standard error, by the textbook: variances and a covariance of the means."""
    if len(x) == 0 or sum(y) == 0:
        return math.nan, math.nan
    value = sum(x) / sum(y)
    if len(x) < 2:
        return value, math.nan
    cov = np.cov(np.array([x, y], float))
    variance = (cov[0, 0] - 2 * value * cov[0, 1] + value * value * cov[1, 1]) / np.mean(y) ** 2 / len(x)
    return value, math.sqrt(max(variance, 0))


def report(folder, layer, window_ms=86_400_000, all_items=False):
    """{arm: {"units", counters, "figures": {name: (value, se)}, "without_degraded": the same, "apart", "described"}}"""
    found = by_answer(lines(folder, "events"))
    users = defaultdict(lambda: ({}, Counter(), Counter()))  # arms, all answers, those not degraded
    arms = defaultdict(lambda: {"apart": Counter(), "described": Counter()})
    for answer in lines(folder, "served"):
        events = dict(found.pop(("s", answer["serve_id"]), {}))
        for key, repeats in found.pop(("r", answer["request_id"]), {}).items():
            events[key] = events.get(key, []) + repeats
        if answer["forced"] or layer not in answer["arms"]:
            continue
        arm = answer["arms"][layer]
        n, apart, described = answer_counts(answer, events, window_ms, all_items)
        user = users[answer.get("user_id", answer["request_id"])]
        user[0][arm] = True
        user[1].update(n)
        user[2].update(n if not answer["degraded"] else {})
        arms[arm]["apart"].update(apart)
        arms[arm]["described"].update(described)
    for arm, out in arms.items():
        mine = [user for user in users.values() if list(user[0]) == [arm]]
        out.update(summary([user[1] for user in mine]))
        out["without_degraded"] = summary([user[2] for user in mine if user[2]["answers"] > 0])
    crossed = sum(len(user[0]) > 1 for user in users.values())
    return dict(arms), crossed


def summary(counts):
    out = {"units": len(counts), **{name: sum(c[name] for c in counts) for name in COUNTERS}}
    out["figures"] = {name: ratio([c[x] for c in counts], [c[y] if y else 1 for c in counts])
                      for name, (x, y) in FIGURES.items()}
    return out

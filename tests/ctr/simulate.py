#!/usr/bin/python3
"""Users of known preferences, and the journal that recalld would have written of them.

    simulate.py FOLDER [--users 20000] [--lift 0.1] [--lose 0] [--seed 1]

writes one with two arms; --lose drops a share of arm b's users, as a broken client would.

A user clicks an exposed item with a probability of his own, p ~ Beta(A, B), in an arm multiplied by 1 + its lift. Who
clicks more comes more often: 1 + Poisson(visits * p / E[p]) answers. So what one user does is not independent, users
weigh differently, and yet the truth is known: the CTR of an arm is (1 + lift) * CTR.
"""
import argparse
import json
from pathlib import Path

import numpy as np

A, B = 1.2, 12.0
FIRST_MS = 1_780_000_000_000
DAY_MS = 86_400_000


def true_ctr(visits):
    """E[answers * p] / E[answers], without a lift."""
    mean = A / (A + B)
    square = mean * (A + 1) / (A + B + 1)
    return (mean + visits * square / mean) / (1 + visits)


class World:
    """`arms`: (name, weight, lift). What happened stands in arrays by user, by answer and by exposed item."""

    def __init__(self, seed, users=2000, arms=(("control", 0.5, 0.0), ("b", 0.5, 0.0)), visits=1.0, shown=4, items=12,
                 days=7, layer="model"):
        rng = self.rng = np.random.default_rng(seed)
        self.arms, self.layer, self.items = arms, layer, items
        self.preference = rng.beta(A, B, users)
        self.arm = rng.choice(len(arms), users, p=[weight for _, weight, _ in arms])
        answers = 1 + rng.poisson(visits * self.preference * (A + B) / A)
        self.user = np.repeat(np.arange(users), answers)  # of each answer
        self.ts_ms = FIRST_MS + rng.integers(0, days * DAY_MS, len(self.user))
        self.exposed = rng.integers(1, 2 * shown, len(self.user))  # items of each answer
        self.of = np.repeat(np.arange(len(self.user)), self.exposed)  # the answer of each exposed item
        lift = np.array([lift for _, _, lift in arms])[self.arm[self.user]]
        chance = np.minimum(self.preference[self.user] * (1 + lift), 1)
        self.clicked = rng.random(len(self.of)) < chance[self.of]

    def sums(self):
        """[(clicks, exposures) by user, one pair of arrays for each arm]"""
        users = len(self.arm)
        clicks = np.bincount(self.user[self.of], self.clicked, users)
        exposures = np.bincount(self.user[self.of], minlength=users)
        return [(clicks[self.arm == i], exposures[self.arm == i]) for i in range(len(self.arms))]

    def lose(self, arm, share):
        """A journal that has lost a share of one arm's users: a bool for each user that is kept."""
        return (self.arm != arm) | (self.rng.random(len(self.arm)) >= share)

    def write(self, folder, keep=None, seed=0):
        """served-*.jsonl and events-*.jsonl in `folder`, of the users in `keep`."""
        rng = np.random.default_rng(seed)
        names = [name for name, _, _ in self.arms]
        items = ",".join(f'"i{i}"' for i in range(self.items))
        lists = (f'"items":[{items}],"scores":[{",".join(f"{1 - i / 100:.2f}" for i in range(self.items))}],'
                 f'"by":[{",".join(str(i % 4) for i in range(self.items))}]}}\n')
        heads = [f'"arms":{json.dumps({self.layer: name}, separators=(",", ":"))},"hash":"growthbook-v2","forced":false,'
                 '"experiments":1,"bundle":"demo@1","settings":{},"source":"model","degraded":[],"history":12,'
                 '"interests":4,"sample":1,"took_us":900,' for name in names]
        kept = np.ones(len(self.arm), bool) if keep is None else keep
        order = np.argsort(self.ts_ms, kind="stable")
        ts, user = self.ts_ms.tolist(), self.user.tolist()
        arm = self.arm.tolist()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "served-20260601T000000.000Z-1.jsonl").write_text("".join(
            f'{{"v":1,"ts_ms":{ts[a]},"serve_id":"s{a}","request_id":"r{a}","user_id":"u{user[a]}","scene":"home",'
            f"{heads[arm[user[a]]]}{lists}" for a in order.tolist() if kept[user[a]]))
        start = np.concatenate(([0], np.cumsum(self.exposed)[:-1]))
        place = (np.arange(len(self.of)) - start[self.of]).tolist()  # exposed from the top
        later = (2000 + rng.integers(0, 60000, len(self.of))).tolist()
        lines = []
        for a, p, click, wait in zip(self.of.tolist(), place, self.clicked.tolist(), later):
            if not kept[user[a]]:
                continue
            end = f'"serve_id":"s{a}","item_id":"i{p}","user_id":"u{user[a]}","position":{p},"event_id":"'
            lines.append(f'{{"v":1,"ts_ms":{ts[a] + 900},"received_ms":{ts[a] + 1000},"event":"exposed",{end}e{a}.{p}"}}\n')
            if click:
                at = ts[a] + wait
                lines.append(f'{{"v":1,"ts_ms":{at},"received_ms":{at + 100},"event":"clicked",{end}c{a}.{p}"}}\n')
        (folder / "events-20260601T000000.000Z-1.jsonl").write_text("".join(lines))
        return folder


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--users", type=int, default=20000)
    parser.add_argument("--lift", type=float, default=0.1)
    parser.add_argument("--lose", type=float, default=0)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    world = World(args.seed, args.users, arms=(("control", 0.5, 0.0), ("b", 0.5, args.lift)))
    world.write(args.folder, keep=world.lose(1, args.lose))


if __name__ == "__main__":
    main()

#!/usr/bin/python3
"""Visitors for the demo's experiment: they ask for items, look at some and click on what they like.

What a visitor likes is real: of two packages of behaviour.tsv, whose items are shuffled into one
history (people have several interests), the last fifth is kept back, and that is what he clicks
on when he comes across it. He looks at the first item always and at each further one a little
less often. So the arms differ by what their models find, not by a figure put in here.

    demo/traffic.py [--url http://127.0.0.1:8080] [--visitors 4000] [--seed 3]
"""

import argparse
import http.client
import json
import pathlib
import random
import sys
import urllib.parse

HERE = pathlib.Path(__file__).resolve().parent
SHOWN = 20       # items of an answer that are put before a visitor
GOES_ON = 0.9    # after each item he looks at the next with this probability
LIKES = 0.6      # clicks on an item he looks at and wants
CURIOUS = 0.005  # clicks on any other
KEPT = 0.8       # of his items are known to the service
VISITS = 3       # at most, per visitor


def read_behaviour():
    lines = (HERE / "behaviour.tsv").read_text(encoding="utf-8").splitlines()
    return [line.split("\t")[1].split(" ") for line in lines]


def shuffled(one, two, chance):
    """Both in their own order, mixed at random."""
    one, two, mixed = list(one), list(two), []
    while one or two:
        mixed.append((one if chance.random() * (len(one) + len(two)) < len(one) else two).pop(0))
    return list(dict.fromkeys(mixed))


class Service:
    def __init__(self, url):
        at = urllib.parse.urlsplit(url)
        self.connection = http.client.HTTPConnection(at.hostname, at.port or 80, timeout=10)

    def post(self, path, body):
        self.connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = self.connection.getresponse()
        text = answer.read()
        if answer.status not in (200, 202):
            sys.exit(f"traffic.py: {path} answers {answer.status}: {text.decode(errors='replace').strip()}")
        return json.loads(text)


def look(items, wanted, chance):
    """Positions he looked at, and those of them he clicked on."""
    seen, clicked = [], []
    for position, item in enumerate(items):
        seen.append(position)
        if chance.random() < (LIKES if item in wanted else CURIOUS):
            clicked.append(position)
        if chance.random() > GOES_ON:
            break
    return seen, clicked


def visit(service, user, known, wanted, chance):
    answer = service.post("/recall", {"user_id": user, "history": known, "n": SHOWN, "scene": "home"})
    items = [item["id"] for item in answer["items"]]
    seen, clicked = look(items, wanted, chance)
    events = [{"event": name, "serve_id": answer["serve_id"], "item_id": items[position],
               "position": position, "user_id": user,
               "event_id": f"{answer['serve_id']}/{name}/{position}"}
              for name, positions in (("exposed", seen), ("clicked", clicked)) for position in positions]
    if events:
        service.post("/events", events)
    return len(seen), len(clicked)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--visitors", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=3)
    args = parser.parse_args()

    behaviour, chance, service = read_behaviour(), random.Random(args.seed), Service(args.url)
    answers = exposures = clicks = 0
    for i in range(args.visitors):
        items = shuffled(*chance.sample(behaviour, 2), chance)
        known, wanted = items[:int(len(items) * KEPT)], set(items[int(len(items) * KEPT):])
        for _ in range(chance.randint(1, VISITS)):
            seen, clicked = visit(service, f"visitor-{args.seed}-{i}", known, wanted, chance)
            answers, exposures, clicks = answers + 1, exposures + seen, clicks + clicked
        if sys.stderr.isatty():
            print(f"\r{i + 1} of {args.visitors} visitors", end="", file=sys.stderr)
    if sys.stderr.isatty():
        print("\r", end="", file=sys.stderr)
    print(f"{args.visitors} visitors, {answers} answers, {exposures} items looked at, {clicks} clicked on")


if __name__ == "__main__":
    main()

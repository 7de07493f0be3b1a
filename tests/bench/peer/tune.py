"""The cheapest rows per interest and efSearch with which the peer finds a share of the exact answer:

    PEER='{"bundle": DIR, "index": "hnsw", ...}' python tune.py USERS WANTED

USERS is a JSON file, {user: {"elements": newest first, "items": the exact answer}}. Prints JSON: what
was tried, and the choice with the least CPU time that finds WANTED of the answers; null when none
does. In Faiss efSearch has no effect below the rows asked for."""
import json
import statistics
import sys
import time

import service

TAKE = [100, 130, 150, 170, 185, 200, 215, 230]  # rows of each interest
EFFORT = [1, 1.1, 1.2, 1.3, 1.45, 1.6, 2, 2.5]    # efSearch, by that
ROUNDS = 3


def share(user, asked):
    answer = service.recall(user, len(asked["items"]), asked["elements"])
    return len({item["id"] for item in answer["items"]} & set(asked["items"])) / len(asked["items"])


def seconds(users):
    start = time.process_time()
    for user, asked in users.items():
        service.recall(user, len(asked["items"]), asked["elements"])
    return time.process_time() - start


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        users = json.load(file)
    for asked in users.values():
        asked["elements"] = [element.encode() for element in asked["elements"]]
    tried = []
    for take in TAKE:
        for effort in (round(take * by) for by in EFFORT):
            service.C["take"] = take
            service.index.look(effort)
            found = statistics.mean(share(user, asked) for user, asked in users.items())
            if found >= float(sys.argv[2]):
                ms = min(seconds(users) for _ in range(ROUNDS)) / len(users) * 1e3
                tried.append({"take": take, "effort": effort, "found": found, "ms": ms})
                break
    best = min(tried, key=lambda t: t["ms"], default=None)
    print(json.dumps({"best": best, "tried": tried}))


if __name__ == "__main__":
    main()

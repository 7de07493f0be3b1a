#!/usr/bin/python3
"""Trains MIND on one of the data folders that docs/evaluation.md measures, and writes what `recallctl bundle build`
takes: model.safetensors and items.tsv with the items' category. The model and its training are the demo's
(demo/train.py); only the data and the length of the history differ. A minute or two on one thread.

The folder holds comirec-split/{train,valid,test}.txt (user,item,position) and items.tsv, whose columns are named in
a header line; items are numbered from 1, row 0 is padding.
"""
import argparse
import collections
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "demo"))
import train as demo  # noqa: E402  (the demo's train.py)

HISTORY = 20
CATEGORY = "cat2"
NO_CATEGORY = "None"


def read_users(path):
    """Rows of each user, oldest first."""
    events = collections.defaultdict(list)
    for line in path.read_text().splitlines():
        user, item, position = line.split(",")
        events[user].append((int(position), int(item)))
    return [[item for _, item in sorted(rows)] for rows in events.values()]


def write_items(source, path):
    """Copies row and category, in recalld's form; the row is the id. Returns the number of rows with row 0."""
    header, *lines = source.read_text(encoding="utf-8").splitlines()
    column = header.split("\t").index(CATEGORY)
    items = ["row\tid\tcategory"]
    for line in lines:
        fields = line.split("\t")
        category = "" if fields[column] == NO_CATEGORY else fields[column]
        items.append(f"{fields[0]}\t{fields[0]}\t{category}")
    path.write_text("\n".join(items) + "\n")
    return len(items)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("data", type=pathlib.Path, help="the folder, such as ../shared/data/amazon-beauty-titles")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="where the two files go")
    parser.add_argument("--interests", type=int, default=demo.INTERESTS)
    parser.add_argument("--epochs", type=int, default=demo.EPOCHS)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()

    demo.torch.set_num_threads(args.threads)
    demo.HISTORY, demo.INTERESTS = HISTORY, args.interests
    args.out.mkdir(parents=True, exist_ok=True)
    n = write_items(args.data / "items.tsv", args.out / "items.tsv")
    users = {part: read_users(args.data / f"comirec-split/{part}.txt") for part in ("train", "valid", "test")}
    print(", ".join(f"{len(rows)} {part}" for part, rows in users.items()), "users,", n - 1, "items")
    hit, recall = demo.popularity(users["train"], users["test"], n)
    print(f"test users, popularity: HitRate@{demo.TOP_N} {hit:.4f} Recall@{demo.TOP_N} {recall:.4f}")

    model = demo.train(users["train"], n, args.interests, args.epochs, users["valid"])
    demo.store(model, args.out / "model.safetensors")
    hit, recall = demo.evaluate(model, users["test"])
    print(f"test users, as stored:  HitRate@{demo.TOP_N} {hit:.4f} Recall@{demo.TOP_N} {recall:.4f}")


if __name__ == "__main__":
    main()

#!/usr/bin/python3
"""Trains MIND on what prepare.py wrote and stores it the way recalld's variant `thudm-mind` reads
it: one shared bilinear map with a bias, softmax over the interests, pads masked after it, three
routing passes, no projection. The routing logits are drawn once, used in training too, and kept
in the file, so the daemon's answers are those of the model that was trained.

Writes debian-mind.safetensors, debian-mind-k1.safetensors (the same with a single interest) and
expected.json (what recalld must answer on behaviour.tsv) beside this script; prints HitRate@50
beside a popularity baseline.
"""

import argparse
import json
import pathlib
import struct
import sys
import time

import numpy
import torch

HERE = pathlib.Path(__file__).resolve().parent
DIM = 64          # of items and of interests alike
INTERESTS = 4
HISTORY = 50      # S, slots of the routing table
PASSES = 3
SQUASH_EPS = 1e-9
TOP_N = 50

EPOCHS = 10
BATCH = 256       # users
TARGETS = 4       # positives drawn per user and step
NEGATIVES = 2048  # shared by the batch
RATE = 0.1          # of the item table, whose rows are seldom met
RATE_MAP = 0.002    # of the bilinear map
# Both keep the softmax over the interests soft. Where it hardens, an interest that lost every item
# is a zero vector and a short history leaves most of them so.
KERNEL_INIT = 0.25  # times identity
LOGITS_STD = 0.3    # of the routing table, cut at two sigma
SEED = 1230

EXAMPLE = ("libjansson-dev", "libmicrohttpd-dev")


# ---- data ----------------------------------------------------------------------------------


def read_items():
    """Returns the ids by row; row 0 is the padding."""
    lines = (HERE / "items.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return [""] + [line.split("\t")[1] for line in lines]


def read_users(path, row_of):
    """Returns {part: [rows of one user, ...]}."""
    parts = {"train": [], "valid": [], "test": []}
    for line in path.read_text(encoding="utf-8").splitlines():
        _, part, items = line.split("\t")
        parts[part].append([row_of[item] for item in items.split(" ")])
    return parts


def padded(histories):
    """Keeps the last HISTORY rows of each, right-padded with 0, and their lengths."""
    histories = [rows[-HISTORY:] for rows in histories]
    length = torch.tensor([len(rows) for rows in histories])
    table = torch.zeros(len(histories), int(length.max()), dtype=torch.long)
    for i, rows in enumerate(histories):
        table[i, :len(rows)] = torch.tensor(rows)
    return table, length


def cut(rows):
    """A user's history and targets for evaluation: the first 80 % and the rest."""
    k = int(0.8 * len(rows))
    return rows[:k], rows[k:]


# ---- the model -----------------------------------------------------------------------------


def squash(z):
    n = (z * z).sum(-1, keepdim=True)
    return n / (1 + n) / torch.sqrt(n + SQUASH_EPS) * z


class Mind(torch.nn.Module):
    def __init__(self, n, interests):
        super().__init__()
        self.items = torch.nn.Parameter(torch.randn(n, DIM) * 0.5)
        self.kernel = torch.nn.Parameter(torch.eye(DIM) * KERNEL_INIT)
        self.bias = torch.nn.Parameter(torch.zeros(DIM))
        logits = torch.nn.init.trunc_normal_(
            torch.empty(1, interests, HISTORY), std=LOGITS_STD, a=-2 * LOGITS_STD,
            b=2 * LOGITS_STD)
        self.register_buffer("logits", logits)

    def forward(self, history, length):
        """history (B, L) rows -> interests (B, K, DIM)."""
        slots = history.shape[1]
        mask = (torch.arange(slots) < length[:, None]).to(self.items.dtype)     # (B, L)
        u = (self.items[history] * mask[..., None]) @ self.kernel + self.bias  # (B, L, DIM)
        b = self.logits[:, :, :slots]                                          # (1, K, L)
        for last in [False] * (PASSES - 1) + [True]:
            w = torch.softmax(b, dim=1) * mask[:, None]
            routed = u if last else u.detach()
            v = squash(w @ routed)
            if not last:
                b = b + v @ routed.transpose(1, 2)
        return v


# ---- training ------------------------------------------------------------------------------


def draw(rows, rng):
    """A training example: a history of 1 to len-1 items and TARGETS of the others.

    Half of them take the written order's prefix, as the daemon will see it; the other half a
    random subset, since maintainers often sort and the alphabet should not be the lesson."""
    k = int(rng.integers(1, len(rows)))
    if rng.random() < 0.5:
        rows = [rows[i] for i in rng.permutation(len(rows))]
    rest = rows[k:]
    return rows[:k], [rest[i] for i in rng.integers(0, len(rest), TARGETS)]


def loss_of(model, examples, log_q, negatives):
    """Sampled softmax with the sampling probability taken out; each target is scored by the
    interest nearest to it (label-aware attention with an infinite power)."""
    history, length = padded([h for h, _ in examples])
    target = torch.tensor([t for _, t in examples])                             # (B, T)
    v = model(history, length)                                                  # (B, K, DIM)
    e = model.items[target]                                                     # (B, T, DIM)
    nearest = (e @ v.transpose(1, 2)).argmax(-1)                                # (B, T)
    q = v.gather(1, nearest[..., None].expand(-1, -1, DIM)).reshape(-1, DIM)    # (B T, DIM)
    target = target.reshape(-1)
    positive = (q * e.reshape(-1, DIM)).sum(-1) - log_q[target]
    negative = q @ model.items[negatives].T - log_q[negatives]
    negative = negative.masked_fill(negatives == target[:, None], -1e9)
    scores = torch.cat([positive[:, None], negative], dim=1)
    return (torch.logsumexp(scores, 1) - positive).mean()


def train(users, n, interests, epochs, valid=None):
    torch.manual_seed(SEED)
    rng = numpy.random.default_rng(SEED)
    model = Mind(n, interests)
    count = numpy.bincount([row for rows in users for row in rows], minlength=n)
    q = count ** 0.75
    q[0] = 0
    q = q / q.sum()
    log_q = torch.tensor(numpy.log(numpy.maximum(q * NEGATIVES, 1e-9)), dtype=torch.float32)
    cumulative = numpy.cumsum(q)
    steps = epochs * (len(users) // BATCH)
    adam = torch.optim.Adam([{"params": [model.items]},
                             {"params": [model.kernel, model.bias]}])
    rate = torch.optim.lr_scheduler.OneCycleLR(adam, [RATE, RATE_MAP], total_steps=steps,
                                               pct_start=0.1)
    start = time.monotonic()
    for epoch in range(epochs):
        order = rng.permutation(len(users))
        total = 0.0
        for i in range(0, len(users) - BATCH + 1, BATCH):
            examples = [draw(users[j], rng) for j in order[i:i + BATCH]]
            negatives = torch.tensor(numpy.minimum(
                numpy.searchsorted(cumulative, rng.random(NEGATIVES)), n - 1))
            loss = loss_of(model, examples, log_q, negatives)
            adam.zero_grad()
            loss.backward()
            adam.step()
            rate.step()
            total += loss.item()
        if valid and (epoch % 5 == 4 or epoch == epochs - 1):
            hit, recall = evaluate(model, valid)
            print(f"K={interests} epoch {epoch + 1:2d}: loss {total / (len(users) // BATCH):.3f}, "
                  f"valid HitRate@{TOP_N} {hit:.4f} Recall@{TOP_N} {recall:.4f}, "
                  f"{time.monotonic() - start:.0f} s", flush=True)
    return model.eval()


# ---- evaluation ----------------------------------------------------------------------------


@torch.no_grad()
def ranked(model, histories, top_n):
    """Exact top rows by the best inner product over the interests; the padding row is left out,
    items of the history are not."""
    table, length = padded(histories)
    out = []
    for i in range(0, len(histories), BATCH):
        v = model(table[i:i + BATCH], length[i:i + BATCH])
        scores = torch.stack([v[:, k] @ model.items.T for k in range(v.shape[1])]).amax(0)
        scores[:, 0] = -float("inf")
        out += torch.topk(scores, top_n).indices.tolist()
    return out


def rates(lists, targets):
    """HitRate and Recall averaged over the users."""
    hits = [len(set(found) & set(wanted)) for found, wanted in zip(lists, targets)]
    return (sum(h > 0 for h in hits) / len(hits),
            sum(h / len(wanted) for h, wanted in zip(hits, targets)) / len(hits))


def evaluate(model, users):
    pairs = [cut(rows) for rows in users]
    return rates(ranked(model, [h for h, _ in pairs], TOP_N), [t for _, t in pairs])


def two_tastes(users):
    """Pairs the users up: (histories shuffled into one, targets of both). A package has one
    purpose; people have several, and several interests are for them."""
    rng = numpy.random.default_rng(SEED)
    long_enough = [users[i] for i in rng.permutation(len(users)) if len(users[i]) >= 8]
    histories, targets = [], []
    for one, other in zip(long_enough[::2], long_enough[1::2]):
        (h1, t1), (h2, t2) = cut(one), cut(other)
        half = HISTORY // 2
        mixed = h1[-half:] + h2[-half:]
        histories.append([mixed[i] for i in rng.permutation(len(mixed))])
        targets.append(sorted(set(t1 + t2)))
    return histories, targets


def popularity(train_users, users, n):
    count = numpy.bincount([row for rows in train_users for row in rows], minlength=n)
    top = numpy.argsort(-count, kind="stable")[:TOP_N].tolist()
    return rates([top] * len(users), [cut(rows)[1] for rows in users])


# ---- files ---------------------------------------------------------------------------------


def write_safetensors(path, tensors, metadata):
    """Tensors lie back to back in the order given; the header is padded to 8 bytes."""
    header, data = {"__metadata__": metadata}, b""
    for name, array in tensors.items():
        raw = array.tobytes()
        header[name] = {"dtype": {"float32": "F32", "float16": "F16"}[array.dtype.name],
                        "shape": list(array.shape),
                        "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def store(model, path):
    """Writes the checkpoint and leaves in `model` exactly what was written (items as F16)."""
    items = model.items.detach().numpy().astype("<f2")
    items[0] = 0
    model.items.data = torch.tensor(items.astype(numpy.float32))
    write_safetensors(path, {
        "mid_embedding_var": items,
        "capsule_network/bilinear/dense/kernel": model.kernel.detach().numpy(),
        "capsule_network/bilinear/dense/bias": model.bias.detach().numpy(),
        "routing_logits": model.logits.numpy(),
    }, {
        "variant": "thudm-mind", "interests": str(model.logits.shape[1]), "max_history": str(HISTORY),
        "init": "tensor:routing_logits", "normalize_user": "false", "normalize_item": "false",
    })


def nine(value):
    return float(f"{value:.9g}")


def write_expected(model, single, ids, row_of, path):
    """What the daemon must find for the users of behaviour.tsv, and a few answers in full."""
    users = {}
    for line in (HERE / "behaviour.tsv").read_text(encoding="utf-8").splitlines():
        user, items = line.split("\t")
        users[user] = items.split(" ")
    rows = [[row_of[i] for i in items] for items in users.values()]
    hit, recall = evaluate(model, rows)
    single_hit, single_recall = evaluate(single, rows)
    longest = max(users, key=lambda user: len(users[user]))
    shortest = min(users, key=lambda user: len(users[user]))
    chosen = {"": list(EXAMPLE)}
    for user in ("src:curl", "src:nginx", longest, shortest):
        chosen[user] = users[user]
    vectors = []
    for user, items in chosen.items():
        rows = [row_of[item] for item in items]
        with torch.no_grad():
            v = model(*padded([rows]))[0]
            scores = (v @ model.items.T).amax(0)
        top = ranked(model, [rows], 10)[0]
        vectors.append({"user": user, "history": items,
                        "interests": [[nine(x) for x in row] for row in v.tolist()],
                        "top": [[ids[row], nine(scores[row].item())] for row in top]})
    expected = {
        "about": "history = the first int(0.8 * length) items of a line of behaviour.tsv, targets "
                 "= the rest; exact inner products, best over the interests, history items not "
                 "excluded. vectors: the whole history given; user is empty where it is no line",
        "users": len(users), "top_n": TOP_N, "hit_rate": nine(hit), "recall": nine(recall),
        "k1": {"hit_rate": nine(single_hit), "recall": nine(single_recall)},
    }
    text = json.dumps(expected, indent=1)[:-2]
    text += ',\n "vectors": [\n  ' + ",\n  ".join(json.dumps(v) for v in vectors) + "\n ]\n}\n"
    path.write_text(text, encoding="utf-8")
    return hit, recall


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--work", type=pathlib.Path, default=HERE.parent / "build" / "demo",
                        help="where prepare.py left users.tsv (default: build/demo)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    if not (args.work / "users.tsv").exists():
        sys.exit(f"train.py: {args.work}/users.tsv is missing: run prepare.py first")
    ids = read_items()
    row_of = {item: row for row, item in enumerate(ids) if row}
    users = read_users(args.work / "users.tsv", row_of)
    print(", ".join(f"{len(rows)} {part}" for part, rows in users.items()), "users,",
          len(row_of), "items")

    model = train(users["train"], len(ids), INTERESTS, args.epochs, users["valid"])
    full = evaluate(model, users["test"])
    store(model, HERE / "debian-mind.safetensors")
    single = train(users["train"], len(ids), 1, args.epochs, users["valid"])
    store(single, HERE / "debian-mind-k1.safetensors")
    shown = write_expected(model, single, ids, row_of, HERE / "expected.json")

    test, n = users["test"], len(ids)
    histories, targets = two_tastes(test)
    print(f"\n{'':36}HitRate@{TOP_N}  Recall@{TOP_N}")
    for name, pair in (
            ("test users: popularity", popularity(users["train"], test, n)),
            ("            MIND K=1", evaluate(single, test)),
            (f"            MIND K={INTERESTS}", full),
            (f"            MIND K={INTERESTS}, as stored", evaluate(model, test)),
            ("            of them in behaviour.tsv", shown),
            ("two users mixed: MIND K=1", rates(ranked(single, histories, TOP_N), targets)),
            (f"                 MIND K={INTERESTS}",
             rates(ranked(model, histories, TOP_N), targets))):
        print(f"{name:36}{pair[0]:10.4f} {pair[1]:10.4f}")
    asked = [row_of[item] for item in EXAMPLE]
    found = ranked(model, [asked], 10 + len(asked))[0]
    print("\n" + " ".join(EXAMPLE), "->", " ".join(ids[r] for r in found if r not in asked))


if __name__ == "__main__":
    main()

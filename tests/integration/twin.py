"""The whole path once more in numpy and double precision, straight from the formulas: capsule routing of
`thudm-mind`, exact search, the `max` merge. Slow, plain, and nothing shared with the daemon."""
import json
import struct

import numpy as np

STORED = {"F32": ("<f4", 4), "F16": ("<f2", 2)}


def read_safetensors(path):
    with open(path, "rb") as f:
        header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        data = f.read()
    meta = header.pop("__metadata__", {})
    tensors = {}
    for name, t in header.items():
        dtype, _ = STORED[t["dtype"]]
        begin, end = t["data_offsets"]
        tensors[name] = np.frombuffer(data[begin:end], dtype).astype(np.float64).reshape(t["shape"])
    return meta, tensors


def read_items(path):
    ids, sections = {}, {}
    with open(path, encoding="utf-8") as f:
        assert next(f).rstrip("\n").split("\t") == ["row", "id", "section"]
        for line in f:
            row, item, section = line.rstrip("\n").split("\t")
            ids[int(row)] = item
            sections[item] = set(section.split("|")) - {""}
    return ids, sections


class Twin:
    def __init__(self, demo):
        self.meta, t = read_safetensors(f"{demo}/debian-mind.safetensors")
        self.ids, self.sections = read_items(f"{demo}/items.tsv")
        self.rows = {item: row for row, item in self.ids.items()}
        self.table = t["mid_embedding_var"]
        self.kernel = t["capsule_network/bilinear/dense/kernel"]
        self.bias = t["capsule_network/bilinear/dense/bias"]
        logits = t["routing_logits"]
        self.logits = logits[0] if logits.ndim == 3 else logits
        self.names = [self.ids.get(row) for row in range(len(self.table))]

    def interests(self, history):
        """(K, H) interests and (K, used) routing weights of the last pass."""
        k, s = self.logits.shape
        rows = [self.rows[i] for i in history if i in self.rows][-s:]
        u = self.table[rows] @ self.kernel + self.bias
        b = self.logits[:, : len(rows)].copy()
        for step in range(3):
            w = np.exp(b - b.max(axis=0))
            w /= w.sum(axis=0)
            z = w @ u
            n = (z * z).sum(axis=1, keepdims=True)
            v = n / (1 + n) / np.sqrt(n + 1e-9) * z
            if step < 2:
                b += v @ u.T
        return v, w

    def recall(self, history, n, exclude=(), sections=None, exclude_history=True):
        """The best n as (id, score, interest), best first."""
        v, _ = self.interests(history)
        scores = self.table @ v.T
        best = scores.max(axis=1)
        gone = set(exclude) | (set(history) if exclude_history else set())
        out = []
        for row in np.lexsort((np.arange(len(best)), -best)):
            item = self.names[row]
            if item is None or item in gone:
                continue
            if sections is not None and not self.sections[item] & set(sections):
                continue
            out.append((item, float(best[row]), int(scores[row].argmax())))
            if len(out) == n:
                break
        return out


def agree(answer, wanted):
    """The answer's items are the wanted ones: same scores place by place, each item with its own score,
    and no item missing but for ties closer than the tolerance."""
    tolerance = 1e-5 + 4e-6 * abs(wanted[0][1]) if wanted else 0
    items = answer["items"]
    assert len(items) == len(wanted)
    score_of = {item: score for item, score, _ in wanted}
    for got, (_, score, _) in zip(items, wanted):
        assert abs(got["score"] - score) <= tolerance
        if got["id"] in score_of:
            assert abs(got["score"] - score_of[got["id"]]) <= tolerance
        else:
            assert abs(got["score"] - wanted[-1][1]) <= tolerance
    assert len({i["id"] for i in items}) == len(items)

#!/usr/bin/python3
"""Writes model.txt: interest vectors of small models, and routing tables of our own generator.

The vectors are computed here in double precision from the formulas of each codebase, loop by loop,
with nothing shared with the C code. The inputs come from g(), which tests/unit/test_model.c has
too, so that no checkpoint needs to be stored. A line is a name and numbers."""

import math
import pathlib
import struct

S, D, K = 6, 4, 3
IDS = [3, 5, 2, 8, 0, 0]
L = 4


def f32(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def g(shape, seed, scale):
    n = math.prod(shape)
    flat = []
    for i in range(n):
        h = (i * 2654435761 + seed * 2246822519 + 374761393) % 2 ** 32
        h ^= h >> 15
        h = h * 2246822519 % 2 ** 32
        h ^= h >> 13
        flat.append(f32(scale * (h / 2 ** 32 - 0.5)))
    for size in reversed(shape[1:]):
        flat = [flat[i:i + size] for i in range(0, len(flat), size)]
    return flat


def dot(a, b):
    return sum(x * y for x, y in zip(a, b))


def times(x, w):
    """x W, W input-major"""
    return [dot(x, column) for column in zip(*w)]


def add(a, b):
    return [x + y for x, y in zip(a, b)]


M, B0, W0, BIAS = g([9, D], 1, 2.0), g([K, S], 2, 4.0), g([D, D], 3, 2.0), g([D], 4, 0.5)
WP, P, P0, WS = g([S, K * D, D], 7, 2.0), g([D, D], 8, 2.0), g([D], 9, 0.5), g([D, D], 11, 2.0)
POSITIONS, W1, C1 = g([S, D], 12, 1.0), g([D, 4 * D], 21, 1.0), g([4 * D], 23, 0.5)
W2, C2 = g([4 * D, K], 22, 1.0), g([K], 24, 0.5)
ZERO = [[0.0] * S for _ in range(K)]


# ---- low capsules u[k][s] ------------------------------------------------------------------


def items(live_pads=False):
    return [M[i] if s < L or live_pads else [0.0] * D for s, i in enumerate(IDS)]


def shared(w, bias=None, live_pads=False):
    u = [add(times(e, w), bias or [0.0] * D) for e in items(live_pads)]
    return [u] * K


def interleaved(w):
    h = [times(e, w) for e in items()]
    return [[[row[(k * D + j) // K] for j in range(D)] for row in h] for k in range(K)]


def per_position(live_pads=False):
    return [[[dot(WP[s][k * D + j], e) for j in range(D)] for s, e in enumerate(items(live_pads))]
            for k in range(K)]


# ---- routing ---------------------------------------------------------------------------------


def softmax(v):
    e = [math.exp(x - max(v)) for x in v]
    return [x / sum(e) for x in e]


def weights(b, axis, mask, live):
    if mask == "before":
        b = [[x if s < L else -2.0 ** 32 for s, x in enumerate(row)] for row in b]
    if axis == "Q":
        w = [softmax(row) for row in b]
    else:
        columns = [softmax(list(c)[:live]) + [0.0] * (K - live) for c in zip(*b)]
        w = [list(row) for row in zip(*columns)]
    if mask == "after":
        w = [[x if s < L else 0.0 for s, x in enumerate(row)] for row in w]
    return w


def gather(w, u):
    return [[sum(w[k][s] * u[k][s][j] for s in range(S)) for j in range(D)] for k in range(K)]


def squash(z, eps):
    n = dot(z, z)
    return [n / (1 + n) / math.sqrt(n + eps) * x for x in z]


def unit(v, least):
    return [x / max(math.sqrt(dot(v, v)), least) for x in v]


def route(u, b, axes, mask="after", eps=1e-9, clipped=False):
    for i, axis in enumerate(axes):
        w = weights(b, axis, mask, K)
        v = [squash(z, eps) for z in gather(w, u)]
        if i == len(axes) - 1:
            return v
        d = [[dot(u[k][s], v[k]) for s in range(S)] for k in range(K)]
        if clipped:
            d = [[x / max(math.sqrt(dot(row, row)), 1) for x in row] for row in d]
        b = [add(x, y) for x, y in zip(b, d)]


def relu(v, bias):
    return [[max(x, 0.0) for x in add(times(row, P), bias)] for row in v]


def easyrec(scale, power, live):
    u = shared(WS, live_pads=True)
    table = easyrec_table()
    b = [[table[s * K + k] for s in range(S)] for k in range(K)]
    for i in range(3):
        w = weights(b, "I", "after", live)
        z = gather(w, u)
        if i < 2:
            h = [unit(x, 1e-6) for x in z]
            b = [[scale * dot(unit(u[k][s], 1e-6), h[k]) if scale > 0 else dot(u[k][s], h[k])
                  for s in range(S)] for k in range(K)]
    out = []
    for k in range(K):
        n = max(dot(z[k], z[k]), 1e-8)
        c = (n / (1 + n)) ** power / math.sqrt(n) if k < live else 0.0
        out.append([c * x for x in z[k]])
    return out


def torcheasyrec(scale, power, live):
    u = shared(WS)
    b = B0
    for i in range(3):
        w = weights([[scale * x for x in row] for row in b], "I", "after", live)
        z = gather(w, u)
        if i < 2:
            b = [[w[k][s] + dot(unit(u[k][s], 1e-12), z[k]) for s in range(S)] for k in range(K)]
    out = []
    for k in range(K):
        r = max(math.sqrt(dot(z[k], z[k])), 1e-7)
        c = (r * r / (1 + r * r)) ** power / r if k < live else 0.0
        out.append([c * x for x in z[k]])
    return out


def rechub_tower(v):
    """No features of the user: its weights take the interest alone."""
    return [unit(times(row, P), 1e-12) for row in v]


# ---- self-attention ----------------------------------------------------------------------------


def attend(logits, values):
    """logits[s][k]"""
    columns = [softmax(list(c)) for c in zip(*logits)]
    return [[sum(columns[k][s] * values[s][j] for s in range(S)) for j in range(D)]
            for k in range(K)]


def heads(x, c1=None, c2=None):
    hidden = [[math.tanh(y) for y in add(times(row, W1), c1 or [0.0] * 4 * D)] for row in x]
    return [add(times(row, W2), c2 or [0.0] * K) for row in hidden]


def masked(logits):
    return [row if s < L else [-2.0 ** 32] * K for s, row in enumerate(logits)]


def thudm_sa(c1=None, c2=None):
    e = items()
    return attend(masked(heads([add(e[s], POSITIONS[s]) for s in range(S)], c1, c2)), e)


def rechub_sa():
    e = items(live_pads=True)
    logits = heads(e)
    return attend([[a - 1e9 * (IDS[s] == 0) for a in logits[s]] for s in range(S)], e)


def deepmatch_sa():
    e = items(live_pads=True)
    x = [[2 * a + math.sqrt(D) * b for a, b in zip(e[s], POSITIONS[s])] for s in range(S)]
    logits = [[math.tanh(a) for a in row] for row in heads(x, C1, C2)]
    return attend(masked(logits), x)


# ---- routing tables --------------------------------------------------------------------------


def easyrec_table():
    """numpy.random.seed(28); numpy.random.uniform(size=[S, K]): MT19937, 53 bits a number."""
    mt = [28]
    for i in range(1, 624):
        mt.append((1812433253 * (mt[-1] ^ mt[-1] >> 30) + i) % 2 ** 32)
    words = []
    for i in range(624):
        y = mt[i] & 0x80000000 | mt[(i + 1) % 624] & 0x7fffffff
        mt[i] = mt[(i + 397) % 624] ^ y >> 1 ^ (0x9908b0df if y & 1 else 0)
        y = mt[i]
        y ^= y >> 11
        y ^= y << 7 & 0x9d2c5680
        y ^= y << 15 & 0xefc60000
        words.append(y ^ y >> 18)
    return [f32(((words[i] >> 5) * 67108864 + (words[i + 1] >> 6)) / 2 ** 53)
            for i in range(0, 2 * S * K, 2)]


class Generator:
    """docs/models.md: splitmix64, 53-bit uniforms, Marsaglia's polar method."""

    def __init__(self, seed):
        self.state = seed

    def uniform(self):
        self.state = (self.state + 0x9e3779b97f4a7c15) % 2 ** 64
        x = self.state
        x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9 % 2 ** 64
        x = (x ^ x >> 27) * 0x94d049bb133111eb % 2 ** 64
        return ((x ^ x >> 31) >> 11) / 2 ** 53

    def normal(self):
        while True:
            x, y = 2 * self.uniform() - 1, 2 * self.uniform() - 1
            s = x * x + y * y
            if 0 < s < 1:
                return x * math.sqrt(-2 * math.log(s) / s)

    def truncated_normal(self):
        while True:
            x = self.normal()
            if abs(x) <= 2:
                return x


def table(kind, seed, std):
    generator = Generator(seed)
    return [f32(getattr(generator, kind)() * std) for _ in range(S * K)]


def main():
    mind, dr = shared(W0), per_position()
    th = route(shared(W0, BIAS), B0, "III")
    vectors = {
        "A1": th,
        "A1r": relu(th, P0),
        "A2": route(dr, ZERO, "III"),
        "A3": route(dr, ZERO, "QQQ"),
        "A4": route(mind, B0, "QQQ"),
        "A5": route(interleaved(W0), B0, "QQQ"),
        "A6": relu(route(mind, B0, "QQI", "before", 1e-8), P0),
        "A7": relu(route(mind, B0, "III", "before", 1e-8), P0),
        "A8": route(mind, B0, "QQQ", "before", 1e-8, clipped=True),
        "A9": route(shared(W0, live_pads=True), B0, "III"),
        "A10": easyrec(20, 0.2, 3),
        "A11": easyrec(0, 1, 2),
        "A12": torcheasyrec(20, 0.2, 2),
        "A13": thudm_sa(C1, C2),
        "A14": thudm_sa(),
        "rechub-mind": rechub_tower(route(shared(W0, live_pads=True), B0, "QQQ")),
        "rechub-comirec-dr": rechub_tower(route(per_position(live_pads=True), ZERO, "QQQ")),
        "rechub-comirec-sa": rechub_tower(rechub_sa()),
        "deepmatch-comirec-sa": deepmatch_sa(),
        "paddlerec-mind-2022b": route(mind, B0, "III", "before", 1e-8, clipped=True),
    }
    lines = [" ".join([name] + [f"{x:.9g}" for row in v for x in row])
             for name, v in vectors.items()]
    tables = {
        "easyrec": easyrec_table(),
        "normal:1:1": table("normal", 1, 1),
        "truncated_normal:7:0.5": table("truncated_normal", 7, 0.5),
        "uniform:18446744073709551615:2": table("uniform", 2 ** 64 - 1, 2),
    }
    lines += [" ".join([name] + [f"{x:.9g}" for x in v]) for name, v in tables.items()]
    path = pathlib.Path(__file__).with_suffix(".txt")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

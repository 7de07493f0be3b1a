#!/usr/bin/env python3
"""Makes a larger catalogue out of a real one: `catalogue.py CHECKPOINT ROWS OUT_DIR`.

Writes weights.safetensors and items.tsv with ROWS items. The checkpoint's own items come first,
unchanged and under their row numbers, so that real histories lead to real interests. Every further
item is a real one moved among its neighbours: the differences to 16 near ones, weighted at random,
at most as far as the nearest is. So a catalogue 30 times as large has the directions, the lengths
and the crowding of the real one, and not those of noise. The same arguments give the same bytes.

Needs numpy, faiss and safetensors: compare.py runs it with the peer's interpreter."""
import json
import pathlib
import struct
import sys

import faiss
import numpy as np
from safetensors import safe_open

SEED = 20261124
NEAR = 16        # neighbours whose span an item is moved in
REACH = 0.5, 1.0  # of the distance to the nearest: least and most
CHUNK = 50000    # rows made at once


def read(path):
    """All tensors, the metadata, and the name of the item table."""
    with safe_open(path, framework="numpy") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        return tensors, file.metadata() or {}, max(tensors, key=lambda name: tensors[name].size)


def unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)


def neighbours(items):
    """(rows, NEAR): of each item, nearest first, itself left out."""
    index = faiss.IndexFlatL2(items.shape[1])
    index.add(items)
    return index.search(items, NEAR + 1)[1][:, 1:]


def moved(real, near, count, random):
    """`count` unit vectors, each somewhere around a real one."""
    base = random.integers(len(real), size=count)
    weights = random.standard_normal((count, NEAR), dtype=np.float32)
    away = np.einsum("ij,ijd->id", weights, real[near[base]] - real[base][:, None])
    nearest = np.linalg.norm(real[near[base, 0]] - real[base], axis=1, keepdims=True)
    reach = random.uniform(*REACH, (count, 1)).astype(np.float32)
    return unit(real[base] + unit(away) * nearest * reach), base


def enlarged(table, rows):
    """The table with its padding row, and `rows` items."""
    random = np.random.default_rng(SEED)
    length = np.linalg.norm(table[1:], axis=1, keepdims=True)
    real = unit(table[1:])
    near = neighbours(real)
    parts, have = [table[:rows + 1]], len(real)
    while have < rows:
        made, base = moved(real, near, min(CHUNK, rows - have), random)
        parts.append(made * length[base])
        have += len(made)
    return np.concatenate(parts)


def write(path, tensors, metadata):
    header, at = {"__metadata__": metadata}, 0
    for name, value in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(value.shape),
                        "data_offsets": [at, at + value.nbytes]}
        at += value.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for value in tensors.values():
            file.write(np.ascontiguousarray(value, "<f4").tobytes())


def main():
    checkpoint, rows, out = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3])
    faiss.omp_set_num_threads(1)
    tensors, metadata, table = read(checkpoint)
    tensors[table] = enlarged(tensors[table].astype(np.float32), rows)
    out.mkdir(parents=True, exist_ok=True)
    write(out / "weights.safetensors", tensors, metadata)
    (out / "items.tsv").write_text(
        "row\tid\n" + "".join(f"{row}\t{row}\n" for row in range(1, rows + 1)), encoding="ascii")


if __name__ == "__main__":
    main()

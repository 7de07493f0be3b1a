"""Bundles with a fault: what is done to a good one, and the words that must refuse it.

FAULTS is also the table in docs/operations.md. A message goes on from the bundle's folder; `…` stands for anything.
"""
import hashlib
import json
import os
import re
import shutil
import struct

import numpy as np

from twin import read_safetensors

TABLE = "mid_embedding_var"
ITEM, OTHER_ITEM = 41, 4242  # rows of the demo


def write_safetensors(path, tensors, meta):
    header, at = {"__metadata__": meta}, 0
    for name, t in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(t.shape), "data_offsets": [at, at + 4 * t.size]}
        at += 4 * t.size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text +
                     b"".join(t.astype("<f4").tobytes() for t in tensors.values()))
    return path


def as_float32(source, path, change=lambda table: table):
    """The same checkpoint with the item table stored as it is used, which is then not copied."""
    meta, tensors = read_safetensors(source)
    return write_safetensors(path, {**tensors, TABLE: change(tensors[TABLE])}, meta)


class Victim:
    """A copy of a bundle. Files are replaced, never written to: unchanged ones are links to the original's."""

    def __init__(self, bundle, directory, version):
        shutil.copytree(bundle, directory, copy_function=os.link)
        self.dir = directory
        self.manifest(lambda m: m.update(version=version))

    def read(self, name):
        return (self.dir / name).read_bytes()

    def put(self, name, data, agree=False):
        """`agree`: the manifest's hashes follow, as when the bundle was built like that."""
        old = hashlib.sha256(self.read(name)).hexdigest()
        (self.dir / "beside").write_bytes(data)
        (self.dir / "beside").rename(self.dir / name)
        if agree:
            text = self.read("manifest.json").replace(old.encode(), hashlib.sha256(data).hexdigest().encode())
            self.put("manifest.json", text)

    def manifest(self, change):
        manifest = json.loads(self.read("manifest.json"))
        change(manifest)
        self.put("manifest.json", json.dumps(manifest).encode())

    def edit(self, name, old, new, agree=True):
        data = self.read(name)
        assert data.count(old) == 1
        self.put(name, data.replace(old, new), agree)

    def swap(self, one, other):
        a, b = self.read(one), self.read(other)
        self.put(one, b)
        self.put(other, a)


# ---- faults --------------------------------------------------------------------------------------


def of(name, breaks):
    """Remembers which file the message must name."""
    breaks.file = name
    return breaks


def missing(name):
    return of(name, lambda v: (v.dir / name).unlink())


def pipe(name):
    def breaks(v):
        (v.dir / name).unlink()
        os.mkfifo(v.dir / name)
    return of(name, breaks)


def cut(name, share, agree=False):
    """To a share of its length; of 1, by one byte."""
    def breaks(v):
        data = v.read(name)
        v.put(name, data[:int(len(data) * share) if share < 1 else -1], agree)
    return of(name, breaks)


def flipped(name):
    def breaks(v):
        data = bytearray(v.read(name))
        data[len(data) // 2] ^= 1
        v.put(name, bytes(data))
    return of(name, breaks)


def swapped(agree):
    def breaks(v):
        v.swap("shards/0000.faiss", "shards/0001.faiss")
        if agree:
            def exchange(m):
                a, b = m["index"]["shards"]
                a["sha256"], b["sha256"] = b["sha256"], a["sha256"]
            v.manifest(exchange)
    return breaks


def field(*path, to):
    def breaks(v):
        def change(m):
            for key in path[:-1]:
                m = m[key]
            m[path[-1]] = to
        v.manifest(change)
    return breaks


def tensor(change, meta=None):
    """Other weights, and everything in the manifest agrees to them."""
    def breaks(v):
        told, tensors = read_safetensors(v.dir / "weights.safetensors")
        change(tensors)
        write_safetensors(v.dir / "other", tensors, {**told, **(meta or {})})
        v.put("weights.safetensors", (v.dir / "other").read_bytes(), agree=True)
    return breaks


def negate(tensors):
    tensors[TABLE] = -tensors[TABLE]


def nan(tensors):
    tensors[TABLE][ITEM, 7] = np.nan


def narrow(tensors):
    tensors[TABLE] = tensors[TABLE][:, :32]


def other_weights_hash_only(v):
    weights = hashlib.sha256(v.read("weights.safetensors")).hexdigest()
    tensor(negate)(v)
    v.manifest(lambda m: m["index"].update(weights_sha256=weights))


def shard_nan(v):
    name = "shards/0001.faiss"
    data = bytearray(v.read(name))
    data[-4:] = struct.pack("<f", float("nan"))
    v.put(name, bytes(data), agree=True)


def shard_dimension(v):
    name = "shards/0001.faiss"
    data = bytearray(v.read(name))
    assert struct.unpack_from("<i", data, 4)[0] == 64
    struct.pack_into("<i", data, 4, 32)
    v.put(name, bytes(data), agree=True)


def same_row_twice(v):
    v.edit("items.tsv", b"\n%d\t" % (ITEM + 1), b"\n%d\t" % ITEM)


def same_id_twice(v):
    ids = dict(line.split(b"\t")[:2] for line in v.read("items.tsv").splitlines()[1:])
    v.edit("items.tsv", b"\n%d\t%s\t" % (OTHER_ITEM, ids[b"%d" % OTHER_ITEM]),
           b"\n%d\t%s\t" % (OTHER_ITEM, ids[b"%d" % ITEM]))


def strangers(v):
    v.put("popular.txt", b"no-such-item\nnor-this\n", agree=True)


def same_key_twice(v):
    v.edit("manifest.json", b'"format": 1', b'"format": 1, "format": 1', agree=False)


FILES = ("weights.safetensors", "items.tsv", "shards/0000.faiss", "popular.txt")
NOT_THERE = "cannot open: No such file or directory"
CHANGED = "SHA-256 is …, manifest.json says …: the file was changed, cut or belongs elsewhere"
PAIRING = "manifest.json: index.weights_sha256: differs from weights.sha256: the index was built from other weights"

# (fault, message, ways to bring it about). `FILE` is whichever file was broken.
FAULTS = [
    ("there is no bundle", f"manifest.json: {NOT_THERE}", [lambda v: shutil.rmtree(v.dir), missing("manifest.json")]),
    ("a file is missing", f"FILE: {NOT_THERE}", [missing(name) for name in (*FILES, "shards/0001.faiss")]),
    ("a file is a pipe or a folder", "FILE: not a regular file", [pipe("weights.safetensors")]),
    ("a file is cut, anywhere", f"FILE: {CHANGED}", [cut(name, share) for name in FILES for share in (0, .001, .5, 1)]),
    ("a file was changed, by a single bit", f"FILE: {CHANGED}", [flipped(name) for name in FILES]),
    ("shards were exchanged", f"shards/0000.faiss: {CHANGED}", [swapped(agree=False)]),
    ("the manifest holds a wrong hash", f"items.tsv: {CHANGED}", [field("items", "sha256", to="0" * 64)]),
    ("the manifest is cut", "manifest.json: line …, column …: …", [cut("manifest.json", s) for s in (0, .001, .5, 1)]),
    ("the manifest has a key twice", "manifest.json: line …, column …: duplicate object key near '\"format\"'",
     [same_key_twice]),
    ("the manifest has a field too many", "manifest.json: weigths: unknown field", [field("weigths", to={})]),
    ("the index is of other weights", PAIRING,
     [other_weights_hash_only, field("index", "weights_sha256", to="0" * 64)]),
    ("the index is of other weights, and every hash agrees",
     "shards/0000.faiss: vector … differs from the weights: the index was built from others",
     [tensor(negate), swapped(agree=True)]),
    ("the weights hold NaN", "weights.safetensors: tensor mid_embedding_var holds NaN at element 2631 [41,7]",
     [tensor(nan)]),
    ("a shard holds NaN", "shards/0001.faiss: offset …: a component is not a number, or beyond 1e15", [shard_nan]),
    ("the weights are of another dimension",
     "weights.safetensors: tensor mid_embedding_var has shape [10809,32], expected [10809,64] (rows, item_dim)",
     [tensor(narrow)]),
    ("a shard is of another dimension", "shards/0001.faiss: 32 dimensions, the vectors have 64", [shard_dimension]),
    ("shards overlap", "manifest.json: index.shards[1].first_row: overlap: the shard before ends at row 5404, "
     "this one begins at 5404", [field("index", "shards", 1, "first_row", to=5404)]),
    ("shards leave a gap", "manifest.json: index.shards[1].first_row: gap: the shard before ends at row 5404, "
     "this one begins at 5406", [field("index", "shards", 1, "first_row", to=5406)]),
    ("shards hold more rows than there are",
     "manifest.json: index.shards: go up to row 10809, the item table has 10809 rows",
     [field("index", "shards", 1, "rows", to=5405)]),
    ("an item is in no shard",
     "manifest.json: index.shards: hold rows 1 to 10807, but the items are rows 1 to 10808",
     [field("index", "shards", 1, "rows", to=5403)]),
    ("a row is there twice", "items.tsv: line 43: row 41 follows row 41, rows must ascend", [same_row_twice]),
    ("an id is there twice", "items.tsv: line 4243: id … is already on line 42", [same_id_twice]),
    ("the number of items is wrong", "manifest.json: items.count: is 10807, items.tsv has 10808 items",
     [field("items", "count", to=10807)]),
    ("the popular items are another bundle's", "popular.txt: none of its 2 ids is an item of this bundle",
     [strangers]),
    ("the weights were cut before they were hashed",
     "weights.safetensors: tensor …: data ends at offset …, the file has … bytes of data",
     [cut("weights.safetensors", share, agree=True) for share in (.001, .5, 1)]),
    ("a shard was cut before it was hashed", "shards/0000.faiss: offset …: the file ends too early",
     [cut("shards/0000.faiss", share, agree=True) for share in (0, .001, .5, 1)]),
    ("another bundle of that name is loaded", ": debian-mind@1 is loaded already with another manifest, from …: "
     "give the new one another version", [field("version", to="1")]),
]


def wanted(message, breaks, directory):
    """The regular expression of a message about the bundle in `directory`."""
    text = message.replace("FILE", getattr(breaks, "file", ""))
    text = str(directory) + ("" if text.startswith(":") else "/") + text
    return ".*".join(re.escape(part) for part in text.split("…"))


def cases():
    """(name, message, what breaks the bundle), one for each way."""
    for fault, message, ways in FAULTS:
        for i, breaks in enumerate(ways):
            yield f"{fault} {i}", message, breaks

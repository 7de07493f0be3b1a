"""What the models of all frameworks share: their sizes, the users they are asked about, the weights
they are given, and how a case is written down.

A case is a folder: a checkpoint as the framework wrote it, perhaps a file of routing logits, and
case.json with the options to load it with, the histories, and the interests that the framework
computed for each. A case that must be refused has the reason in place of these."""

import json
import pathlib
import shutil
import struct
import sys
import zlib

import numpy as np

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1] / "golden"))

from model import Generator

ITEMS, DIM, INTERESTS, SLOTS = 40, 8, 3, 6
LOGITS = "logits.safetensors"

# An item with a vector so short that it matters how a squash treats what is close to zero.
FAINT = 13

# Rows of the item table, oldest first. None at all, one, two, half, with one id again and again, as
# many as there are slots, and more.
HISTORIES = [[], [7], [FAINT], [3, 12], [5, 2, 8, 30], [9, 9, 4, 9], [21, 1, 39, 14, 6, 27],
             [11, 4, 33, 4, 19, 25, 2, 38, 16]]


def random(name, *shape, scale=1.0):
    """Normal numbers that depend on the name alone."""
    return np.random.RandomState(zlib.crc32(name.encode())).normal(0, scale, shape).astype("f4")


def weight(name, *shape):
    """What a tensor of that name and shape is given: large enough for the routing to be decided."""
    values = random(name, *shape, scale=0.8 if len(shape) == 2 else 0.5)
    if shape == (ITEMS, DIM):
        values[FAINT] *= 1e-4
    return values


def logits():
    """A routing table (K, S), as a code that draws it for every call might draw it."""
    return random("routing logits", INTERESTS, SLOTS)


def own_logits():
    """What init=normal:1:1 gives: docs/models.md describes the generator."""
    generator = Generator(1)
    return np.array([generator.normal() for _ in range(INTERESTS * SLOTS)], "f4").reshape(INTERESTS, SLOTS)


def book_tensors():
    """THUDM's MIND for books, by name: what is written in every format."""
    shapes = {"mid_embedding_var": (ITEMS, DIM), "capsule_network/bilinear/dense/kernel": (DIM, DIM),
              "capsule_network/bilinear/dense/bias": (DIM,), "capsule_network/proj/kernel": (DIM, DIM),
              "capsule_network/proj/bias": (DIM,)}
    return {name: weight(name, *shape) for name, shape in shapes.items()}


def batch(histories=HISTORIES, slots=SLOTS, keep="last", newest_first=False):
    """Ids (B, S), padded with 0 on the right, and the mask (B, S) by length."""
    ids, mask = np.zeros((len(histories), slots), "i8"), np.zeros((len(histories), slots), "f4")
    for row, history in enumerate(histories):
        kept = history[-slots:] if keep == "last" else history[:slots]
        kept = kept[::-1] if newest_first else kept
        ids[row, :len(kept)], mask[row, :len(kept)] = kept, 1
    return ids, mask


def write_logits(path, table):
    """A safetensors file, where a framework's own has several files."""
    raw = table.astype("<f4").tobytes()
    header = json.dumps({"routing": {"dtype": "F32", "shape": table.shape, "data_offsets": [0, len(raw)]}}).encode()
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(header)) + header + raw)


class Cases:
    """Writes cases below a folder, the script's first argument."""

    def __init__(self):
        self.folder = pathlib.Path(sys.argv[1])

    def path(self, case, file):
        """Where a saver is to write a file of that case."""
        (self.folder / case).mkdir(parents=True, exist_ok=True)
        return str(self.folder / case / file)

    def add(self, case, codebase, form, weights, vectors=None, *, tensors, variant=None, say_variant=False,
            histories=HISTORIES, bound=2e-6, refused=None, **options):
        """`weights` is what to load; every file that is there by now belongs to the case. The variant is
        to be found out from the tensors, unless it must be said."""
        if say_variant:
            options = {"variant": variant, **options}
        record = {"codebase": codebase, "format": form, "weights": weights, "tensors": tensors,
                  "options": {key: str(value) for key, value in options.items()}}
        if refused is not None:
            record["refused"] = refused
        else:
            # float32 as the shortest text that gives it back.
            numbers = [[[float(str(x)) for x in v] for v in user] for user in np.asarray(vectors, "f4")]
            assert len(numbers) == len(histories)
            record |= {"variant": variant, "bound": bound, "histories": histories, "interests": numbers}
        self.write(case, record)

    def add_twin(self, case, form, weights):
        """book_tensors() in another format: its vectors have the very same bits as th-mind-book's."""
        twin = self.folder / "th-mind-book"
        shutil.copy(twin / LOGITS, self.folder / case)
        self.write(case, {**json.loads((twin / "case.json").read_text()), "format": form, "weights": weights,
                          "tensors": list(book_tensors()), "same_as": twin.name})

    def write(self, case, record):
        folder = self.folder / case
        record["files"] = sorted(str(p.relative_to(folder)) for p in folder.rglob("*")
                                 if p.is_file() and p.name != "case.json")
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in record.items())
        (folder / "case.json").write_text("{" + lines + "}\n")

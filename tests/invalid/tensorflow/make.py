#!/usr/bin/python3
"""Writes the broken TensorFlow checkpoints of this folder, NAME.index and its .data files, each
beside NAME.txt, the message that must refuse it. Run it again after adding a row; the files are
committed.

With the argument `corpus` it writes inputs for tests/fuzz/fuzz_tensorflow.c instead, which sees
all checksums as 0: to start from, of which those that are of use are kept."""

import pathlib
import struct
import sys

HERE = pathlib.Path(__file__).resolve().parent
CORPUS = HERE.parents[1] / "fuzz" / "corpus" / "tensorflow"
CHECKSUMS = True

# ---- the table --------------------------------------------------------------------------------


def crc32c(data):
    crc = 0xffffffff
    for byte in data if CHECKSUMS else b"":
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    crc ^= 0xffffffff
    return ((crc >> 15 | crc << 17) + 0xa282ead8) & 0xffffffff


def varint(n):
    out = b""
    while n >= 128:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def entry(key, value, shared=0, rest=None, size=None):
    return varint(shared) + varint(len(key) if rest is None else rest) + \
        varint(len(value) if size is None else size) + key + value


def block(*entries, restarts=None, kind=0, crc=None):
    body = b"".join(entries) + bytes(4) + struct.pack("<I", 1 if restarts is None else restarts)
    return body + bytes([kind]) + \
        struct.pack("<I", crc32c(body + bytes([kind])) if crc is None else crc)


def handle(at, size):
    return varint(at) + varint(size)


def table(*blocks, index=None, magic=b"\x57\xfb\x80\x8b\x24\x75\x47\xdb", footer=None):
    """`index`, given the place and size of each block, makes the index block."""
    body, places = b"", []
    for b in blocks:
        places.append((len(body), len(b) - 5))
        body += b
    meta = block()
    at = len(body)
    body += meta
    tops = index(places) if index else \
        block(*(entry(bytes([120 + i]), handle(*p)) for i, p in enumerate(places)))
    if footer is None:
        footer = handle(at, len(meta) - 5) + handle(len(body), len(tops) - 5)
    return body + tops + footer.ljust(40, b"\0") + magic


# ---- what is in it ----------------------------------------------------------------------------


def number(field, n):
    return varint(field << 3) + varint(n & 2 ** 64 - 1) if n else b""


def message(field, body):
    return varint(field << 3 | 2) + varint(len(body)) + body


def header(files=1, big=0):
    return entry(b"", number(1, files) + number(2, big) + message(3, b"\x08\x01"))


def shape(*sizes):
    return message(2, b"".join(message(2, number(1, n)) for n in sizes))


def extents(pairs):
    return b"".join(message(1, number(1, start) + number(2, length)) for start, length in pairs)


def variable(name, sizes, offset=0, size=None, data=None, dtype=1, file=0, crc=None, more=b""):
    """The whole of an entry; the checksum is that of `data` unless it is said otherwise."""
    n = 4
    for s in sizes:
        n *= s
    crc = crc32c(DATA[offset:offset + n] if data is None else data) if crc is None else crc
    return entry(name if isinstance(name, bytes) else name.encode(),
                 number(1, dtype) + shape(*sizes) + number(3, file) + number(4, offset) +
                 number(5, n if size is None else size) + b"\x35" + struct.pack("<I", crc) + more)


def ordered(n):
    """TensorFlow's order-preserving code, for what takes one byte."""
    return bytes([n & 255 ^ 0x80])


def slice_key(name, pairs):
    return b"\0" + name.encode() + b"\0\1" + bytes([1, len(pairs)]) + \
        b"".join(ordered(start) + ordered(length) for start, length in pairs)


def partitioned(sizes, listed, stored=None, dtype=1, key=slice_key):
    """A variable `w` that lists slices, and the slices that are stored, in the order of their
    keys: [((start, length), ...), ...]"""
    parts, offset = [], 0
    for pairs in listed if stored is None else stored:
        lengths = [s if length == -1 else length for (_, length), s in zip(pairs, sizes)]
        parts.append(variable(key("w", pairs), lengths, offset, dtype=dtype))
        for_this = 4
        for n in lengths:
            for_this *= max(n, 0)
        offset += for_this
    whole = entry(b"w", number(1, 1) + shape(*sizes) +
                  b"".join(message(7, extents(pairs)) for pairs in listed))
    return table(block(header(), *parts, whole))


DATA = struct.pack("<8f", *range(8))


def files():
    good = variable("w", (2, 4))
    one = table(block(header(), good))
    rows = [((0, 1), (0, -1)), ((1, 1), (0, -1))]
    return {
        # ---- the table
        "footer-cut": (one[:-1],
                       "not a checkpoint in a known format (safetensors, .pdparams, .pt, "
                       "TensorFlow's .index)"),
        "footer-alone": (one[-48:], "offset 0: a block lies outside of the file"),
        "handles-damaged": (table(block(header(), good), footer=b"\xff" * 40),
                            "offset 77: the footer is damaged"),
        "index-beyond-file": (table(block(header(), good), footer=handle(0, 8) +
                                    handle(2 ** 40, 9)),
                              "offset 77: a block lies outside of the file"),
        "index-size-2-64": (table(block(header(), good), footer=handle(0, 8) +
                                  handle(8, 2 ** 64 - 1)),
                            "offset 77: a block lies outside of the file"),
        "index-too-small": (table(block(header(), good), footer=handle(0, 8) + handle(0, 3)),
                            "offset 77: a block lies outside of the file"),
        "block-checksum": (table(block(header(), good, crc=1)),
                           "offset 0: a block's checksum is wrong: the file is damaged"),
        "block-compressed": (table(block(header(), good, kind=1)),
                             "offset 0: a block is compressed, which TensorFlow does not do"),
        "block-beyond-file": (table(block(header(), good), index=lambda places: block(
            entry(b"x", handle(2 ** 63, 2 ** 63)))), "offset 95: a block lies outside of the file"),
        "block-handle-damaged": (table(block(header(), good), index=lambda places: block(
            entry(b"x", b"\xff" * 10))), "offset 62: a handle is damaged"),
        "block-twice": (table(block(header(), good), index=lambda places: block(
            entry(b"x", handle(*places[0])), entry(b"y", handle(*places[0])))),
                        "offset 68: two blocks overlap"),
        "restarts-too-many": (table(block(header(), good, restarts=2 ** 31)),
                              "offset 0: a block's list of restart points is too long"),
        "entry-cut": (table(block(header(), b"\0")), "offset 9: an entry is cut short"),
        "entry-varint-too-long": (table(block(header(), b"\xff" * 10 + b"\1")),
                                  "offset 9: an entry is cut short"),
        "key-shares-too-much": (table(block(header(), entry(b"w", b"", shared=1))),
                                "offset 9: an entry's key is too long"),
        "key-longer-than-block": (table(block(header(), entry(b"w", b"", rest=1000))),
                                  "offset 9: an entry is longer than its block"),
        "key-too-long": (table(block(header(), entry(b"w" * 4097, b""))),
                         "offset 9: an entry's key is too long"),
        "key-2-64": (table(block(header(), entry(b"w", b"", rest=2 ** 64 - 1))),
                     "offset 9: an entry's key is too long"),
        "value-longer-than-block": (table(block(header(), entry(b"w", b"", size=1000))),
                                    "offset 9: an entry is longer than its block"),
        "names-without-end": (table(block(header(), entry(b"w" * 4000, b""),
                                          *[entry(b"w", b"", shared=3999)] * 40)),
                              "names of more than 16 times the file's size"),
        # ---- the header
        "empty": (table(block()), "the header is missing"),
        "header-missing": (table(block(good)), "the header is missing"),
        "header-of-no-files": (table(block(header(0), good)), "the header is damaged"),
        "header-of-too-many-files": (table(block(header(100000), good)), "the header is damaged"),
        "header-big-endian": (table(block(header(big=1), good)), "big-endian numbers are not read"),
        "header-damaged": (table(block(entry(b"", b"\x08"), good)), "the header is damaged"),
        "header-alone": (table(block(header())), "holds no tensors"),
        "file-missing": (table(block(header(2), good)),
                         "file-missing.data-00000-of-00002: cannot open: No such file or "
                         "directory"),
        # ---- variables
        "entry-damaged": (table(block(header(), entry(b"w", b"\x12\x7f"))),
                          "w: its entry is damaged"),
        "entry-group": (table(block(header(), entry(b"w", b"\x0b"))), "w: its entry is damaged"),
        "dimension-damaged": (table(block(header(), entry(
            b"w", number(1, 1) + message(2, message(2, b"\x08"))))), "w: its entry is damaged"),
        "name-twice": (table(block(header(), variable("w", (1, 4)),
                                   variable("w", (1, 4), 16))), "two tensors are named w"),
        "name-suffix-alone": (table(block(header(), variable(
            "w", (1, 4)), variable("w/.ATTRIBUTES/VARIABLE_VALUE", (1, 4), 16))),
                              "two tensors are named w"),
        "name-not-utf8": (table(block(header(), variable(b"\xff", (2, 4)))),
                          "a tensor's name is not text"),
        "name-too-long": (table(block(header(), variable("w" * 1025, (2, 4)))),
                          "a tensor's name has 1025 bytes, must be 1 to 1024"),
        "size-negative": (table(block(header(), variable("w", (-1,), size=4))),
                          "tensor w: shape is too large"),
        "size-product-overflows": (table(block(header(), variable("w", (2 ** 32, 2 ** 32)))),
                                   "tensor w: shape is too large"),
        "nine-dimensions": (table(block(header(), variable("w", (1,) * 9))),
                            "w: its entry is damaged"),
        "bytes-other": (table(block(header(), variable("w", (2, 4), size=28))),
                        "w: shape and dtype do not fit the number of bytes"),
        "offset-beyond-file": (table(block(header(), variable("w", (2, 4), offset=4))),
                               "w: reaches beyond its data file: it was cut short"),
        "offset-2-64": (table(block(header(), variable("w", (2, 4), offset=2 ** 64 - 1))),
                        "w: reaches beyond its data file: it was cut short"),
        "size-beyond-file": (table(block(header(), variable("w", (9,)))),
                             "w: reaches beyond its data file: it was cut short"),
        "size-2-64": (table(block(header(), variable("w", (2, 4), size=2 ** 64 - 1))),
                      "w: reaches beyond its data file: it was cut short"),
        "checksum": (table(block(header(), variable("w", (2, 4), crc=1))),
                     "w: its checksum is wrong: the data file is damaged"),
        "file-that-is-not": (table(block(header(), variable("w", (2, 4), file=1))),
                             "w: is in a file that does not exist"),
        "bytes-of-two-variables": (table(block(header(), variable("v", (2, 4)), good)),
                                   "w: its bytes are those of another variable too"),
        # ---- slices
        "slice-missing": (partitioned((2, 4), rows, rows[:1]),
                          "w: a slice of it is missing or does not fit"),
        "slices-of-half": (partitioned((2, 4), rows[:1]),
                           "w: its slices do not add up to the whole"),
        "slices-overlap": (partitioned((2, 4), [((0, 1), (0, -1)), ((0, 1), (0, 4))]),
                           "w: two of its slices overlap"),
        "slice-twice": (partitioned((2, 4), [rows[0], rows[0]], rows),
                        "w: two of its slices overlap"),
        "slice-outside": (partitioned((2, 4), [rows[0], ((1, 2), (0, -1))]),
                          "w: a slice of it is missing or does not fit"),
        "slice-beyond": (partitioned((2, 4), [rows[0], ((3, 1), (0, -1))]),
                         "w: a slice of it is missing or does not fit"),
        "slice-negative": (partitioned((2, 4), [rows[0], ((-1, 1), (0, -1))]),
                           "w: a slice of it is missing or does not fit"),
        "slice-empty": (partitioned((2, 4), [((0, 0), (0, -1))]),
                        "w: a slice of it is missing or does not fit"),
        "slice-of-other-rank": (partitioned((2, 4), [((0, 1),), ((1, 1),)]),
                                "w: a slice of it is missing or does not fit"),
        "slice-of-rank-9": (partitioned((2, 4), [((0, 1),) * 9]),
                            "w: its list of slices is damaged"),
        "slice-of-other-dtype": (partitioned((2, 4), rows, dtype=3),
                                 "w: a slice of it is missing or does not fit"),
        "slices-of-a-scalar": (partitioned((), [()]),
                               "w: a slice of it is missing or does not fit"),
        "slices-too-large": (partitioned((2 ** 40, 4), rows),
                             "its tensors need more than twice the 262 bytes that the file has"),
        "slices-damaged": (table(block(header(), entry(
            b"w", number(1, 1) + shape(2, 4) + message(7, b"\x0a\x01\x08")))),
                           "w: its list of slices is damaged"),
    }


def main():
    global CHECKSUMS
    if sys.argv[1:] == ["corpus"]:
        CHECKSUMS = False
        CORPUS.mkdir(parents=True, exist_ok=True)
        more = {"good": (table(block(header(), variable("w", (2, 4)))), ""),
                "sliced": (partitioned((2, 4), [((0, 1), (0, -1)), ((1, 1), (0, 2)),
                                                ((1, 1), (2, 2))]), ""),
                "two-blocks": (table(block(header(), variable("a", (1, 4))),
                                     block(variable("w", (1, 4), 16))), ""),
                "no-data": (table(block(header(), entry(b"w", number(1, 7)))), "")}
        for name, (index, _) in {**files(), **more}.items():
            (CORPUS / name).write_bytes(index + (b"" if name == "no-data" else DATA))
        return
    for old in [*HERE.glob("*.index"), *HERE.glob("*.data-*"), *HERE.glob("*.txt")]:
        old.unlink()
    for name, (index, text) in files().items():
        (HERE / f"{name}.index").write_bytes(index)
        (HERE / f"{name}.data-00000-of-00001").write_bytes(DATA)
        (HERE / f"{name}.txt").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

#!/usr/bin/python3
"""Writes the broken safetensors files of this folder, each beside NAME.txt, the message that must
refuse it. Run it again after adding a row; the files are committed."""

import json
import pathlib
import struct

HERE = pathlib.Path(__file__).resolve().parent
UNKNOWN = "not a checkpoint in a known format (safetensors, .pdparams, .pt, TensorFlow's .index)"
GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def encode(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(**changes):
    return encode({"t": {**GOOD, **changes}}, bytes(8))


def pair(first, second, data):
    return encode({"a": {**GOOD, "data_offsets": first}, "b": {**GOOD, "data_offsets": second}},
                  bytes(data))


FILES = {
    "empty": (b"", "the file is empty"),
    "short": (b"\x02\0\0\0", UNKNOWN),
    "text": (b"not a checkpoint at all", UNKNOWN),
    "header-longer-than-file": (encode(b"{}", length=64), "header length out of range"),
    "header-length-huge": (encode(b"{}", length=2 ** 64 - 1), "header length out of range"),
    "header-cut": (encode(b'{"t":{"dtype":"F32"', b""),
                   "header: '}' expected near end of file (byte 19)"),
    "header-junk-after": (encode(b"{} x"), "header: end of file expected near 'x' (byte 4)"),
    "header-not-utf8": (encode(b'{"\xff":1}'),
                        "header: unable to decode byte 0xff near '\"' (byte 2)"),
    "name-with-nul": (encode(b'{"a\\u0000b":{}}'),
                      "header: NUL byte in object key not supported near '\"a\\u0000b\"' (byte 11)"),
    "name-twice": (encode(b'{"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
                          b'"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
                   "header: duplicate object key near '\"t\"' (byte 57)"),
    "name-too-long": (encode({"n" * 1025: GOOD}, bytes(8)),
                      "a tensor name is longer than 1024 bytes"),
    "tensor-not-object": (encode({"t": 7}), "tensor t: not an object"),
    "tensor-unknown-key": (tensor(strides=[1]), "tensor t: unknown key strides"),
    "dtype-missing": (encode({"t": {"shape": [2], "data_offsets": [0, 8]}}, bytes(8)),
                      "tensor t: dtype is not a string"),
    "dtype-number": (tensor(dtype=32), "tensor t: dtype is not a string"),
    "dtype-unknown-overlap": (encode({"a": {**GOOD, "dtype": "F8_E4M3"},
                                      "b": {**GOOD, "data_offsets": [4, 12]}}, bytes(12)),
                              "tensors a and b overlap"),
    "shape-missing": (encode({"t": {"dtype": "F32", "data_offsets": [0, 8]}}, bytes(8)),
                      "tensor t: shape is not a list of at most 8 sizes"),
    "shape-nine-dimensions": (tensor(shape=[1] * 8 + [2]),
                              "tensor t: shape is not a list of at most 8 sizes"),
    "shape-negative": (tensor(shape=[-2]), "tensor t: size 0 of shape is not 0 or more"),
    "shape-zero": (tensor(shape=[2, 0]), "tensor t: shape and dtype need 0 bytes, not 8"),
    "shape-fraction": (tensor(shape=[2.0]), "tensor t: size 0 of shape is not 0 or more"),
    "shape-product-overflows": (tensor(shape=[2 ** 32, 2 ** 32]), "tensor t: shape is too large"),
    "shape-bytes-overflow": (tensor(shape=[2 ** 62]), "tensor t: shape is too large"),
    "shape-size-beyond-64-bits": (encode(b'{"t":{"dtype":"F32","shape":[99999999999999999999],'
                                         b'"data_offsets":[0,8]}}', bytes(8)),
                                  "header: too big integer near '99999999999999999999' (byte 49)"),
    "offsets-missing": (encode({"t": {"dtype": "F32", "shape": [2]}}, bytes(8)),
                        "tensor t: data_offsets is not [begin, end]"),
    "offsets-three": (tensor(data_offsets=[0, 4, 8]),
                      "tensor t: data_offsets is not [begin, end]"),
    "offsets-negative": (tensor(data_offsets=[-8, 0]),
                         "tensor t: data_offsets is not [begin, end]"),
    "offsets-reversed": (tensor(data_offsets=[8, 0]),
                         "tensor t: data_offsets is not [begin, end]"),
    "data-short": (encode({"t": GOOD}, bytes(7)),
                   "tensor t: data ends at offset 8, the file has 7 bytes of data"),
    "data-size-mismatch": (tensor(shape=[3]), "tensor t: shape and dtype need 12 bytes, not 8"),
    "data-overlap": (pair([0, 8], [4, 12], 12), "tensors a and b overlap"),
    "data-shared": (pair([0, 8], [0, 8], 8), "tensors a and b overlap"),
    "data-hole": (pair([0, 8], [12, 20], 20), "4 bytes before tensor b belong to no tensor"),
    "data-hole-at-start": (encode({"t": {**GOOD, "data_offsets": [4, 12]}}, bytes(12)),
                           "4 bytes before tensor t belong to no tensor"),
    "data-left-over": (encode({"t": GOOD}, bytes(10)), "2 bytes at the end belong to no tensor"),
    "metadata-not-object": (encode({"__metadata__": "x"}), "__metadata__ is not an object"),
    "metadata-number": (encode({"__metadata__": {"interests": 4}}),
                        "__metadata__: the value of interests is not a string"),
}


def main():
    for old in [*HERE.glob("*.safetensors"), *HERE.glob("*.txt")]:
        old.unlink()
    for name, (content, message) in FILES.items():
        (HERE / f"{name}.safetensors").write_bytes(content)
        (HERE / f"{name}.txt").write_text(message + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

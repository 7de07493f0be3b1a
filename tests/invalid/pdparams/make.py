#!/usr/bin/python3
"""Writes the broken .pdparams files of this folder, each beside NAME.txt, the message that must
refuse it. Run it again after adding a row; the files are committed.

They are put together opcode by opcode: no pickler would write them."""

import pathlib
import struct

HERE = pathlib.Path(__file__).resolve().parent
STOP = b"."


def proto(n, body, end=STOP):
    return bytes([0x80, n]) + body + end


def text(s):
    s = s if isinstance(s, bytes) else s.encode()
    return b"X" + struct.pack("<I", len(s)) + s


def integer(n):
    return b"J" + struct.pack("<i", n) if -2 ** 31 <= n < 2 ** 31 else \
        b"\x8a\x09" + n.to_bytes(9, "little", signed=True) if n >= 2 ** 63 else \
        b"\x8a\x08" + n.to_bytes(8, "little", signed=True)


def sized_bytes(data):
    return b"B" + struct.pack("<I", len(data)) + data


def several(*items):
    return b"(" + b"".join(items) + b"t"


def symbol(module, name):
    return f"c{module}\n{name}\n".encode()


def dtype(code="f4", order="<"):
    return (symbol("numpy", "dtype") + several(text(code), b"\x89", b"\x88") + b"R" +
            several(integer(3), text(order), b"N", b"N", b"N", integer(-1), integer(-1),
                    integer(0)) + b"b")


def array(shape=(2,), raw=sized_bytes(bytes(8)), kind=None, fortran=b"\x89", state=None):
    if state is None:
        sizes = shape if isinstance(shape, bytes) else several(*map(integer, shape))
        state = several(integer(1), sizes, dtype() if kind is None else kind, fortran, raw)
    return (symbol("numpy.core.multiarray", "_reconstruct") +
            several(symbol("numpy", "ndarray"), several(integer(0)), b"C\1b") + b"R" +
            (state + b"b" if state else b""))


def entries(*items):
    return b"}(" + b"".join(items) + b"u"


def one(value):
    return proto(3, entries(text("w"), value))


def latin1(s):
    return symbol("_codecs", "encode") + several(text(s), text("latin1")) + b"R"


def pieces(table, *arrays):
    return proto(3, entries(*arrays, text("UnpackBigParamInfor@@"), table))


def cut(shape=several(integer(4)), names=("w@@.0", "w@@.1")):
    values = {"OriginShape": shape, "slices": b"](" + b"".join(map(text, names)) + b"e"}
    return entries(text("w"), entries(*(text(k) + v for k, v in values.items() if v)))


FIRST, SECOND = text("w@@.0") + array(), text("w@@.1") + array()

FILES = {
    # ---- not a pickle that is read
    "protocol-0": (b"(dp0\nVw\np1\nI1\ns.",
                   "not a checkpoint in a known format (safetensors, .pdparams, .pt, "
                   "TensorFlow's .index)"),
    "protocol-1": (b"}q\0X\1\0\0\0wq\1K\1s.",
                   "not a checkpoint in a known format (safetensors, .pdparams, .pt, "
                   "TensorFlow's .index)"),
    "protocol-5": (proto(5, entries(text("w"), array())),
                   "offset 0: a pickle of protocol 5; 2, 3 and 4 are read"),
    "protocol-2-alone": (b"\x80\2", "offset 2: the file ends within a pickle"),
    "nothing": (proto(2, b""), "offset 2: the pickle ends with 0 values, must be one"),
    "cut": (one(array())[:-3], "offset 159: the file ends within a pickle"),
    "more-behind": (one(array()) + b"x", "1 bytes follow the pickle"),
    "two-values": (proto(2, b"}}"), "offset 4: the pickle ends with 2 values, must be one"),
    "no-dict": (proto(2, b"](K\1e"),
                "offset 2: holds no state_dict: no dict of names and arrays"),
    "dict-without-tensors": (one(integer(1)),
                             "offset 2: holds no state_dict: no dict of names and arrays"),
    "frame-beyond-file": (proto(4, b"\x95" + struct.pack("<Q", 2 ** 63) + b"}"),
                          "offset 2: a frame that is longer than the file"),
    # ---- what would run something
    "os-system": (proto(2, symbol("os", "system") + several(text("touch broken")) + b"R"),
                  "offset 2: names os.system, which tensors do not need; save the state_dict "
                  "alone (nothing of the file was run)"),
    "os-system-in-dict": (one(symbol("posix", "system") + several(text("id")) + b"R"),
                          "offset 10: names posix.system, which tensors do not need; save the "
                          "state_dict alone (nothing of the file was run)"),
    "stack-global-builtins-eval": (proto(4, text("builtins") + text("eval") + b"\x93"),
                                   "offset 24: names builtins.eval, which tensors do not need; "
                                   "save the state_dict alone (nothing of the file was run)"),
    "stack-global-of-number": (proto(4, b"K\1K\1\x93"), "offset 6: a symbol's name is no text"),
    "dotted-name": (proto(4, text("numpy") + text("dtype.__class__") + b"\x93"),
                    "offset 32: names numpy.dtype.__class__, which tensors do not need; save the"
                    " state_dict alone (nothing of the file was run)"),
    "symbol-not-utf8": (proto(2, b"c\xff\xfe\n\x80\n"),
                        "offset 2: names ??.?, which tensors do not need; save the state_dict "
                        "alone (nothing of the file was run)"),
    "symbol-cut": (proto(2, b"cnumpy\ndty", b""), "offset 2: the file ends within a value"),
    "inst": (proto(2, b"(ios\nsystem\n"),
             "offset 3: opcode 0x69, which tensors do not need; save the state_dict alone "
             "(nothing of the file was run)"),
    "obj": (proto(2, b"(cos\nsystem\no"),
            "offset 3: names os.system, which tensors do not need; save the state_dict alone "
            "(nothing of the file was run)"),
    "newobj": (proto(2, symbol("collections", "OrderedDict") + b")\x81"),
               "offset 28: opcode 0x81, which tensors do not need; save the state_dict alone "
               "(nothing of the file was run)"),
    "newobj-ex": (proto(4, symbol("collections", "OrderedDict") + b")}\x92"),
                  "offset 29: opcode 0x92, which tensors do not need; save the state_dict alone "
                  "(nothing of the file was run)"),
    "ext1": (proto(2, b"\x82\1"),
             "offset 2: opcode 0x82, which tensors do not need; save the state_dict alone "
             "(nothing of the file was run)"),
    "ext4": (proto(2, b"\x84\1\0\0\0"),
             "offset 2: opcode 0x84, which tensors do not need; save the state_dict alone "
             "(nothing of the file was run)"),
    "long4": (proto(2, b"\x8b" + struct.pack("<i", -1)),
              "offset 2: opcode 0x8b, which tensors do not need; save the state_dict alone "
              "(nothing of the file was run)"),
    "persistent-text": (proto(2, b"Pid\n"),
                        "offset 2: opcode 0x50, which tensors do not need; save the state_dict "
                        "alone (nothing of the file was run)"),
    "opcode-0": (proto(2, b"\0"),
                 "offset 2: opcode 0x00, which tensors do not need; save the state_dict alone "
                 "(nothing of the file was run)"),
    "opcode-255": (proto(2, b"\xff"),
                   "offset 2: opcode 0xff, which tensors do not need; save the state_dict alone "
                   "(nothing of the file was run)"),
    # ---- stack, marks, memo
    "mark-without-end": (proto(2, b"}("), "offset 4: the pickle ends behind a mark"),
    "end-without-mark": (proto(2, b"K\1t"), "offset 4: an operation finds no mark"),
    "marks-65": (proto(2, b"(" * 65), "offset 66: nested deeper than 64"),
    "setitems-below-mark": (proto(2, b"}((u"), "offset 5: an operation finds nothing to work on"),
    "setitem-on-empty": (proto(2, b"s"), "offset 2: an operation finds nothing to work on"),
    "append-to-dict": (proto(2, b"}K\1a"), "offset 5: an operation adds to what is no list"),
    "setitem-on-list": (proto(2, b"]K\1K\1s"), "offset 7: an operation adds to what is no dict"),
    "key-without-value": (proto(2, b"}(" + text("w") + b"u"), "offset 10: a key without a value"),
    "tuple3-of-two": (proto(2, b"K\1K\1\x87"), "offset 6: an operation finds nothing to work on"),
    "reduce-of-number": (proto(2, b"K\1)R"),
                         "offset 5: a call of what is no symbol, or without arguments"),
    "reduce-without-tuple": (proto(2, symbol("numpy", "dtype") + b"K\1R"),
                             "offset 17: a call of what is no symbol, or without arguments"),
    "build-on-number": (proto(2, b"K\1}b"), "offset 5: a state for what was not made by a call"),
    "build-on-list": (proto(2, b"]}b"), "offset 4: a state for what was not made by a call"),
    "build-on-nothing": (proto(2, b"b"), "offset 2: an operation finds nothing to work on"),
    "memo-gap": (proto(2, b"}r" + struct.pack("<I", 5000)),
                 "offset 3: memo slot 5000 where 0 are in use"),
    "memo-beyond": (proto(2, b"}r" + struct.pack("<I", 2 ** 32 - 1)),
                    "offset 3: memo slot 4294967295, at most 1000000 are allowed"),
    "memo-empty": (proto(2, b"h\7"), "offset 2: memo slot 7 is empty"),
    "memo-hole": (proto(2, b"}q\5h\4"), "offset 5: memo slot 4 is empty"),
    "memo-of-nothing": (proto(4, b"\x94"), "offset 2: an operation finds nothing to work on"),
    "bomb-of-lists": (one(several(b"]q\0", b"](" + b"h\0" * 50 + b"eq\1",
                                  b"](" + b"h\1" * 50 + b"e")),
                      "offset 2: holds no state_dict: no dict of names and arrays"),
    "bomb-of-dicts": (proto(2, b"](" + several(b"K\1", b"K\2") * 500 + b"eq\1" + b"](" +
                            (symbol("collections", "OrderedDict") + b"h\1\x85R") * 40 + b"e"),
                      "offset 3124: more than 3085 values, the limit for a file of this size"),
    "ordereddict-of-number": (proto(2, symbol("collections", "OrderedDict") + b"K\1\x85R"),
                              "offset 30: an OrderedDict of something else than pairs"),
    "ordereddict-of-triples": (proto(2, symbol("collections", "OrderedDict") +
                                     b"](" + several(b"K\1", b"K\1", b"K\1") + b"e\x85R"),
                               "offset 39: an OrderedDict of something else than pairs"),
    # ---- strings
    "text-beyond-file": (proto(2, b"X\xff\xff\xff\xff"),
                         "offset 2: a string of 4294967295 bytes where 1 are left"),
    "text-2-63": (proto(4, b"\x8d" + struct.pack("<Q", 2 ** 63) + b"w"),
                  "offset 2: a string of 9223372036854775808 bytes where 2 are left"),
    "bytes-2-64": (proto(4, b"\x8e" + struct.pack("<Q", 2 ** 64 - 1) + b"w"),
                   "offset 2: a string of 18446744073709551615 bytes where 2 are left"),
    "string-negative": (proto(2, b"T\xff\xff\xff\xff"),
                        "offset 2: a string of 4294967295 bytes where 1 are left"),
    "text-not-utf8": (proto(2, text(b"\xff")), "offset 2: a text that is not UTF-8"),
    "text-surrogate": (proto(2, text(b"\xed\xa0\x80")), "offset 2: a text that is not UTF-8"),
    "length-cut": (proto(2, b"X\1\0", b""), "offset 2: the file ends within a value"),
    "int-cut": (proto(2, b"J\1", b""), "offset 2: the file ends within a value"),
    # ---- names
    "name-twice": (proto(3, entries(text("w"), array(), text("w"), array())),
                   "two tensors are named w"),
    "name-empty": (proto(3, entries(text(""), array())),
                   "a tensor's name has 0 bytes, must be 1 to 1024"),
    "name-with-nul": (proto(3, entries(text("a\0b"), array())), "a tensor's name is not text"),
    "name-too-long": (proto(3, entries(text("n" * 1025), array())),
                      "a tensor's name has 1025 bytes, must be 1 to 1024"),
    # ---- arrays
    "array-without-state": (one(array(state=b"")), "offset 73: w: the array has no contents"),
    "state-of-four": (one(array(state=several(*[b"K\1"] * 4))),
                      "offset 73: w: the array has no contents"),
    "state-none": (one(array(state=b"N")), "offset 73: w: the array has no contents"),
    "shape-none": (one(array(b"N")),
                   "offset 73: w: the array's shape is no tuple of at most 8 sizes"),
    "shape-negative": (one(array((-2,))),
                       "offset 73: w: the array's shape is no tuple of at most 8 sizes"),
    "shape-zero": (one(array((2, 0))), "offset 73: w: shape and dtype do not fit the number of bytes"),
    "shape-text": (one(array(several(text("2")))),
                   "offset 73: w: the array's shape is no tuple of at most 8 sizes"),
    "shape-nine-dimensions": (one(array((1,) * 8 + (2,))),
                              "offset 73: w: the array's shape is no tuple of at most 8 sizes"),
    "shape-product-overflows": (one(array((2 ** 32, 2 ** 32))), "tensor w: shape is too large"),
    "shape-bytes-overflow": (one(array((2 ** 62,))), "tensor w: shape is too large"),
    "shape-beyond-64-bits": (one(array((2 ** 63,))),
                             "offset 73: w: the array's shape is no tuple of at most 8 sizes"),
    "dtype-none": (one(array(kind=b"N")), "offset 73: w: the array's dtype is none"),
    "dtype-of-text": (one(array(kind=text("f4"))), "offset 73: w: the array's dtype is none"),
    "dtype-without-arguments": (one(array(kind=symbol("numpy", "dtype") + b")R")),
                                "offset 73: w: the array's dtype is none"),
    "big-endian": (one(array(kind=dtype(order=">"))),
                   "offset 73: w: big-endian numbers are not read"),
    "fortran-none": (one(array(fortran=b"N")), "offset 73: w: the array has no contents"),
    "bytes-short": (one(array(raw=sized_bytes(bytes(7)))),
                    "offset 73: w: shape and dtype do not fit the number of bytes"),
    "bytes-long": (one(array(raw=sized_bytes(bytes(9)))),
                   "offset 73: w: shape and dtype do not fit the number of bytes"),
    "bytes-none": (one(array(raw=b"N")), "offset 73: w: the bytes of an array are none"),
    "bytes-of-a-call": (one(array(raw=symbol("builtins", "bytes") + b")R")),
                        "offset 73: w: the bytes of an array are none"),
    "latin1-above-255": (one(array(raw=latin1("1234567\u0100"))),
                         "offset 162: w: the bytes of an array hold a character above 255"),
    "latin1-short": (one(array(raw=latin1("123456\xff"))),
                     "offset 162: w: shape and dtype do not fit the number of bytes"),
    "latin1-long": (one(array(raw=latin1("12345678\xff"))),
                    "offset 162: w: shape and dtype do not fit the number of bytes"),
    "latin1-of-number": (one(array(raw=symbol("_codecs", "encode") + several(b"K\1") + b"R")),
                         "offset 73: w: the bytes of an array are none"),
    "latin1-by-another-name": (one(array(raw=symbol("_codecs", "encode") + several(
        text("12345678"), text("utf-16")) + b"R")), "offset 73: w: the bytes of an array are none"),
    "latin1-of-nothing": (one(array(raw=symbol("_codecs", "encode") + b")R")),
                          "offset 73: w: the bytes of an array are none"),
    # ---- arrays in pieces
    "pieces-no-dict": (pieces(b"K\1", FIRST), "offset 190: UnpackBigParamInfor@@: is no dict"),
    "pieces-name-number": (pieces(entries(b"K\1", b"K\1"), FIRST),
                           "offset 192: UnpackBigParamInfor@@: a name is no text"),
    "pieces-entry-number": (pieces(entries(text("w"), b"K\1"), FIRST),
                            "offset 198: w: its entry in UnpackBigParamInfor@@ has no "
                            "OriginShape or no slices"),
    "pieces-without-shape": (pieces(cut(None), FIRST, SECOND),
                             "offset 358: w: its entry in UnpackBigParamInfor@@ has no "
                             "OriginShape or no slices"),
    "pieces-empty-list": (pieces(cut(names=()), FIRST, SECOND),
                          "offset 358: w: its entry in UnpackBigParamInfor@@ has no OriginShape "
                          "or no slices"),
    "piece-missing": (pieces(cut(), FIRST), "offset 234: w: a piece is missing"),
    "piece-missing-first": (pieces(cut(), SECOND), "offset 234: w: a piece is missing"),
    "piece-twice": (pieces(cut(names=("w@@.0", "w@@.0")), FIRST, SECOND),
                    "offset 394: w: a piece belongs to two places"),
    "piece-too-long": (pieces(cut(several(integer(3))), FIRST, SECOND),
                       "offset 394: w: a piece does not fit"),
    "pieces-too-short": (pieces(cut(several(integer(5))), FIRST, SECOND),
                         "offset 394: w: the pieces hold less than the shape says"),
    "piece-of-other-dtype": (pieces(cut(), FIRST, text("w@@.1") + array((1,), kind=dtype("f8"))),
                             "offset 394: w: a piece does not fit"),
    "pieces-of-strings": (pieces(cut(names=("w@@.0",)), text("w@@.0") + array(kind=dtype("S4"))),
                          "offset 198: w: pieces of a dtype that is not read"),
    "pieces-shape-negative": (pieces(cut(several(integer(-4))), FIRST, SECOND),
                              "offset 358: w: the array's shape is no tuple of at most 8 sizes"),
    "pieces-shape-huge": (pieces(cut(several(integer(2 ** 40))), FIRST, SECOND),
                          "its tensors need more than twice the 426 bytes that the file has"),
    "pieces-name-taken": (pieces(cut(), text("w") + array(), FIRST, SECOND),
                          "two tensors are named w"),
}


def main():
    for old in [*HERE.glob("*.pdparams"), *HERE.glob("*.txt")]:
        old.unlink()
    for name, (content, message) in FILES.items():
        (HERE / f"{name}.pdparams").write_bytes(content)
        (HERE / f"{name}.txt").write_text(message + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

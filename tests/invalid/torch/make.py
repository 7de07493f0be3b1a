#!/usr/bin/python3
"""Writes the broken .pt files of this folder, zip and legacy, each beside NAME.txt, the message
that must refuse it. Run it again after adding a row; the files are committed.

The zip files are put together by hand: no library writes what is wrong with them."""

import pathlib
import struct
import zlib

HERE = pathlib.Path(__file__).resolve().parent

# ---- pickles ----------------------------------------------------------------------------------


def text(s):
    return b"X" + struct.pack("<I", len(s.encode())) + s.encode()


def integer(n):
    return b"J" + struct.pack("<i", n) if -2 ** 31 <= n < 2 ** 31 else \
        b"\x8a\x08" + n.to_bytes(8, "little", signed=True)


def several(*items):
    return b"(" + b"".join(items) + b"t"


def symbol(module, name):
    return f"c{module}\n{name}\n".encode()


def entries(*items):
    return b"}(" + b"".join(items) + b"u"


def pickle(body):
    return b"\x80\2" + body + b"."


def storage(key="0", kind="FloatStorage", count=4, more=b""):
    return several(text("storage"), symbol("torch", kind), text(key), text("cpu"),
                   integer(count), more) + b"Q"


def rebuilt(*arguments):
    return symbol("torch._utils", "_rebuild_tensor_v2") + several(*arguments) + b"R"


def tensor(where=None, offset=0, size=(2, 2), stride=(2, 1)):
    return rebuilt(storage() if where is None else where, integer(offset),
                   several(*map(integer, size)), several(*map(integer, stride)), b"\x89",
                   symbol("collections", "OrderedDict") + b")R")


def one(t):
    return pickle(entries(text("w"), t))


# ---- zip --------------------------------------------------------------------------------------

FULL = 0xffffffff


def local(name, data, method=0, signature=b"PK\3\4"):
    return signature + struct.pack("<5H3I2H", 20, 0, method, 0, 0, 0, 0, 0, len(name), 0) + \
        name.encode() + data


def central(name, at, size, plain=None, method=0, flags=0, extra=b"", names=None, comment=0):
    return b"PK\1\2" + struct.pack(
        "<6H3I5H2I", 20, 20, flags, method, 0, 0, 0, size, size if plain is None else plain,
        len(name) if names is None else names, len(extra), comment, 0, 0, 0, at) + \
        name.encode() + extra


def end(n, size, at, comment=b""):
    return b"PK\5\6" + struct.pack("<4H2IH", 0, 0, n, n, size, at, len(comment)) + comment


def end64(n, size, at):
    return b"PK\6\6" + struct.pack("<Q2H2I4Q", 44, 45, 45, 0, 0, n, n, size, at)


def locator(at):
    return b"PK\6\7" + struct.pack("<IQI", 0, at, 1)


def archive(*files, change=None, closing=None):
    """files: (name, data); `change` maps a name to what its directory entry has otherwise."""
    body, places = b"", []
    for name, data in files:
        places.append(len(body))
        body += local(name, data)
    directory = b"".join(
        central(name, **{"at": at, "size": len(data), **(change or {}).get(name, {})})
        for (name, data), at in zip(files, places))
    if closing is None:
        closing = end(len(files), len(directory), len(body))
    elif callable(closing):
        closing = closing(len(files), len(directory), len(body), len(body) + len(directory))
    return body + directory + closing


def checkpoint(content, *more, data=bytes(16), **options):
    return archive(("a/data.pkl", content), ("a/data/0", data), *more, **options)


def entry(name="a/data/0", **change):
    """A good file but for one number of one entry."""
    return checkpoint(one(tensor()), change={name: change})


def closed(closing):
    return checkpoint(one(tensor()), closing=closing)


def sizes64(*numbers):
    return struct.pack("<2H", 1, 8 * len(numbers)) + struct.pack(f"<{len(numbers)}Q", *numbers)


def deflated():
    content = one(tensor())
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(content) + packer.flush()
    return archive(("a/data.pkl", packed), ("a/data/0", bytes(16)),
                   change={"a/data.pkl": {"plain": len(content), "method": 8}})


# ---- legacy -----------------------------------------------------------------------------------

MAGIC = b"\x80\2\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."


def legacy(content, keys=("0",), data=(bytes(16),), version=1001, little=b"\x88", counts=None):
    return (MAGIC + pickle(integer(version)) + pickle(entries(text("little_endian"), little)) +
            content + pickle(b"](" + b"".join(map(text, keys)) + b"e") +
            b"".join(struct.pack("<Q", n) + d
                     for n, d in zip(counts or [len(d) // 4 for d in data], data)))


SIX = b"N"  # the sixth part of a legacy storage: a view into another
OLD = tensor(storage(more=SIX))

FILES = {
    # ---- the end record and the directory
    "no-end-record": (closed(b""), "the zip file has no end record: it was cut short"),
    "cut-in-end-record": (checkpoint(one(tensor()))[:-1],
                          "the zip file has no end record: it was cut short"),
    "cut-in-local-header": (checkpoint(one(tensor()))[:20],
                            "the zip file has no end record: it was cut short"),
    "comment-too-long": (closed(lambda n, size, at, _: end(n, size, at)[:-2] + b"\5\0"),
                         "the zip file has no end record: it was cut short"),
    "directory-beyond-file": (closed(lambda n, size, at, _: end(n, size, at + 1000)),
                              "offset 363: the directory lies outside of the file"),
    "directory-size-beyond-file": (closed(lambda n, size, at, _: end(n, size + 1, at)),
                                   "offset 363: the directory lies outside of the file"),
    "directory-elsewhere": (closed(lambda n, size, at, _: end(n, size, at - 1)),
                            "offset 252: an entry of the directory is damaged"),
    "entries-more-than-room": (closed(lambda n, size, at, _: end(9, size, at)),
                               "offset 363: the directory is too small for its number of entries"),
    "entries-one-more": (checkpoint(one(tensor()), ("a/" + "x" * 60, b""),
                                    closing=lambda n, size, at, _: end(n + 1, size, at)),
                         "offset 563: an entry of the directory is damaged"),
    "zip64-without-locator": (closed(lambda n, size, at, _: end(0xffff, FULL, FULL)),
                              "offset 363: the zip64 locator is missing"),
    "zip64-locator-beyond-file": (closed(lambda n, size, at, here: locator(2 ** 63) +
                                         end(n, size, FULL)),
                                  "offset 363: the zip64 end record is not where it should be"),
    "zip64-locator-elsewhere": (closed(lambda n, size, at, here: end64(n, size, at) +
                                       locator(here + 1) + end(n, size, FULL)),
                                "offset 419: the zip64 end record is not where it should be"),
    "zip64-directory-beyond-file": (closed(lambda n, size, at, here: end64(n, size, 2 ** 64 - 1) +
                                           locator(here) + end(n, size, FULL)),
                                    "offset 439: the directory lies outside of the file"),
    "zip64-entries-2-63": (closed(lambda n, size, at, here: end64(2 ** 63, size, at) +
                                  locator(here) + end(0xffff, size, at)),
                           "offset 439: the directory is too small for its number of entries"),
    # ---- entries
    "local-header-elsewhere": (entry(at=3),
                               "offset 309: an entry's local header is not where it should be"),
    "local-header-beyond-file": (entry(at=FULL - 1),
                                 "offset 309: an entry's local header is not where it should be"),
    "local-header-of-another": (entry(at=0, size=10 ** 6),
                                "offset 309: an entry is longer than the file"),
    "size-beyond-file": (entry(size=10 ** 6), "offset 309: an entry is longer than the file"),
    "size-2-63": (entry(size=FULL, extra=sizes64(2 ** 63, 2 ** 63)),
                  "offset 309: an entry is longer than the file"),
    "size-2-64": (entry(size=FULL, extra=sizes64(2 ** 64 - 1, 2 ** 64 - 1)),
                  "offset 309: an entry is longer than the file"),
    "place-2-64": (entry(at=FULL, extra=sizes64(2 ** 64 - 1)),
                   "offset 309: an entry's local header is not where it should be"),
    "two-sizes": (entry(plain=12), "offset 309: a stored entry has two sizes"),
    "zip64-field-too-short": (entry(size=FULL, extra=sizes64(16)),
                              "offset 363: the zip64 field is too short"),
    "zip64-field-missing": (entry(size=FULL), "offset 309: an entry is longer than the file"),
    "extra-longer-than-entry": (entry(extra=b"\1\0\xff\0"),
                                "offset 363: an extra field is longer than its entry"),
    "name-longer-than-directory": (entry(names=60000),
                                   "offset 309: an entry of the directory is longer than the "
                                   "directory"),
    "comment-longer-than-directory": (entry(comment=60000),
                                      "offset 309: an entry of the directory is longer than the "
                                      "directory"),
    "storage-compressed": (entry(method=8),
                           "offset 137: w: its storage is compressed or encrypted, which torch "
                           "is not"),
    "storage-encrypted": (entry(flags=1),
                          "offset 137: w: its storage is compressed or encrypted, which torch is"
                          " not"),
    "pickle-compressed": (deflated(),
                          "data.pkl is compressed or encrypted, which torch.save does not do"),
    "entry-twice": (checkpoint(one(tensor()), ("a/data/0", bytes(16))),
                    "the zip file has two entries named a/data/0"),
    # ---- archives of something else
    "zip-empty": (archive(("x", b"")), "a zip file without data.pkl is no checkpoint"),
    "npz": (archive(("w.npy", b"\x93NUMPY\1\0")), "a zip file without data.pkl is no checkpoint"),
    "torchscript": (checkpoint(pickle(symbol("__torch__", "Net") + b")\x81"),
                               ("a/constants.pkl", pickle(b")")), ("a/code/__torch__.py", b"")),
                    "recognised as TorchScript, which holds code and is not read: save the "
                    "state_dict of the model instead"),
    "big-endian": (checkpoint(one(tensor()), ("a/byteorder", b"big")),
                   "big-endian numbers are not read"),
    # ---- the object
    "model-pickled": (checkpoint(pickle(symbol("torch.nn.modules.linear", "Linear") + b")\x81")),
                      "offset 42: names torch.nn.modules.linear.Linear, which tensors do not "
                      "need; save the state_dict alone (nothing of the file was run)"),
    "os-system": (checkpoint(pickle(symbol("os", "system") + several(text("id")) + b"R")),
                  "offset 42: names os.system, which tensors do not need; save the state_dict "
                  "alone (nothing of the file was run)"),
    "pickle-empty": (checkpoint(b""), "offset 40: the file ends within a pickle"),
    "pickle-cut": (checkpoint(one(tensor())[:-9]), "offset 168: the file ends within a value"),
    "pickle-protocol-5": (checkpoint(b"\x80\5}."),
                          "offset 40: a pickle of protocol 5; 2, 3 and 4 are read"),
    "a-tensor-alone": (checkpoint(pickle(tensor())),
                       "offset 188: holds no state_dict: no dict of names and tensors"),
    "no-tensors": (checkpoint(pickle(entries(text("epoch"), b"K\1"))),
                   "offset 42: holds no state_dict: no dict of names and tensors"),
    "nested-too-deep": (checkpoint(pickle(entries(text("model"), entries(text("model"), entries(
        text("w"), tensor()))))), "offset 42: holds no state_dict: no dict of names and tensors"),
    "name-twice": (checkpoint(pickle(entries(text("w"), tensor(), text("w"), tensor()))),
                   "two tensors are named w"),
    "name-empty": (checkpoint(pickle(entries(text(""), tensor()))),
                   "a tensor's name has 0 bytes, must be 1 to 1024"),
    # ---- tensors
    "arguments-two": (checkpoint(one(rebuilt(storage(), integer(0)))),
                      "offset 144: w: the tensor is not described as expected"),
    "offset-negative": (checkpoint(one(tensor(offset=-1))),
                        "offset 196: w: the tensor is not described as expected"),
    "size-negative": (checkpoint(one(tensor(size=(-2, 2)))),
                      "offset 196: w: size or stride is no tuple of at most 8 numbers"),
    "size-list": (checkpoint(one(rebuilt(storage(), integer(0), b"]", b")"))),
                  "offset 146: w: size or stride is no tuple of at most 8 numbers"),
    "size-nine-dimensions": (checkpoint(one(tensor(size=(1,) * 9, stride=(1,) * 9))),
                             "offset 266: w: size or stride is no tuple of at most 8 numbers"),
    "size-product-overflows": (checkpoint(one(tensor(size=(2 ** 32, 2 ** 32)))),
                               "tensor w: shape is too large"),
    "stride-negative": (checkpoint(one(tensor(offset=3, stride=(-2, -1)))),
                        "offset 196: w: size or stride is no tuple of at most 8 numbers"),
    "stride-missing": (checkpoint(one(tensor(stride=(1,)))),
                       "offset 191: w: size and stride differ in length"),
    "stride-beyond": (checkpoint(one(tensor(stride=(3, 1)))),
                      "offset 196: w: the tensor reaches beyond its storage"),
    "stride-overflows": (checkpoint(one(tensor(size=(3, 2), stride=(2 ** 63 - 1, 2)))),
                         "offset 201: w: the tensor reaches beyond its storage"),
    "offset-beyond": (checkpoint(one(tensor(offset=1))),
                      "offset 196: w: the tensor reaches beyond its storage"),
    "offset-2-62": (checkpoint(one(tensor(offset=2 ** 62))),
                    "offset 201: w: the tensor reaches beyond its storage"),
    "expanded-too-far": (checkpoint(one(tensor(size=(10 ** 6, 2), stride=(0, 1)))),
                         "its tensors need more than twice the 385 bytes that the file has"),
    # ---- storages
    "storage-missing": (checkpoint(one(tensor(storage("1")))),
                        "offset 137: w: the zip file has no entry for its storage"),
    "storage-short": (checkpoint(one(tensor()), data=bytes(15)),
                      "offset 137: w: its storage is shorter than the pickle says"),
    "storage-count-overflows": (checkpoint(one(tensor(storage(count=2 ** 62)))),
                                "offset 142: w: its storage is shorter than the pickle says"),
    "storage-count-negative": (checkpoint(one(tensor(storage(count=-1)))),
                               "offset 137: w: its storage is not described as expected"),
    "storage-none": (checkpoint(one(tensor(b"N"))),
                     "offset 143: w: the tensor is not described as expected"),
    "storage-of-number": (checkpoint(one(tensor(integer(1) + b"Q"))),
                          "offset 89: w: its storage is not described as expected"),
    "storage-of-four": (checkpoint(one(tensor(several(*[integer(1)] * 4) + b"Q"))),
                        "offset 106: w: its storage is not described as expected"),
    "storage-key-number": (checkpoint(one(tensor(several(
        text("storage"), symbol("torch", "FloatStorage"), integer(0), text("cpu"),
        integer(4)) + b"Q"))), "offset 136: w: its storage is not described as expected"),
    "storage-key-long": (checkpoint(one(tensor(storage("0" * 65)))),
                         "offset 201: w: its storage is not described as expected"),
    "storage-key-out-of-folder": (checkpoint(one(tensor(storage("../data.pkl", count=1)))),
                                  "offset 147: w: the zip file has no entry for its storage"),
    # ---- legacy
    "legacy-magic-alone": (MAGIC, "offset 15: the file ends within a pickle"),
    "legacy-version": (legacy(one(OLD), version=1000), "offset 17: the version is not 1001"),
    "legacy-big-endian": (legacy(one(OLD), little=b"\x89"),
                          "offset 25: big-endian numbers are not read"),
    "legacy-model-pickled": (legacy(pickle(symbol("__main__", "Net") + b")\x81")),
                             "offset 50: names __main__.Net, which tensors do not need; save the"
                             " state_dict alone (nothing of the file was run)"),
    "legacy-no-keys": (legacy(one(OLD), keys=(), data=()),
                       "offset 146: w: its storage is not in the file"),
    "legacy-keys-no-list": (MAGIC + pickle(integer(1001)) + pickle(b"}") + one(OLD) + pickle(b"}"),
                            "offset 189: the keys of the storages are no list"),
    "legacy-key-number": (MAGIC + pickle(integer(1001)) + pickle(b"}") + one(OLD) +
                          pickle(b"]K\0a") + struct.pack("<Q", 4) + bytes(16),
                          "offset 189: a storage's key is no text"),
    "legacy-key-of-no-tensor": (legacy(one(OLD), keys=("7",)),
                                "offset 220: a storage whose type is not known"),
    "legacy-storage-cut": (legacy(one(OLD))[:-1], "offset 220: a storage is longer than the file"),
    "legacy-count-cut": (legacy(one(OLD))[:-17], "offset 220: a storage is longer than the file"),
    "legacy-count-2-63": (legacy(one(OLD), counts=(2 ** 63,)),
                          "offset 220: a storage is longer than the file"),
    "legacy-count-overflows": (legacy(one(OLD), counts=(2 ** 62 + 4,)),
                               "offset 220: a storage is longer than the file"),
    "legacy-count-less": (legacy(one(OLD), data=(bytes(12),)),
                          "offset 146: w: its storage is shorter than the pickle says"),
    "legacy-bytes-behind": (legacy(one(OLD)) + b"x", "offset 244: bytes follow the last storage"),
    "legacy-two-types": (legacy(pickle(entries(
        text("a"), OLD, text("b"), tensor(storage(kind="DoubleStorage", more=SIX))))),
                         "offset 301: a storage of two types"),
    "legacy-type-unknown": (legacy(one(tensor(storage(kind="NewStorage", more=SIX)))),
                            "offset 218: a storage whose type is not known"),
    "legacy-view": (legacy(one(tensor(storage(more=several(text("1"), integer(0), integer(4)))))),
                    "offset 163: a tensor: its storage is a view into another, which is not read"),
}


def main():
    for old in [*HERE.glob("*.pt"), *HERE.glob("*.txt")]:
        old.unlink()
    for name, (content, message) in FILES.items():
        (HERE / f"{name}.pt").write_bytes(content)
        (HERE / f"{name}.txt").write_text(message + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

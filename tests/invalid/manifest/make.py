#!/usr/bin/python3
"""Writes the bad manifests of this folder, each beside NAME.txt, the message that must refuse it. Run it
again after adding a row; the files are committed."""

import json
import pathlib

HERE = pathlib.Path(__file__).resolve().parent
A, B = "a" * 64, "b" * 64
REMOVED = object()
OUTSIDE = "must be a path inside the bundle: relative, without . or .."
NAME = "must be 1 to 60 of A-Z a-z 0-9 . _ -"
HASH = "must be a SHA-256: 64 hexadecimal digits in lower case"
ROW = "must be a whole number from 0 to 4294967294"


def good():
    return {
        "format": 1, "name": "toy", "version": "1",
        "model": {"variant": "thudm-mind", "interests": 4, "init": "zeros"},
        "weights": {"file": "weights.safetensors", "sha256": A},
        "items": {"file": "items.tsv", "count": 8, "padding_row": 0, "attributes": ["kind"],
                  "sha256": B},
        "popular": {"file": "popular.txt", "sha256": B},
        "index": {"metric": "inner_product", "engine": "faiss", "factory": "HNSW32",
                  "search": {"efSearch": 64}, "recall": 0.99,
                  "shards": [{"file": "shards/0000.faiss", "first_row": 1, "rows": 4, "sha256": A},
                             {"file": "shards/0001.faiss", "first_row": 5, "rows": 4, "sha256": B}],
                  "weights_sha256": A}}


def put(path, value):
    """The good manifest with `value` at a path such as index.shards.0.rows."""
    *way, last = [int(p) if p.isdigit() else p for p in path.split(".")]
    root = at = good()
    for step in way:
        at = at[step]
    if value is REMOVED:
        del at[last]
    else:
        at[last] = value
    return json.dumps(root, indent=1)


def exact(**changes):
    manifest = good()
    manifest["index"].update({"engine": "exact", "factory": None, "search": None,
                              "shards": [{"first_row": 1, "rows": 8}]}, **changes)
    return json.dumps(manifest, indent=1)


FILES = {
    # the document
    "empty": ("", "line 1, column 0: '[' or '{' expected near end of file"),
    "cut": ('{"format": 1', "line 2, column 0: '}' expected near end of file"),
    "not-an-object": ("[]", "must be a JSON object"),
    "field-twice": ('{"format": 1, "format": 1}',
                    "line 1, column 22: duplicate object key near '\"format\"'"),
    "name-with-nul": (put("name", "a\0b"),
                      "line 3, column 19: \\u0000 is not allowed without JSON_ALLOW_NUL near '\"a\\u0000b\"'"),
    # the top
    "unknown-field": (put("notes", "x"), "notes: unknown field"),
    "format-missing": (put("format", REMOVED), "format: is missing"),
    "format-newer": (put("format", 2), "format: must be a whole number from 1 to 1"),
    "format-text": (put("format", "1"), "format: must be a whole number from 1 to 1"),
    "format-real": (put("format", 1.0), "format: must be a whole number from 1 to 1"),
    "name-missing": (put("name", REMOVED), "name: is missing"),
    "name-number": (put("name", 7), "name: must be a string"),
    "name-empty": (put("name", ""), "name: " + NAME),
    "name-with-at": (put("name", "a@b"), "name: " + NAME),
    "name-long": (put("name", "n" * 61), "name: " + NAME),
    "version-null": (put("version", None), "version: must be a string"),
    "version-slash": (put("version", "1/2"), "version: " + NAME),
    # model
    "model-list": (put("model", []), "model: must be an object"),
    "model-without-variant": (put("model.variant", REMOVED), "model.variant: is missing, or not a string"),
    "model-unknown-option": (put("model.colour", "red"), "model.colour: unknown field"),
    "model-option-object": (put("model.softmax", {}),
                            "model.softmax: must be a string, a number, true, false or a list"),
    "model-option-null": (put("model.interests", None),
                          "model.interests: must be a string, a number, true, false or a list"),
    "model-init-outside": (put("model.init", "file:../b"), "model.init: the file must be inside the bundle"),
    "model-init-unhashed": (put("model.init", "file:b.bin"),
                            "init: is missing: model.init = file:PATH needs the file's hash"),
    "init-without-file": (put("init", {"file": "b.bin", "sha256": A}),
                          "init: only goes with model.init = file:PATH"),
    # weights
    "weights-missing": (put("weights", REMOVED), "weights: is missing"),
    "weights-text": (put("weights", "weights.safetensors"), "weights: must be an object"),
    "weights-unknown-field": (put("weights.size", 9), "weights.size: unknown field"),
    "weights-file-empty": (put("weights.file", ""), "weights.file: " + OUTSIDE),
    "weights-file-absolute": (put("weights.file", "/etc/passwd"), "weights.file: " + OUTSIDE),
    "weights-file-parent": (put("weights.file", "../weights.safetensors"), "weights.file: " + OUTSIDE),
    "weights-file-parent-inside": (put("weights.file", "a/../../w"), "weights.file: " + OUTSIDE),
    "weights-file-ends-in-slash": (put("weights.file", "w/"), "weights.file: " + OUTSIDE),
    "weights-file-long": (put("weights.file", "w" * 256), "weights.file: must be at most 255 bytes"),
    "weights-hash-short": (put("weights.sha256", A[1:]), "weights.sha256: " + HASH),
    "weights-hash-upper": (put("weights.sha256", A.upper()), "weights.sha256: " + HASH),
    # items
    "items-count-zero": (put("items.count", 0), "items.count: must be a whole number from 1 to 4294967294"),
    "items-count-huge": (put("items.count", 2 ** 32),
                         "items.count: must be a whole number from 1 to 4294967294"),
    "items-padding-negative": (put("items.padding_row", -1), "items.padding_row: " + ROW),
    "items-attributes-text": (put("items.attributes", "kind"), "items.attributes: must be a list"),
    "items-attributes-many": (put("items.attributes", ["a"] * 33),
                              "items.attributes: must have 0 to 32 elements"),
    "items-attribute-number": (put("items.attributes.0", 1), "items.attributes[0]: must be a string"),
    "items-attribute-empty": (put("items.attributes.0", ""), "items.attributes[0]: must not be empty"),
    # popular
    "popular-outside": (put("popular.file", "./popular.txt"), "popular.file: " + OUTSIDE),
    "popular-unhashed": (put("popular.sha256", REMOVED), "popular.sha256: is missing"),
    # index
    "index-unknown-field": (put("index.metrik", "l2"), "index.metrik: unknown field"),
    "index-metric-l2": (put("index.metric", "l2"), 'index.metric: must be "inner_product"'),
    "index-engine-unknown": (put("index.engine", "annoy"), 'index.engine: must be "exact" or "faiss"'),
    "index-factory-missing": (put("index.factory", None),
                              "index.factory: is missing: the faiss engine needs one"),
    "index-exact-with-factory": (exact(factory="Flat"),
                                 "index.factory: must be null: the exact engine has none"),
    "index-exact-with-search": (exact(search={"efSearch": 64}),
                                "index.search: must be null: this engine has no effort to set"),
    "index-flat-with-search": (put("index.factory", "Flat"),
                               "index.search: must be null: this engine has no effort to set"),
    "index-search-missing": (put("index.search", REMOVED),
                             'index.search: must be {"efSearch": ...} for the factory HNSW32'),
    "index-search-of-another": (put("index.search", {"nprobe": 8}), "index.search.nprobe: unknown field"),
    "index-search-zero": (put("index.search.efSearch", 0),
                          "index.search.efSearch: must be a whole number from 1 to 1000000"),
    "index-recall-above-one": (put("index.recall", 1.01), "index.recall: must be a number from 0 to 1"),
    "index-recall-text": (put("index.recall", "1"), "index.recall: must be a number from 0 to 1"),
    "index-of-other-weights": (put("index.weights_sha256", B),
                               "index.weights_sha256: differs from weights.sha256: the index was built "
                               "from other weights"),
    # shards
    "shards-none": (put("index.shards", []), "index.shards: must have 1 to 256 elements"),
    "shards-many": (put("index.shards", [{}] * 257), "index.shards: must have 1 to 256 elements"),
    "shard-text": (put("index.shards.1", "x"), "index.shards[1]: must be an object"),
    "shard-without-file": (put("index.shards.1.file", REMOVED), "index.shards[1].file: is missing"),
    "shard-outside": (put("index.shards.0.file", "shards/../../0"), "index.shards[0].file: " + OUTSIDE),
    "shard-unknown-field": (put("index.shards.0.last_row", 4), "index.shards[0].last_row: unknown field"),
    "shard-of-exact-with-file": (exact(shards=[{"first_row": 1, "rows": 8, "file": "x", "sha256": A}]),
                                 "index.shards[0].file: unknown field"),
    "shard-row-text": (put("index.shards.0.first_row", "1"), "index.shards[0].first_row: " + ROW),
    "shard-rows-zero": (put("index.shards.0.rows", 0),
                        "index.shards[0].rows: must be a whole number from 1 to 4294967294"),
    "shard-rows-beyond": (put("index.shards.1.rows", 4294967294),
                          "index.shards[1]: ends beyond the highest row there can be"),
    "shards-overlap": (put("index.shards.1.first_row", 4),
                       "index.shards[1].first_row: overlap: the shard before ends at row 4, this one "
                       "begins at 4"),
    "shards-gap": (put("index.shards.1.first_row", 6),
                   "index.shards[1].first_row: gap: the shard before ends at row 4, this one begins at 6"),
}


def main():
    for old in [*HERE.glob("*.json"), *HERE.glob("*.txt")]:
        old.unlink()
    for name, (text, message) in FILES.items():
        (HERE / f"{name}.json").write_text(text + "\n" if text else "", encoding="utf-8")
        (HERE / f"{name}.txt").write_text(message + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""recallctl ckpt: what a checkpoint is said to be, converted, and used as that says."""
import io
import json
import os
import pickle
import re
import shlex
import struct
import subprocess
import sys
import types
import zipfile
import zlib

import pytest

from harness import RECALLCTL, ROOT

GOLDEN = ROOT / "tests/golden/ckpt"


def run(*args):
    return subprocess.run([RECALLCTL, *map(str, args)], capture_output=True, text=True, stdin=subprocess.DEVNULL)


def good(*args):
    done = run(*args)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(status, *args):
    done = run(*args)
    assert (done.returncode, done.stdout) == (status, ""), done
    return done.stderr


def shown(*args):
    return json.loads(good("ckpt", "show", "--json", *args))


# ---- files of our own ----------------------------------------------------------------------------


def floats(count, scale=0.5):
    """Small numbers that are all different in their places."""
    return struct.pack(f"<{count}f", *(scale * (i * 37 % 101 - 50) / 50 for i in range(count)))


def size(shape):
    n = 1
    for s in shape:
        n *= s
    return n


def write(path, tensors, meta):
    """A safetensors file of {name: (shape, bytes of float32)}."""
    header, data = {"__metadata__": meta}, b""
    for name, (shape, raw) in tensors.items():
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


THUDM = {"mid_embedding_var": (9, 4), "capsule_network/bilinear/dense/kernel": (4, 4),
         "capsule_network/bilinear/dense/bias": (4,), "mid_embedding_var/Adam": (9, 4)}
PADDLE = {"item_emb.weight": (9, 4), "capsual_layer.routing_logits": (1, 3, 6),
          "capsual_layer.bilinear_mapping_matrix": (4, 4)}


def safetensors(path, shapes, **meta):
    write(path, {name: (shape, floats(size(shape))) for name, shape in shapes.items()}, meta)
    return path


class Torch:
    """The pickle of torch.save for {name: (storage type, shape, bytes)}, without torch."""

    def __init__(self, state):
        self.state, self.storages = state, []

    def dumps(self, rebuild="_rebuild_tensor_v2", *more):
        fake = {name: types.ModuleType(name) for name in ("torch", "torch._utils", "torch.storage")}

        def symbol(module, name, what=type):
            made = type(name, (), {"__module__": module}) if what is type else what(name)
            setattr(fake[module], name, made)
            return made

        def function(name):
            def rebuilt(*_):
                pass
            rebuilt.__module__, rebuilt.__qualname__, rebuilt.__name__ = "torch._utils", name, name
            return rebuilt

        rebuilt = symbol("torch._utils", rebuild, function)
        kinds = {kind: symbol("torch.storage" if kind == "UntypedStorage" else "torch", kind)
                 for kind in {kind for kind, _, _ in self.state.values()}}
        more = [symbol("torch", name) for name in more]
        storages = self.storages

        class Tensor:
            def __init__(self, kind, shape, data):
                self.kind, self.shape, self.data = kind, shape, data

            def __reduce__(self):
                stride = [size(self.shape[d + 1:]) for d in range(len(self.shape))]
                return rebuilt, (Storage(self.kind, self.data), 0, tuple(self.shape), tuple(stride), False,
                                 {}, *more)

        class Storage:
            def __init__(self, kind, data):
                self.id = ("storage", kinds[kind], str(len(storages)), "cpu", len(data) // 4)
                storages.append(data)

        class Pickler(pickle.Pickler):
            def persistent_id(self, value):
                return value.id if isinstance(value, Storage) else None

        out = io.BytesIO()
        sys.modules.update(fake)
        try:
            Pickler(out, 2).dump({name: Tensor(*t) for name, t in self.state.items()})
        finally:
            for name in fake:
                del sys.modules[name]
        return out.getvalue()

    def write(self, path, *how):
        content = self.dumps(*how)
        with zipfile.ZipFile(path, "w") as z:
            z.writestr("archive/data.pkl", content)
            for key, data in enumerate(self.storages):
                z.writestr(f"archive/data/{key}", data)
        return path


def comirec(tmp_path, **more):
    """A model of pytorch_ComiRec, of which K and S must be said."""
    shapes = {"embeddings.weight": (9, 4), "capsule_network.relu.0.weight": (4, 4),
              "capsule_network.linear.weight": (4, 4), **more}
    return Torch({n: ("FloatStorage", s, floats(size(s))) for n, s in shapes.items()}).write(tmp_path / "model.pt")


def items(tmp_path):
    path = tmp_path / "items.tsv"
    path.write_text("row\tid\n" + "".join(f"{row}\titem-{row}\n" for row in range(1, 9)))
    return path


# ---- show ----------------------------------------------------------------------------------------


def test_show_tells_the_model_what_to_say_and_every_tensor(tmp_path):
    path = safetensors(tmp_path / "m.safetensors", THUDM, note="mine")
    text = good("ckpt", "show", path)
    assert all(len(line) <= 120 for line in text.splitlines() if str(tmp_path) not in line)
    assert re.search(r"^format +safetensors$", text, re.M)
    assert re.search(r"^model +thudm-mind: has mid_embedding_var \[9,4\] and", text, re.M)
    assert re.search(r"^to say +--model.interests=\.\.\. +K, ", text, re.M)
    assert re.search(r"^ +--model.max_history=\.\.\. ", text, re.M)
    assert re.search(r"^may differ +--model.init=truncated_normal:1:1 ", text, re.M)
    assert re.search(r"^metadata +note = mine$", text, re.M)
    assert re.search(r"^mid_embedding_var +\[9,4\] +F32 +-0.5 +0.5 [0-9a-f]{16}  item vectors$", text, re.M)
    assert re.search(r"^mid_embedding_var/Adam .* not used$", text, re.M)


def test_show_as_json_has_the_same(tmp_path):
    path = safetensors(tmp_path / "m.safetensors", THUDM, note="mine")
    facts = shown(path)
    assert facts["file"] == str(path) and facts["format"] == "safetensors"
    assert [v["variant"] for v in facts["variants"]] == ["thudm-mind"]
    assert facts["variants"][0]["refused"] is None and facts["refused"] is None and facts["missing"] == []
    assert facts["told"] == {"item_dim": 4, "capsule_dim": 4}
    assert {o["option"]: o["value"] for o in facts["untold"]} == \
        {"interests": None, "max_history": None, "init": "truncated_normal:1:1"}
    assert all(o["about"] for o in facts["untold"])
    assert facts["metadata"] == {"note": "mine"}
    by_name = {t["name"]: t for t in facts["tensors"]}
    assert by_name.keys() == THUDM.keys()
    table = by_name["mid_embedding_var"]
    assert (table["shape"], table["dtype"], table["bytes"]) == ([9, 4], "F32", 144)
    values = struct.unpack("<36f", floats(36))
    assert (table["min"], table["max"], table["non_finite"]) == (min(values), max(values), 0)
    assert re.fullmatch("[0-9a-f]{16}", table["xxh3"]) and table["used"] == "item vectors"
    assert table["xxh3"] == by_name["mid_embedding_var/Adam"]["xxh3"] != by_name[
        "capsule_network/bilinear/dense/kernel"]["xxh3"]
    assert by_name["mid_embedding_var/Adam"]["used"] is None


def test_show_without_values_reads_none(tmp_path):
    path = safetensors(tmp_path / "m.safetensors", THUDM)
    facts = shown("--no-values", path)
    assert len(facts["tensors"]) == 4
    assert all(set(t) == {"name", "shape", "dtype", "bytes", "used"} for t in facts["tensors"])
    assert "XXH3" not in good("ckpt", "show", "--no-values", path)


def test_nan_is_counted_and_fails_nothing(tmp_path):
    data = struct.pack("<4f", 1, float("nan"), float("-inf"), -3)
    write(tmp_path / "m.safetensors", {"w": ([4], data), "n": ([1], data[4:8])}, {})
    first, second = sorted(shown(tmp_path / "m.safetensors")["tensors"], key=lambda t: t["name"], reverse=True)
    assert (first["min"], first["max"], first["non_finite"]) == (-3, 1, 2)
    assert (second["min"], second["max"], second["non_finite"]) == (None, None, 1)
    assert "(2 NaN or infinite)" in good("ckpt", "show", tmp_path / "m.safetensors")


def test_several_models_that_fit_are_all_named(tmp_path):
    path = safetensors(tmp_path / "m.safetensors", PADDLE)
    text = good("ckpt", "show", path)
    assert "paddlerec-mind-2022b: has" in text and "paddlerec-mind-2021: has" in text
    assert re.search(r"^to say +--model.variant=\.\.\. ", text, re.M)
    assert [v["variant"] for v in shown(path)["variants"]] == ["paddlerec-mind-2022b", "paddlerec-mind-2021"]


def test_where_no_model_fits_what_was_looked_for_is_listed(tmp_path):
    path = safetensors(tmp_path / "m.safetensors", {"mid_embedding_var": (3, 2), "v": (2,)})
    text = good("ckpt", "show", path)
    assert "model      none that is known" in text
    assert "mid_embedding_var (is there), capsule_network/bilinear/weights" in text
    facts = shown(path)
    assert facts["variants"] == [] and len(facts["missing"]) > 10


def test_a_model_whose_logits_change_is_refused_with_the_reason(tmp_path):
    path = safetensors(tmp_path / "m.safetensors",
                       {"sparse_emb_hist_movie_id/embeddings": (9, 4), "capsule_layer/S": (4, 4),
                        "capsule_layer/B": (1, 3, 6)})
    assert "refused" in good("ckpt", "show", path)
    assert "routing logits that every call changes" in shown(path)["variants"][0]["refused"]
    done = run("bundle", "build", "--weights", path, "--items", items(tmp_path), "--out", tmp_path / "b", "--name", "b")
    assert done.returncode == 2 and "routing logits that every call changes" in done.stderr


@pytest.mark.parametrize("path", sorted(p for p in GOLDEN.iterdir() if p.name not in ("make.py", "__pycache__")),
                         ids=lambda p: p.name)
def test_every_format_is_shown_and_converted(path, tmp_path):
    facts = shown(path)
    out = tmp_path / "out.safetensors"
    said = good("ckpt", "convert", path, out)
    floating = {t["name"]: t for t in facts["tensors"] if t["dtype"] in ("F64", "F32", "F16", "BF16")}
    again = {t["name"]: t for t in shown(out)["tensors"]}
    assert again.keys() == floating.keys() and again
    for name, t in again.items():
        assert t["shape"] == floating[name]["shape"] and t["dtype"] == "F32"
        assert (t["min"], t["max"]) == pytest.approx((floating[name]["min"], floating[name]["max"]))
    for t in facts["tensors"]:
        assert (f"left out, since it holds no floats: {t['name']} (" in said) == (t["name"] not in floating)


def parity_cases():
    return sorted(path.parent for path in (ROOT / "tests/golden/parity").glob("*/case.json"))


@pytest.mark.parametrize("case", parity_cases(), ids=lambda p: p.name)
def test_the_files_of_every_codebase_are_told_by_their_tensors(case):
    wanted = json.loads((case / "case.json").read_text())
    facts = shown(case / wanted["weights"])
    assert {t["name"] for t in facts["tensors"]} >= {t.removeprefix("module.") for t in wanted["tensors"]}
    if "refused" in wanted:
        assert wanted["refused"] in facts["variants"][0]["refused"]
        return
    assert wanted["variant"] in [v["variant"] for v in facts["variants"]]
    assert all(v["refused"] is None for v in facts["variants"])
    to_say = {o["option"] for o in facts["untold"] if o["value"] is None}
    told_by_file = {"interests", "max_history"} if wanted["options"].get("init", "").startswith("file:") else set()
    assert to_say <= set(wanted["options"]) | told_by_file
    assert (len(facts["variants"]) > 1) == ("variant" in wanted["options"])


def test_names_cannot_move_the_cursor(tmp_path):
    safetensors(tmp_path / "m.safetensors", {"a\x1b[2Jb\u009bc": (2,)}, note="x\x1b]0;y\x07")
    text = good("ckpt", "show", tmp_path / "m.safetensors")
    assert "a?[2Jb??c" in text and "note = x?]0;y?" in text
    assert shown(tmp_path / "m.safetensors")["tensors"][0]["name"] == "a\x1b[2Jb\u009bc"


def test_names_in_errors_cannot_move_the_cursor(tmp_path):
    header = json.dumps({"a\x1b[2J\nb\u009bc": {"dtype": "F32", "shape": [2]}}).encode()
    (tmp_path / "m").write_bytes(struct.pack("<Q", len(header)) + header)
    assert "a?[2J?b??c" in refused(1, "ckpt", "show", tmp_path / "m")


def test_names_cannot_add_lines(tmp_path):
    path = safetensors(tmp_path / "m", {"a\nmodel      b": (2,)}, **{"note\nmodel": "c\nmodel      d"})
    text = good("ckpt", "show", path)
    assert "a?model      b" in text and "note?model = c?model      d" in text
    assert len(re.findall("^model ", text, re.M)) == 1


# ---- damage ----------------------------------------------------------------------------------------


def test_a_damaged_zip_is_seen_wherever_it_is_read_in_full(tmp_path):
    path = comirec(tmp_path)
    bad = bytearray(path.read_bytes())
    bad[bad.index(floats(16)) + 5] ^= 0x10
    path.write_bytes(bad)
    sentence = r"model\.pt: offset \d+: the checksum of entry archive/data/\d is wrong: the file is damaged"
    assert re.search(sentence, refused(1, "ckpt", "show", path))
    assert re.search(sentence, refused(1, "ckpt", "convert", path, tmp_path / "out"))
    assert re.search(sentence, refused(1, "bundle", "build", "--weights", path, "--items", items(tmp_path), "--out",
                                       tmp_path / "b", "--name", "b"))
    assert not (tmp_path / "out").exists() and not (tmp_path / "b").exists()
    assert shown("--no-values", path)["tensors"]


def test_a_zip_without_checksums_is_taken_as_it_is(tmp_path):
    path = comirec(tmp_path)
    data, crc = path.read_bytes(), struct.pack("<I", zlib.crc32(floats(16)))
    assert crc in data
    path.write_bytes(data.replace(crc, bytes(4)))
    assert len(shown(path)["tensors"]) == 3


def test_dtypes_of_newer_torch_are_listed_and_not_read(tmp_path):
    path = Torch({"w": ("UntypedStorage", (2, 2), bytes(16))}).write(tmp_path / "m.pt", "_rebuild_tensor_v3", "uint16")
    w, = shown(path)["tensors"]
    assert (w["dtype"], w["shape"], w["bytes"], w["xxh3"]) == ("uint16", [2, 2], 0, None)


def test_a_tensor_without_values_fails_no_file(tmp_path):
    path = comirec(tmp_path, empty=(0, 7))
    empty, = (t for t in shown(path)["tensors"] if t["name"] == "empty")
    assert (empty["shape"], empty["bytes"], empty["min"], empty["non_finite"]) == ([0, 7], 0, None, 0)
    good("ckpt", "convert", path, tmp_path / "out")
    assert [0, 7] in [t["shape"] for t in shown(tmp_path / "out")["tensors"]]


# ---- convert -----------------------------------------------------------------------------------------


def test_convert_keeps_values_and_metadata(tmp_path):
    path = safetensors(tmp_path / "a", THUDM, variant="thudm-mind", interests="3")
    good("ckpt", "convert", path, tmp_path / "b")
    one, two = shown(path), shown(tmp_path / "b")
    assert one.pop("file") != two.pop("file")
    assert one == two and one["metadata"] == {"variant": "thudm-mind", "interests": "3"}


def test_convert_writes_nothing_that_cannot_be_read_again(tmp_path):
    path = comirec(tmp_path, __metadata__=(2, 2))
    assert "a tensor is named __metadata__" in refused(1, "ckpt", "convert", path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_convert_replaces_a_file_only_when_it_is_told_to(tmp_path):
    path = comirec(tmp_path)
    (tmp_path / "out").write_text("precious")
    assert "is there already; --force replaces it" in refused(1, "ckpt", "convert", path, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "precious"
    good("ckpt", "convert", "--force", path, tmp_path / "out")
    assert shown(tmp_path / "out")["format"] == "safetensors"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.pt", "out"]


@pytest.mark.parametrize("args, message", [
    (["ckpt", "show"], "ckpt show: FILE is missing"),
    (["ckpt", "convert", "a"], "ckpt convert: OUT is missing"),
    (["ckpt", "convert", "a", "b", "c"], '"c": one argument too many'),
    (["bundle", "verify", "--verify=crc", "x"], "--verify: must be hash or size"),
])
def test_arguments_are_checked(args, message):
    assert message in refused(2, *args)


def test_a_file_that_is_none_is_refused(tmp_path):
    assert "not-there: cannot open" in refused(1, "ckpt", "show", tmp_path / "not-there")
    (tmp_path / "x").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64))
    assert "recognised as HDF5 (Keras .h5), which is not read" in refused(1, "ckpt", "show", tmp_path / "x")


# ---- a bundle of what is shown ---------------------------------------------------------------------------


def test_what_show_says_to_type_builds_a_bundle(tmp_path):
    path = comirec(tmp_path)
    line = re.search(r"^next +(recallctl .*?)\n\n", good("ckpt", "show", path), re.M | re.S).group(1)
    words = shlex.split(line.replace("--model.interests=...", "--model.interests=3")
                        .replace("--model.max_history=...", "--model.max_history=6")
                        .replace("items.tsv", str(items(tmp_path))).replace("DIR", str(tmp_path / "b"))
                        .replace("NAME", "mine"))
    assert words.pop(0) == "recallctl"
    said = good(*words)
    assert "its tensors tell that it is pytorch-comirec-mind" in said
    assert "ok: mine@" in good("bundle", "verify", tmp_path / "b")


def test_build_names_the_candidates_where_tensors_do_not_tell(tmp_path):
    path = safetensors(tmp_path / "m.safetensors", PADDLE)
    ask = ["bundle", "build", "--weights", path, "--items", items(tmp_path), "--out", tmp_path / "b", "--name", "b"]
    assert "--model.variant paddlerec-mind-2022b or paddlerec-mind-2021" in refused(2, *ask)
    assert "its tensors tell" not in good(*ask, "--model.variant", "paddlerec-mind-2021")


PAGE = (ROOT / "docs/models.md").read_text()
LINES = re.findall(r"^(recallctl bundle build \$rest .*?)  # (.*)$", PAGE, re.M)
# What a line of docs/models.md is for, and the file of ours that it is tried on; K and S of that.
TRIED = {
    "TH MIND": ["th-mind", "th-mind-book"], "TH DR": ["th-dr"], "TH SA": ["th-sa"], "PR MIND": ["pr-mind"],
    "PR22 MIND": ["pr22-mind"], "PR22b MIND": ["pr22b-mind"], "PR21 MIND": ["pr21-mind"],
    "PR MIND, static": ["pr-mind-static"], "DW MIND": ["dw-mind"], "DW MIND, type 1": ["dw-mind-type1"],
    "DW DR": ["dw-dr"], "SC MIND": ["sc-mind"], "SC MIND, book": ["sc-mind-relu"], "SC DR": ["sc-dr"],
    "SC SA": ["sc-sa"], "RH MIND": ["rh-mind"], "RH DR": ["rh-dr"], "RH SA": ["rh-sa"], "ER MIND": ["er-mind"],
    "DM MIND": ["dm-mind"], "DM SA": ["dm-sa"],
}


def tries():
    for line, labels in LINES:
        whole = labels in TRIED
        for label in [labels] if whole else labels.split(", "):
            for case in TRIED[label]:
                yield pytest.param(line, ROOT / "tests/golden/parity" / case, id=case)


def test_docs_have_a_line_for_every_codebase():
    assert {p.id for p in tries()} == {case for cases in TRIED.values() for case in cases}


@pytest.mark.parametrize("line, case", tries())
def test_the_lines_of_models_md_make_a_bundle_of_each_codebase_s_file(line, case, tmp_path):
    wanted = json.loads((case / "case.json").read_text())
    table = tmp_path / "items.tsv"
    table.write_text("row\tid\n" + "".join(f"{row}\titem-{row}\n" for row in range(1, 40)))
    rest = re.search(r'^rest="(.*)"$', PAGE, re.M).group(1)
    words = shlex.split(line.replace("$rest", rest.replace("items.tsv", str(table)).replace(
        "my-bundle", str(tmp_path / "b"))))
    words[words.index("--weights") + 1] = str(case / wanted["weights"])
    for option, value in (("interests", 3), ("max_history", 6)):
        if f"--model.{option}" in words:
            words[words.index(f"--model.{option}") + 1] = wanted["options"].get(option, value)
    good(*words[1:])
    assert f'"variant":"{wanted["variant"]}"' in good("bundle", "show", "--json", tmp_path / "b")


# ---- verified by size -------------------------------------------------------------------------------------


@pytest.fixture
def built(tmp_path):
    good("bundle", "build", "--weights", comirec(tmp_path), "--items", items(tmp_path), "--out", tmp_path / "b", "--name",
         "b", "--model.interests", 3, "--model.max_history", 6)
    return tmp_path / "b"


def test_by_size_a_changed_byte_passes_and_a_cut_does_not(built):
    weights = built / "weights.pt"
    data = bytearray(weights.read_bytes())
    assert "ok by size: b@" in good("bundle", "verify", "--verify=size", built)
    at = data.index(floats(16)) + 5
    data[at] ^= 1
    weights.write_bytes(data)
    assert "SHA-256 is" in refused(1, "bundle", "verify", built)
    assert "SHA-256 is" in refused(1, "bundle", "verify", "--verify=hash", built)
    assert "ok by size" in good("bundle", "verify", "--verify=size", built)
    weights.write_bytes(data + b"x")
    assert f"weights.pt: has {len(data) + 1} bytes, manifest.json says {len(data)}: the file was changed" in refused(
        1, "bundle", "verify", "--verify=size", built)


def test_a_manifest_without_sizes_is_refused_by_size_only(built):
    manifest = built / "manifest.json"
    manifest.write_text(re.sub(r', "bytes": \d+', "", manifest.read_text()))
    good("bundle", "verify", built)
    assert "manifest.json does not say its size: verify it by hash, or build the bundle again" in refused(
        1, "bundle", "verify", "--verify=size", built)


def test_the_daemon_can_verify_by_size(built, start):
    weights = built / "weights.pt"
    data = bytearray(weights.read_bytes())
    data[data.index(floats(16)) + 5] ^= 1
    weights.write_bytes(data)
    daemon = start(f"--bundle.paths={built}", "--bundle.verify=size")
    assert daemon.recall(history=["item-1"]).status == 200
    daemon = start(f"--bundle.paths={built}", ready=False)
    assert daemon.process.wait(60) != 0 and "SHA-256 is" in daemon.log()


# ---- large files --------------------------------------------------------------------------------------------


def peak_memory(*args):
    """Bytes that a recallctl had resident at most, and what it printed."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(write, 1)
        os.execv(RECALLCTL, [RECALLCTL, *map(str, args)])
    os.close(write)
    with os.fdopen(read) as out:
        text = out.read()
    _, status, usage = os.wait4(pid, 0)
    assert status == 0
    return usage.ru_maxrss * 1024, text


def sparse(path, gigabytes):
    """mid_embedding_var of so many decimal gigabytes, which take no room on the disk, and a small kernel."""
    rows = gigabytes * 10 ** 9 // 256
    kernel = floats(64 * 64)
    header = json.dumps({
        "mid_embedding_var": {"dtype": "F32", "shape": [rows, 64], "data_offsets": [0, rows * 256]},
        "capsule_network/bilinear/dense/kernel": {"dtype": "F32", "shape": [64, 64],
                                                  "data_offsets": [rows * 256, rows * 256 + len(kernel)]}}).encode()
    header += b" " * (-len(header) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(header)) + header)
        f.truncate(f.tell() + rows * 256)
        f.seek(0, os.SEEK_END)
        f.write(kernel)
    return path


MB = 2 ** 20


def test_four_gigabytes_are_shown_without_being_read(tmp_path):
    path = sparse(tmp_path / "large", 4)
    plain, _ = peak_memory("--version")
    peak, text = peak_memory("ckpt", "show", "--json", "--no-values", path)
    assert [t["shape"] for t in json.loads(text)["tensors"]] == [[15625000, 64], [64, 64]]
    assert peak < plain + 16 * MB
    assert path.stat().st_blocks * 512 < 8 * MB


def test_a_large_file_is_measured_in_little_memory(tmp_path):
    path = sparse(tmp_path / "large", 1)
    plain, _ = peak_memory("--version")
    peak, text = peak_memory("ckpt", "show", "--json", path)
    table = json.loads(text)["tensors"][0]
    assert (table["min"], table["max"], table["bytes"]) == (0, 0, 999999744 + 256)
    assert peak < plain + 64 * MB

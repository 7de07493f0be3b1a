#!/usr/bin/env python3
"""Writes the checkpoints of this folder, with the savers of the frameworks themselves: needs torch,
paddlepaddle, tensorflow and, as /usr/bin/python3, a Python with NumPy 1. The files are committed;
run it again only to add some.

Element i of a tensor, in row-major order, follows from its name: ((sum of the name's bytes + 37 i)
mod 251 - 125) / 64, which every float type holds exactly; without the division for integers, which
are the remainder alone when unsigned, and its lowest bit when bool. tests/unit/test_ckpt_formats.c
says what each file must hold."""

import collections
import inspect
import os
import pathlib
import pickle
import shutil
import subprocess
import sys

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent


def values(name, *shape, dtype="f4"):
    n = int(np.prod(shape))
    v = (sum(name.encode()) + 37 * np.arange(n)) % 251
    if dtype == "?":
        v = v % 2
    elif not dtype.startswith("u"):
        v = v - 125
    if dtype.startswith("f"):
        v = v / 64
    return v.astype(dtype).reshape(shape)


def named(**tensors):
    """NAME=(dtype, sizes...); a __ in a name stands for a dot."""
    return {k.replace("__", "."): values(k.replace("__", "."), *v[1:], dtype=v[0])
            for k, v in tensors.items()}


# ---- NumPy ------------------------------------------------------------------------------------


def arrays():
    d = named(w=("f4", 3, 5), deep__er=("f4", 2, 3, 4), h=("f2", 4), d=("f8", 3), i8=("i8", 3),
              i4=("i4", 3), i2=("i2", 3), i1=("i1", 3), u1=("u1", 3), flag=("?", 5), one=("f4",))
    d["columns"] = np.asfortranarray(values("columns", 3, 5))
    d["cube"] = np.asfortranarray(values("cube", 2, 3, 4))
    d["complex"] = np.zeros(2, "c8")
    d["StructuredToParameterName@@"] = {"w": "linear_0.w_0"}
    return d


def write_numpy(suffix):
    for protocol in 2, 3, 4:
        with open(HERE / f"numpy{suffix}-p{protocol}.pdparams", "wb") as f:
            pickle.dump(arrays(), f, protocol)


# ---- Paddle -----------------------------------------------------------------------------------


def write_paddle():
    import paddle

    class Net(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.item_emb = paddle.nn.Embedding(7, 4)
            self.relu_layer = paddle.nn.Linear(4, 4)
            self.register_buffer("h16", paddle.zeros([3], "float16"))
            self.register_buffer("b16", paddle.zeros([3], "bfloat16"))
            self.register_buffer("count", paddle.zeros([2], "int64"))

    net = Net()
    for name, t in net.state_dict().items():
        v = values(name, *t.shape, dtype="i8" if name == "count" else "f4")
        t.set_value(paddle.to_tensor(v).astype(t.dtype))
    for protocol in 2, 3, 4:
        paddle.save(net.state_dict(), str(HERE / f"paddle-p{protocol}.pdparams"), protocol)
    paddle.save({"epoch": 3, "model": net.state_dict()}, str(HERE / "paddle-nested.pdparams"))

    # Arrays of a GiB and more are cut; to see that done to small ones, it must be told so.
    from paddle.framework import io_utils
    source = inspect.getsource(io_utils._unpack_saved_dict)
    assert "2**30" in source
    scope = dict(vars(io_utils))
    exec(source.replace("2**30", "45"), scope)
    big = named(w=("f4", 5, 7), v=("f8", 4, 4), small=("f4", 5))
    for protocol in 2, 3:
        with open(HERE / f"paddle-sliced-p{protocol}.pdparams", "wb") as f:
            pickle.dump(scope["_unpack_saved_dict"](dict(big), protocol), f, protocol)


# ---- PyTorch ----------------------------------------------------------------------------------


def write_torch():
    import torch

    def state(prefix=""):
        def t(name, *shape, dtype="f4"):
            return torch.from_numpy(values(name, *shape, dtype=dtype))

        shared = t("view", 11)
        d = {
            "w": torch.nn.Parameter(t("w", 3, 5)),
            "transposed": torch.from_numpy(values("transposed", 3, 5).T.copy()).T,
            "permuted": torch.from_numpy(
                values("permuted", 2, 3, 4).transpose(2, 0, 1).copy()).permute(1, 2, 0),
            "view": shared[:4],
            "wiev": shared[:4],  # the same letters: the same values
            "offset": torch.cat([torch.zeros(5), t("offset", 6)])[5:].reshape(2, 3),
            "step": torch.stack([t("step", 4), torch.zeros(4)], 1)[:, 0],
            "expanded": t("expanded", 1, 1).expand(1, 1),
            "h": t("h", 4).half(), "b": t("b", 4).bfloat16(), "d": t("d", 3, dtype="f8"),
            "i8": t("i8", 3, dtype="i8"), "i4": t("i4", 3, dtype="i4"),
            "i2": t("i2", 3, dtype="i2"), "i1": t("i1", 3, dtype="i1"),
            "u1": t("u1", 3, dtype="u1"), "flag": t("flag", 5, dtype="?"), "one": t("one"),
            "complex": torch.zeros(2, dtype=torch.complex64),
        }
        return collections.OrderedDict((prefix + k, v) for k, v in d.items())

    linear = torch.nn.Linear(3, 2)
    with torch.no_grad():
        for name, p in linear.named_parameters():
            p.copy_(torch.from_numpy(values(name, *p.shape)))
    optimizer = torch.optim.Adam(linear.parameters())
    linear(torch.ones(3)).sum().backward()
    optimizer.step()
    with torch.no_grad():
        for name, p in linear.named_parameters():
            p.copy_(torch.from_numpy(values(name, *p.shape)))
    nested = {"epoch": 3, "model_state_dict": linear.state_dict(),
              "optimizer_state_dict": optimizer.state_dict(), "loss": 0.25, "best": None}
    for kind, new in ("zip", True), ("legacy", False):
        for name, content in (("views", state()), ("prefix", state("module.model.")),
                              ("module", linear.state_dict()), ("nested", nested)):
            torch.save(content, HERE / f"torch-{kind}-{name}.pt",
                       _use_new_zipfile_serialization=new)


# ---- TensorFlow -------------------------------------------------------------------------------


def write_tensorflow():
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    import tensorflow as tf
    v1 = tf.compat.v1

    def variable(name, *shape, dtype="f4", **more):
        # A partitioned variable asks for its parts.
        whole = values(name, *shape, dtype=dtype)

        def part(shape, dtype=None, partition_info=None):
            if partition_info is None:
                return tf.constant(whole)
            at = partition_info.var_offset
            return tf.constant(whole[tuple(slice(a, a + n) for a, n in zip(at, shape))])

        return v1.get_variable(name, shape, dtype=whole.dtype, initializer=part,
                               use_resource=False, **more)

    folder = HERE / "tensorflow"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with tf.Graph().as_default():
        with tf.device("/cpu:0"):
            variable("capsule_network/bilinear/dense/kernel", 4, 4)
            variable("rows", 10, 3, partitioner=v1.fixed_size_partitioner(3, axis=0))
            variable("columns", 2, 5, 3, partitioner=v1.fixed_size_partitioner(2, axis=1))
            variable("step", dtype="i8")
        with tf.device("/cpu:1"):
            variable("mid_embedding_var", 7, 4)
            variable("long", 300, 1, partitioner=v1.fixed_size_partitioner(2, axis=0))
            variable("double", 3, dtype="f8")
            variable("half", 3, dtype="f2")
            tf.compat.v1.get_variable("text", initializer=tf.constant(["a", "bc"]),
                                      use_resource=False)
            brain = tf.constant(values("brain", 3))
            v1.get_variable("brain", initializer=tf.cast(brain, tf.bfloat16), use_resource=False)
        with v1.Session(config=v1.ConfigProto(device_count={"CPU": 2})) as session:
            session.run(v1.global_variables_initializer())
            v1.train.Saver(sharded=True, save_relative_paths=True).save(
                session, str(folder / "model.ckpt"), global_step=7, write_meta_graph=False)

    module = tf.Module()
    module.kernel = tf.Variable(values("kernel", 4, 3))
    module.layers = [tf.Variable(values("layers/0", 5))]
    saved = HERE / "savedmodel"
    shutil.rmtree(saved, ignore_errors=True)
    tf.saved_model.save(module, str(saved))
    for name in "saved_model.pb", "fingerprint.pb":
        (saved / name).unlink(missing_ok=True)
    shutil.rmtree(saved / "assets", ignore_errors=True)
    tf.train.Checkpoint(net=module).write(str(folder / "objects"))


if __name__ == "__main__":
    if sys.argv[1:] == ["numpy1"]:
        write_numpy("1")
    else:
        subprocess.run(["/usr/bin/python3", __file__, "numpy1"], check=True)
        write_numpy("")
        for write in write_paddle, write_torch, write_tensorflow:
            if not sys.argv[1:] or write.__name__ in sys.argv[1:]:
                write()

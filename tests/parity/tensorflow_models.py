"""TensorFlow as of its first version: THUDM/ComiRec (TH), and the capsules of EasyRec (ER) and DeepMatch (DM), from
their formulas. Run it before the others: they write one of its models in their own formats."""

import math
import os
import shutil
import warnings

warnings.filterwarnings("ignore", ".*is deprecated")
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_USE_LEGACY_KERAS"] = "1"  # for v1.layers

import numpy as np
import tensorflow as tf

import formulas
from cases import (DIM, HISTORIES, INTERESTS, ITEMS, LOGITS, SLOTS, Cases, batch, book_tensors, logits, weight,
                   write_logits)

v1 = tf.compat.v1
v1.logging.set_verbosity(v1.logging.ERROR)
v1.disable_v2_behavior()


class Ops:
    sqrt = staticmethod(tf.sqrt)
    at_least = staticmethod(tf.maximum)

    @staticmethod
    def softmax(x, axis):
        return tf.nn.softmax(x, axis=axis)

    @staticmethod
    def sum(x, axis, keep):
        return tf.reduce_sum(x, axis=axis, keepdims=keep)


def tile(h):
    """The same u for all interests: (B, S, H) to (B, K, S, H)."""
    return tf.tile(h[:, None], [1, INTERESTS, 1, 1])


class Session:
    """A graph with the inputs that every model has, and its life until it is saved."""

    def __init__(self, slots=SLOTS):
        self.graph = tf.Graph()
        self.slots = slots

    def __enter__(self):
        self.scope = self.graph.as_default()
        self.scope.__enter__()
        self.ids = v1.placeholder(tf.int32, [None, self.slots])
        self.mask = v1.placeholder(tf.float32, [None, self.slots])
        self.session = v1.Session(config=v1.ConfigProto(device_count={"CPU": 2}))
        return self

    def __exit__(self, *what):
        self.session.close()
        self.scope.__exit__(*what)

    def train(self, v):
        """One step, so that the optimizer's variables are there and hold something."""
        step = v1.train.AdamOptimizer().minimize(tf.reduce_sum(v * v))
        self.session.run(v1.global_variables_initializer())
        ids, mask = batch(slots=self.slots)
        self.session.run(step, {self.ids: ids, self.mask: mask})

    def fill(self, scale=1):
        for variable in v1.global_variables():
            name = variable.op.name
            if not name.startswith("beta") and "/Adam" not in name:
                variable.load(scale * weight(name, *variable.shape.as_list()), self.session)

    def save(self, cases, case, prefix="model.ckpt", **more):
        saver = v1.train.Saver(save_relative_paths=True, **more)
        saver.save(self.session, cases.path(case, prefix), write_meta_graph=False)

    def run(self, v, **how):
        ids, mask = batch(slots=self.slots, **how)
        return self.session.run(v, {self.ids: ids, self.mask: mask})

    def names(self):
        return [variable.op.name for variable in v1.global_variables()]


# ---- THUDM/ComiRec ----------------------------------------------------------------------------


def thudm_items(s):
    table = v1.get_variable("mid_embedding_var", [ITEMS, DIM])
    v1.get_variable("bias_lookup_table", [ITEMS], initializer=tf.zeros_initializer(), trainable=False)
    return tf.nn.embedding_lookup(table, s.ids) * s.mask[:, :, None]


def thudm_mind(s, book):
    """The map has a bias: None as its initialiser means the layers' own choice."""
    e = thudm_items(s)
    with v1.variable_scope("capsule_network"):
        with v1.variable_scope("bilinear"):
            h = v1.layers.dense(e, DIM, bias_initializer=None)
        v = formulas.route(Ops, tile(h), tf.constant(logits()[None]), s.mask, "III")
        return v1.layers.dense(v, DIM, activation=tf.nn.relu, name="proj") if book else v


def thudm_dr(s):
    e = thudm_items(s)
    with v1.variable_scope("capsule_network"), v1.variable_scope("bilinear"):
        w = v1.get_variable("weights", [1, SLOTS, INTERESTS * DIM, DIM])
    u = tf.reshape(formulas.map_positions(Ops, w, e), [-1, SLOTS, INTERESTS, DIM])
    return formulas.route(Ops, tf.transpose(u, [0, 2, 1, 3]), tf.zeros([1, INTERESTS, SLOTS]), s.mask, "III")


def thudm_sa(s):
    e = thudm_items(s)
    x = e + v1.get_variable("position_embedding", [1, SLOTS, DIM])
    with v1.variable_scope("self_atten"):
        hidden = v1.layers.dense(x, 4 * DIM, activation=tf.nn.tanh)
        return formulas.attend(Ops, v1.layers.dense(hidden, INTERESTS), s.mask, e)


def thudm(cases):
    routed = {"variant": "thudm-mind", "init": f"file:{LOGITS}"}
    for case, model, options in (
            ("th-mind", lambda s: thudm_mind(s, False), routed),
            ("th-mind-book", lambda s: thudm_mind(s, True), routed),
            ("th-dr", thudm_dr, {"variant": "thudm-comirec-dr"}),
            ("th-sa", thudm_sa, {"variant": "thudm-comirec-sa"})):
        with Session() as s:
            v = model(s)
            s.train(v)
            s.fill()
            s.save(cases, case)
            if "init" in options:
                write_logits(cases.path(case, LOGITS), logits())
            # The folder names its latest checkpoint.
            form, weights = ("TF Saver, folder", ".") if case == "th-dr" else ("TF Saver", "model.ckpt")
            cases.add(case, "TH", form, weights, s.run(v), tensors=s.names(), **options)


# ---- EasyRec ------------------------------------------------------------------------------------

EASYREC_SLOTS, EASYREC_INTERESTS = 24, 4
EASYREC_HISTORIES = HISTORIES[:4] + [[(7 * i + n) % (ITEMS - 1) + 1 for i in range(n)] for n in (7, 8, 20, 21, 24, 30)]


def unit(z):
    return tf.nn.l2_normalize(z, axis=-1, epsilon=1e-12)


def easyrec_interests(s, scale, std, power, ratio, constant):
    """(B, K, H): the logits' table is the one that its predictions are made with."""
    table = v1.get_variable("input_layer/book_id_seq/embedding_weights", [ITEMS, DIM])
    x = tf.nn.embedding_lookup(table, s.ids) * s.mask[:, :, None]
    h = tf.tensordot(x, v1.get_variable("capsule/S", [DIM, DIM]), 1)
    u, un = h[:, None], unit(h)[:, None]
    np.random.seed(28)
    drawn = np.random.uniform(0, std, [EASYREC_SLOTS, EASYREC_INTERESTS]).astype("f4")
    b = tf.tile(tf.constant(drawn.T)[None], [tf.shape(s.ids)[0], 1, 1])
    length = tf.reduce_sum(s.mask, 1)
    k = tf.clip_by_value(tf.cast(tf.math.log(tf.maximum(length, 1)), tf.int32), 1, EASYREC_INTERESTS)
    live = tf.sequence_mask(tf.fill(tf.shape(k), EASYREC_INTERESTS) if constant else k, EASYREC_INTERESTS,
                            tf.float32)[:, :, None]
    for i in range(3):
        w = tf.nn.softmax(tf.minimum(b, 1e32 * (2 * live - 1)), axis=1) * s.mask[:, None]
        z = formulas.gather(Ops, w, u)
        if i < 2:
            b = formulas.agreement(Ops, un, unit(z)) * scale if scale > 0 else formulas.agreement(Ops, u, unit(z))
    n = tf.maximum(tf.reduce_sum(z * z, -1, keepdims=True), 1e-8)
    return (n / (1 + n)) ** power * ratio / tf.sqrt(n) * z * live


def easyrec(cases):
    how = {"histories": EASYREC_HISTORIES, "keep": "first"}
    common = {"variant": "easyrec-mind", "interests": EASYREC_INTERESTS, "max_history": EASYREC_SLOTS,
              "histories": EASYREC_HISTORIES}
    with Session(EASYREC_SLOTS) as s:
        v = unit(easyrec_interests(s, scale=20, std=1, power=1, ratio=1, constant=False))
        s.fill()
        s.save(cases, "er-mind")
        cases.add("er-mind", "ER", "TF Saver", "model.ckpt", s.run(v, **how), tensors=s.names(), bound=1e-4, **common)
    with Session(EASYREC_SLOTS) as s:  # similarity by inner product
        v = easyrec_interests(s, scale=0, std=0.5, power=0.5, ratio=1.5, constant=True)
        s.fill(0.5)  # u.h is not of bounded size: a softmax of large logits enlarges float32's rounding
        s.save(cases, "er-mind-all")
        cases.add("er-mind-all", "ER", "TF Saver", "model.ckpt", s.run(v, **how), tensors=s.names(),
                  init="easyrec:0.5", logit_scale=0, squash_power=0.5, squash_ratio=1.5, dynamic_interests="none",
                  normalize_user="false", normalize_item="false", **common)


# ---- DeepMatch ----------------------------------------------------------------------------------

DEEPMATCH_HISTORIES = HISTORIES[:-1] + [[17, 8, 36], [11, 4, 33, 4, 19, 25, 2]]


def deepmatch_items(s):
    """Row 0 is a vector like any other."""
    return tf.nn.embedding_lookup(v1.get_variable("sparse_emb_movie_id/embeddings", [ITEMS, DIM]), s.ids)


def deepmatch_mind(s, dynamic):
    h = tf.tensordot(deepmatch_items(s), v1.get_variable("capsule_layer/S", [DIM, DIM]), 1)
    length = tf.reduce_sum(s.mask, 1)
    k = tf.clip_by_value(tf.math.log1p(length) / math.log(2.0), 1, INTERESTS) if dynamic else 0 * length + INTERESTS
    live = tf.sequence_mask(tf.cast(k, tf.int32), INTERESTS, tf.float32)[:, :, None]
    b = tf.constant(logits()[None])
    for i in range(3):
        w = tf.nn.softmax(formulas.masked(b, live, -2.0 ** 31), axis=1) * s.mask[:, None]
        v = formulas.squash(Ops, formulas.gather(Ops, w, tile(h)), 1e-9)
        b = b + formulas.agreement(Ops, tile(h), v)
    return v * live


def deepmatch_sa(s):
    e = deepmatch_items(s)
    x = 2 * e + math.sqrt(DIM) * v1.get_variable("position_encoding/lookup_table", [SLOTS, DIM])
    a = x
    for i, width in enumerate((4 * DIM, INTERESTS)):
        a = tf.tanh(tf.tensordot(a, v1.get_variable(f"user_dnn_attn/kernel{i}", [a.shape[-1], width]), 1)
                    + v1.get_variable(f"user_dnn_attn/bias{i}", [width]))
    return formulas.attend(Ops, a, s.mask, x)


def deepmatch(cases):
    how = {"histories": DEEPMATCH_HISTORIES, "newest_first": True}
    routed = {"variant": "deepmatch-mind", "init": f"file:{LOGITS}"}
    for case, model, options in (
            ("dm-mind", lambda s: deepmatch_mind(s, False), routed),
            ("dm-mind-dynamic", lambda s: deepmatch_mind(s, True), {**routed, "dynamic_interests": "floor_log2_1p"}),
            ("dm-sa", deepmatch_sa, {"variant": "deepmatch-comirec-sa"})):
        with Session() as s:
            v = model(s)
            s.fill()
            s.save(cases, case)
            if "init" in options:
                write_logits(cases.path(case, LOGITS), logits())
            cases.add(case, "DM", "TF Saver", "model.ckpt", s.run(v, **how), tensors=s.names(),
                      histories=DEEPMATCH_HISTORIES, **options)


# ---- one model, in several formats -----------------------------------------------------------------


def formats(cases):
    def variables(**more):
        for i, (name, value) in enumerate(book_tensors().items()):
            with tf.device(f"/cpu:{i % 2}"):
                v1.get_variable(name, value.shape, **(more if name == "mid_embedding_var" else {}))

    with Session() as s:
        variables()
        s.fill()
        s.save(cases, "format-tf-shards", sharded=True)
        cases.add_twin("format-tf-shards", "TF Saver, two shards", "model.ckpt")
        place = cases.folder / "format-savedmodel"
        shutil.rmtree(place, ignore_errors=True)
        builder = v1.saved_model.Builder(str(place))
        builder.add_meta_graph_and_variables(s.session, ["serve"])
        builder.save()
        (place / "saved_model.pb").unlink()  # the graph, which nobody needs here
        cases.add_twin("format-savedmodel", "TF SavedModel", ".")
    with Session() as s:
        variables(partitioner=v1.fixed_size_partitioner(3))
        whole, at = book_tensors(), 0
        for variable in v1.global_variables():
            value = whole[variable.op.name.split("/part_")[0]]
            if "/part_" in variable.op.name:
                rows = variable.shape.as_list()[0]
                value, at = value[at:at + rows], at + rows
            variable.load(value, s.session)
        s.save(cases, "format-tf-partitioned")
        cases.add_twin("format-tf-partitioned", "TF Saver, partitioned", "model.ckpt")


if __name__ == "__main__":
    for write in thudm, easyrec, deepmatch, formats:
        write(Cases())

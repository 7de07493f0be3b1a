"""PaddlePaddle: PaddleRec's MIND of four ages (PR, PR22, PR22b, PR21) and the Datawhale notebooks' models (DW),
from their formulas."""

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional

import formulas
from cases import DIM, INTERESTS, ITEMS, SLOTS, Cases, batch, book_tensors, logits, weight


class Ops:
    sqrt = staticmethod(paddle.sqrt)

    @staticmethod
    def softmax(x, axis):
        return functional.softmax(x, axis=axis)

    @staticmethod
    def sum(x, axis, keep):
        return paddle.sum(x, axis=axis, keepdim=keep)

    @staticmethod
    def at_least(x, floor):
        return paddle.clip(x, min=floor)


def fill(model):
    for name, p in model.state_dict().items():
        p.set_value(weight(name, *p.shape))
    model.eval()
    return model


def tile(h):
    """The same u for all interests: (B, S, H) to (B, K, S, H)."""
    return paddle.tile(h.unsqueeze(1), [1, INTERESTS, 1, 1])


# ---- PaddleRec --------------------------------------------------------------------------------


def named(name):
    return paddle.ParamAttr(name=name)


class Capsules(nn.Layer):
    def __init__(self, axes, relu_layer, clipped):
        super().__init__()
        self.axes, self.clipped = axes, clipped
        self.routing_logits = self.create_parameter([1, INTERESTS, SLOTS], attr=named("routing_logits"))
        self.routing_logits.stop_gradient = True
        self.bilinear_mapping_matrix = self.create_parameter([DIM, DIM], attr=named("bilinear_mapping_matrix"))
        self.relu_layer = nn.Linear(DIM, DIM) if relu_layer else None

    def forward(self, e, mask):
        u = tile(paddle.matmul(e, self.bilinear_mapping_matrix))
        v = formulas.route(Ops, u, self.routing_logits, mask, self.axes, mask_before=True, eps=1e-8,
                           clipped=self.clipped)
        return v if self.relu_layer is None else functional.relu(self.relu_layer(v))


class Mind(nn.Layer):
    def __init__(self, axes, relu_layer=True, clipped=False):
        super().__init__()
        self.item_emb = nn.Embedding(ITEMS, DIM, padding_idx=0, weight_attr=named("item_emb"))
        self.embedding_bias = self.create_parameter([ITEMS], attr=named("embedding_bias"), is_bias=True)
        self.capsual_layer = Capsules(axes, relu_layer, clipped)

    def forward(self, ids, mask):
        return self.capsual_layer(self.item_emb(ids), mask)


AGES = {"pr": ("paddlerec-mind", "QQI"), "pr22": ("paddlerec-mind-2022", "III"),
        "pr22b": ("paddlerec-mind-2022b", "III"), "pr21": ("paddlerec-mind-2021", "QQQ")}


def make(age):
    plain = age in ("pr22b", "pr21")
    return Mind(AGES[age][1], relu_layer=not plain, clipped=plain)


def paddlerec(cases):
    ids, mask = map(paddle.to_tensor, batch())
    for age, (variant, _) in AGES.items():
        with paddle.utils.unique_name.guard():
            model = fill(make(age))
        paddle.save(model.state_dict(), cases.path(f"{age}-mind", "rec.pdparams"))
        cases.add(f"{age}-mind", age.upper().replace("B", "b"), "Paddle .pdparams", "rec.pdparams",
                  model(ids, mask).numpy(), tensors=list(model.state_dict()), variant=variant, say_variant=True)


def paddlerec_static(cases):
    """A program: its variables have the inner names, and there is no table of others."""
    ids, mask = batch()
    paddle.enable_static()
    for age in "pr", "pr22":
        main, start = paddle.static.Program(), paddle.static.Program()
        with paddle.static.program_guard(main, start), paddle.utils.unique_name.guard(), \
                paddle.static.scope_guard(paddle.static.Scope()):
            out = make(age)(paddle.static.data("ids", [None, SLOTS], "int64"),
                            paddle.static.data("mask", [None, SLOTS], "float32"))
            cpu = paddle.static.Executor(paddle.CPUPlace())
            cpu.run(start)
            parameters = main.global_block().all_parameters()
            for p in parameters:
                holder = paddle.static.global_scope().find_var(p.name).get_tensor()
                holder.set(weight(p.name, *p.shape), paddle.CPUPlace())
            paddle.static.save(main, cases.path(f"{age}-mind-static", "rec_static"))
            found, = cpu.run(main, {"ids": ids, "mask": mask}, [out])
        for other in set((cases.folder / f"{age}-mind-static").glob("rec_static.*")):
            if other.suffix != ".pdparams":
                other.unlink()  # the program
        cases.add(f"{age}-mind-static", age.upper(), "Paddle static .pdparams", "rec_static.pdparams", found,
                  tensors=[p.name for p in parameters], variant=AGES[age][0], say_variant=True)
    paddle.disable_static()


# ---- Datawhale's notebooks ----------------------------------------------------------------------


class NotebookCapsules(nn.Layer):
    """Bilinear type 0 repeats each element of the map's output K times before it is cut into interests."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.relu = nn.Sequential(nn.Linear(DIM, DIM, bias_attr=False), nn.ReLU())
        if kind == 2:
            self.w = self.create_parameter([1, SLOTS, INTERESTS * DIM, DIM])
        else:
            self.linear = nn.Linear(DIM, DIM if kind == 0 else INTERESTS * DIM, bias_attr=False)

    def forward(self, e, mask, b):
        if self.kind == 0:
            u = paddle.repeat_interleave(self.linear(e), INTERESTS, axis=2)
        elif self.kind == 1:
            u = self.linear(e)
        else:
            u = formulas.map_positions(Ops, self.w, e)
        u = u.reshape([-1, SLOTS, INTERESTS, DIM]).transpose([0, 2, 1, 3])
        return formulas.route(Ops, u, b, mask, "QQQ")


class Notebook(nn.Layer):
    def __init__(self, kind):
        super().__init__()
        self.item_emb = nn.Embedding(ITEMS, DIM, padding_idx=0)
        self.capsule = NotebookCapsules(kind)

    def forward(self, ids, mask, b):
        """As evaluated: of length 1."""
        return functional.normalize(self.capsule(self.item_emb(ids), mask, b), axis=-1)


def datawhale(cases):
    ids, mask = map(paddle.to_tensor, batch())
    table = logits()[None]

    def add(case, kind, b, **options):
        model = fill(Notebook(kind))
        paddle.save(model.state_dict(), cases.path(case, "model.pdparams"))
        cases.add(case, "DW", "Paddle .pdparams", "model.pdparams", model(ids, mask, paddle.to_tensor(b)).numpy(),
                  tensors=list(model.state_dict()), **options)

    paddle.save({"routing": paddle.to_tensor(table)}, cases.path("dw-mind", "logits.pdparams"))
    add("dw-mind", 0, table, variant="datawhale-mind", init="file:logits.pdparams")
    add("dw-mind-type1", 1, np.zeros_like(table), variant="datawhale-mind", bilinear="per_interest", init="zeros",
        max_history=SLOTS)
    add("dw-dr", 2, np.zeros_like(table), variant="datawhale-comirec-dr")


# ---- what nobody can repeat -----------------------------------------------------------------------


def stateful(cases):
    """fun-rec's and DeepMatch's former layer keeps its logits, which every call changes, in B."""
    shapes = {"_emb_movie_id/embeddings": [ITEMS, DIM], "capsule_layer/S": [DIM, DIM],
              "capsule_layer/B": [1, INTERESTS, SLOTS]}
    state = {name: paddle.to_tensor(weight(name, *shape)) for name, shape in shapes.items()}
    paddle.save(state, cases.path("fr-mind", "model.pdparams"))
    cases.add("fr-mind", "FR", "Paddle .pdparams", "model.pdparams", tensors=list(state),
              interests=INTERESTS, max_history=SLOTS,
              refused="tensor capsule_layer/B holds routing logits that every call changes")


# ---- one model, in several formats -----------------------------------------------------------------


def formats(cases):
    book = {name: paddle.to_tensor(value) for name, value in book_tensors().items()}
    for protocol in 2, 4:
        case = f"format-pdparams-{protocol}"
        paddle.save(book, cases.path(case, "model.pdparams"), protocol)
        cases.add_twin(case, f"Paddle .pdparams, protocol {protocol}", "model.pdparams")


if __name__ == "__main__":
    for write in paddlerec, paddlerec_static, datawhale, stateful, formats:
        write(Cases())

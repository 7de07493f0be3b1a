"""PyTorch: pytorch_ComiRec (SC) from its formulas, torch-rechub (RH) with that package's own models."""

from unittest import mock

import torch
from torch import nn
from torch_rechub.basic.features import SequenceFeature, SparseFeature
from torch_rechub.models.matching import MIND, ComirecDR, ComirecSA

import formulas
from cases import DIM, INTERESTS, ITEMS, SLOTS, Cases, batch, book_tensors, logits, own_logits, weight


class Ops:
    softmax = staticmethod(torch.softmax)
    sqrt = staticmethod(torch.sqrt)

    @staticmethod
    def sum(x, axis, keep):
        return torch.sum(x, axis, keepdim=keep)

    @staticmethod
    def at_least(x, floor):
        return torch.clamp(x, min=floor)


def fill(model):
    with torch.no_grad():
        for name, p in model.state_dict().items():
            p.copy_(torch.from_numpy(weight(name, *p.shape)))
    return model.eval()


# ---- pytorch_ComiRec -------------------------------------------------------------------------


class Capsules(nn.Module):
    def __init__(self, per_position, relu_layer):
        super().__init__()
        self.relu_layer = relu_layer
        self.relu = nn.Sequential(nn.Linear(DIM, DIM, bias=False), nn.ReLU())
        if per_position:
            self.w = nn.Parameter(torch.empty(1, SLOTS, INTERESTS * DIM, DIM))
        else:
            self.linear = nn.Linear(DIM, DIM, bias=False)

    def forward(self, e, mask, b):
        if hasattr(self, "w"):
            u = formulas.map_positions(Ops, self.w, e).reshape(-1, SLOTS, INTERESTS, DIM).permute(0, 2, 1, 3)
        else:
            u = self.linear(e)[:, None].repeat(1, INTERESTS, 1, 1)
        v = formulas.route(Ops, u, b.expand(len(e), -1, -1), mask, "QQQ")
        return self.relu(v) if self.relu_layer else v


class Comirec(nn.Module):
    def __init__(self, per_position=False, relu_layer=False):
        super().__init__()
        self.embeddings = nn.Embedding(ITEMS, DIM, padding_idx=0)
        self.capsule_network = Capsules(per_position, relu_layer)

    def forward(self, ids, mask, b):
        return self.capsule_network(self.embeddings(ids) * mask[:, :, None], mask, b)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embeddings = nn.Embedding(ITEMS, DIM, padding_idx=0)
        self.position_embedding = nn.Parameter(torch.empty(1, SLOTS, DIM))
        self.linear1 = nn.Sequential(nn.Linear(DIM, 4 * DIM, bias=False), nn.Tanh())
        self.linear2 = nn.Linear(4 * DIM, INTERESTS, bias=False)

    def forward(self, ids, mask):
        e = self.embeddings(ids) * mask[:, :, None]
        return formulas.attend(Ops, self.linear2(self.linear1(e + self.position_embedding)), mask, e)


def pytorch_comirec(cases):
    ids, mask = map(torch.from_numpy, batch())
    none = {"interests": INTERESTS, "max_history": SLOTS}

    def add(case, model, *more, **options):
        torch.save(model.state_dict(), cases.path(case, "model.pt"))
        cases.add(case, "SC", "PyTorch .pt", "model.pt", model(ids, mask, *more).detach(),
                  tensors=list(model.state_dict()), **options)

    add("sc-mind", fill(Comirec()), torch.from_numpy(own_logits()), variant="pytorch-comirec-mind", **none)
    b = torch.from_numpy(logits())
    torch.save({"routing": b}, cases.path("sc-mind-relu", "logits.pt"))
    add("sc-mind-relu", fill(Comirec(relu_layer=True)), b, variant="pytorch-comirec-mind", projection="relu",
        init="file:logits.pt")
    add("sc-dr", fill(Comirec(per_position=True)), torch.zeros(INTERESTS, SLOTS), variant="pytorch-comirec-dr")
    add("sc-sa", fill(Attention()), variant="pytorch-comirec-sa")


# ---- torch-rechub -----------------------------------------------------------------------------


def rechub_features():
    """The item, as the history holds it and as what is predicted: one table."""
    item = SparseFeature("movie_id", vocab_size=ITEMS, embed_dim=DIM)
    history = SequenceFeature("hist_movie_id", vocab_size=ITEMS, embed_dim=DIM, pooling="concat",
                              shared_with="movie_id")
    wrong = SequenceFeature("neg_items", vocab_size=ITEMS, embed_dim=DIM, pooling="concat", shared_with="movie_id")
    return [], [history], [item], [wrong]


def rechub_interests(model, ids, b):
    """Its own tower. It cannot embed an empty list of user features, so it is given nothing there; and
    what MIND draws for every call is `b`."""
    look_up = model.embedding.forward

    def embed(x, features, squeeze_dim=False):
        return look_up(x, features, squeeze_dim) if features else torch.zeros(len(ids), 0)

    model.mode = "user"
    with mock.patch.object(model.embedding, "forward", embed), torch.no_grad(), \
            mock.patch("torch.randn", lambda *shape, **more: b.expand(*shape).clone()):
        return model.user_tower({"hist_movie_id": ids})


def rechub(cases):
    ids, _ = batch(keep="first")
    ids, b = torch.from_numpy(ids), torch.from_numpy(logits())
    more = {"temperature": 0.02, "interest_num": INTERESTS}
    routed = {"interests": INTERESTS, "max_history": SLOTS, "init": "file:logits.pt"}

    def add(case, model, state=None, form="PyTorch .pth", legacy=False, **options):
        state = state or model.state_dict()
        if "init" in options:
            torch.save({"routing": b}, cases.path(case, "logits.pt"))
        torch.save(state, cases.path(case, "model.pth"), _use_new_zipfile_serialization=not legacy)
        cases.add(case, "RH", form, "model.pth", rechub_interests(model, ids, b), tensors=list(state), **options)

    add("rh-mind", fill(MIND(*rechub_features(), SLOTS, **more)), variant="rechub-mind", **routed)
    add("rh-mind-dynamic", fill(MIND(*rechub_features(), SLOTS, dynamic_interest=True, **more)),
        variant="rechub-mind", dynamic_interests="floor_log2", **routed)
    model = fill(ComirecDR(*rechub_features(), SLOTS, **more))
    add("rh-dr", model, nn.DataParallel(model).state_dict(), "PyTorch .pth, parallel", variant="rechub-comirec-dr")
    add("rh-sa", fill(ComirecSA(*rechub_features(), **more)), form="PyTorch .pth, legacy", legacy=True,
        variant="rechub-comirec-sa", max_history=SLOTS)


# ---- one model, in several formats -----------------------------------------------------------------


def formats(cases):
    """A zip in which all tensors share one storage, each at its offset; and the older form."""
    book = {name: torch.from_numpy(value) for name, value in book_tensors().items()}
    together = torch.cat([value.flatten() for value in book.values()]).split([v.numel() for v in book.values()])
    views = {name: part.view(value.shape) for (name, value), part in zip(book.items(), together)}
    torch.save({"epoch": 7, "state_dict": views}, cases.path("format-pt-zip", "model.pt"))
    cases.add_twin("format-pt-zip", "PyTorch .pt, one storage", "model.pt")
    torch.save(book, cases.path("format-pt-legacy", "model.pt"), _use_new_zipfile_serialization=False)
    cases.add_twin("format-pt-legacy", "PyTorch .pt, legacy", "model.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for write in pytorch_comirec, rechub, formats:
        write(Cases())

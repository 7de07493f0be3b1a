"""MIND's forward pass, as services around a trained checkpoint have it: in PyTorch, written the way
the published code goes about it (all slots, masked, the shared map at every call), and what people
do when that turns out slow: traced and frozen, compiled, or the same arithmetic in numpy.

`forward(kind, tensors)` gives a function from a user's item rows, oldest first, to (K, D) interests."""
import numpy as np

PASSES = 3
ITEMS, MAP, LOGITS = "mid_embedding_var", "capsule_network/bilinear/dense/kernel", "routing_logits"


def with_torch(tensors, kind, threads):
    import torch

    if threads:
        torch.set_num_threads(threads)

    def squash(z):
        n = z.square().sum(-1, keepdim=True)
        return n / (1 + n) / torch.sqrt(n + 1e-9) * z

    class Mind(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.items = torch.nn.Embedding.from_pretrained(torch.from_numpy(tensors[ITEMS]))
            self.register_buffer("w", torch.from_numpy(tensors[MAP]))
            self.register_buffer("b", torch.from_numpy(tensors[LOGITS])[None])

        def forward(self, rows, mask):
            u = torch.matmul(self.items(rows) * mask.unsqueeze(-1), self.w)
            b = self.b
            for i in range(PASSES):
                v = squash(torch.matmul(torch.softmax(b, 1) * mask.unsqueeze(1), u))
                if i < PASSES - 1:
                    b = b + torch.matmul(v, u.transpose(1, 2))
            return torch.nn.functional.normalize(v, dim=-1)

    slots = tensors[LOGITS].shape[1]
    model = Mind().eval()
    if kind == "jit":
        example = torch.ones(1, slots, dtype=torch.int64), torch.ones(1, slots)
        with torch.inference_mode():
            model = torch.jit.optimize_for_inference(torch.jit.trace(model, example))
    elif kind == "compile":
        model = torch.compile(model, dynamic=False)

    def run(rows):
        padded, mask = np.zeros((1, slots), np.int64), np.zeros((1, slots), np.float32)
        padded[0, :len(rows)], mask[0, :len(rows)] = rows, 1
        with torch.inference_mode():
            return model(torch.from_numpy(padded), torch.from_numpy(mask))[0].numpy()
    run([1, 2])  # what compiles does so now
    return run, slots


def with_numpy(tensors):
    items, w, start = tensors[ITEMS], tensors[MAP], tensors[LOGITS]

    def run(rows):
        # A padded slot weighs nothing where interests share the softmax: it can be left out.
        u = items[rows] @ w
        b = start[:, :len(rows)]
        for i in range(PASSES):
            e = np.exp(b - b.max(0))
            z = (e / e.sum(0)) @ u
            n = np.einsum("ij,ij->i", z, z)[:, None]
            v = n / (1 + n) / np.sqrt(n + np.float32(1e-9)) * z
            if i < PASSES - 1:
                b = b + v @ u.T
        return v / np.sqrt(np.einsum("ij,ij->i", v, v))[:, None]
    return run, start.shape[1]


def forward(kind, tensors, threads=1):
    run, slots = with_numpy(tensors) if kind == "numpy" else with_torch(tensors, kind, threads)
    return lambda rows: run(rows[-slots:])

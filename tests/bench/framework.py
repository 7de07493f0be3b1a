"""One framework's time for the interests that bench_model computed: `framework.py torch DIR` or
`framework.py onnxruntime DIR`, run by report.py with whatever interpreter has that framework.

Both take the same forward pass: PyTorch runs it and exports it, ONNX Runtime runs the export. One
thread, the rows of the same users, the best of several rounds; and the answers must agree with
bench_model's, else the figures would mean nothing. Prints "VARIANT BATCH NANOSECONDS" a line."""
import json
import pathlib
import struct
import sys
import time

import numpy as np

USERS, SLOTS, INTERESTS, DIM = 64, 50, 4, 64
ROUNDS = 20
VARIANTS = ["thudm-mind", "thudm-comirec-dr", "thudm-comirec-sa"]
BATCHES = [1, 8, 16]


def read_safetensors(path):
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__", None)
    return {name: np.frombuffer(data, "<f4", offset=8 + size + t["data_offsets"][0],
                                count=int(np.prod(t["shape"]))).reshape(t["shape"])
            for name, t in header.items()}


def users(folder, variant):
    rows = np.fromfile(folder / f"{variant}.rows", "<u4").reshape(USERS, SLOTS).astype(np.int64)
    interests = np.fromfile(folder / f"{variant}.interests", "<f4")
    return rows, interests.reshape(USERS, INTERESTS, DIM)


def measure(run, folder, variant):
    """`run` takes (batch, S) rows and a mask and gives the interests as an array."""
    rows, expected = users(folder, variant)
    mask = np.ones((USERS, SLOTS), "<f4")
    got = np.concatenate([run(rows[i:i + 1], mask[i:i + 1]) for i in range(USERS)])
    off = float(np.abs(got - expected).max())
    if not off < 1e-4:
        sys.exit(f"{variant}: the interests differ by {off}")
    for batch in BATCHES:
        best = float("inf")
        for _ in range(ROUNDS):
            start = time.perf_counter()
            for i in range(0, USERS, batch):
                run(rows[i:i + batch], mask[i:i + batch])
            best = min(best, time.perf_counter() - start)
        print(variant, batch, round(best / USERS * 1e9), flush=True)


def with_torch(folder):
    import torch

    torch.set_num_threads(1)
    weights = {name: torch.from_numpy(array.copy())
               for name, array in read_safetensors(folder / "model.safetensors").items()}

    class Model(torch.nn.Module):
        def __init__(self, names):
            super().__init__()
            self.items = torch.nn.Embedding.from_pretrained(weights["mid_embedding_var"])
            for key, name in names.items():
                self.register_buffer(key, weights[name])

        def vectors(self, rows, mask):
            return self.items(rows) * mask.unsqueeze(-1)

    class Mind(Model):
        def __init__(self):
            capsule = "capsule_network/bilinear/dense/"
            super().__init__({"w": capsule + "kernel", "c": capsule + "bias", "b0": "logits"})

        def forward(self, rows, mask):
            u = torch.matmul(self.vectors(rows, mask), self.w) + self.c
            b = self.b0.expand(rows.shape[0], INTERESTS, SLOTS)
            for i in range(3):
                z = torch.matmul(torch.softmax(b, 1) * mask.unsqueeze(1), u)
                v = squash(z)
                if i < 2:
                    b = b + torch.matmul(v, u.transpose(1, 2))
            return v

    class ComirecDR(Model):
        def __init__(self):
            super().__init__({"w": "capsule_network/bilinear/weights", "b0": "logits"})

        def forward(self, rows, mask):
            e = self.vectors(rows, mask)
            u = torch.bmm(e.transpose(0, 1), self.w[0].transpose(1, 2)).transpose(0, 1)
            u = u.reshape(-1, SLOTS, INTERESTS, DIM).transpose(1, 2)
            b = self.b0.expand(rows.shape[0], INTERESTS, SLOTS)
            for i in range(3):
                w = torch.softmax(b, 1) * mask.unsqueeze(1)
                v = squash(torch.matmul(w.unsqueeze(2), u).squeeze(2))
                if i < 2:
                    b = b + torch.matmul(u, v.unsqueeze(-1)).squeeze(-1)
            return v

    class ComirecSA(Model):
        def __init__(self):
            first, second = "self_atten/dense/", "self_atten/dense_1/"
            super().__init__({"p": "position_embedding", "w1": first + "kernel",
                              "c1": first + "bias", "w2": second + "kernel", "c2": second + "bias"})

        def forward(self, rows, mask):
            e = self.vectors(rows, mask)
            a = torch.matmul(torch.tanh(torch.matmul(e + self.p, self.w1) + self.c1), self.w2)
            a = (a + self.c2).masked_fill(mask.unsqueeze(-1) == 0, -2.0 ** 32)
            return torch.matmul(torch.softmax(a, 1).transpose(1, 2), e)

    def squash(z):
        n = (z * z).sum(-1, keepdim=True)
        return n / (1 + n) / torch.sqrt(n + 1e-9) * z

    def runner(model):
        def run(rows, mask):
            with torch.inference_mode():
                return model(torch.from_numpy(rows), torch.from_numpy(mask)).numpy()
        return run

    for variant, kind in zip(VARIANTS, (Mind, ComirecDR, ComirecSA)):
        model = kind().eval()
        measure(runner(model), folder, variant)
        example = torch.ones(1, SLOTS, dtype=torch.int64), torch.ones(1, SLOTS)
        torch.onnx.export(model, example, str(folder / f"{variant}.onnx"), opset_version=13,
                          input_names=["rows", "mask"], output_names=["interests"],
                          dynamic_axes={name: {0: "batch"}
                                        for name in ("rows", "mask", "interests")})


def with_onnxruntime(folder):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    for variant in VARIANTS:
        session = onnxruntime.InferenceSession(str(folder / f"{variant}.onnx"), options,
                                               providers=["CPUExecutionProvider"])
        measure(lambda rows, mask: session.run(None, {"rows": rows, "mask": mask})[0], folder,
                variant)


if __name__ == "__main__":
    {"torch": with_torch, "onnxruntime": with_onnxruntime}[sys.argv[1]](pathlib.Path(sys.argv[2]))

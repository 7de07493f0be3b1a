"""The service a team would otherwise write: FastAPI, PyTorch, Faiss and redis-py, doing what
recalld's POST /recall does. A user's history from Redis, interests from MIND, K searches, one list
without duplicates and without the history, JSON.

    PEER='{"bundle": DIR, "redis": SOCKET, ...}' uvicorn service:app --workers 2 ...

CHOICES below are the ways to write it that compare.py tries. Everything that can be done once is
done at the start; each worker process has a copy of everything."""
import json
import os
import pathlib
import threading

import faiss
import numpy as np
import orjson
import redis
import redis.asyncio
from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic import BaseModel
from safetensors.numpy import load_file

import mind

CHOICES = {
    "model": "torch",      # torch, jit, compile, numpy: see mind.py
    "index": "flat",       # flat, hnsw, fastscan, or numpy: a matrix product and a partition
    "effort": 0,           # efSearch; how many times k a fast scan hands on
    "take": 0,             # rows of each interest; 0 = as many as are wanted of all, and the history
    "endpoint": "async",   # or sync: a thread pool and the blocking Redis client
    "checked": False,      # pydantic models in and out instead of orjson by hand
    "threads": 1,          # of Faiss and PyTorch; 0 = theirs to choose, which is every core
    "blas": False,         # Faiss multiplies with its BLAS even for four queries
    "redis": "",           # path of the socket
    "bundle": "",
}
READ = 100  # newest elements read of a history, as recalld reads
C = CHOICES | json.loads(os.environ["PEER"])


# ---- what is loaded once -----------------------------------------------------------------------


def unit(x):
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)


class Matrix:
    """Exact search without Faiss."""

    def __init__(self, vectors):
        self.columns = np.ascontiguousarray(vectors.T)

    def search(self, queries, k):
        scores = queries @ self.columns
        best = np.argpartition(scores, -k, axis=1)[:, -k:]
        return np.take_along_axis(scores, best, 1), best


class Graph:
    """The very index that recalld serves: a bundle's shard is an ordinary Faiss file."""

    def __init__(self, path, effort):
        self.index = faiss.read_index(str(path))
        self.look(effort)

    def look(self, effort):
        self.parameters = faiss.SearchParametersHNSW(efSearch=effort)

    def search(self, queries, k):
        return self.index.search(queries, k, params=self.parameters)


def flat(vectors):
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index


def fastscan(vectors, effort):
    """Every row by 4-bit codes in registers, the best k * effort of them again by the vectors."""
    dim = vectors.shape[1]
    index = faiss.index_factory(dim, f"PQ{dim // 2}x4fs,RFlat", faiss.METRIC_INNER_PRODUCT)
    index.train(vectors[:262144])
    index.add(vectors)
    index.k_factor = effort
    return index


def make_index(tensors, folder):
    if C["index"] == "hnsw":
        return Graph(folder / "shards/0000.faiss", C["effort"])
    vectors = unit(tensors[mind.ITEMS][1:])
    if C["index"] == "numpy":
        return Matrix(vectors)
    return flat(vectors) if C["index"] == "flat" else fastscan(vectors, C["effort"])


def load():
    folder = pathlib.Path(C["bundle"])
    if C["threads"]:
        faiss.omp_set_num_threads(C["threads"])
    if C["blas"]:
        faiss.cvar.distance_compute_blas_threshold = 1
    tensors = load_file(folder / "weights.safetensors")
    lines = (folder / "items.tsv").read_text(encoding="utf-8").splitlines()[1:]
    pairs = [line.split("\t")[:2] for line in lines]
    names = [""] * len(tensors[mind.ITEMS])
    for row, name in pairs:
        names[int(row)] = name
    return (mind.forward(C["model"], tensors, C["threads"]), make_index(tensors, folder), names,
            {name.encode(): int(row) for row, name in pairs})


interests_of, index, ids, rows_of = load()
place, alone = np.zeros(len(ids), np.int64), threading.Lock()  # see merge()


# ---- one request ---------------------------------------------------------------------------------


def merge(scores, found, history, n):
    """The n best of all interests' hits: rows, scores, interests. A row's last write into `place`
    is its best hit, so that all others know that they are duplicates."""
    k = found.shape[1]
    flat_scores, flat_rows = scores.ravel(), found.ravel() + 1
    order = np.argsort(-flat_scores, kind="stable")
    rows, ranks = flat_rows[order], np.arange(len(order))
    with alone:
        place[rows[::-1]] = ranks[::-1]
        place[history] = -1
        kept = order[place[rows] == ranks][:n]
    return flat_rows[kept], flat_scores[kept], kept // k


def recall(user, n, elements):
    """`elements` as Redis has them, newest first."""
    known = [row for row in map(rows_of.get, reversed(elements)) if row is not None]
    if not known:
        return {"user_id": user, "items": []}
    scores, found = index.search(interests_of(known), C["take"] or n + len(known))
    items = zip(*(part.tolist() for part in merge(scores, found, known, n)))
    return {"user_id": user, "history": len(known),
            "items": [{"id": ids[row], "score": score, "interest": interest}
                      for row, score, interest in items]}


# ---- HTTP ----------------------------------------------------------------------------------------

app = FastAPI()


class Ask(BaseModel):
    user_id: str
    n: int = 200


class Item(BaseModel):
    id: str
    score: float
    interest: int


class Answer(BaseModel):
    user_id: str
    history: int = 0
    items: list[Item]


def rendered(answer):
    return Response(orjson.dumps(answer), media_type="application/json")


if C["endpoint"] == "sync":
    store = redis.Redis(unix_socket_path=C["redis"])

    @app.post("/recall")
    def recall_sync(ask: Ask) -> Response:
        elements = store.lrange("hist:" + ask.user_id, 0, READ - 1)
        return rendered(recall(ask.user_id, ask.n, elements))
else:
    store = redis.asyncio.Redis(unix_socket_path=C["redis"], max_connections=64)

    if C["checked"]:
        @app.post("/recall", response_model=Answer)
        async def recall_checked(ask: Ask):
            elements = await store.lrange("hist:" + ask.user_id, 0, READ - 1)
            return recall(ask.user_id, ask.n, elements)
    else:
        @app.post("/recall")
        async def recall_by_hand(request: Request):
            ask = orjson.loads(await request.body())
            elements = await store.lrange("hist:" + ask["user_id"], 0, READ - 1)
            return rendered(recall(ask["user_id"], ask.get("n", 200), elements))


@app.get("/readyz")
async def ready():
    return {"pid": os.getpid()}

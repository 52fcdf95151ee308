"""Vectors with their raw ids, in parts, as other systems load them.

``parquet`` has the columns ``id`` and ``vector`` (a list of float32): BigQuery, Milvus, LanceDB, DuckDB and Spark read
it. ``json`` has a line ``{"id": "…", "embedding": […]}`` for each: what Vertex AI Vector Search takes. The metric is
the inner product.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diffrec_jax.serving.recommender import Recommender
from diffrec_jax.serving.vocabulary import id_array

VECTOR_FILES = ("parquet", "json")
ROWS_PER_PART = 100_000


def check_vector_files(files: Sequence[str]) -> None:
    """Refuse what is no kind of file.

    Raises:
      ValueError: with what there is.
    """
    for kind in files:
        if kind not in VECTOR_FILES:
            raise ValueError(f"files={kind} is unknown: choose from {', '.join(VECTOR_FILES)}, or none for .npy alone")


def write_vector_files(recommender: Recommender, folder: Path, files: Sequence[str], *, users: bool) -> None:
    """``items/part-….parquet`` and so on, and ``users/…`` of all known users with a history, if asked."""
    vocabulary = recommender.vocabulary
    vectors = recommender.item_vectors()
    for kind in files:
        _write(folder / "items", kind, ((ids, vectors[rows]) for rows, ids in _parts(vocabulary.item_ids)))
        if users:
            of_users = ((ids, recommender.user_vectors(users=ids)) for _, ids in _parts(vocabulary.user_ids))
            _write(folder / "users", kind, of_users)


def _parts(ids: np.ndarray) -> list[tuple[slice, np.ndarray]]:
    pieces = [slice(start, start + ROWS_PER_PART) for start in range(0, max(len(ids), 1), ROWS_PER_PART)]
    return [(piece, ids[piece]) for piece in pieces]


def _write(folder: Path, kind: str, parts: Iterator[tuple[np.ndarray, np.ndarray]]) -> None:
    folder.mkdir(exist_ok=True)
    for number, (ids, vectors) in enumerate(parts):
        place = folder / f"part-{number:05d}.{kind}"
        if kind == "parquet":
            flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
            offsets = pa.array(np.arange(len(ids) + 1, dtype=np.int32) * vectors.shape[1])
            pq.write_table(pa.table({"id": id_array(ids), "vector": pa.ListArray.from_arrays(offsets, flat)}), place)
            continue
        with place.open("w", encoding="utf-8") as out:
            for id_, vector in zip(ids.tolist(), vectors.tolist()):
                out.write(json.dumps({"id": str(id_), "embedding": vector}, ensure_ascii=False) + "\n")

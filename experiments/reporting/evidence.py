"""The evidence behind a result: what a model did for every user and with every item, as Parquet beside ``result.json``.

``per_user.parquet``: ``user`` (raw id), ``history`` and ``held_out`` (how many items), one column for each metric at
each K; users with held-out items only. ``per_item.parquet``: ``item`` (raw id), ``popularity`` (training users),
``truth`` (users it was held out of), and for each K ``listed`` (lists that hold it) and ``hits`` (rightly so).
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diffrec_jax import files
from diffrec_jax.data.events import merge
from diffrec_jax.data.splits import Split
from diffrec_jax.evaluation import Evaluation
from diffrec_jax.held_out import joined
from diffrec_jax.serving.vocabulary import id_array

PER_USER, PER_ITEM = "per_user.parquet", "per_item.parquet"


def write(folder: Any, evaluation: Evaluation, split: Split, *, with_valid: bool = False) -> None:
    """Leave both files in ``folder``."""
    history = joined(split.train.csr(), None if split.context is None else split.context.csr())
    lengths = (merge(history, split.valid.csr()) if with_valid else history).lengths()[evaluation.users]
    held_out = np.bincount(split.test.csr().once().users(), minlength=split.n_users)[evaluation.users]
    users = {"user": id_array(split.user_ids[evaluation.users]), "history": pa.array(lengths.astype(np.int32))}
    users |= {"held_out": pa.array(held_out.astype(np.int32))}
    users |= {name: pa.array(values.astype(np.float32)) for name, values in evaluation.per_user.items()}
    items = {"item": id_array(split.item_ids)}
    items |= {name: pa.array(values) for name, values in evaluation.per_item.items()}
    for name, columns in ((PER_USER, users), (PER_ITEM, items)):
        content = io.BytesIO()
        pq.write_table(pa.table(columns), content)
        files.write_atomically(folder / name, content.getvalue())


def read(folder: Path, name: str) -> dict[str, np.ndarray]:
    """The columns of one of the two files.

    Raises:
      ValueError: if it is missing or damaged.
    """
    path = folder / name
    if not path.is_file():
        raise ValueError(
            f"{folder} has no {name}, because its result comes from an older version: delete its result.json and run "
            "its command again, which only evaluates anew"
        )
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete result.json there and run its command again") from None
    return {column: table[column].to_numpy() for column in table.column_names}

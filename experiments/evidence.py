"""The evidence behind a result: what a model did for every user and with every item, as Parquet beside ``result.json``.

``per_user.parquet``: ``user`` (raw id), ``history`` and ``held_out`` (how many items), one column for each metric at
each K; users with held-out items only. ``per_item.parquet``: ``item`` (raw id), ``popularity`` (training users),
``truth`` (users it was held out of), and for each K ``listed`` (lists that hold it) and ``hits`` (rightly so).
"""

import hashlib
import io
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from diffrec_jax import api, files
from diffrec_jax.data.interactions import merge
from diffrec_jax.data.splits import Split
from diffrec_jax.evaluation import KS, Evaluation
from diffrec_jax.mesh import make_mesh
from diffrec_jax.models.baselines import EASE, Popularity
from diffrec_jax.models.contract import Scorer
from diffrec_jax.serving.vocabulary import id_array
from experiments.config import Config

PER_USER, PER_ITEM = "per_user.parquet", "per_item.parquet"


def write(folder: Any, evaluation: Evaluation, split: Split, *, with_valid: bool = False) -> None:
    """Leave both files in ``folder``."""
    history = split.train.csr()
    lengths = (merge(history, split.valid.csr()) if with_valid else history).lengths()[evaluation.users]
    held_out = np.bincount(split.test.csr().users(), minlength=split.n_users)[evaluation.users]
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


def baselines(
    config: Config, split: Split, fitted: api.Fitted, *, fingerprint: str
) -> tuple[dict[str, Any], list[str]]:
    """Results of popularity and EASE on the same test, with their evidence in ``baselines/`` of the run folder.

    A sibling run on the same data leaves nothing to compute: its copy is taken.

    Returns:
      ``{name: record}`` and sentences about what was left out.
    """
    records: dict[str, Any] = {}
    notes: list[str] = []
    with_valid = config.eval_history == "train+valid"
    kept: dict[str, Scorer] = {"popularity": Popularity(), "ease": EASE()}
    for name, model in kept.items():
        if not model.fits(split.n_items):
            size = model.bytes_needed(split.n_items) / 2**30
            notes.append(
                f"{type(model).__name__} is left out: its matrices over {split.n_items:,} items would take "
                f"{size:,.0f} GiB."
            )
            continue
        evaluated = [list(config.ks)] if config.ks != KS else []  # folders of older versions are found again
        identity = json.dumps([fingerprint, repr(model), config.eval_history, *evaluated])
        folder = (
            epath.Path(config.workdir) / "baselines" / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
        )
        if not (folder / "result.json").is_file():
            _copy_from_a_sibling(folder)
        if not (folder / "result.json").is_file():
            began = time.perf_counter()
            mesh = make_mesh(devices=jax.local_devices()) if fitted.mesh.is_multi_process else fitted.mesh
            baseline = api.fit(model, split.train, split.valid, mesh=mesh)
            test = api.evaluate(baseline, split.test, with_valid=with_valid, ks=config.ks)
            folder.mkdir(parents=True, exist_ok=True)
            write(folder, test, split, with_valid=with_valid)
            seconds = {"evaluate": test.seconds, "compile": test.compile_seconds}
            total = time.perf_counter() - began
            seconds |= {"train": total - sum(seconds.values()), "total": total}
            record = {
                "model": name,
                "dataset": split.name,
                "test": test.means(),
                "beyond": test.beyond,
                "ties": test.ties,
                "seconds": {key: round(value, 3) for key, value in seconds.items()},
                "parameters": baseline.result.parameters,
                "split": split.rule,
                "noise": config.noise,
                "eval_history": config.eval_history,
                "data": fingerprint,
            }
            files.write_atomically(folder / "result.json", json.dumps(record, indent=2) + "\n")
        records[name] = json.loads((folder / "result.json").read_text())
    return records, notes


def _copy_from_a_sibling(folder: epath.Path) -> None:
    """Copy what a run beside this one has computed, ``result.json`` last."""
    runs = files.absolute(folder).parents[2]
    for found in sorted(runs.glob(f"*/baselines/{folder.name}/result.json")):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            for name in (PER_USER, PER_ITEM, found.name):
                files.write_atomically(folder / name, found.with_name(name).read_bytes())
        except OSError:  # gone meanwhile, or half there: compute it
            continue
        return

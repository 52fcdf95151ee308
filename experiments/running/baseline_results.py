"""Popularity and EASE on the test of a run, computed once for runs that lie together, with their evidence."""

import hashlib
import json
import time
from typing import Any

import jax
from etils import epath

from diffrec_jax import api, files
from diffrec_jax.data.splits import Split
from diffrec_jax.evaluation import KS
from diffrec_jax.mesh import make_mesh
from diffrec_jax.models.baselines import EASE, Popularity
from diffrec_jax.models.contract import Scorer
from experiments.reporting import evidence
from experiments.settings.config import Config


def beside(config: Config, split: Split, fitted: api.Fitted, *, fingerprint: str) -> tuple[dict[str, Any], list[str]]:
    """Results of popularity and EASE on the same test, with their evidence in ``baselines/`` of the run folder.

    A sibling run on the same data leaves nothing to compute: its copy is taken.

    Returns:
      ``{name: record}`` and sentences about what was left out.
    """
    records: dict[str, Any] = {}
    notes: list[str] = []
    with_valid = config.evaluation.eval_history == "train+valid"
    kept: dict[str, Scorer] = {"popularity": Popularity(), "ease": EASE()}
    for name, model in kept.items():
        if not model.fits(split.n_items):
            size = model.bytes_needed(split.n_items) / 2**30
            notes.append(
                f"{type(model).__name__} is left out: its matrices over {split.n_items:,} items would take "
                f"{size:,.0f} GiB (--model=block_ease is a linear model for such catalogues)."
            )
            continue
        evaluated: list[Any] = [list(config.evaluation.ks)] if config.evaluation.ks != KS else []
        evaluated += [] if config.evaluation.mask_seen else ["unmasked"]  # folders of older versions are found again
        evaluated += [f"{config.evaluation.test_users} users"] if config.evaluation.test_users else []
        identity = json.dumps([fingerprint, repr(model), config.evaluation.eval_history, *evaluated])
        folder = (
            epath.Path(config.run.workdir)
            / "baselines"
            / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
        )
        if not (folder / "result.json").is_file():
            _copy_from_a_sibling(folder)
        if not (folder / "result.json").is_file():
            began = time.perf_counter()
            mesh = make_mesh(devices=jax.local_devices()) if fitted.mesh.is_multi_process else fitted.mesh
            baseline = api.fit(
                model,
                split.train,
                split.valid,
                context=split.context,
                mesh=mesh,
                mask_seen=config.evaluation.mask_seen,
            )
            test = api.evaluate(baseline, split.test, with_valid=with_valid, **config.test_arguments)
            folder.mkdir(parents=True, exist_ok=True)
            evidence.write(folder, test, split, with_valid=with_valid)
            seconds = {"evaluate": test.seconds, "compile": test.compile_seconds}
            total = time.perf_counter() - began
            seconds |= {"train": total - sum(seconds.values()), "total": total}
            record = {
                "model": name,
                "dataset": split.name,
                "test": test.means(),
                "ranking": test.ranking,
                "rankings": test.other_means(),
                "beyond": test.beyond,
                "ties": test.ties,
                "seconds": {key: round(value, 3) for key, value in seconds.items()},
                "parameters": baseline.result.parameters,
                "split": split.rule,
                "noise": config.data.noise,
                "eval_history": config.evaluation.eval_history,
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
            for name in (evidence.PER_USER, evidence.PER_ITEM, found.name):
                files.write_atomically(folder / name, found.with_name(name).read_bytes())
        except OSError:  # gone meanwhile, or half there: compute it
            continue
        return

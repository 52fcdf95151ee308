"""From nothing to titles: DiffRec on MovieLens-100K beside popularity and EASE, and what three users would be shown.

    python -m experiments.quickstart
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from diffrec_jax import api
from diffrec_jax.data.catalog import DatasetUnavailable
from diffrec_jax.data.splits import Split
from experiments import cli, run, source
from experiments.config import Config

USERS = 3
SHOWN = 5


def main(argv: Sequence[str]) -> int:
    """Train, print the table, show recommendations; the exit code."""
    config = cli.parse([argv[0], "--dataset=ml-100k", "--workdir=runs/quickstart", *argv[1:]], usage=__doc__ or "")
    console = Console(width=None if sys.stdout.isatty() else 110, soft_wrap=not sys.stdout.isatty())
    try:
        split = source.load(config)
    except DatasetUnavailable as error:
        console.print(f"{error}\nGoing on with a synthetic data set instead.", highlight=False)
        config = dataclasses.replace(config, dataset="synthetic", workdir=config.workdir + "-synthetic")
        split = source.load(config)
    code = run.run(config, console)
    if code == 0:
        show_recommendations(config, split, console)
        console.print(f"\nnext: python -m experiments.run --dataset={config.dataset} --seed=1", highlight=False)
    return code


def show_recommendations(config: Config, split: Split, console: Console) -> None:
    """The last items of three users, and the recommended ones, by title."""
    fitted = restored(config, split)
    train = fitted.train
    lengths = train.lengths()
    users = np.argsort(-lengths, kind="stable")[len(lengths) // 4 :: len(lengths) // 4][:USERS]
    items, _ = fitted.recommend([int(u) for u in users], k=SHOWN)
    for user, recommended in zip(users, items):
        history = train.indices[train.indptr[user] : train.indptr[user + 1]]
        console.print(f"\n[bold]user {split.user_ids[user]}[/bold], the last of {len(history)} items:")
        for item in history[-SHOWN:]:
            console.print(f"    {title(split, item)}", highlight=False, markup=False)
        console.print("  recommended:")
        for rank, item in enumerate(recommended, 1):
            console.print(f"  {rank}. {title(split, item)}", highlight=False, markup=False)


def title(split: Split, item: int) -> str:
    """An item's title, or its id where it has none."""
    return str(split.item_ids[item] if split.item_titles is None else split.item_titles[item])


def restored(config: Config, split: Split) -> api.Fitted:
    """The finished run's model: the same call as the run's, which finds everything done."""
    result = json.loads((Path(config.workdir) / "result.json").read_text())
    return api.fit(
        config.build_model(),
        split.train,
        split.valid,
        workdir=config.workdir,
        seed=config.seed,
        batch_size=config.batch_size,
        epochs=result["epochs_run"],
        eval_every=config.eval_every,
        patience=config.patience,
        prng_impl=config.prng_impl,
    )


if __name__ == "__main__":
    sys.exit(cli.guarded(main))

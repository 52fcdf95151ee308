"""The first run of a person: on MovieLens-100K or, if that cannot be fetched, on synthetic data; titles at the end."""

import numpy as np
from rich.console import Console

import diffrec_jax
from diffrec_jax.data.datasets import DatasetUnavailable
from diffrec_jax.data.splits import Split
from experiments.running import one_run, source
from experiments.settings import cli
from experiments.settings.config import Config

USERS = 3
SHOWN = 5


def start(config: Config) -> int:
    """Train, print the table, show recommendations; the exit code."""
    if config.run.seeds != 1:
        raise ValueError(f"seeds={config.run.seeds}: the quickstart is one run; several are made by experiments.run")
    if config.run.quiet:
        raise ValueError("quiet means nothing to the quickstart, which is there to be read: drop it")
    console = cli.console()
    try:
        split = source.load(config)
    except DatasetUnavailable as error:
        console.print(f"{error}\nGoing on with a synthetic data set instead.", highlight=False)
        config = config.changed(dataset="synthetic", workdir=config.run.workdir + "-synthetic")
        split = source.load(config)
    code = one_run.run(config, console)
    if code == 0:
        show_recommendations(config, split, console)
        console.print(f"\nnext: python -m experiments.run --dataset={config.data.dataset} --seed=1", highlight=False)
    return code


def show_recommendations(config: Config, split: Split, console: Console) -> None:
    """The last items of three users, and the recommended ones, by title."""
    recommender = diffrec_jax.load(config.run.workdir, model=type(config.network))
    train = recommender.content.train
    lengths = train.lengths()
    users = np.argsort(-lengths, kind="stable")[len(lengths) // 4 :: max(len(lengths) // 4, 1)][:USERS]
    for user in users:
        history = train.indices[train.indptr[user] : train.indptr[user + 1]]
        console.print(f"\n[bold]user {split.user_ids[user]}[/bold], the last of {len(history)} items:")
        for item in history[-SHOWN:]:
            console.print(f"    {recommender.vocabulary.title(item)}", highlight=False, markup=False)
        console.print("  recommended:")
        found = recommender.recommend(users=[split.user_ids[user]], k=SHOWN)
        for rank, item in enumerate(recommender.vocabulary.items(found["item"])[0], 1):
            console.print(f"  {rank}. {recommender.vocabulary.title(item)}", highlight=False, markup=False)

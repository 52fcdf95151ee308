"""The clusters of items that l_diffrec and lt_diffrec need: embeddings made or read, clustered, kept in the run folder.

``embeddings-<key>.npy`` and ``clusters-<key>.npy`` are keyed by a checksum of everything that made them, so that a run
that is taken up again finds its own, and other settings never do.
"""

import dataclasses
import hashlib
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from rich.console import Console

from diffrec_jax import files
from diffrec_jax.data.splits import Split
from diffrec_jax.models.cluster_vae import Clusters
from diffrec_jax.models.clustering import N_STARTS, k_means, remarks, svd_embeddings
from diffrec_jax.models.lightgcn import LightGCN
from diffrec_jax.processes import is_writer, same_everywhere
from experiments.running import source
from experiments.settings.config import Config

WIDTH = 64  # of embeddings made here


def with_clusters(config: Config, split: Split, console: Console) -> Any:
    """The model of a configuration; a latent one with the clusters of this data's items.

    Raises:
      ValueError: for embeddings that do not fit the items, or clusters that cannot be made of them.
      OSError: for a missing file.
    """
    model = config.model
    if not model.needs_clusters:
        return model
    clusters = make_clusters(config, split, console)
    for sentence in remarks(clusters):
        console.print(f"  {sentence}", highlight=False)
    return model.with_clusters(clusters.of_item)


def make_clusters(config: Config, split: Split, console: Console) -> Clusters:
    """Clusters by k-means, from the run folder where they are known."""
    folder, seed = epath.Path(config.run.workdir), config.run.seed
    how, embed = _embeddings(config, split)

    def embeddings() -> np.ndarray:
        began = time.perf_counter()
        found = embed()
        if config.clusters.item_emb in ("lightgcn", "svd"):
            seconds = time.perf_counter() - began
            console.print(f"  item embeddings by {config.clusters.item_emb}: {seconds:.1f} s", highlight=False)
        return found

    def cluster() -> np.ndarray:
        made_here = config.clusters.item_emb in ("lightgcn", "svd")
        found = _kept(folder, "embeddings", how, embeddings) if made_here else embeddings()
        return k_means(found, config.clusters.n_cate, n_items=split.n_items, seed=seed).of_item

    of_item = np.zeros(split.n_items, np.int32)
    if is_writer():
        key = {**how, "n_cate": config.clusters.n_cate, "starts": N_STARTS, "k": seed}
        of_item = _kept(folder, "clusters", key, cluster)
    return Clusters(same_everywhere(of_item))


def _embeddings(config: Config, split: Split) -> tuple[dict[str, Any], Callable[[], np.ndarray]]:
    """What makes the embeddings, for the key, and the function that does."""
    width = min(WIDTH, split.n_users, split.n_items)
    how: dict[str, Any] = {
        "data": source.fingerprint(split),
        "item_emb": config.clusters.item_emb,
        "seed": config.run.seed,
    }
    if config.clusters.item_emb == "lightgcn":
        model = LightGCN(dim=width, seed=config.run.seed)
        return {**how, **dataclasses.asdict(model)}, lambda: np.asarray(model.fit(split.train.csr())["items"])
    if config.clusters.item_emb == "svd":
        return {**how, "dim": width}, lambda: svd_embeddings(split.train.csr(), dim=width, seed=config.run.seed)
    content = _find(config).read_bytes()
    return {**how, "file": hashlib.sha256(content).hexdigest()}, lambda: _read(
        f"item_emb={config.clusters.item_emb}", content
    )


def _find(config: Config) -> Path:
    """The given file: here, or in the folder of the data."""
    folders = (Path(), Path(config.data.data_dir) / config.data.dataset, Path(config.data.dataset))
    for folder in folders:
        if (folder / config.clusters.item_emb).is_file():
            return folder / config.clusters.item_emb
    looked = ", ".join(str((folder / config.clusters.item_emb).absolute()) for folder in folders[:2])
    raise FileNotFoundError(
        f"item_emb={config.clusters.item_emb} is neither lightgcn nor svd, nor a file (looked for {looked}): say "
        "--item_emb=lightgcn to learn embeddings here"
    )


def _read(name: str, content: bytes) -> np.ndarray:
    try:
        return np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{name} is no .npy file of numbers ({error}): delete it, or name another file") from None


def _kept(folder: epath.Path, kind: str, how: dict[str, Any], make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array made by ``how``: from the run folder, or made now and left there."""
    key = hashlib.sha256(json.dumps(how, sort_keys=True).encode()).hexdigest()[:12]
    path = folder / f"{kind}-{key}.npy"
    if path.is_file():
        return _read(str(path), path.read_bytes())
    found = make()
    content = io.BytesIO()
    np.save(content, found)
    files.write_atomically(path, content.getvalue())
    return found

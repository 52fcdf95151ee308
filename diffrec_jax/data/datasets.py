"""Named datasets: where they come from, under which terms, how they are verified and prepared.

``load`` takes a name or a path. A folder in the released layout is looked for first (by path, then under ``data_dir``);
then the public sets below, fetched on first use; then ``synthetic``, which needs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from diffrec_jax.data import public, released, splits, synthetic
from diffrec_jax.data.events import Events
from diffrec_jax.data.fetch import DatasetUnavailable, Source, cache_folder, obtain, verified
from diffrec_jax.data.interactions import Interactions
from diffrec_jax.data.preprocess import prepare
from diffrec_jax.data.splits import Split

__all__ = ["DATASETS", "DatasetUnavailable", "Entry", "load", "read", "state"]

_MOVIELENS_TERMS = "GroupLens: research use, no redistribution without permission, cite Harper and Konstan 2015."
_AUTHORS_TERMS = "No licence stated; made from public ratings, whose own terms hold."
_RATED = "ratings >= 4, {core}-core, per-user temporal 70/10/20"


@dataclass(frozen=True)
class Entry:
    """One named dataset. Without ``sources`` it is a released folder that a person downloads (``where`` says what)."""

    name: str
    title: str
    size: str
    terms: str
    where: str
    sources: tuple[Source, ...] = ()
    reader: Callable[[Path], Events] | None = None
    rating: float | None = None
    core: int = 0
    preparation: str = "as released"


def _grouplens(name: str, title: str, size: str, md5: str, core: int, *others: Source) -> Entry:
    url = f"https://files.grouplens.org/datasets/movielens/{name}.zip"
    return Entry(
        name,
        title,
        size,
        _MOVIELENS_TERMS,
        url,
        (Source(f"{name}.zip", f"md5:{md5}", url=url), *others),
        reader=public.READERS[name],
        rating=4.0,
        core=core,
        preparation=_RATED.format(core=core),
    )


def _authors(name: str, size: str, what: str) -> Entry:
    return Entry(
        name,
        f"{name.rsplit('_', 1)[0]}, the authors' {name.rsplit('_', 1)[1]} split",
        size,
        _AUTHORS_TERMS,
        f"{released.PUBLISHED_AT} ({what})",
    )


_RECBOLE = Source(
    "recbole-1.2.1-py3-none-any.whl",
    "sha256:9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
    package="recbole==1.2.1",
)
_IN_README = "linked in its README"
_GOWALLA = "https://snap.stanford.edu/data/loc-gowalla_totalCheckins.txt.gz"

DATASETS: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        _grouplens(
            "ml-100k", "MovieLens 100K", "100,000 ratings, 5 MB", "0e33842e24a9c977be4e0107933c0723", 5, _RECBOLE
        ),
        _grouplens("ml-1m", "MovieLens 1M", "1,000,209 ratings, 6 MB", "c4d9eecfca2ab87c1945afe126590906", 10),
        _grouplens("ml-20m", "MovieLens 20M", "20,000,263 ratings, 199 MB", "cd245b17a1ae2cc31bb14903e1204af3", 10),
        Entry(
            "gowalla",
            "Gowalla check-ins (SNAP)",
            "6,442,892 check-ins, 106 MB",
            "SNAP: research use, cite Cho, Myers and Leskovec 2011.",
            _GOWALLA,
            (Source("loc-gowalla_totalCheckins.txt.gz", "md5:8ebd5ed2dd376d8982987c49429cb9f9", url=_GOWALLA),),
            reader=public.read_gowalla,
            core=10,
            preparation="first visits, 10-core, per-user temporal 70/10/20",
        ),
        _authors("ml-1m_clean", "571,531 interactions", "datasets/ml-1m_clean.rar"),
        _authors("ml-1m_noisy", "5,949 users x 3,494 items", "datasets/ml-1m_noisy.rar"),
        _authors("yelp_clean", "1,402,736 interactions", _IN_README),
        _authors("yelp_noisy", "54,574 users x 77,405 items", _IN_README),
        _authors("amazon-book_clean", "3,146,256 interactions", _IN_README),
        _authors("amazon-book_noisy", "108,822 users x 178,181 items", _IN_README),
        Entry("synthetic", "Synthetic, seeded", "about 40,000 events", "None needed.", "made on the spot"),
    )
}


def load(dataset: str, *, data_dir: str | Path, cache_dir: str | Path | None = None) -> Split:
    """A dataset by name or path, prepared and split.

    Args:
      dataset: a folder in the released layout (path, or name under ``data_dir``), or a name in ``DATASETS``.
      data_dir: where released folders lie.
      cache_dir: where fetched files are kept; see ``fetch.cache_folder``.

    Raises:
      FileNotFoundError: for an unknown name or a missing folder.
      DatasetUnavailable: where a public set can be neither found nor fetched.
      ValueError: for malformed files.
    """
    for folder in (Path(dataset), Path(data_dir) / dataset):
        if folder.is_dir() and (released.is_released(folder) or dataset not in DATASETS):
            return released.read_released(folder)
    entry = DATASETS.get(dataset)
    if entry is None:
        raise FileNotFoundError(
            f"no dataset {dataset!r}: not a folder, not under {Path(data_dir).resolve()}, and not one of "
            f"{', '.join(DATASETS)}. A folder needs train_list.npy, valid_list.npy and test_list.npy; "
            f"the authors publish theirs at {released.PUBLISHED_AT}"
        )
    if entry.name == "synthetic":
        return splits.temporal(synthetic.generate(seed=0).k_core(5), name="synthetic")
    data = prepare(read(entry.name, data_dir=data_dir, cache_dir=cache_dir), rating=entry.rating, core=entry.core)
    return splits.temporal(data, name=entry.name)


def read(name: str, *, data_dir: str | Path = ".", cache_dir: str | Path | None = None) -> Interactions:
    """The raw log of a public set (all ratings, nothing filtered), fetched on first use; errors as in ``load``."""
    entry = DATASETS.get(name)
    if entry is None or name == "synthetic":
        logs = ", ".join(e.name for e in DATASETS.values() if e.reader)
        raise FileNotFoundError(f"no public log named {name!r}; there are {logs}")
    if entry.reader is None:
        raise FileNotFoundError(
            f"{name} is not here and cannot be fetched: download it from {entry.where}, and put train_list.npy, "
            f"valid_list.npy and test_list.npy into {(Path(data_dir) / name).resolve()}"
        )
    path, source = obtain(entry.sources, cache_dir=cache_dir)
    data = Interactions.of(entry.reader(path))
    origin = f"{entry.title}, from {source.url or 'the package ' + source.package}; terms: {entry.terms}"
    return replace(data, notes=(origin, *data.notes))


def state(name: str, *, data_dir: str | Path, cache_dir: str | Path | None = None) -> str:
    """'here', 'fetchable' or 'by hand', without touching the network."""
    entry = DATASETS[name]
    if name == "synthetic" or released.is_released(Path(data_dir) / name):
        return "here"
    if not entry.sources:
        return "by hand"
    folder = cache_folder(cache_dir)
    return "here" if any(verified(folder / s.file, s.checksum) for s in entry.sources) else "fetchable"

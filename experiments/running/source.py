"""From ``Config`` to a split: a named dataset or somebody's own log, prepared, split, and noisy if asked."""

import dataclasses
import hashlib
import importlib.util
from pathlib import Path

from diffrec_jax.data import datasets, noise, prepared, preprocess, readers, released, sessions, splits
from diffrec_jax.data.events import Events
from diffrec_jax.data.prepared.recipe import RULES
from diffrec_jax.data.splits import Split
from diffrec_jax.files import is_remote
from diffrec_jax.memory import free_memory
from diffrec_jax.options import options_of
from experiments.running import fingerprints
from experiments.settings import own_splits
from experiments.settings.config import Config
from experiments.settings.data_options import DataOptions
from experiments.settings.recipes import recipe_of, titles_of

FOR_THE_ENGINE = 0.5  # of the memory that is free, where a log is prepared on the way


def load(config: Config) -> Split:
    """The interactions of a run; its ``notes`` are what a person should read."""
    check_noise(config)
    return _log(config) if config.data.data else _dataset(config)


def check_noise(config: Config) -> None:
    """Refuse natural noise for data that came without its low ratings, before anything is read."""
    entry = datasets.DATASETS.get(config.data.dataset)
    if config.data.noise.startswith("natural") and not config.data.data and (entry is None or entry.rating is None):
        raise ValueError(
            f"noise={config.data.noise} adds low ratings, which {config.data.name} comes without: use a log "
            "with ratings, such as --dataset=ml-100k, or random noise"
        )


def fingerprint(split: Split) -> str:
    """A checksum of the interactions and their ids, so that a run is never taken up with other data."""
    return fingerprints.fingerprint(split)


def state_of_files(config: Config) -> str | None:
    """Tells whether the files of the data were changed, without reading them: a checksum of their sizes and times.

    Named public sets, which are verified when they are fetched, have none (empty); None if a file is not there.
    """
    if config.data.data:
        places = [Path(path) for path in (config.data.data, config.data.valid_data, config.data.test_data) if path]
    else:
        folders = (Path(config.data.dataset), Path(config.data.data_dir) / config.data.dataset)
        folder = next((folder for folder in folders if folder.is_dir()), None)
        if folder is None:
            return "" if config.data.dataset in datasets.DATASETS else None
        places = [folder / f"{part}_list.npy" for part in released.PARTS]
    digest = hashlib.sha256()
    for place in places:
        if not place.exists():
            return None
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if file.is_file() and not file.name.startswith((".", "_")):
                found, name = file.stat(), file.relative_to(place).as_posix()
                digest.update(f"{name} {found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _dataset(config: Config) -> Split:
    entry = datasets.DATASETS.get(config.data.dataset)
    if entry is not None and entry.reader is None:  # a released folder, not a log
        entry = None
    rule = own_splits.rule(config.data)
    if rule and entry is None:
        said = next(name for name in ("split", "split_shares", "split_dates") if getattr(config.data, name))
        raise ValueError(
            f"{said}={getattr(config.data, said)} cannot change {config.data.dataset}, which comes split: drop it"
        )
    if not rule:
        split = datasets.load(config.data.dataset, data_dir=config.data.data_dir)
    if entry is None or not (rule or config.data.noise):
        return _noisy(config, split, None, 4.0)
    raw = datasets.read(config.data.dataset, data_dir=config.data.data_dir)
    if rule:
        split = dataclasses.replace(_split(config, raw, rating=entry.rating, core=entry.core), name=config.data.dataset)
    return _noisy(config, split, raw, 4.0 if entry.rating is None else entry.rating)


def _log(config: Config) -> Split:
    if prepared.is_prepared(config.data.data):
        return _from_folder(config)
    if config.data.test_data:
        return _three_files(config)
    if _too_large(config):
        return _through_a_folder(config)
    raw = _titled(config, _read(config, config.data.data))
    split = dataclasses.replace(
        _split(config, raw, rating=config.data.min_rating, core=config.data.k_core), name=config.data.name
    )
    return _noisy(config, split, raw, 4.0 if config.data.min_rating is None else config.data.min_rating)


def _from_folder(config: Config) -> Split:
    """A log that was prepared before; what was decided then cannot be said again."""
    for option in options_of(DataOptions):
        if (option.about.needs is not None or option.flag.startswith("split")) and getattr(
            config.data, option.name
        ) != option.default:
            raise ValueError(
                f"{option.flag}={getattr(config.data, option.name)} was decided when {config.data.data} was prepared: "
                "drop it, or prepare the log anew"
            )
    split = dataclasses.replace(prepared.read(config.data.data), name=config.data.name)
    return _noisy(config, split, None, 4.0)


def _too_large(config: Config) -> bool:
    """Whether a log is of a kind that an engine beyond memory reads, and memory does not hold it."""
    free, machine = free_memory(), config.machine
    if own_splits.rule(config.data) not in ("", *RULES) or machine.multihost or is_remote(config.run.workdir):
        return False  # no folder is prepared for these: the reader says what it needs
    if free is None or readers.is_text(config.data.data) or not Path(config.data.data).exists():
        return False
    return readers.bytes_to_read(config.data.data) > free and importlib.util.find_spec("duckdb") is not None


def _through_a_folder(config: Config) -> Split:
    """The same log, by way of a prepared folder in the run folder."""
    folder, data = f"{config.run.workdir}/prepared", config.data
    recipe, free = recipe_of(data), free_memory() or 0
    meta = prepared.prepare(
        folder, recipe, engine="duckdb", memory=int(free * FOR_THE_ENGINE), name=data.name, titles=_titles(config)
    )
    split = prepared.read(folder, name=data.name)
    said = f"the log is larger than memory: engine {meta.engine} prepared it into {folder}"
    return _noisy(config, dataclasses.replace(split, notes=(said, *split.notes)), None, 4.0)


def _read(config: Config, path: str) -> Events:
    """One log, with the columns that the flags name."""
    data = config.data
    try:
        return readers.read_log(
            path,
            user=data.session_col or data.user_col or None,
            item=data.item_col or None,
            time=data.time_col or None,
            rating=data.rating_col or None,
            weight=data.weight_col or None,
            delimiter=data.delimiter or None,
            encoding=_encoding(config, path),
            header=data.header,
        )
    except ValueError as error:
        if not data.session_col:
            raise
        raise ValueError(str(error).replace("for the user;", "for the session;")) from error  # which stands there


def _three_files(config: Config) -> Split:
    """A split of one's own: each file filtered for itself, ids shared; without --valid_data no validation part."""
    parts: list[Events | None] = []
    notes = []
    for path in (config.data.data, config.data.valid_data, config.data.test_data):
        if not path:
            parts.append(None)
            continue
        try:
            raw = _read(config, path)
            raw = _titled(config, raw) if path == config.data.data else readers.with_titles(raw, _titles(config))
            part = _prepared(config, raw, rating=config.data.min_rating)
        except ValueError as error:
            raise ValueError(str(error) if path in str(error) else f"{path}: {error}") from error
        notes += [f"{path}: {step}" for step in part.provenance if step.rows_after < step.rows_before]
        parts.append(part)
    train, valid, test = parts
    assert train is not None and test is not None
    split = splits.as_given(train, valid, test, name=config.data.name)
    return _noisy(config, dataclasses.replace(split, notes=(*notes, *split.notes)), None, 4.0)


def _titled(config: Config, raw: Events) -> Events:
    """The log with the titles of a file, if one is named."""
    titles = _titles(config)
    if titles is None:
        return raw
    if not any(str(id_) in titles for id_ in raw.item_ids.tolist()):
        raise ValueError(
            f"titles={config.data.titles} has no title of any item of {config.data.data}: its ids are like "
            f"{next(iter(titles), '(none)')!r} and the log's like {str(raw.item_ids[0])!r}; name their column "
            "(--title_item_col)"
        )
    return readers.with_titles(raw, titles)


def _titles(config: Config) -> dict[str, str] | None:
    """The titles of the items of a log, by their ids as text; None where no file holds them."""
    if not config.data.titles:
        return None
    return titles_of(config.data, encoding=_encoding(config, config.data.titles))


def _encoding(config: Config, path: str) -> str | None:
    """The encoding for one of the two files; of two, Parquet needs none."""
    other = config.data.titles if path == config.data.data else config.data.data
    return (
        config.data.encoding if config.data.encoding and (readers.is_text(path) or not readers.is_text(other)) else None
    )


def _noisy(config: Config, split: Split, raw: Events | None, threshold: float) -> Split:
    if not config.data.noise:
        return split
    ratings = raw if raw is not None and raw.ratings is not None else None
    return noise.apply(config.data.noise, split, ratings=ratings, threshold=threshold, seed=config.data.data_seed)


def _prepared(config: Config, raw: Events, *, rating: float | None, core: int = 0, history: int = 0) -> Events:
    """The log after its filters, repeated pairs dropped or kept; sessions, which are short, need two events."""
    keep = config.data.repeats == "keep"
    data = preprocess.prepare(
        raw,
        rating=rating,
        duplicates=None if keep else config.data.duplicates,
        core=core,
        core_of_users=2 if config.data.session_col else None,
        history=history,
    )
    return preprocess.keep_repeats(data) if keep else data


def _split(config: Config, raw: Events, *, rating: float | None, core: int) -> Split:
    if config.data.split == "diffrec":  # brings its own filters
        threshold = 4.0 if rating is None else rating
        return splits.diffrec(raw, rating=None if raw.ratings is None else threshold)
    data = _prepared(config, raw, rating=rating, core=core, history=config.data.min_history)
    rule = own_splits.rule(config.data)
    if rule == "leave_one_out":
        return splits.leave_one_out(data)
    in_time = sessions.by_session if rule == "sessions" else splits.global_time
    if config.data.split_dates:
        return in_time(data, cuts=own_splits.dates(config.data.split_dates))
    train, valid, test = own_splits.shares(config.data.split_shares or "70,10,20")
    if rule == "random":
        return splits.random(data, train=train, valid=valid, test=test, seed=config.data.data_seed)
    cut = splits.temporal if rule in ("", "temporal") else in_time
    return cut(data, train=train, valid=valid, test=test)

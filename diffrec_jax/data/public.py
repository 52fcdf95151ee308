"""The file formats of the public sets: MovieLens archives, RecBole's copy of ML-100K, SNAP's Gowalla check-ins.

Whatever file a set came from, its log is brought to one canonical form: integer ids, sorted by time, then user, then
item, vocabularies numbered by id. So ML-100K from GroupLens and from RecBole's wheel are the same arrays.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from diffrec_jax.data import readers
from diffrec_jax.data.events import Events


def read_ml100k(path: Path) -> Events:
    """ML-100K out of GroupLens' zip or RecBole's wheel (read as a zip, never installed), with titles."""
    with _archive(path) as archive:
        if path.suffix == ".whl":
            folder = "recbole/dataset_example/ml-100k/ml-100k"
            log = _table(archive.read(f"{folder}.inter"), delimiter="\t")
            table = _table(archive.read(f"{folder}.item"), delimiter="\t", header=True)
            ids, names, years = (table.column(i).to_pylist() for i in range(3))
            titles = {i: _with_year(name, year) for i, name, year in zip(ids, names, years)}
        else:
            log = _table(archive.read("ml-100k/u.data"), delimiter="\t", header=False)
            lines = archive.read("ml-100k/u.item").decode("latin-1").splitlines()
            titles = {fields[0]: tidy_title(fields[1]) for fields in (line.split("|") for line in lines if line)}
    return _rated(log, titles)


def read_ml1m(path: Path) -> Events:
    """ML-1M out of GroupLens' zip: ``::`` between fields, latin-1 titles."""
    with _archive(path) as archive:
        log = _table(archive.read("ml-1m/ratings.dat").replace(b"::", b"\t"), delimiter="\t", header=False)
        lines = archive.read("ml-1m/movies.dat").decode("latin-1").splitlines()
    return _rated(log, {f[0]: tidy_title(f[1]) for f in (line.split("::") for line in lines if line)})


def read_ml20m(path: Path) -> Events:
    """ML-20M out of GroupLens' zip: csv with headers."""
    with _archive(path) as archive:
        readers.check_memory(archive.getinfo("ml-20m/ratings.csv").file_size * 5, path)
        log = _table(archive.read("ml-20m/ratings.csv"), delimiter=",", header=True)
        movies = _table(archive.read("ml-20m/movies.csv"), delimiter=",", header=True)
    titles = dict(zip(movies.column(0).to_pylist(), map(tidy_title, movies.column(1).to_pylist())))
    return _rated(log, titles)


def read_gowalla(path: Path) -> Events:
    """SNAP's Gowalla check-ins: user, ISO 8601 time, latitude, longitude, place; no header."""
    names = ("user", "time", "latitude", "longitude", "venue")
    data = readers.read_csv(path, user="user", item="venue", time="time", delimiter="\t", columns=names)
    return canonical_order(data)


READERS = {"ml-100k": read_ml100k, "ml-1m": read_ml1m, "ml-20m": read_ml20m}


def canonical_order(data: Events) -> Events:
    """The log sorted by time, then user id, then item id, with vocabularies sorted by id."""
    by_user, by_item = np.argsort(data.user_ids, kind="stable"), np.argsort(data.item_ids, kind="stable")
    user_rank, item_rank = np.empty(len(by_user), np.int32), np.empty(len(by_item), np.int32)
    user_rank[by_user] = np.arange(len(by_user), dtype=np.int32)
    item_rank[by_item] = np.arange(len(by_item), dtype=np.int32)
    users, items = user_rank[data.users], item_rank[data.items]
    order = np.lexsort((items, users) if data.times is None else (items, users, data.times))
    return replace(
        data,
        users=users[order],
        items=items[order],
        user_ids=data.user_ids[by_user],
        item_ids=data.item_ids[by_item],
        times=None if data.times is None else data.times[order],
        ratings=None if data.ratings is None else data.ratings[order],
        weights=None if data.weights is None else data.weights[order],
        item_titles=None if data.item_titles is None else data.item_titles[by_item],
    )


def tidy_title(title: str) -> str:
    """One space between words, none around."""
    return " ".join(title.split())


def _with_year(name: str, year: str) -> str:
    """``Toy Story``, ``1995`` -> ``Toy Story (1995)``, as GroupLens writes it; RecBole cut the last bracket off."""
    if year == name:  # item 267 has neither title nor year; misspelt in the wheel
        return "unknown"
    return tidy_title(f"{name} ({year})" if year else name)


def _archive(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is not a whole zip archive ({error}); remove it and fetch it again") from error


def _table(raw: bytes, *, delimiter: str, header: bool = True) -> pa.Table:
    return pa.csv.read_csv(
        io.BytesIO(raw),
        read_options=pa.csv.ReadOptions(autogenerate_column_names=not header),
        parse_options=pa.csv.ParseOptions(delimiter=delimiter, quote_char='"' if delimiter == "," else False),
        convert_options=pa.csv.ConvertOptions(strings_can_be_null=False, null_values=[]),
    )


def _rated(table: pa.Table, titles: Mapping[object, str]) -> Events:
    """User, item, rating, time columns in that order, plus titles by item id."""
    names = table.column_names[:4]
    data = readers.from_frame(table, user=names[0], item=names[1], rating=names[2], time=names[3])
    return canonical_order(readers.with_titles(data, {int(str(i)): title for i, title in titles.items()}))

"""Titles of items: from a file or a mapping, by raw item id, to the items of a log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diffrec_jax.data.delimited import TextFile
from diffrec_jax.data.events import EventsT
from diffrec_jax.data.naming import resolve
from diffrec_jax.types import RawId

Titles: TypeAlias = Mapping[str, str] | Mapping[int, str] | Mapping[RawId, str]  # by raw item id
_FLAGS = {"item": "title_item_col"}


def read_titles(
    path: str | Path, *, item: str | None = None, title: str | None = None, encoding: str | None = None
) -> dict[str, str]:
    """Titles by item id, out of a csv, tsv or Parquet file or RecBole's ``.item``, with a header.

    Args:
      path: the file; ``.gz`` is unpacked while reading. Ids and titles are read as text, without spaces around them.
      item: column of item ids; may be left out where one column has a usual name. The same holds for ``title``.
      title: column of titles. Of several for one item, the first that is not empty counts.
      encoding: of a text file; None is UTF-8.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it cannot be read, or lacks a column.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path} with titles (looked in {path.parent.resolve()})")
    asked = {"item": item, "title": title}
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix in (".parquet", ".pq"):
        if encoding:
            raise ValueError(f"encoding={encoding} means nothing to {path}: Parquet needs none; drop it")
        try:
            names = resolve(pq.read_schema(path).names, asked, path, flags=_FLAGS)
            table = pq.read_table(path, columns=list(names.values()))
            columns = [table.column(names[role]).cast(pa.string()) for role in asked]
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
            raise ValueError(f"{path} cannot be read as Parquet: {str(error).rstrip('.')}") from error
    else:
        file = TextFile.of(path, delimiter="\t" if suffix == ".item" else None, encoding=encoding)
        names = resolve(file.names(), asked, path, typed=suffix == ".item", flags=_FLAGS)
        table, _ = file.read(list(names.values()))
        columns = [table.column(names[role]) for role in asked]
    titles: dict[str, str] = {}
    for id_, text in zip(*(column.to_pylist() for column in columns)):
        if id_ is not None and text is not None and text.strip():
            titles.setdefault(id_.strip(), " ".join(text.split()))
    return titles


def with_titles(data: EventsT, titles: Titles | None) -> EventsT:
    """The log with a title for every item: from ``titles`` by raw id, else the raw id itself.

    A whole-number id may be spelled as text in either place; spaces around it do not count.
    """
    if titles is None:
        return data
    known = {_spelled(id_): title for id_, title in titles.items() if title is not None and title == title}
    found = [known.get(str(id_)) for id_ in data.item_ids.tolist()]
    names = [str(id_) if title is None else title for id_, title in zip(data.item_ids.tolist(), found)]
    missing = found.count(None)
    note = f"titles: {missing:,} of {data.n_items:,} items have none and go by their ids."
    notes = (*data.notes, note) if missing else data.notes
    return replace(data, item_titles=np.array(names, object), notes=notes)


def _spelled(id_: object) -> str:
    """An id as text; whole floats, which frames make of numbers with gaps, as whole numbers."""
    if isinstance(id_, float) and id_.is_integer():
        return str(int(id_))
    return (id_.decode(errors="replace") if isinstance(id_, bytes) else str(id_)).strip()

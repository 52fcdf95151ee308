"""Raw ids on the outside, numbers on the inside: the vocabularies of a model, and search by title.

Ids are what the person's files hold: text or whole numbers. A caller may spell a whole number as text (a query string,
a command line) and the other way round; both find the same entry. Spaces around an id do not count, as where it was
read.
"""

import functools
import re
import unicodedata
import uuid
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from diffrec_jax.types import RawId

_WHOLE_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,18}")  # as an integer of 64 bits prints
EXACT_IN_JAVASCRIPT = 2**53 - 1  # Number.MAX_SAFE_INTEGER


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Users and items of a model, each in the order of their numbers."""

    user_ids: np.ndarray  # [U] int64, or objects of text
    item_ids: np.ndarray  # [I] likewise
    item_titles: np.ndarray | None = None  # [I] text

    @classmethod
    def numbers(cls, n_users: int, n_items: int) -> "Vocabulary":
        """For data that came without ids: their numbers, from 0."""
        return cls(np.arange(n_users, dtype=np.int64), np.arange(n_items, dtype=np.int64))

    @property
    def n_users(self) -> int:
        """U."""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """I."""
        return len(self.item_ids)

    def users(self, ids: Iterable[object]) -> tuple[np.ndarray, list[object]]:
        """User numbers ``[n] int32``, -1 where unknown, and the unknown ids."""
        return _look_up(self._user_numbers, self.user_ids, ids)

    def items(self, ids: Iterable[object]) -> tuple[np.ndarray, list[object]]:
        """Item numbers ``[n] int32``, -1 where unknown, and the unknown ids."""
        return _look_up(self._item_numbers, self.item_ids, ids)

    def title(self, item: int) -> str:
        """The title of an item number; its id where there are no titles."""
        return str((self.item_ids if self.item_titles is None else self.item_titles)[item])

    def in_json(self, item: int) -> str | int:
        """The id of an item number for JSON: text where JavaScript would not read every id of the model exactly."""
        id_: str | int = self.item_ids[item : item + 1].tolist()[0]
        return str(id_) if self._items_as_text else id_

    def search(self, text: str, *, limit: int = 20) -> list[int]:
        """Item numbers whose title (or id) holds every word of ``text``, whatever the case and accents.

        Titles that begin with the text come first, then shorter ones.
        """
        wanted = _fold(text).split()
        if not wanted or limit < 1:
            return []
        whole = " ".join(wanted)
        found = [
            (not title.startswith(whole), len(title), item)
            for item, title in enumerate(self._folded_titles)
            if all(word in title for word in wanted)
        ]
        return [item for _, _, item in sorted(found)[:limit]]

    @functools.cached_property
    def _user_numbers(self) -> dict[RawId, int]:
        return {id_: number for number, id_ in enumerate(self.user_ids.tolist())}

    @functools.cached_property
    def _item_numbers(self) -> dict[RawId, int]:
        return {id_: number for number, id_ in enumerate(self.item_ids.tolist())}

    @functools.cached_property
    def _items_as_text(self) -> bool:
        return not exact_in_javascript(self.item_ids)

    @functools.cached_property
    def _folded_titles(self) -> list[str]:
        ids = [str(id_) for id_ in self.item_ids.tolist()]
        titles = ids if self.item_titles is None else [f"{title} {id_}" for title, id_ in zip(self.item_titles, ids)]
        return [_fold(title) for title in titles]

    def write(self, folder: Path, *, item_columns: dict[str, np.ndarray] | None = None) -> None:
        """Write ``users.parquet`` (id) and ``items.parquet`` (id, title, further columns ``[I]``)."""
        pq.write_table(pa.table({"id": id_array(self.user_ids)}), folder / "users.parquet")
        self.write_items(folder, item_columns)

    def write_items(self, folder: Path, item_columns: dict[str, np.ndarray] | None = None) -> None:
        """Write ``items.parquet`` alone."""
        items = {"id": id_array(self.item_ids)}
        if self.item_titles is not None:
            items["title"] = pa.array([str(title) for title in self.item_titles])
        for name, values in (item_columns or {}).items():
            items[name] = pa.array(values)
        pq.write_table(pa.table(items), folder / "items.parquet")

    @classmethod
    def read(cls, folder: epath.Path) -> tuple["Vocabulary", dict[str, np.ndarray]]:
        """What ``write`` wrote: the vocabulary and the further item columns."""
        users, items = (read_table(folder / f"{name}.parquet") for name in ("users", "items"))
        titles = items["title"].to_numpy(zero_copy_only=False) if "title" in items.column_names else None
        rest = {name: items[name].to_numpy() for name in items.column_names if name not in ("id", "title")}
        return cls(_ids(users["id"]), _ids(items["id"]), titles), rest


def read_table(path: epath.Path) -> pa.Table:
    """A Parquet file, here or on a remote store."""
    with path.open("rb") as file:
        return pq.read_table(file)


def id_array(ids: np.ndarray) -> pa.Array:
    """Ids as an Arrow array: int64, or text."""
    return pa.array(ids) if ids.dtype.kind in "iu" else pa.array([str(id_) for id_ in ids.tolist()], pa.string())


def exact_in_javascript(ids: np.ndarray) -> bool:
    """Whether JavaScript, whose numbers are all float64, reads each of these ids exactly."""
    if ids.dtype.kind not in "iu" or not len(ids):
        return True
    return int(ids.max()) <= EXACT_IN_JAVASCRIPT and int(ids.min()) >= -EXACT_IN_JAVASCRIPT


def _ids(column: pa.ChunkedArray) -> np.ndarray:
    ids: np.ndarray = column.to_numpy(zero_copy_only=False)
    return ids


def _look_up(
    numbers: Mapping[RawId, int], ids_of: np.ndarray, ids: Iterable[object]
) -> tuple[np.ndarray, list[object]]:
    """Numbers of raw ids; those spelled in the other type are tried in the vocabulary's own."""
    ids = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
    whole = ids_of.dtype.kind in "iu"
    kind: type = int if whole else str
    out = np.empty(len(ids), np.int32)
    unknown: list[object] = []
    for place, id_ in enumerate(ids):
        number = numbers.get(id_, -1) if isinstance(id_, str | int) and type(id_) is kind else -1
        number = _number(numbers, id_, whole) if number < 0 else number
        out[place] = number
        if number < 0:
            unknown.append(id_)
    return out, unknown


def _number(numbers: Mapping[RawId, int], id_: object, whole: bool) -> int:
    """The number of an id that is not spelled as in the vocabulary."""
    if isinstance(id_, bool | np.bool_):
        return -1
    if isinstance(id_, int | np.integer):
        return numbers.get(int(id_) if whole else str(id_), -1)
    if isinstance(id_, bytes):
        id_ = id_.decode(errors="replace")
    text = str(id_).strip() if isinstance(id_, str | uuid.UUID) else ""
    if not whole:
        return numbers.get(text, -1)
    return numbers.get(int(text), -1) if _WHOLE_NUMBER.fullmatch(text) else -1


def _fold(text: str) -> str:
    """Lower case without accents."""
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(c for c in decomposed if not unicodedata.combining(c)).casefold()


def lists_to_codes(
    vocabulary: Vocabulary, lists: Sequence[Sequence[object] | np.ndarray]
) -> tuple[np.ndarray, np.ndarray, list[object]]:
    """Several lists of raw item ids at once.

    Returns:
      ``(numbers [n] int32, -1 where unknown; lengths [lists] int64; the unknown ids, each once)``.
    """
    lengths = np.fromiter((len(items) for items in lists), np.int64, len(lists))
    numbers, unknown = vocabulary.items([id_ for items in lists for id_ in items])
    return numbers, lengths, list(dict.fromkeys(map(_hashable, unknown)))


def _hashable(id_: object) -> Hashable:
    return id_ if isinstance(id_, str | int | float | None) else repr(id_)

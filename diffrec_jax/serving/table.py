"""What a recommender answers: columns of equal length, ready for any data frame, and what a person should read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from diffrec_jax.serving import shown
from diffrec_jax.serving.vocabulary import Vocabulary, id_array

AT_MOST_NAMED = 5


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of equal length and notes. ``pandas.DataFrame(table.columns)``, ``polars.DataFrame(table)`` and
    ``pyarrow.table(table)`` read it.

    Attributes:
      columns: name -> ``[n]``.
      notes: sentences: what was skipped, what was answered by popularity, and why.
      unknown_users: ids that are no user of the model; they are skipped.
      unknown_items: ids that are no item of the model; they are left out.
      by_popularity: users (or numbers of histories) without any history, who get the most popular items.
      short: users (or numbers of histories) whose lists are shorter than asked for, because no more items were left.
      vocabulary: of the model; gives items their titles where the table is shown.
    """

    columns: dict[str, np.ndarray]
    unknown_users: tuple[object, ...] = ()
    unknown_items: tuple[object, ...] = ()
    by_popularity: tuple[object, ...] = field(default=())
    short: tuple[object, ...] = ()
    vocabulary: Vocabulary | None = None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    @property
    def notes(self) -> list[str]:
        """What a person should read."""
        sentences = []
        if self.unknown_users:
            sentences.append(f"{_named(self.unknown_users, 'user')} not in the model: skipped.")
        if self.unknown_items:
            sentences.append(f"{_named(self.unknown_items, 'item')} not in the model: left out.")
        if self.by_popularity:
            sentences.append(
                f"{_named(self.by_popularity, 'list')} by popularity, for want of a history; the score is the share of "
                "users who have the item."
            )
        if self.short:
            sentences.append(f"{_named(self.short, 'list')} shorter than asked for: no more items were left.")
        return sentences

    def rows(self) -> Iterator[dict[str, object]]:
        """One dictionary of plain values after the other."""
        names = list(self.columns)
        for values in zip(*(column.tolist() for column in self.columns.values())):
            yield dict(zip(names, values))

    def to_arrow(self) -> pa.Table:
        """An Arrow table; ids are int64 or text."""
        return pa.table({n: id_array(c) if c.dtype.kind in "OUiu" else pa.array(c) for n, c in self.columns.items()})

    def to_pandas(self) -> Any:
        """A pandas data frame.

        Raises:
          ValueError: where pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise ValueError(
                "to_pandas needs pandas: pip install pandas; to_arrow, rows and columns work without it"
            ) from None
        return pandas.DataFrame(self.columns)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        return f"{self.to_arrow().slice(0, 20).to_pydict()!r} ({len(self):,} rows) {' '.join(self.notes)}"

    def _repr_html_(self) -> str:
        return shown.rows_html(self.columns, self.notes, self.vocabulary)


def _named(ids: Sequence[object], what: str) -> str:
    shown = ", ".join(map(str, ids[:AT_MOST_NAMED])) + (", …" if len(ids) > AT_MOST_NAMED else "")
    if what == "list":
        return f"{len(ids):,} list{'s are' if len(ids) > 1 else ' is'} ({shown})"
    return f"{len(ids):,} {what}{'s are' if len(ids) > 1 else ' is'} ({shown})"

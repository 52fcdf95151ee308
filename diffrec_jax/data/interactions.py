"""Interactions: a log of events with everything people do to one before they train on it, as methods.

The methods are a thin front: reading is done in ``readers``, preparation in ``preprocess``, cutting in ``splits``, all
of which know ``Events`` only.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from diffrec_jax.data import preprocess, readers, splits
from diffrec_jax.data.events import CSR, Events, FilterReport, checksum, merge, overlap
from diffrec_jax.data.objects import Values
from diffrec_jax.data.splits import Split
from diffrec_jax.data.titles import Titles

__all__ = ["CSR", "Events", "FilterReport", "Interactions", "Split", "checksum", "merge", "overlap"]


@dataclass(frozen=True, eq=False, repr=False)
class Interactions(Events):
    """Events, read by ``from_…``, prepared by methods that each return a new log, and cut by ``split_by_time``."""

    @classmethod
    def of(cls, events: Events) -> Interactions:
        """The same events, with these methods."""
        return events if isinstance(events, cls) else cls(**{f.name: getattr(events, f.name) for f in fields(events)})

    # Readers ---------------------------------------------------------------------------------------------------------

    @classmethod
    def from_arrays(
        cls,
        users: Values,
        items: Values,
        *,
        times: Values | None = None,
        ratings: Values | None = None,
        weights: Values | None = None,
        item_titles: Titles | None = None,
    ) -> Interactions:
        """From raw ids (strings or integers), optional times (unix s/ms/us, ISO 8601, datetime64), ratings
        and weights (above 0: what an event counts).
        """
        columns = {"times": times, "ratings": ratings, "weights": weights}
        return cls.of(readers.from_arrays(users, items, **columns, item_titles=item_titles))

    @classmethod
    def from_csv(
        cls,
        path: str | Path,
        *,
        user: str | None = None,
        item: str | None = None,
        time: str | None = None,
        rating: str | None = None,
        weight: str | None = None,
        delimiter: str | None = None,
        encoding: str | None = None,
        header: bool = True,
    ) -> Interactions:
        """From a csv or tsv file (.gz too); see ``readers.read_csv``, also for files without a header."""
        columns = {"user": user, "item": item, "time": time, "rating": rating, "weight": weight}
        return cls.of(readers.read_csv(path, **columns, delimiter=delimiter, encoding=encoding, header=header))

    @classmethod
    def from_parquet(
        cls,
        path: str | Path,
        *,
        user: str | None = None,
        item: str | None = None,
        time: str | None = None,
        rating: str | None = None,
        weight: str | None = None,
    ) -> Interactions:
        """From a Parquet file, a folder of them, or hive partitions; see ``readers.read_parquet``."""
        return cls.of(readers.read_parquet(path, user=user, item=item, time=time, rating=rating, weight=weight))

    @classmethod
    def from_frame(
        cls,
        frame: object,
        *,
        user: str | None = None,
        item: str | None = None,
        time: str | None = None,
        rating: str | None = None,
        weight: str | None = None,
    ) -> Interactions:
        """From a pandas, polars or PyArrow table, or anything with the Arrow interface; see ``readers.from_frame``."""
        return cls.of(readers.from_frame(frame, user=user, item=item, time=time, rating=rating, weight=weight))

    # Preparation: each returns a new log and appends its report to ``provenance`` ------------------------------------

    def min_rating(self, threshold: float) -> Interactions:
        """Keep events rated at least ``threshold``."""
        return preprocess.min_rating(self, threshold)

    def deduplicate(self, keep: str = "first") -> Interactions:
        """Keep the first or last event of every (user, item) pair."""
        return preprocess.deduplicate(self, keep)

    def keep_repeats(self) -> Interactions:
        """Let rows hold an item as often as somebody met it; see ``preprocess.keep_repeats``."""
        return preprocess.keep_repeats(self)

    def k_core(self, k: int) -> Interactions:
        """Drop users and items with fewer than ``k`` events until none is left."""
        return preprocess.k_core(self, k)

    def min_history(self, n: int) -> Interactions:
        """Drop users with fewer than ``n`` events, once."""
        return preprocess.min_history(self, n)

    def split_by_time(self, train: float = 0.7, valid: float = 0.1, test: float = 0.2) -> Split:
        """Per user in time order: first share to train, next to valid, last to test; see ``splits.temporal``."""
        return splits.temporal(self, train=train, valid=valid, test=test)

"""The last stage of every engine: users come whole and in order, are split, and leave as files that ``meta`` lists."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from diffrec_jax.data import cuts as cuts_lib
from diffrec_jax.data.events import FilterReport, taken
from diffrec_jax.data.leakage import LeakageCount, Part
from diffrec_jax.data.prepared import folder as files
from diffrec_jax.data.prepared.folder import PARTS, Described, Meta, part_file
from diffrec_jax.data.prepared.recipe import Recipe
from diffrec_jax.data.splits import parts_of
from diffrec_jax.files import write_atomically


@dataclasses.dataclass(frozen=True)
class Shard:
    """The events of the users of one part, by user, then time, then the raw id of the item."""

    users: np.ndarray  # int32 [N] numbers
    items: np.ndarray  # int32 [N]
    times: np.ndarray | None = None  # int64 [N]
    weights: np.ndarray | None = None  # float32 [N]

    def take(self, rows: np.ndarray) -> Shard:
        """Some of the events."""
        return Shard(self.users[rows], self.items[rows], taken(self.times, rows), taken(self.weights, rows))

    def table(self) -> pa.Table:
        """As the file of a part holds it."""
        columns = {"user": self.users, "item": self.items, "time": self.times, "weight": self.weights}
        return pa.table({name: values for name, values in columns.items() if values is not None})

    @classmethod
    def of(cls, table: pa.Table) -> Shard:
        """The events of such a file, or of a stream with columns of these names."""
        columns = {name: np.asarray(table.column(name)) for name in table.column_names}
        return cls(columns["user"], columns["item"], columns.get("time"), columns.get("weight"))


class PartWriter:
    """Writes shard after shard; what was written before it was stopped is taken over."""

    def __init__(
        self, folder: Path, recipe: Recipe, *, n_users: int, n_items: int, n_parts: int, moments: Sequence[int] = ()
    ) -> None:
        """``moments`` begin valid and test, or test alone, where the split is one for everybody."""
        self.folder, self.recipe, self.n_parts, self.moments = folder, recipe, n_parts, tuple(moments)
        self.n_users, self.n_items = n_users, n_items
        self.files: dict[str, Described] = {}
        self.n_events = dict.fromkeys(PARTS, 0)
        self._leakage, self._few = LeakageCount(n_items), 0

    def done(self, part: int) -> bool:
        """Whether a part is there from before; it is then counted as if it had been written now."""
        record = self._record(part)
        if not record.exists():
            return False
        told = json.loads(record.read_text())
        tables = []
        for name, described in told.items():
            try:
                tables.append(pq.ParquetFile(self.folder / name).read())
            except (OSError, pa.ArrowInvalid):
                return False
            if files.described(tables[-1]) != described:
                return False
        self._count(part, [Shard.of(table) for table in tables], told)
        return True

    def write(self, part: int, shard: Shard) -> None:
        """Split one shard and write its three files.

        Raises:
          OSError: if it cannot be written.
        """
        which = self._split(part, shard)
        shards, told = [], {}
        for number, name in enumerate(PARTS):
            own = shard.take(np.flatnonzero(which == number))
            file = part_file(f"events/{name}", part, self.n_parts)
            told[file] = files.write_table(self.folder, file, own.table())
            shards.append(own)
        write_atomically(self._record(part), json.dumps(told))
        self._count(part, shards, told)

    def finish(
        self,
        *,
        name: str,
        ids: Mapping[str, pa.RecordBatchReader],
        notes: Sequence[str],
        reports: Sequence[FilterReport],
        engine: str,
        cut_note: str = "",
    ) -> Meta:
        """Write users and items; what ``meta.json`` is to say.

        Args:
          name: of the data.
          ids: of ``users`` and ``items``, the columns number, id, events, and title, in the order of number.
          notes: how the log was read.
          reports: of the filters.
          engine: what prepared it.
          cut_note: where a split for everybody was cut.

        Raises:
          ValueError: where the split leaves train or test empty.
        """
        empty = [part for part in ("train", "test") if not self.n_events[part]]
        if empty:
            total = f"{sum(self.n_events.values()):,} events of {self.n_users:,} users and {self.n_items:,} items"
            advice = "users need at least three events"
            raise ValueError(f"split {self.recipe.rule!r} leaves {' and '.join(empty)} empty ({total}); {advice}")
        for kind, rows in ids.items():
            file = part_file(kind, 0, 1)
            self.files[file] = files.write_batches(self.folder, file, rows.schema, rows)
        short = () if self.recipe.rule == "global_time" else cuts_lib.short_users(self._few, self.n_users)
        leakage = str(self._leakage.found(self._train_after_test()))
        return Meta(
            name=name,
            rule=self.recipe.rule,
            guarantee=cuts_lib.promise(self.recipe.rule, timed=self.recipe.timed),
            notes=(*notes, *map(str, reports), *((cut_note,) if cut_note else short), leakage),
            n_users=self.n_users,
            n_items=self.n_items,
            n_events=self.n_events,
            n_parts=self.n_parts,
            timed=self.recipe.timed,
            weighed=self.recipe.weighed,
            files=dict(sorted(self.files.items())),
            recipe=self.recipe.record(),
            engine=engine,
            moments=self.moments,
        )

    def _record(self, part: int) -> Path:
        return self.folder / files.WORK / "parts" / f"{part:05d}.json"

    def _split(self, part: int, shard: Shard) -> np.ndarray:
        """Which part of the split every event belongs to, int8 [N]."""
        if self.moments:
            assert shard.times is not None
            later = np.searchsorted(self.moments, shard.times, side="right").astype(np.int8)
            return later * np.int8(3 - len(self.moments))
        users = shard.users // self.n_parts  # 0, 1, 2, … of this part
        n = np.bincount(users, minlength=self._people(part))
        if self.recipe.rule == "leave_one_out":
            return parts_of(users, cuts_lib.last_two_bounds(n))
        return parts_of(users, cuts_lib.share_bounds(n, self.recipe.shares))

    def _people(self, part: int) -> int:
        """How many users a part has."""
        return len(range(part, self.n_users, self.n_parts))

    def _count(self, part: int, shards: Sequence[Shard], told: Mapping[str, Described]) -> None:
        self.files |= told
        people = self._people(part)
        n = np.zeros(people, np.int64)
        for name, shard in zip(PARTS, shards):
            self.n_events[name] += len(shard.users)
            n += np.bincount(shard.users // self.n_parts, minlength=people)
        self._few += int((n < 3).sum())
        train, valid, test = (Part(s.users // self.n_parts, s.items, s.times) for s in shards)
        self._leakage.add(train, valid, test, people)

    def _train_after_test(self) -> int | None:
        """Training events later than the first test event of anybody."""
        if not self.recipe.timed:
            return None
        return later_than(self.folder, self.files, self._leakage.first_test)


def later_than(folder: Path, names: Iterable[str], moment: int | None) -> int:
    """How many training events among the files of a folder are later than a moment; one file at a time."""
    found = 0
    for name in names if moment is not None else ():
        if name.startswith("events/train/"):
            times = pq.ParquetFile(folder / name).read(columns=["time"]).column("time").to_numpy()
            found += int((times > moment).sum())
    return found

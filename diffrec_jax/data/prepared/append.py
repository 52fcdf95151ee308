"""A day of events for a folder that was split at moments, without reading the log behind it again.

Ids that are known keep their numbers, new ones follow, most events first. New events go where the moments say, or, with
later moments (``cuts``), what lay in validation and test moves up with them: yesterday's test becomes training. Events
from before the test part are left out and counted: what models were trained on stays as it was. A pair that is there
already is not added again, unless repeats are kept. The core is not computed anew: users and items below it are
counted.

Parts grow by files of a new generation (``part-00017-of-00256+1.parquet``); the old files stay until ``meta.json`` says
otherwise, so that a call that was stopped leaves the folder as it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from diffrec_jax.data import preprocess
from diffrec_jax.data.cuts import cut_moments
from diffrec_jax.data.events import Events, taken
from diffrec_jax.data.leakage import LeakageCount, Part
from diffrec_jax.data.order import pair_keys
from diffrec_jax.data.prepared import folder as files
from diffrec_jax.data.prepared.folder import PARTS, Described, Meta, files_of, part_file
from diffrec_jax.data.prepared.in_memory import Say, id_table, read_log
from diffrec_jax.data.prepared.parts import Shard, later_than
from diffrec_jax.data.prepared.recipe import Recipe
from diffrec_jax.data.prepared.selection import by_count
from diffrec_jax.data.times import describe_time


def append(folder: str | Path, path: str, *, cuts: Sequence[str] = (), say: Say = lambda line: None) -> Meta:
    """Add the events of a log to a prepared folder; see above.

    Args:
      folder: split by ``global_time``.
      path: the new events, with the columns of the log that the folder was made of.
      cuts: moments that begin valid and test from now on, as many as there are; none: they stay.
      say: is told what happens.

    Raises:
      ValueError: for a folder that is split otherwise or keeps the last of repeated pairs, for earlier cuts, for ids of
        another type, and for a log that was added before.
    """
    folder = Path(folder)
    with files.locked(folder):
        meta = Meta.read(folder)
        moments = _moments(meta, cuts)
        source = files.state_of(path)
        if source in meta.appended:
            raise ValueError(f"{path} was added to {folder} already: there is nothing to do")
        recipe = Recipe(**{**meta.recipe, "path": path, "cuts": tuple(meta.recipe["cuts"])})  # type: ignore[arg-type]
        say(f"reading {path}")
        late, log = _late(read_log(recipe), meta.moments[-1])
        log = _filtered(log, recipe)
        tables = {kind: files.read_table(folder, meta, files_of(meta, kind)[0]) for kind in ("users", "items")}
        numbered = {kind: _numbered(tables[kind], ids, codes) for kind, ids, codes in _coded(log)}
        growth = _Growth(folder, meta, moments, tables, {kind: new for kind, (_, new) in numbered.items()})
        users, items = (numbered[kind][0] for kind in ("users", "items"))
        for part in range(meta.n_parts):
            own = np.flatnonzero(users % meta.n_parts == part)
            growth.add(part, Shard(users[own], items[own], taken(log.times, own), taken(log.weights, own)))
            say(f"part {part + 1} of {meta.n_parts}")
        return growth.finish(source, late=late, core=recipe.core, say=say)


def _moments(meta: Meta, cuts: Sequence[str]) -> tuple[int, ...]:
    """Where valid and test begin from now on."""
    if not meta.moments:
        raise ValueError(
            f"{meta.name} was split by {meta.rule}, and more events would move every user's cut: prepare the whole log "
            "anew, or split it at dates (--split_dates) to add to it"
        )
    if meta.recipe.get("duplicates") == "last" and not meta.recipe.get("repeats"):
        raise ValueError(
            f"{meta.name} keeps the last event of a repeated pair, and a new one would take the place of one that "
            "models were trained on: prepare the whole log anew"
        )
    if not cuts:
        return meta.moments
    moments = tuple(cut_moments(cuts))
    if len(moments) != len(meta.moments) or any(new < old for new, old in zip(moments, meta.moments)):
        said = " and ".join(map(describe_time, meta.moments))
        raise ValueError(
            f"split_dates={','.join(cuts)} must be {len(meta.moments)} and not before those of the folder, {said} UTC: "
            "what is training stays training"
        )
    return moments


def _filtered(log: Events, recipe: Recipe) -> Events:
    return preprocess.prepare(log, rating=recipe.min_rating, duplicates=None if recipe.repeats else recipe.duplicates)


def _late(log: Events, moment: int) -> tuple[int, Events]:
    """How many events are from before a moment, and the log without them."""
    assert log.times is not None
    fresh = log.times >= moment
    if not fresh.any():
        raise ValueError(
            f"all {len(log):,} events are from before {describe_time(moment)} UTC, where the test part begins: nothing "
            "is added to what models were trained on; prepare the whole log anew to have them"
        )
    return int((~fresh).sum()), log if fresh.all() else preprocess.keep_events(log, fresh, "not before the test part")


def _coded(log: Events) -> list[tuple[str, np.ndarray, np.ndarray]]:
    return [("users", log.user_ids, log.users), ("items", log.item_ids, log.items)]


def _numbered(table: pa.Table, ids: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the events [N], and the raw ids that are new, in the order of their numbers.

    Raises:
      ValueError: for ids of another type than the folder's.
    """
    known = files.raw_ids(table)
    if len(known) and (known.dtype.kind in "iu") != (ids.dtype.kind in "iu"):
        raise ValueError(
            f"ids are like {known[:1].tolist()[0]!r} in the folder and like {ids[:1].tolist()[0]!r} in the new events: "
            "write them one way"
        )
    place = dict(zip(known.tolist(), range(len(known))))
    number = np.array([place.get(id_, -1) for id_ in ids.tolist()], np.int32)
    counts = np.where(number < 0, np.bincount(codes, minlength=len(ids)), 0)
    following, order = by_count(counts)
    number[order] = len(known) + following[order]
    return number[codes], ids[order]


class _Growth:
    """The folder as it becomes, part by part."""

    def __init__(
        self,
        folder: Path,
        meta: Meta,
        moments: tuple[int, ...],
        old: Mapping[str, pa.Table],
        new: Mapping[str, np.ndarray],
    ) -> None:
        self.folder, self.meta, self.moments = folder, meta, moments
        self.generation = meta.generation + 1
        self.files: dict[str, Described] = dict(meta.files)
        self.old = old
        self.ids = {kind: np.concatenate([files.raw_ids(self.old[kind]), ids]) for kind, ids in new.items()}
        self.new = {kind: len(ids) for kind, ids in new.items()}
        self.rank = np.empty(len(self.ids["items"]), np.int64)  # of the raw ids, which order events of one moment
        self.rank[np.argsort(self.ids["items"], kind="stable")] = np.arange(len(self.rank))
        self.counts = {kind: np.zeros(len(ids), np.int64) for kind, ids in self.ids.items()}
        self.n_events = dict.fromkeys(PARTS, 0)
        self.known_pairs = 0
        self.leakage = LeakageCount(len(self.rank))

    def add(self, part: int, fresh: Shard) -> None:
        """Write what becomes of one part with its new events."""
        before = [_whole(self.folder, self.meta, name, part) for name in PARTS]
        if not self.meta.recipe.get("repeats"):
            there = np.concatenate([pair_keys(s.users, s.items, len(self.rank)) for s in before])
            known = np.isin(pair_keys(fresh.users, fresh.items, len(self.rank)), there)
            self.known_pairs += int(known.sum())
            fresh = fresh.take(np.flatnonzero(~known))
        moving = _joined([before[1], before[2], fresh])
        assert moving.times is not None
        order = np.lexsort((self.rank[moving.items], moving.times, moving.users))
        moving = moving.take(order)
        times = moving.times
        assert times is not None
        which = np.searchsorted(self.moments, times, side="right") * (3 - len(self.moments))
        to_train = moving.take(np.flatnonzero(which == 0))
        after = [to_train, *(moving.take(np.flatnonzero(which == number)) for number in (1, 2))]
        for name, shard in zip(PARTS, after):
            if name == "train":  # grows; the others are written anew
                if not len(shard.users):
                    continue
            else:
                for file in files_of(self.meta, f"events/{name}", part):
                    del self.files[file]
            file = part_file(f"events/{name}", part, self.meta.n_parts, self.generation)
            self.files[file] = files.write_table(self.folder, file, shard.table())
        self._count(part, [_joined([before[0], to_train]), *after[1:]])

    def _count(self, part: int, shards: Sequence[Shard]) -> None:
        people = len(range(part, len(self.ids["users"]), self.meta.n_parts))
        for name, shard in zip(PARTS, shards):
            self.n_events[name] += len(shard.users)
            own = self.counts["users"][part :: self.meta.n_parts]
            own += np.bincount(shard.users // self.meta.n_parts, minlength=people)
            self.counts["items"] += np.bincount(shard.items, minlength=len(self.ids["items"]))
        train, valid, test = (Part(s.users // self.meta.n_parts, s.items, s.times) for s in shards)
        self.leakage.add(train, valid, test, people)

    def finish(self, source: str, *, late: int, core: int, say: Say) -> Meta:
        """Write users, items and ``meta.json``, and remove what it no longer names."""
        for kind in ("users", "items"):
            titles = self.old[kind].column("title").to_pylist() if "title" in self.old[kind].column_names else None
            table = id_table(_arrow(self.ids[kind], self.old[kind]), self.counts[kind])
            if titles is not None:
                titles += [str(id_) for id_ in self.ids[kind][len(titles) :].tolist()]
                table = table.append_column("title", pa.array(titles, pa.large_string()))
            for file in files_of(self.meta, kind):
                del self.files[file]
            file = part_file(kind, 0, 1, self.generation)
            self.files[file] = files.write_table(self.folder, file, table)
        later = later_than(self.folder, self.files, self.leakage.first_test)
        below = {kind: int((counts < core).sum()) for kind, counts in self.counts.items()}
        added = sum(self.n_events.values()) - sum(self.meta.n_events.values())
        said = (
            f"added: {added:,} events, {self.new['users']:,} new users, {self.new['items']:,} new items; "
            f"{self.known_pairs:,} pairs were there already, {late:,} events from before the test part were left out; "
            f"below the core of {core} are {below['users']:,} users and {below['items']:,} items"
        )
        where = " and ".join(map(describe_time, self.moments))
        meta = dataclasses.replace(
            self.meta,
            notes=(*self.meta.notes[:-1], str(self.leakage.found(later))),
            history=(*self.meta.history, f"{said}; cut at {where} UTC"),
            n_users=len(self.ids["users"]),
            n_items=len(self.ids["items"]),
            n_events=self.n_events,
            files=dict(sorted(self.files.items())),
            moments=self.moments,
            generation=self.generation,
            appended=(*self.meta.appended, source),
        )
        meta.write(self.folder)
        for file in self.meta.files.keys() - meta.files.keys():
            (self.folder / file).unlink(missing_ok=True)
        say(said)
        return meta


def _whole(folder: Path, meta: Meta, name: str, part: int) -> Shard:
    """All events of a part, whatever generations they came in."""
    tables = [files.read_table(folder, meta, file) for file in files_of(meta, f"events/{name}", part)]
    return Shard.of(pa.concat_tables(tables))


def _joined(shards: Sequence[Shard]) -> Shard:
    tables = [shard.table() for shard in shards if len(shard.users)]
    return Shard.of(pa.concat_tables(tables)) if tables else shards[0]


def _arrow(ids: np.ndarray, table: pa.Table) -> pa.Array:
    return pa.array(ids.tolist(), table.column("id").type)

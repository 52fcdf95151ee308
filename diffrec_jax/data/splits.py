"""Splits: which events a model trains on, is chosen by, and is judged by; what each cut promises, and a check of it.

Every function takes one prepared log and returns a ``Split`` of three logs over one vocabulary. Of a repeated (user,
item) pair the first event is split, and the split says so, unless the log keeps repeats. Nothing else is lost, repeated
or invented. Times decide the order within a user, the item breaks ties; without times file order stands in.

| rule | cut | promise |
|---|---|---|
| ``temporal`` | per user, by share of their events | train <= valid <= test in time for every user |
| ``leave_one_out`` | per user, the last and the one before | the same |
| ``global_time`` | two moments for everybody, by share or given | no training event later than any test event |
| ``sessions`` | whole sessions, by their ends (``sessions.by_session``) | the same |
| ``random`` | per user, seeded | none in time |
| ``diffrec`` | the authors' recipe for ML-1M, in the released order | their sizes; **valid is later than test** |
| ``released``, ``as_given`` | as the files say | none |
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from diffrec_jax.data import preprocess
from diffrec_jax.data.cuts import (
    cut_moments,
    last_two_bounds,
    of_shares,
    parts_at,
    promise,
    share_bounds,
    share_values,
    short_users,
)
from diffrec_jax.data.events import Events
from diffrec_jax.data.leakage import LEAKS_FUTURE, Leakage, check
from diffrec_jax.data.order import pair_keys, row_order
from diffrec_jax.data.preprocess import without_repeats


@dataclass(frozen=True)
class Split:
    """Three logs over one vocabulary; unpacks as ``train, valid, test = split``."""

    name: str  # of the dataset
    train: Events
    valid: Events
    test: Events
    rule: str  # 'temporal', 'leave_one_out', 'global_time', 'random', 'diffrec', 'released', 'as_given'
    guarantee: str  # one sentence
    notes: tuple[str, ...] = ()  # what a person should read: source, filters, warnings, the leakage check
    context: Events | None = None  # shown when valid and test are ranked, never trained on: of ``by_session``

    def __iter__(self) -> Iterator[Events]:
        return iter((self.train, self.valid, self.test))

    @property
    def n_users(self) -> int:
        """Size of the shared user vocabulary."""
        return self.train.n_users

    @property
    def n_items(self) -> int:
        """Size of the shared item vocabulary."""
        return self.train.n_items

    @property
    def user_ids(self) -> np.ndarray:
        """Raw user ids [U]."""
        return self.train.user_ids

    @property
    def item_ids(self) -> np.ndarray:
        """Raw item ids [I]."""
        return self.train.item_ids

    @property
    def item_titles(self) -> np.ndarray | None:
        """Item titles [I], where known."""
        return self.train.item_titles


def leakage_report(split: Split) -> Leakage:
    """What the three parts of a split know of each other; ``str()`` of it is one sentence."""
    return check(split.train, split.valid, split.test)


def temporal(data: Events, *, train: float = 0.7, valid: float = 0.1, test: float = 0.2, name: str = "log") -> Split:
    """Per user in time order: the first ``train`` share, then ``valid``, then ``test`` (cuts rounded half up).

    Users with fewer than three events keep all of them in train.
    """
    data = without_repeats(data)
    bounds = share_bounds(_lengths(data), (train, valid, test))
    guarantee = promise("temporal", timed=data.times is not None)
    return _per_user(data, bounds, name=name, rule="temporal", guarantee=guarantee)


def leave_one_out(data: Events, *, name: str = "log") -> Split:
    """Per user the last event to test, the one before to valid, the rest to train; under three events: all to train."""
    data = without_repeats(data)
    guarantee = promise("leave_one_out", timed=data.times is not None)
    return _per_user(data, last_two_bounds(_lengths(data)), name=name, rule="leave_one_out", guarantee=guarantee)


def global_time(
    data: Events,
    *,
    train: float = 0.7,
    valid: float = 0.1,
    test: float = 0.2,
    cuts: Sequence[object] | None = None,
    name: str = "log",
) -> Split:
    """Two moments for everybody, placed so that the shares of events come out as near as ties in time allow.

    With ``cuts``, the moments are given instead (see ``cut_moments``): two begin valid and test, one begins test and
    leaves no validation part. Events at a cut moment go to the later part, so equal times never straddle it. Users and
    items first seen after the first cut are cold in train; the leakage check counts them.

    Raises:
      ValueError: without times, or where ties, or cuts outside of the log, leave train or test empty (with two cuts,
        valid).
    """
    shares = share_values((train, valid, test))
    if data.times is None:
        raise ValueError("split 'global_time' needs times and this log has none; name the time column")
    data = without_repeats(data)
    assert data.times is not None
    if cuts is not None:
        part, said = parts_at(data.times, cut_moments(cuts))
        return _by_time(data, part, name, extra=(said,))
    ordered = np.sort(data.times)
    n = len(ordered)
    first, second = (ordered[min(n - 1, at)] for at in of_shares(np.asarray(n), shares).tolist())
    part = (data.times >= first).astype(np.int8) + (data.times >= second)
    if valid == 0:
        part[part == 1] = 2
    if not (part == 0).any() or not (part == 2).any():
        raise ValueError(
            f"split 'global_time' leaves train or test empty: too many of the {n:,} events share one time; "
            "use split 'temporal' or finer times"
        )
    return _by_time(data, part, name)


def _by_time(data: Events, part: np.ndarray, name: str, *, extra: tuple[str, ...] = ()) -> Split:
    """The split whose part of event ``n`` is ``part[n]``, by moments that hold for everybody."""
    order = _order(data)
    return _assemble(
        data,
        order,
        part if order is None else part[order],
        name=name,
        rule="global_time",
        guarantee=promise("global_time", timed=True),
        extra=extra,
    )


def random(
    data: Events,
    *,
    train: float = 0.7,
    valid: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    name: str = "log",
) -> Split:
    """Per user at random, sizes as in ``temporal``; the same ``seed`` gives the same split."""
    data = without_repeats(data)
    bounds = share_bounds(_lengths(data), (train, valid, test))
    shuffle = np.argsort(pair_keys(data.users, data.items, data.n_items))  # whatever the order of the file
    shuffle = shuffle[np.random.default_rng(seed).permutation(len(data))]
    order = shuffle[np.argsort(data.users[shuffle], kind="stable")]
    chosen = np.empty(len(data), np.int8)
    chosen[order] = parts_of(data.users[order], bounds)
    rows = _order(data)
    return _assemble(
        data,
        rows,
        chosen if rows is None else chosen[rows],
        name=name,
        rule="random",
        guarantee=f"Events are divided at random within each user (seed {seed}); "
        "nothing is promised about time: training may hold events later than test.",
        extra=_short_users(data),
    )


def diffrec(data: Events, *, rating: float | None = 4.0, core: int = 10, name: str = "log") -> Split:
    """The recipe of the released ML-1M: ratings >= 4, 10-core, then per user in time order three slices.

    Of ``n`` events ``int(0.7 n) + 1`` go to train (float64: n = 90 gives 62 + 1), the last ``ceil(0.2 n) - 1`` to
    **valid** and those between to **test**: the files were released with validation later than test, and that is kept
    here so that the counts are the published ones. Use ``temporal`` for an order that fits the names. Raw ML-1M ratings
    give 5,949 users, 2,810 items and 403,277 / 110,722 / 57,532 events. ``rating=None`` and ``core=0`` skip the
    filters.
    """
    data = preprocess.prepare(data, rating=rating, duplicates="first", core=core)
    n = _lengths(data)
    first = np.minimum((0.7 * n).astype(np.int64) + 1, n)
    last = np.maximum(np.ceil(0.2 * n).astype(np.int64) - 1, 0)
    return _per_user(
        data,
        np.stack([first, np.maximum(n - last, first)]),
        name=name,
        rule="diffrec",
        guarantee=f"The sizes and the order of the authors' released ML-1M. {LEAKS_FUTURE}",
        targets=(0, 2, 1),
        short=0,
    )


def as_given(train: Events, valid: Events | None, test: Events, *, name: str = "log") -> Split:
    """Three logs cut by somebody else, brought to one vocabulary by their raw ids.

    Where one holds whole numbers and another text, all ids become text: 12 and ``12`` are one id. Without a validation
    log (None) that part is empty, and training goes on for all its epochs.
    """
    valid = train.select(np.empty(0, np.int64)) if valid is None else valid
    users = shared_vocabulary([log.user_ids for log in (train, valid, test)])
    items = shared_vocabulary([log.item_ids for log in (train, valid, test)])
    titles = None
    if any(log.item_titles is not None for log in (train, valid, test)):
        titles = np.full(len(items[0]), "", object)
        for log, codes in zip((train, valid, test), items[1]):
            if log.item_titles is not None:
                titles[codes] = log.item_titles
    parts = [
        replace(
            log,
            users=user_codes[log.users],
            items=item_codes[log.items],
            user_ids=users[0],
            item_ids=items[0],
            item_titles=titles,
        )
        for log, user_codes, item_codes in zip((train, valid, test), users[1], items[1])
    ]
    notes = tuple(dict.fromkeys(note for log in parts for note in log.notes))
    split = Split(name, parts[0], parts[1], parts[2], rule="as_given", guarantee="Kept as given; nothing is promised.")
    return replace(split, notes=(*notes, str(leakage_report(split))))


# The cuts themselves -------------------------------------------------------------------------------------------------


def _lengths(data: Events) -> np.ndarray:
    """Events of each user, int64 [U]."""
    return np.bincount(data.users, minlength=data.n_users)


def parts_of(users: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Which slice (0, 1, 2) each event of a user-major log falls in, int8 [N]; ``bounds [2, U]`` begin 1 and 2."""
    starts = np.cumsum(np.bincount(users, minlength=bounds.shape[1]))
    starts = np.concatenate([[0], starts[:-1]])
    position = np.arange(len(users)) - starts[users]
    part: np.ndarray = (position >= bounds[0][users]).astype(np.int8) + (position >= bounds[1][users])
    return part


def _order(data: Events) -> np.ndarray | None:
    return row_order(data.users, data.items, data.times)


def _per_user(
    data: Events,
    bounds: np.ndarray,
    *,
    name: str,
    rule: str,
    guarantee: str,
    targets: tuple[int, int, int] = (0, 1, 2),
    short: int = 3,
) -> Split:
    order = _order(data)
    part = parts_of(data.users if order is None else data.users[order], bounds)
    if targets != (0, 1, 2):
        part = np.asarray(targets, np.int8)[part]
    return _assemble(
        data, order, part, name=name, rule=rule, guarantee=guarantee, extra=_short_users(data) if short else ()
    )


def _short_users(data: Events) -> tuple[str, ...]:
    return short_users(int((_lengths(data) < 3).sum()), data.n_users)


def _assemble(
    data: Events,
    order: np.ndarray | None,
    part: np.ndarray,
    *,
    name: str,
    rule: str,
    guarantee: str,
    extra: tuple[str, ...] = (),
) -> Split:
    """The split whose part of event ``order[n]`` is ``part[n]``; rows user-major, in time order."""
    if len(data) == 0:
        raise ValueError("there are no events to split")
    logs = [data.select(np.flatnonzero(part == which) if order is None else order[part == which]) for which in range(3)]
    split = Split(name, logs[0], logs[1], logs[2], rule=rule, guarantee=guarantee)
    empty = [what for what, log in zip(("train", "valid", "test"), split) if not len(log)]
    if {"train", "test"} & {*empty}:
        said = f"split {rule!r} leaves {' and '.join(empty)} empty ({data})"
        raise ValueError(f"{said}; users need at least three events")
    notes = (*data.notes, *map(str, data.provenance), *extra)
    return replace(split, notes=(*notes, str(leakage_report(split))))


def shared_vocabulary(ids: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """The union of raw id arrays in ascending order and, per array, its codes in the union, int32.

    Where some are whole numbers and others text, the union is text.
    """
    if len({array.dtype.kind in "iu" for array in ids if len(array)}) > 1:
        ids = [np.array([str(id_) for id_ in array.tolist()], object) for array in ids]
    every = np.concatenate(ids)
    if every.dtype.kind not in "iu":
        every = every.astype(object)
    union, codes = np.unique(every, return_inverse=True)
    cuts = np.cumsum([len(array) for array in ids])[:-1]
    return union, np.split(codes.astype(np.int32), cuts)

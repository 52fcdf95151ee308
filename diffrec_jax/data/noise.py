"""Noisy training sets (paper, section 4.1): what a model learns when some of what it is shown was not liked.

*Natural* noise lets ratings below the threshold enter train and valid as if they were positive. The authors' noisy
files hold about as many interactions as their clean ones, hence two variants: ``all`` adds every such rating,
``similar_size`` redraws each user's clean count from their clean and low ratings together. *Random* noise adds a share
of items the user never met to their training rows. Test is never touched; all is seeded, counted and said in ``notes``.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from diffrec_jax.data.events import Events
from diffrec_jax.data.order import pair_keys, row_order
from diffrec_jax.data.splits import Split, leakage_report, shared_vocabulary

VARIANTS = ("all", "similar_size")
TIMELY = ("temporal", "leave_one_out")  # rules that keep the order of each user


def apply(spec: str, split: Split, *, ratings: Events | None = None, threshold: float = 4.0, seed: int) -> Split:
    """Noise by its name on the command line: ``random:0.3``, ``natural:all``, ``natural:similar_size``.

    ``ratings`` is the unfiltered log that ``split`` was made of; natural noise needs it.
    """
    kind, _, value = spec.partition(":")
    if kind == "natural" and value in VARIANTS:
        if ratings is None:
            raise ValueError(f"noise {spec!r} needs the rated log the split was made of; this dataset has no ratings")
        return natural(split, ratings, variant=value, threshold=threshold, seed=seed)
    if kind == "random":
        try:
            share = float(value)
        except ValueError:
            share = -1.0
        if 0 < share <= 1:
            return random(split, share=share, seed=seed)
    raise ValueError(
        f"noise {spec!r} is unknown; use random:SHARE with a share in (0, 1] such as random:0.3, natural:all, or "
        "natural:similar_size"
    )


def natural(split: Split, ratings: Events, *, variant: str = "all", threshold: float = 4.0, seed: int) -> Split:
    """Low ratings enter train and valid; the item vocabulary grows by items only met that way.

    Where the split promises an order in time, only low ratings that keep the promise enter (none after the user's first
    test event, or after the global cut) and each user's events are divided in time order in their clean proportion;
    elsewhere they are divided at random in that proportion.

    Args:
      split: a clean split.
      ratings: the unfiltered log it was made of, raw ids and ratings included.
      variant: 'all', or 'similar_size' (each user keeps their clean count of train + valid, drawn from the pool).
      threshold: ratings below it are low.
      seed: of the draw and the division.
    """
    if variant not in VARIANTS:
        raise ValueError(f"natural noise variant {variant!r} is unknown; use one of {', '.join(VARIANTS)}")
    if ratings.ratings is None:
        raise ValueError("natural noise needs ratings, and this log has none; name the rating column")
    rng = np.random.default_rng(seed)
    log, clean, renumbered = _pool(split, ratings, threshold)
    n_train = np.bincount(split.train.users, minlength=split.n_users)
    n_clean = n_train + np.bincount(split.valid.users, minlength=split.n_users)

    if variant == "similar_size":
        shuffled = _by_user(log.users, rng.permutation(len(log.users)))
        drawn = np.zeros(len(log.users), bool)
        drawn[shuffled[_position(log.users[shuffled]) < n_clean[log.users[shuffled]]]] = True
        log, clean = log.select(drawn), clean[drawn]

    if split.rule == "global_time":
        assert log.times is not None and split.valid.times is not None and split.test.times is not None
        first_valid = split.valid.times.min() if len(split.valid) else split.test.times.min()
        to_train = log.times < first_valid
    else:
        if split.rule in TIMELY:
            rank = row_order(log.users, log.items, log.times)
        else:
            rank = _by_user(log.users, rng.permutation(len(log.users)))
        rank = np.arange(len(log.users)) if rank is None else rank
        size = np.bincount(log.users, minlength=split.n_users)
        if split.rule == "leave_one_out":
            cut = size - (n_clean - n_train)
        else:
            cut = np.rint(size * (n_train / np.maximum(n_clean, 1))).astype(np.int64)
        to_train = np.zeros(len(log.users), bool)
        to_train[rank] = _position(log.users[rank]) < cut[log.users[rank]]

    train, valid = (_in_row_order(log.select(mask)) for mask in (to_train, ~to_train))
    test = replace(split.test, items=renumbered[split.test.items], item_ids=log.item_ids, item_titles=log.item_titles)
    low_train, low_valid = int((~clean & to_train).sum()), int((~clean & ~to_train).sum())
    lost = int(len(split.train) + len(split.valid) - clean.sum())
    note = (
        f"Natural noise ({variant}, ratings below {threshold:g}, seed {seed}): {low_train:,} low ratings in train, "
        f"{low_valid:,} in valid, {lost:,} clean events drawn away; train {len(split.train):,} -> {len(train):,}, "
        f"valid {len(split.valid):,} -> {len(valid):,}, items {split.n_items:,} -> {log.n_items:,}; test unchanged."
    )
    return _noted(replace(split, train=train, valid=valid, test=test), note)


def random(split: Split, *, share: float, seed: int) -> Split:
    """Add ``round(share * training events)`` random events to train: items the user has in none of the three parts.

    Every user gets their share of them, as nearly as whole events allow (a user who knows nearly every item may get
    fewer). Each takes the time, and the place just after, of a random training event of the same user.
    """
    if not 0 < share <= 1:
        raise ValueError(f"random noise share {share:g} must lie in (0, 1], such as 0.3 for 30 % more training events")
    rng = np.random.default_rng(seed)
    train = _in_row_order(split.train)
    known = np.unique(np.concatenate([pair_keys(log.users, log.items, split.n_items) for log in split]))
    lengths = np.bincount(train.users, minlength=split.n_users)
    ideal = np.floor(share * np.cumsum(lengths) + 0.5).astype(np.int64)
    free = split.n_items - np.bincount(known // split.n_items, minlength=split.n_users)
    need = np.minimum(np.diff(ideal, prepend=0), free)

    added = draw_unknown(known, need, split.n_items, rng)
    users, items = (added // split.n_items).astype(np.int32), (added % split.n_items).astype(np.int32)
    starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    anchor = starts[users] + (rng.random(len(users)) * lengths[users]).astype(np.int64)
    order = np.lexsort(
        (
            np.concatenate([np.zeros(len(train), np.int8), np.ones(len(users), np.int8)]),
            np.concatenate([np.arange(len(train)), anchor]),
        )
    )
    noisy = replace(
        train,
        users=np.concatenate([train.users, users])[order],
        items=np.concatenate([train.items, items])[order],
        times=None if train.times is None else np.concatenate([train.times, train.times[anchor]])[order],
        ratings=None
        if train.ratings is None
        else np.concatenate([train.ratings, np.full(len(users), np.nan, np.float32)])[order],
        weights=None if train.weights is None else np.concatenate([train.weights, train.weights[anchor]])[order],
    )
    note = (
        f"Random noise (share {share:g}, seed {seed}): {len(users):,} random events added to {len(train):,} training "
        "events; valid and test unchanged."
    )
    return _noted(replace(split, train=noisy), note)


def draw_unknown(known: np.ndarray, need: np.ndarray, n_items: int, rng: np.random.Generator) -> np.ndarray:
    """Pair keys drawn uniformly from those not in ``known`` (sorted), ``need[u]`` different ones for user u, sorted.

    Users whose known and needed items fill over half the catalogue have their free items listed (never more than a few
    times the events there are); the others are drawn with rejection, all at once, until none misses any.
    """
    held = np.bincount(known // n_items, minlength=len(need))
    crowded = np.flatnonzero((need > 0) & (2 * (held + need) > n_items))
    taken = np.empty(0, np.int64)
    if len(crowded):
        keys = (crowded[:, None].astype(np.int64) * n_items + np.arange(n_items)).ravel()
        keys = rng.permutation(keys[~np.isin(keys, known, assume_unique=True)])
        keys = keys[np.argsort(keys // n_items, kind="stable")]
        taken = keys[_position(keys // n_items) < need[keys // n_items]]
    missing = need.copy()
    missing[crowded] = 0
    while missing.any():
        users = np.repeat(np.arange(len(need)), 2 * missing)
        keys = users * np.int64(n_items) + rng.integers(n_items, size=len(users))
        keys = keys[np.sort(np.unique(keys, return_index=True)[1])]  # each once, in the order drawn
        keys = keys[~np.isin(keys, known) & ~np.isin(keys, taken)]
        keys = keys[_position(keys // n_items) < missing[keys // n_items]]
        taken = np.concatenate([taken, keys])
        missing -= np.bincount(keys // n_items, minlength=len(need))
    return np.sort(taken)


def _pool(split: Split, ratings: Events, threshold: float) -> tuple[Events, np.ndarray, np.ndarray]:
    """The events that may be trained on, over the grown vocabulary; which of them are clean, bool [N]; and the codes of
    the split's items in that vocabulary, int32 [I].
    """
    all_users, (our_users, user_codes) = shared_vocabulary([split.user_ids, ratings.user_ids])
    item_ids, (our_items, item_codes) = shared_vocabulary([split.item_ids, ratings.item_ids])
    assert ratings.ratings is not None
    number = np.full(len(all_users), -1, np.int32)  # of the split's users
    number[our_users] = np.arange(split.n_users, dtype=np.int32)
    rows = np.flatnonzero(number[user_codes[ratings.users]] >= 0)
    users, items = number[user_codes[ratings.users[rows]]], item_codes[ratings.items[rows]]
    keys = pair_keys(users, items, len(item_ids))
    if ratings.times is not None or split.rule not in TIMELY:  # otherwise the order of the file is the time order
        by_pair = np.argsort(keys, kind="stable")
        rows, users, items, keys = rows[by_pair], users[by_pair], items[by_pair], keys[by_pair]
    parts = [pair_keys(log.users, our_items[log.items], len(item_ids)) for log in split]
    clean = np.isin(keys, np.concatenate(parts[:2]))
    absent = int((~np.isin(np.concatenate(parts[:2]), keys)).sum())
    if absent:
        raise ValueError(
            f"the rated log does not hold {absent:,} of the split's interactions; pass the log the split was made of"
        )
    admitted = clean | ((ratings.ratings[rows] < threshold) & ~np.isin(keys, parts[2]))
    when = rows if ratings.times is None else ratings.times[rows]
    if split.rule in (*TIMELY, "global_time"):
        in_test = np.isin(keys, parts[2])
        limit = np.full(split.n_users, np.iinfo(np.int64).max)
        if split.rule == "global_time":
            limit[:] = np.min(when[in_test]) - 1
        else:
            np.minimum.at(limit, users[in_test], when[in_test])
        admitted &= clean | (when <= limit[users])
    first = np.zeros(len(keys), bool)
    order = np.flatnonzero(admitted)  # a pair rated twice enters once: the earliest event, of one moment the best rated
    order = order[np.lexsort((-ratings.ratings[rows[order]], when[order]))]
    first[order[np.unique(keys[order], return_index=True)[1]]] = True
    rows, users, items, clean = rows[first], users[first], items[first], clean[first]

    used = np.unique(np.concatenate([our_items, items]))
    renumber = np.zeros(len(item_ids), np.int32)
    renumber[used] = np.arange(len(used), dtype=np.int32)
    titles = None
    if split.item_titles is not None:
        titles = np.array([str(i) for i in item_ids.tolist()], object)
        if ratings.item_titles is not None:
            titles[item_codes] = ratings.item_titles
        titles[our_items] = split.item_titles
        titles = titles[used]
    log = replace(
        ratings.select(rows),
        users=users.astype(np.int32),
        items=renumber[items],
        user_ids=split.user_ids,
        item_ids=item_ids[used],
        item_titles=titles,
    )
    return log, clean, renumber[our_items]


def _by_user(users: np.ndarray, order: np.ndarray) -> np.ndarray:
    """``order`` made user-major, keeping its order within each user."""
    return order[np.argsort(users[order], kind="stable")]


def _position(users: np.ndarray) -> np.ndarray:
    """0, 1, 2, … within each stretch of equal users."""
    starts = np.flatnonzero(np.concatenate([[True], users[1:] != users[:-1]])) if len(users) else np.empty(0, np.int64)
    return np.arange(len(users)) - np.repeat(starts, np.diff(np.append(starts, len(users))))


def _in_row_order(log: Events) -> Events:
    order = row_order(log.users, log.items, log.times)
    return log if order is None else log.select(order)


def _noted(split: Split, note: str) -> Split:
    kept = tuple(n for n in split.notes if not n.startswith("Leakage check:"))
    return replace(split, notes=(*kept, note, str(leakage_report(split))))

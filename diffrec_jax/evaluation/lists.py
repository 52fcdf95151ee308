"""Lists that somebody else made, judged as our own are: the same metrics of every user, by raw ids.

A line is a place in a list, and keeps it: an item that is unknown, was there before, or is among what the user has
already is no hit, and those after it do not move up. Users with held-out items but without a list count as 0.
Letters: N lines, n users with held-out items, K list length.
"""

import time
from collections.abc import Mapping, Sequence, Set
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from diffrec_jax.data.columns import encode_ids
from diffrec_jax.data.events import CSR, Events
from diffrec_jax.evaluation.beyond import beyond_accuracy
from diffrec_jax.evaluation.evaluator import KS
from diffrec_jax.evaluation.metrics import list_lengths, ranking_metrics
from diffrec_jax.evaluation.outcome import Evaluation
from diffrec_jax.evaluation.standing import Standing, tie_keys

AT_ONCE = 2**16  # users whose hits [users, K] are judged together
Ids: TypeAlias = Sequence[object] | np.ndarray | pa.Array | pa.ChunkedArray


def evaluate_lists(
    users: Ids,
    items: Ids,
    truth: Events,
    *,
    scores: Ids | None = None,
    ranks: Ids | None = None,
    train: Events | None = None,
    seen: CSR | Events | None = None,
    ks: Sequence[int] = KS,
) -> Evaluation:
    """Judge lists against held-out items.

    Args:
      users: ``[N]`` raw user id of each line.
      items: ``[N]`` raw item id.
      truth: held-out interactions; its vocabularies say which ids are known.
      scores: ``[N]`` numbers, higher is better; equal ones of a user stand by the key that orders our own lists
        (``standing``), unknown items last.
      ranks: ``[N]`` numbers instead, lower is better, none twice in a list; their gaps mean nothing. Without either
        the order of the lines is that of the lists.
      train: training interactions, over the same vocabularies; given, the lists are also judged beyond accuracy.
      seen: what a user already has (over the same vocabularies), which is no hit; None takes ``train``.
      ks: list lengths.

    Returns:
      The evaluation, with a sentence in ``notes`` for each kind of line that cannot count.

    Raises:
      ValueError: for columns of different lengths, scores or ranks that are no numbers, lists of which no user or no
        item is known, or logs that number their users and items differently.
    """
    began, ks = time.perf_counter(), list_lengths(ks)
    if scores is not None and ranks is not None:
        raise ValueError("lists are ordered by scores or by ranks: give one of them")
    seen = _seen(truth, train, seen)
    user, item = _numbers(users, truth.user_ids, "user"), _numbers(items, truth.item_ids, "item")
    if len(user) != len(item):
        raise ValueError(f"lists have {len(user):,} users but {len(item):,} items; every line needs both")
    held_out = truth.csr()
    order, notes = _order(user, _standing(truth, train)[item], scores, ranks)
    user, item = user[order], item[order]
    notes += _unknown(user, item, users, items)
    places = _places(user)
    key = _keys(user, item, truth.n_items)
    again = _repeated(key, user >= 0)
    known = (user >= 0) & (item >= 0) & ~again
    owned = np.zeros(0, np.int64) if seen is None else _keys(seen.users(), seen.indices, truth.n_items)
    had = known & np.isin(key, owned)
    good = known & ~had
    wanted = _keys(held_out.users(), held_out.indices, truth.n_items)
    hit = good & np.isin(key, wanted)
    judged = np.flatnonzero(held_out.lengths()).astype(np.int32)
    row = np.full(truth.n_users + 1, -1)  # the last one stands for users that are not known
    row[judged] = np.arange(len(judged))
    row = row[user]
    notes += _odd(again & (item >= 0), had, row, len(judged), ks)
    masked = int(np.sum(np.isin(wanted, owned)))
    if masked:
        notes.append(f"{masked:,} held-out items are among what their users have already, so that no list can hit them")

    within = (row >= 0) & (places < max(ks))
    per_user = _metrics(row[hit & within], places[hit & within], held_out.lengths()[judged], ks)
    beyond: dict[str, float] = {}
    per_item: dict[str, np.ndarray] = {}
    if train is not None:
        counted = within & known
        beyond, per_item = _beyond(item[counted], hit[counted], places[counted], held_out, train, ks)
    seconds = time.perf_counter() - began
    return Evaluation(
        judged, per_user, truth.n_users, seconds, 0.0, beyond, per_item, masked=masked, notes=tuple(notes)
    )


def _seen(truth: Events, train: Events | None, seen: CSR | Events | None) -> CSR | None:
    """What users have already, in the numbers of ``truth``; refuses logs of other users or items."""
    for name, log in (("truth", truth), ("train", train), ("seen", seen)):
        fits = isinstance(log, Events) or (name != "truth" and log is None) or (name == "seen" and type(log) is CSR)
        if not fits:
            raise ValueError(f"{name} is a {type(log).__name__} and must be an Interactions, such as split.test")
        if isinstance(log, Events):
            same = np.array_equal(log.user_ids, truth.user_ids) and np.array_equal(log.item_ids, truth.item_ids)
        else:
            same = log is None or (log.n_users, log.n_items) == (truth.n_users, truth.n_items)
        if not same:
            raise ValueError(f"{name} and truth number their users and items differently: take both from one split")
    log = train if seen is None else seen
    return log.csr() if isinstance(log, Events) else log


def _numbers(ids: Ids, known: np.ndarray, what: str) -> np.ndarray:
    """The number of each raw id in a vocabulary, int32 [N]; -1 where it has none. Spellings are compared."""
    column = _column(ids, what)
    codes, raw = encode_ids(column, what)
    if not len(codes):
        raise ValueError("the lists hold no lines: every line is a user and an item")
    if (codes < 0).any():
        row = int(np.argmax(codes < 0))
        raise ValueError(f"line {row + 1:,} of the lists has no {what}: every line needs a user and an item")
    place = pc.fill_null(pc.index_in(_spelled(raw), value_set=_spelled(known)), -1)
    numbers: np.ndarray = np.asarray(place).astype(np.int32)[codes]
    return numbers


def _column(values: Ids, what: str) -> pa.ChunkedArray:
    """A column as Arrow has it: of a list, an array, or a column of a data frame."""
    if isinstance(values, pa.ChunkedArray):
        return values
    if (
        isinstance(values, str | bytes | Mapping | Set)
        or not hasattr(values, "__len__")
        or getattr(values, "ndim", 1) != 1
    ):
        raise ValueError(
            f"the {what}s of the lists are a {type(values).__name__}: give a list or column, one for each line"
        )
    try:
        if hasattr(values, "__arrow_c_stream__"):
            return pa.chunked_array(values)
        return pa.chunked_array([pa.array(values)])
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise ValueError(f"the {what}s of the lists mix types ({error}): write them one way") from None


def _spelled(ids: np.ndarray) -> pa.Array:
    return pa.array(ids).cast(pa.string()) if ids.dtype.kind in "iu" else pa.array(list(map(str, ids)), pa.string())


def _standing(truth: Events, train: Events | None) -> np.ndarray:
    """Where each item stands among items of equal score, [I + 1]; the last one is for unknown items."""
    if train is not None:
        place = np.asarray(Standing.of(truth.item_ids, train.csr()).place)
    else:
        place = np.empty(truth.n_items, np.int32)
        place[np.argsort(tie_keys(truth.item_ids))] = np.arange(truth.n_items, dtype=np.int32)
    return np.append(place, np.int32(truth.n_items))


def _order(
    user: np.ndarray, standing: np.ndarray, scores: Ids | None, ranks: Ids | None
) -> tuple[np.ndarray, list[str]]:
    """The lines in the order of users, and of each user's list."""
    if scores is None and ranks is None:
        return np.argsort(user, kind="stable"), []
    what = "score" if ranks is None else "rank"
    values = _finite(scores if ranks is None else ranks, what, len(user))
    order = np.lexsort((standing, -values, user) if ranks is None else (values, user))
    tied = (np.diff(values[order]) == 0) & (np.diff(user[order]) == 0) & (user[order][1:] >= 0)
    if not tied.any():
        return order, []
    count = len(np.unique(user[order][1:][tied]))
    if ranks is not None:
        line = int(order[1:][tied][0])
        raise ValueError(f"line {line + 1:,} of the lists repeats rank {values[line]:g} of its user: name each once")
    return order, [f"{count:,} lists hold equal scores: a fixed key of the item ids decided there"]


def _finite(values: Ids, what: str, n: int) -> np.ndarray:
    try:
        column = _column(values, what)
        column = pc.utf8_trim_whitespace(column) if pa.types.is_string(column.type) else column
        numbers = np.asarray(pc.fill_null(column.cast(pa.float64()), float("nan")).to_numpy())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise ValueError(f"the {what}s of the lists are no numbers ({error})") from None
    if len(numbers) != n:
        raise ValueError(f"lists have {n:,} lines but {len(numbers):,} {what}s; every line needs one")
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        raise ValueError(f"line {bad[0] + 1:,} of the lists has the {what} {numbers[bad[0]]}, which orders nothing")
    return numbers


def _unknown(user: np.ndarray, item: np.ndarray, users: Ids, items: Ids) -> list[str]:
    """Sentences about ids that this data does not have.

    Raises:
      ValueError: if it has none of them.
    """
    for numbers, ids, what in ((user, users, "user"), (item, items, "item")):
        if (numbers < 0).all():
            first = _column(ids, what)[0].as_py()
            raise ValueError(
                f"no {what} of the lists is in this data ({first!r}, for one): name {what}s by the ids of the log"
            )
    said = []
    strangers = int(np.sum(user < 0))
    if strangers:
        said.append(f"{strangers:,} lines are of users who are not in this data, and left out")
    unknown = int(np.sum((item < 0) & (user >= 0)))
    if unknown:
        said.append(f"{unknown:,} listed items are not in this data: they keep their places, and are no hits")
    return said


def _places(user: np.ndarray) -> np.ndarray:
    """The place [N] of each line in its list, from 0; lines come grouped by user."""
    starts = np.flatnonzero(np.append(True, user[1:] != user[:-1]))
    lengths = np.diff(np.append(starts, len(user)))
    return np.arange(len(user)) - np.repeat(starts, lengths)


def _keys(users: np.ndarray, items: np.ndarray, n_items: int) -> np.ndarray:
    """One int64 per (user, item) pair."""
    keys: np.ndarray = users.astype(np.int64) * (n_items + 1) + items
    return keys


def _repeated(key: np.ndarray, of_known: np.ndarray) -> np.ndarray:
    """Which lines [N] name an item that their list had before."""
    first = np.zeros(len(key), bool)
    first[np.unique(key, return_index=True)[1]] = True
    again: np.ndarray = ~first & of_known
    return again


def _odd(again: np.ndarray, had: np.ndarray, row: np.ndarray, n: int, ks: Sequence[int]) -> list[str]:
    """Sentences about lines that cannot be hits, users without a list, and lists that are short."""
    said = []
    if again.any():
        said.append(f"{np.sum(again):,} lines repeat an item of their list: they keep their places, and are no hits")
    if had.any():
        said.append(
            f"{np.sum(had):,} listed items are among what their users have already: they keep their places, and are no "
            "hits"
        )
    lengths = np.bincount(row[row >= 0], minlength=n)
    without = int(np.sum(lengths == 0))
    if without:
        said.append(f"{without:,} of {n:,} users with held-out items have no list, and count as 0")
    short = int(np.sum((lengths > 0) & (lengths < max(ks))))
    if short:
        longest = int(lengths.max(initial=0))
        beyond = ", ".join(str(k) for k in ks if k > longest)
        said.append(
            f"{short:,} lists are shorter than K = {max(ks)}"
            + (f"; none is longer than {longest:,}, so that K = {beyond} judges no more than that" if beyond else "")
        )
    return said


def _metrics(row: np.ndarray, place: np.ndarray, n_truth: np.ndarray, ks: Sequence[int]) -> dict[str, np.ndarray]:
    """Metrics [n] of users, from who had a hit at which place."""
    parts: list[dict[str, Any]] = []
    for start in range(0, max(len(n_truth), 1), AT_ONCE):
        count = min(AT_ONCE, len(n_truth) - start)
        hits = np.zeros((count, max(ks)), bool)
        here = (row >= start) & (row < start + count)
        hits[row[here] - start, place[here]] = True
        parts.append(ranking_metrics(jnp.asarray(hits), jnp.asarray(n_truth[start : start + count]), ks))
    return {name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in parts[0]}


def _beyond(
    item: np.ndarray, hit: np.ndarray, place: np.ndarray, held_out: CSR, train: Events, ks: Sequence[int]
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Metrics beyond accuracy, and how often each item was listed and rightly so, at each K."""
    n_items, rows = train.n_items, train.csr()
    standing = Standing.of(train.item_ids, rows)
    popularity = np.asarray(standing.users)
    beyond: dict[str, float] = {}
    per_item: dict[str, np.ndarray] = {}
    for k in ks:
        listed = np.bincount(item[place < k], minlength=n_items).astype(np.int32)
        found = np.bincount(item[(place < k) & hit], minlength=n_items).astype(np.int32)
        values = beyond_accuracy(jnp.asarray(listed), standing.users, train.n_users, standing.place)
        beyond |= {f"{name}@{k}": float(value) for name, value in values.items()}
        per_item |= {f"listed@{k}": listed, f"hits@{k}": found}
    truth = np.bincount(held_out.indices, minlength=n_items).astype(np.int32)
    return beyond, per_item | {"popularity": popularity, "truth": truth}

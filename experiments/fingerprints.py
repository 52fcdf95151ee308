"""Checksums of the interactions of a split, by which runs know their data again.

Today's say which person met which thing when, whatever the order of rows and however ids are numbered inside; they
begin with ``2:``. Those of released splits are older: a released split comes numbered, and what was recorded of it
stays comparable.
"""

import hashlib

import numpy as np

from diffrec_jax.data.interactions import Interactions, row_order
from diffrec_jax.data.splits import Split

SCHEME = "2:"
CHUNK = 2**20  # events hashed at a time


def fingerprint(split: Split) -> str:
    """The checksum of the three parts and their ids; without times, of the order within each user, too."""
    if split.rule == "released":
        return _numbered(split)
    digest = hashlib.sha256()
    ranks = [_ranks(ids) for ids in (split.user_ids, split.item_ids)]
    for ids, rank in zip((split.user_ids, split.item_ids), ranks):
        ordered = ids if rank is None else ids[np.argsort(rank)]
        digest.update(("\n".join(map(str, ordered.tolist())) + "\n\n").encode())
    for part in split:
        digest.update(_events(part, *ranks))
    return SCHEME + digest.hexdigest()[:16]


def is_older(recorded: str) -> bool:
    """Whether it is of the scheme that depends on how ids are numbered."""
    return not recorded.startswith(SCHEME)


def _numbered(split: Split) -> str:
    """The older scheme: codes as they are, row after row."""
    digest = hashlib.sha256()
    for part in split:
        for array in (part.users, part.items, part.times):
            digest.update(b"-" if array is None else np.ascontiguousarray(array).tobytes())
    for ids in (split.user_ids, split.item_ids):
        digest.update("\n".join(map(str, ids.tolist())).encode())
    return digest.hexdigest()[:16]


def _ranks(ids: np.ndarray) -> np.ndarray | None:
    """The place of every id among the sorted ones, int64 [V]; None where they are sorted already."""
    if np.all(ids[1:] > ids[:-1]):
        return None
    ranks = np.empty(len(ids), np.int64)
    ranks[np.argsort(ids, kind="stable")] = np.arange(len(ids))
    return ranks


def _events(part: Interactions, user_ranks: np.ndarray | None, item_ranks: np.ndarray | None) -> bytes:
    """Number, sum and exclusive or of one hash per event: the same for every order of rows."""
    when = _positions(part.users) if part.times is None else part.times
    total, mixed = 0, 0
    for start in range(0, len(part), CHUNK):
        rows = slice(start, start + CHUNK)
        users = part.users[rows] if user_ranks is None else user_ranks[part.users[rows]]
        items = part.items[rows] if item_ranks is None else item_ranks[part.items[rows]]
        pairs = (users.astype(np.uint64) << np.uint64(32)) | items.astype(np.uint64)
        hashes = _mix(_mix(pairs) + when[rows].astype(np.uint64))
        total = (total + int(hashes.sum(dtype=np.uint64))) % 2**64
        mixed ^= int(np.bitwise_xor.reduce(hashes))
    timed = b"order" if part.times is None else b"times"
    return timed + np.array([len(part), total, mixed], np.uint64).tobytes()


def _positions(users: np.ndarray) -> np.ndarray:
    """0, 1, 2, … of each user's events, int64 [N]."""
    order = row_order(users, None)
    ordered = users if order is None else users[order]
    starts = np.searchsorted(ordered, ordered) if len(users) else ordered
    positions = np.empty(len(users), np.int64)
    positions[slice(None) if order is None else order] = np.arange(len(users)) - starts
    return positions


def _mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele, Lea and Flood, 2014), uint64."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
    return values ^ (values >> np.uint64(31))

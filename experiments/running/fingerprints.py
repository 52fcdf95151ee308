"""Checksums of the interactions of a split, by which runs know their data again.

Today's say which person met which thing when, whatever the order of rows; they begin with ``2:``. Those of released
splits are older: a released split comes numbered, and what was recorded of it stays comparable.
"""

import hashlib

import numpy as np

from diffrec_jax.data.events import Events
from diffrec_jax.data.order import row_order
from diffrec_jax.data.splits import Split

SCHEME = "2:"
CHUNK = 2**20  # events hashed at a time


def fingerprint(split: Split) -> str:
    """The checksum of the three parts and their ids; without times, of the order within each user, too."""
    if split.rule == "released":
        return _numbered(split)
    digest = hashlib.sha256()
    for ids in (split.user_ids, split.item_ids):
        digest.update(("\n".join(map(str, ids.tolist())) + "\n\n").encode())
    for part in (*split, *(() if split.context is None else (split.context,))):
        digest.update(_events(part))
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


def _events(part: Events) -> bytes:
    """Number, sum and exclusive or of one hash per event: the same for every order of rows."""
    when = _positions(part.users) if part.times is None else part.times
    total, mixed = 0, 0
    for start in range(0, len(part), CHUNK):
        rows = slice(start, start + CHUNK)
        pairs = (part.users[rows].astype(np.uint64) << np.uint64(32)) | part.items[rows].astype(np.uint64)
        hashes = _mix(_mix(pairs) + when[rows].astype(np.uint64))
        if part.weights is not None:
            hashes = _mix(hashes + part.weights[rows].view(np.uint32).astype(np.uint64))
        total = (total + int(hashes.sum(dtype=np.uint64))) % 2**64
        mixed ^= int(np.bitwise_xor.reduce(hashes))
    timed = b"order" if part.times is None else b"times"
    return timed + np.array([len(part), total, mixed], np.uint64).tobytes()


def _positions(users: np.ndarray) -> np.ndarray:
    """0, 1, 2, … of each user's events, int64 [N]."""
    order = row_order(users, users, None)
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

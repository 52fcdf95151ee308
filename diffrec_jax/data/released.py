"""The authors' released layout: ``train_list.npy``, ``valid_list.npy``, ``test_list.npy``, each integer pairs [n, 2].

Files are read without pickle and kept as they are, in their order. **Their order is not what their names say**: the
released sets were cut per user in time order into train, then *test*, then *validation*, so validation is later than
test, and feeding validation into a test history tells the model the future.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from diffrec_jax.data.events import INT32_MAX, Events
from diffrec_jax.data.order import first_occurrences, pair_keys
from diffrec_jax.data.splits import Split, leakage_report

PARTS = ("train", "valid", "test")
PUBLISHED_AT = "https://github.com/YiyanXu/DiffRec"


def is_released(folder: Path) -> bool:
    """Whether the folder holds any file of the released layout."""
    return any((folder / f"{part}_list.npy").is_file() for part in PARTS)


def read_released(folder: str | Path) -> Split:
    """A folder in the authors' released layout kept as it is; file order stands for time order.

    Ids are ``0 … largest over the three files``. Overlaps, repeats and users without history become ``notes``.

    Raises:
      FileNotFoundError: for a missing file.
      ValueError: for arrays that are not integer pairs, negative ids, or ids so large that they cannot be codes.
    """
    folder = Path(folder)
    parts, notes = _read_lists(folder)
    split = Split(
        folder.resolve().name,
        parts["train"],
        parts["valid"],
        parts["test"],
        rule="released",
        guarantee="Kept as released, in file order. In the authors' own sets validation is later than test, "
        "so feeding validation into the test history tells the model the future.",
    )
    extra = []
    for part, log in (("valid", split.valid), ("test", split.test)):
        if shared := _overlap(split.train, log):
            extra.append(
                f"Warning: {shared:,} of the {len(log):,} {part} interactions are in train too; "
                "training history is masked, so they can never be hits."
            )
    if idle := int((np.bincount(split.train.users, minlength=split.n_users) == 0).sum()):
        extra.append(f"Warning: {idle:,} of {split.n_users:,} users have no training history but count in evaluation.")
    return replace(split, notes=(*notes, *extra, str(leakage_report(split))))


def _read_lists(folder: Path) -> tuple[dict[str, Events], tuple[str, ...]]:
    """The three logs over one vocabulary, and sentences about what the files hold."""
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no dataset folder {folder}; it should hold train_list.npy, valid_list.npy and test_list.npy. "
            f"The authors publish theirs at {PUBLISHED_AT}"
        )
    missing = [f"{part}_list.npy" for part in PARTS if not (folder / f"{part}_list.npy").is_file()]
    if missing:
        raise FileNotFoundError(
            f"{' and '.join(missing)} missing in {folder.resolve()}: the released layout is train_list.npy, "
            f"valid_list.npy and test_list.npy. The authors publish theirs at {PUBLISHED_AT}"
        )
    pairs = {part: _read_pairs(folder / f"{part}_list.npy") for part in PARTS}
    events = sum(map(len, pairs.values()))
    if not len(pairs["train"]):
        raise ValueError(f"{folder / 'train_list.npy'} holds no interactions; there is nothing to train on")
    sizes = [1 + max(int(p[:, column].max()) for p in pairs.values() if len(p)) for column in (0, 1)]
    for what, size in zip(("user", "item"), sizes):
        if size > 20 * events + 1000:
            raise ValueError(
                f"{folder}: the largest {what} id is {size - 1:,} with only {events:,} interactions; "
                f"ids must be codes 0 … number of {what}s - 1, so re-number them (or read the log with its raw ids)"
            )
    n_users, n_items = sizes
    user_ids, item_ids = np.arange(n_users, dtype=np.int64), np.arange(n_items, dtype=np.int64)
    notes = []
    parts = {}
    for part, array in pairs.items():
        users, items = array[:, 0].astype(np.int32), array[:, 1].astype(np.int32)
        firsts = first_occurrences(users, items, n_items)
        if firsts is not None:
            notes.append(
                f"{part}_list.npy repeats {int((~firsts).sum()):,} of its {len(users):,} pairs; each is used once."
            )
            users, items = users[firsts], items[firsts]
        parts[part] = Events(users, items, user_ids, item_ids)
    return parts, tuple(notes)


def _overlap(a: Events, b: Events) -> int:
    """Number of (user, item) pairs of ``b`` that ``a`` holds too; both must share one vocabulary."""
    return int(np.isin(pair_keys(b.users, b.items, b.n_items), pair_keys(a.users, a.items, a.n_items)).sum())


def _read_pairs(path: Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError, MemoryError) as error:
        raise ValueError(f"{path} is not a readable .npy array of integer pairs ({error})") from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.shape[1] != 2:
        shape = getattr(array, "shape", "several arrays")
        raise ValueError(f"{path} has shape {shape}; expected (n, 2): one row of user and item per interaction")
    if array.dtype.kind not in "iu":
        raise ValueError(f"{path} holds {array.dtype} values; user and item codes must be integers")
    if len(array):
        low, high = int(array.min()), int(array.max())
        if low < 0:
            row = int(np.flatnonzero((array < 0).any(1))[0])
            raise ValueError(f"{path}: row {row} is {array[row].tolist()}; user and item codes must not be negative")
        if high >= INT32_MAX:
            row = int(np.flatnonzero((array >= INT32_MAX).any(1))[0])
            raise ValueError(f"{path}: row {row} is {array[row].tolist()}; codes must be below {INT32_MAX:,}")
    return array

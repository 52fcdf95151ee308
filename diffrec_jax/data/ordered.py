"""Whether a log has an order that a model could learn, and what a person should know of it."""

import numpy as np

from diffrec_jax.data.events import CSR
from diffrec_jax.data.packing import waste

BY_CHANCE = 20  # neighbouring events; as many in ascending order by chance are one in a million logs


def check_order(rows: CSR) -> None:
    """Refuse histories whose order says nothing.

    Raises:
      ValueError: if no history has two events; if all times within each history are equal; or, without times, if every
        history goes by ascending item id, as files sorted by user and item do.
    """
    pair = _neighbours(rows)
    if not pair.any():
        raise ValueError(
            f"none of the {rows.n_users:,} histories has two events, so nothing comes after anything: a model of order "
            "needs longer ones; look at the filters and the user column"
        )
    if rows.times is not None:
        if np.all(rows.times[1:][pair] == rows.times[:-1][pair]):
            raise ValueError(
                "all events of each history have one time, so they have no order: name a finer time column (time=…, "
                "--time_col=…), or none if the file is in order"
            )
    elif pair.sum() >= BY_CHANCE and np.all(rows.indices[1:][pair] >= rows.indices[:-1][pair]):
        raise ValueError(
            "the log has no times, and each history goes by ascending item id, which is no order of events: name the "
            "time column (time=…, --time_col=…), or bring the events of each history into their order"
        )


def order_notes(
    rows: CSR, length: int | None = None, *, batch: int | None = None, packing: bool = False
) -> tuple[str, ...]:
    """Sentences about ties in time, histories of one event, and windows.

    Args:
      rows: histories.
      length: of a window, if there are windows: said where nothing fills it.
      batch: how many are trained on at a time, if they are: how much of windows is padding is said.
      packing: whether short ones then share rows.
    """
    notes = []
    if rows.times is not None:
        tied = int((_neighbours(rows) & (rows.times[1:] == rows.times[:-1])).sum())
        if tied:
            notes.append(
                f"{tied:,} of {rows.n_interactions:,} training events have the time of the one before in the same "
                "history: the item id decides their order."
            )
    lengths = rows.lengths()
    single = int((lengths == 1).sum())
    if single:
        notes.append(
            f"{single:,} of {rows.n_users:,} training histories hold one event, from which no order is learned."
        )
    longest = int(lengths.max(initial=0))
    if length is not None and length > longest:
        notes.append(
            f"length={length} is longer than the longest training history ({longest:,} events): what lies beyond is "
            "never trained, and a smaller length gives the same faster."
        )
    if length is not None and batch is not None:
        positions = np.maximum(lengths - 1, 0)
        windows = min(length, max(longest - 1, 1))
        apart, shared = (waste(positions, windows, batch=batch, packed=packed) for packed in (False, packing))
        said = f", and {shared:.0%} where short histories share rows, as they do" if packing else ""
        notes.append(
            f"{np.minimum(positions, windows).sum():,} positions to learn from in windows of {windows}: {apart:.0%} "
            f"of slots are padding{said}."
        )
    return tuple(notes)


def _neighbours(rows: CSR) -> np.ndarray:
    """Which events n and n + 1 are of one history, bool [N - 1]."""
    users = rows.users()
    same: np.ndarray = users[1:] == users[:-1]
    return same

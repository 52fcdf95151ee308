"""A log that is small enough to fit anything on, and awkward: its sizes divide by no number of devices."""

import functools

import numpy as np

from diffrec_jax.data.interactions import Interactions
from diffrec_jax.data.splits import Split

N_USERS, N_ITEMS = 27, 19


@functools.cache
def small_split() -> Split:
    """``N_USERS`` users of ``N_ITEMS`` items with text ids and times; histories of 3 to 15 items."""
    rng = np.random.default_rng(0)
    tastes = rng.random((N_USERS, N_ITEMS)) + 0.6 * (np.arange(N_USERS)[:, None] % 3 == np.arange(N_ITEMS) % 3)
    lengths = rng.integers(5, 20, N_USERS)
    users = np.repeat(np.arange(N_USERS), lengths)
    items = np.concatenate([np.argsort(-row)[:n] for row, n in zip(tastes, lengths)])
    times = 1_600_000_000 + 3_600 * rng.permutation(len(users))
    log = Interactions.from_arrays([f"user{u:02}" for u in users], [f"item{i:02}" for i in items], times=times)
    return log.split_by_time(0.7, 0.1, 0.2)

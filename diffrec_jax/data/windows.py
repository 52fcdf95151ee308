"""Sequences: the last events of a history as a window, and the examples that sequential models are trained on.

A window holds the last L events of each history, the most recent one **last** and padding (item I) on the **left**, so
that "the last event" is a static index and positions count back from now. Examples are made of windows on the device::

    next items   inputs s_1 … s_{n-1}, targets s_2 … s_n, all at once                      (1)
    one cut      prefix s_1 … s_m and its next item s_{m+1}, m uniform on 1 … n - 1        (2)
    masked       some of s_1 … s_n hidden behind the id I + 1, to be told from the rest    (3)

Eq. 2 draws uniformly over users; every prefix of a log counts alike once a user weighs ``n - 1``, which its weights do.
What is drawn for a user depends on the key and the user alone: not on the batch, its padding or the devices.

Letters: B rows, L length of a window, I items, n events of a history.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from diffrec_jax.data.packing import sizes
from diffrec_jax.data.rows import DeviceCSR, Rows

FEW = 32  # events; a window of as many is not worth another program


def window(rows: Rows, length: int) -> tuple[jax.Array, jax.Array]:
    """The last ``length`` events of each history.

    Returns:
      ``(items [B, L] int32, real [B, L] bool)``; where an entry is not real, ``items`` holds I.
    """
    return _last(rows, rows.lengths, length)


def in_short_windows(function: Callable[[jax.Array, jax.Array], jax.Array], rows: Rows, length: int) -> jax.Array:
    """``function(items, real)`` of the last ``length`` events of each history, in windows as short as the batch allows.

    The function must not depend on how far a window is padded; it is compiled for a few lengths, of which the smallest
    that holds the longest history of the batch is taken.
    """
    most = longest(rows, length)
    lengths = [*(sizes(most) if most > FEW else ()), most]
    long_enough = jnp.sum(jnp.max(rows.lengths) > jnp.asarray(lengths[:-1], jnp.int32))
    found: jax.Array = jax.lax.switch(long_enough, [lambda n=n: function(*window(rows, n)) for n in lengths])
    return found


def longest(rows: Rows, length: int) -> int:
    """What windows of at most ``length`` need: all of it in an exported program, whose histories know no length."""
    width = rows.items.shape[1]
    return min(length, width) if isinstance(width, int) else length


def take_window(csr: DeviceCSR, users: jax.Array, length: int) -> tuple[jax.Array, jax.Array]:
    """``window`` of ``users [B]`` (-1 has no events), cut out of the interactions without the rows between them."""
    end = csr.indptr.at[users + 1].get(mode="clip")
    start = csr.indptr.at[users].get(mode="clip")
    place = end[:, None] - length + jnp.arange(length, dtype=jnp.int32)[None, :]
    real = (place >= start[:, None]) & (users >= 0)[:, None]
    return jnp.where(real, csr.indices.at[place].get(mode="clip"), csr.n_items), real


def next_items(items: jax.Array, real: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Eq. 1 of a window of L + 1 events.

    Returns:
      ``(inputs [B, L], targets [B, L], weights [B, L] float32)``; a weight is 1 where there is something to predict.
    """
    return items[:, :-1], items[:, 1:], real[:, :-1].astype(jnp.float32)


def one_cut(rows: Rows, length: int, key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Eq. 2: one prefix of each history, its last ``length`` events, and what came next.

    Returns:
      ``(items [B, L], real [B, L], targets [B], weights [B])``; weights are ``n - 1`` over its mean in the batch, and 0
      for padding and histories of fewer than two events.
    """
    n = rows.lengths
    uniform = jax.vmap(jax.random.uniform)(user_keys(key, rows.users))
    place = 1 + jnp.minimum((uniform * (n - 1).astype(jnp.float32)).astype(jnp.int32), jnp.maximum(n - 2, 0))
    items, real, targets = cut_at(rows, jnp.where(n > 1, place, 0), length)
    targets = jnp.where(n > 1, targets, rows.n_items)
    weights = jnp.where((rows.users >= 0) & (n > 1), n - 1, 0).astype(jnp.float32)
    mean = jnp.sum(weights) / jnp.maximum(jnp.sum(weights > 0.0), 1).astype(jnp.float32)
    return items, real, targets, weights / jnp.maximum(mean, 1.0)


def cut_at(rows: Rows, places: jax.Array, length: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The prefixes of Eq. 2 that end before ``places [B]``.

    Returns:
      ``(items [B, L], real [B, L], targets [B])``; behind the last event there is no target, and I stands for it.
    """
    items, real = _last(rows, places, length)
    column = jnp.clip(places, 0, rows.items.shape[1] - 1)[:, None]
    found = jnp.take_along_axis(rows.items, column, axis=1)[:, 0]
    return items, real, jnp.where(places < rows.lengths, found, rows.n_items)


def masked(
    rows: Rows, length: int, key: jax.Array, *, p: float, force_last: float = 0.0
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Eq. 3: each event of a window hidden with probability ``p``, the last one if none is.

    Args:
      rows: whole histories.
      length: L.
      key: of the draws.
      p: share of hidden events.
      force_last: probability that of a history the last event alone is hidden, as it is when ranking.

    Returns:
      ``(inputs [B, L], targets [B, L], weights [B, L] float32)``; hidden inputs hold I + 1, and weigh 1.
    """
    items, real = window(rows, length)

    def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        events, last = jax.random.split(key)
        return jnp.flip(jax.random.uniform(events, (length,))), jax.random.uniform(last)

    events, forced = jax.vmap(draw)(user_keys(key, rows.users))
    is_last = jnp.arange(length)[None, :] == length - 1
    hidden = (events < p) & real
    only_last = (forced < force_last) | ~jnp.any(hidden, axis=1)
    hidden = jnp.where(only_last[:, None], is_last & real, hidden)
    hidden &= (rows.users >= 0)[:, None]
    return jnp.where(hidden, rows.n_items + 1, items), items, hidden.astype(jnp.float32)


def user_keys(key: jax.Array, users: jax.Array) -> jax.Array:
    """A key for each of ``users [B]``."""
    return jax.vmap(lambda user: jax.random.fold_in(key, user))(users)


def _last(rows: Rows, ends: jax.Array, length: int) -> tuple[jax.Array, jax.Array]:
    """The ``length`` events before ``ends [B]``."""
    place = ends[:, None] - length + jnp.arange(length, dtype=jnp.int32)[None, :]
    real = place >= 0
    column = jnp.clip(place, 0, rows.items.shape[1] - 1)
    return jnp.where(real, jnp.take_along_axis(rows.items, column, axis=1), rows.n_items), real

"""Lanes: sessions side by side, one event of each lane at a time.

M lanes read M sessions at once. A lane whose session has ended goes on with the next session that nobody reads yet, so
that all lanes are busy until the sessions run out. What the lanes read at the same time is a column: its events come
from different sessions.

Source: the session-parallel mini-batches of Hidasi et al., *Session-based Recommendations with Recurrent Neural
Networks* (ICLR 2016, Section 3.1.1).
Letters: B sessions, L events of a window, M lanes, T columns.
"""

import jax
import jax.numpy as jnp


def assign(lengths: jax.Array, lanes: int) -> tuple[jax.Array, jax.Array]:
    """Where sessions of ``lengths [B]`` events lie, in their order; those without events take no lane.

    Returns:
      ``(lane [B], first column [B])``, both int32.
    """

    def put(ends: jax.Array, n: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        lane = jnp.argmin(ends).astype(jnp.int32)  # the first of those that are free the earliest
        return ends.at[lane].add(n), (lane, ends[lane])

    return jax.lax.scan(put, jnp.zeros(lanes, jnp.int32), lengths.astype(jnp.int32))[1]


def columns(real: jax.Array, lanes: int) -> jax.Array:
    """The events of windows ``real [B, L]``, padded on the left, by column and lane.

    Returns:
      ``[T, M]`` int32 places in the flat window, ``b · L + j``; B · L where a lane has nothing to read. T is the most
      columns that B such windows can take.
    """
    (n_sessions, length), lanes = real.shape, min(lanes, real.shape[0])
    lengths = jnp.sum(real, axis=1, dtype=jnp.int32)
    lane, first = assign(lengths, lanes)
    nth = jnp.arange(length, dtype=jnp.int32)[None, :] - (length - lengths)[:, None]  # of its session
    n_columns = length if lanes == n_sessions else -(-n_sessions * length // lanes) + length
    column = jnp.where(real, first[:, None] + nth, n_columns)
    place = jnp.arange(n_sessions * length, dtype=jnp.int32).reshape(real.shape)
    empty = jnp.full((n_columns, lanes), n_sessions * length, jnp.int32)
    return empty.at[column, jnp.broadcast_to(lane[:, None], real.shape)].set(place, mode="drop")

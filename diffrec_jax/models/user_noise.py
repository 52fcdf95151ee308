"""Noise at inference that belongs to a user, so that scores do not depend on the batch, its padding or the devices."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp


def normal_per_user(key: jax.Array, users: jax.Array, width: int) -> jax.Array:
    """Standard normal ``[B, width]``, a function of the key and the user id alone; ids of -1 share one draw.

    Raises:
      ValueError: for a generator whose draws under ``vmap`` do not depend on each key (rbg).
    """
    if "threefry" not in str(jax.random.key_impl(key)):
        raise ValueError(
            f"prng_impl={jax.random.key_impl(key)} cannot draw per user: use threefry2x32 for noise at inference"
        )
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(users)
    return jax.vmap(lambda k: jax.random.normal(k, (width,)))(keys)


def mean_of_draws(of: Callable[[jax.Array], jax.Array], key: jax.Array | None, draws: int) -> jax.Array:
    """The mean of what ``of`` gives for ``draws`` keys made of one.

    Raises:
      ValueError: without a key.
    """
    if key is None:
        raise ValueError(f"draws={draws} of noise when ranking need a key: pass one, or draws=0")
    own = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(draws))
    return jnp.mean(jax.lax.map(of, own), axis=0)

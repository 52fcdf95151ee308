"""An optimizer whose first moments are kept in fewer bits; everything else of it stays as it was."""

from collections.abc import Hashable

import jax
import jax.numpy as jnp
import jax.typing
import optax
from jax.tree_util import KeyPath


def with_mu_dtype(optimizer: optax.GradientTransformation, dtype: jax.typing.DTypeLike) -> optax.GradientTransformation:
    """The optimizer with its arrays named ``mu`` (the first moments of Adam and its kin) stored as ``dtype``.

    A step computes in float32 and rounds only what it keeps. On a memory-bound step this saves a quarter of
    what AdamW's state takes, in memory and in traffic.

    Optax's own ``mu_dtype`` is an argument of each optimizer, which is made by the model; it also computes ``b1 · mu``
    in ``dtype``, so its steps are not quite those of float32.
    """

    def stored(state: optax.OptState, dtype: jax.typing.DTypeLike) -> optax.OptState:
        def cast(path: KeyPath[Hashable], leaf: jax.Array) -> jax.Array:
            return leaf.astype(dtype) if jax.tree_util.GetAttrKey("mu") in path else leaf

        return jax.tree_util.tree_map_with_path(cast, state)

    def init(params: optax.Params) -> optax.OptState:
        return stored(optimizer.init(params), dtype)

    def update(
        gradient: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        updates, state = optimizer.update(gradient, stored(state, jnp.float32), params)
        return updates, stored(state, dtype)

    return optax.GradientTransformation(init, update)

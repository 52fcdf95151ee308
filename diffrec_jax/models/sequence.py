"""What models of order share: a vector of a history, ranked against a table of items, and what they are trained on.

Letters: B rows, L positions of a window, I items, D width.
"""

import abc
from collections.abc import Callable, Mapping
from typing import ClassVar, TypeAlias, cast

import jax
import jax.numpy as jnp

from diffrec_jax.data.packing import in_few_rows
from diffrec_jax.data.rows import Rows
from diffrec_jax.data.windows import next_items, window
from diffrec_jax.fit_options import FitOptions
from diffrec_jax.models.contract import Model, Params, Prepared
from diffrec_jax.models.item_losses import softmax_cross_entropy

Features: TypeAlias = Callable[[jax.Array, jax.Array, jax.Array | None, jax.Array | None], jax.Array]


class SequenceModel(Model):
    """Scores are ``now · E_i + b_i``; parameters hold ``items`` (E, ``[I, D]``) and maybe ``item_bias`` (b), and
    ``read``, a table of its own for what is read.

    A model whose E and b are made of its parameters says how, in ``table`` and ``item_bias``.

    Attributes:
      length: L, the most recent events of a history that it sees.
    """

    length: int

    fit_options: ClassVar[FitOptions] = FitOptions(batch_size=128)
    needs_order: ClassVar[bool] = True

    @abc.abstractmethod
    def now(self, params: Params, rows: Rows, *, key: jax.Array | None = None) -> jax.Array:
        """The vector of each history as it stands, ``[B, D]``; a key where it draws anything."""

    def table(self, params: Params) -> jax.Array:
        """The vectors of the items, ``[I, D]``."""
        items: jax.Array = params["items"]
        return items

    def item_bias(self, params: Params) -> jax.Array | None:
        """The biases of the items, ``[I]``; None for none."""
        return cast("jax.Array | None", params.get("item_bias"))

    def examples(self, rows: Rows) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Windows of at most L + 1 events, and of each position what comes next.

        Returns:
          ``(items [B, L + 1], inputs [B, L], targets [B, L], weights [B, L])``, see ``data.windows.next_items``; where
          a row is padding, weights are 0.
        """
        items, real = window(rows, min(self.length, rows.items.shape[1] - 1 or 1) + 1)
        return items, *next_items(items, real & (rows.users >= 0)[:, None])

    def in_few_rows(self, features: Features, items: jax.Array, real: jax.Array) -> jax.Array:
        """``features`` of windows ``[B, L]``, whose short histories share rows if ``packing``; ``[B, L, D]``.

        Args:
          features: ``(items, real, segments, columns) -> [B, L, D]``; the last two are None where none is shared.
          items: ``[B, L]``.
          real: ``[B, L]`` bool.
        """
        if not self.packing:
            return features(items, real, None, None)
        return in_few_rows(lambda items, own, columns: features(items, own >= 0, own, columns), items, real)

    def mean_cross_entropy(
        self, params: Params, f: jax.Array, targets: jax.Array, weights: jax.Array, rows: Rows
    ) -> jax.Array:
        """The mean over positions of the full softmax, of ``f [B, L, D]``, ``targets`` and ``weights [B, L]``."""
        flat = (f.reshape(-1, f.shape[2]), self.table(params), self.item_bias(params), targets.reshape(-1))
        total = softmax_cross_entropy(*flat, weights.reshape(-1), mesh=rows.mesh)
        return total / jnp.maximum(jnp.sum(weights), 1.0)

    @property
    def item_axes(self) -> Mapping[str, int]:
        """See ``models.contract.Scorer.item_axes``."""
        return {"items": 0, "item_bias": 0, "read": 0}

    @property
    def factored(self) -> bool:
        """Always."""
        return True

    def scores(self, params: Params, rows: Rows, *, key: jax.Array | None = None, tables: Prepared = None) -> jax.Array:
        """``now · E_i + b_i``, ``[B, I]``."""
        scores = jnp.matmul(self.now(params, rows, key=key), self.table(params).T)
        bias = self.item_bias(params)
        return scores if bias is None else scores + bias[None, :]

    def user_vectors(
        self, params: Params, rows: Rows, *, key: jax.Array | None = None, tables: Prepared = None
    ) -> jax.Array:
        """``[now, 1]``, ``[B, D + 1]``."""
        return jnp.pad(self.now(params, rows, key=key), ((0, 0), (0, 1)), constant_values=1.0)

    def item_vectors(self, params: Params) -> jax.Array:
        """``[E, b]``, ``[I, D + 1]``; b is 0 where there is none."""
        items, bias = self.table(params), self.item_bias(params)
        bias = jnp.zeros(items.shape[0], items.dtype) if bias is None else bias
        return jnp.concatenate([items, bias[:, None]], axis=1)

"""The loss of models that tell, at every position of a window, what comes next: which of ``item_losses``, of what.

``softmax`` and ``sampled`` are Eq. 1 and 2 of ``item_losses``, ``gbce`` its Eq. 3, and ``bce`` the original loss of
SASRec: at each position the target against one item, drawn uniformly. Negatives of ``gbce`` are shared by the positions
of a history, those of ``sampled`` by the batch; one of ``bce`` or ``gbce`` that the window holds counts as none, as
does in ``sampled`` the target.

Letters: B rows, L positions, I items, D width.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from diffrec_jax.data.rows import Rows
from diffrec_jax.data.windows import user_keys
from diffrec_jax.models.item_losses import check_negatives, gbce_beta, sampled_softmax, softmax_cross_entropy

LOSSES = ("softmax", "sampled", "gbce", "bce")
SAMPLED = ("sampled", "gbce")  # those that a number of negatives means something to


@dataclasses.dataclass(frozen=True)
class NextItem:
    """A loss over items by its name.

    Attributes:
      name: one of ``LOSSES``.
      negatives: how many the sampled ones draw.
      t: how far ``gbce`` is calibrated.
    """

    name: str
    negatives: int
    t: float

    def check(self, n_items: int) -> None:
        """Refuse more negatives than items, where any are drawn."""
        if self.name in SAMPLED:
            check_negatives(self.negatives, n_items)

    def mean(
        self,
        f: jax.Array,
        table: jax.Array,
        bias: jax.Array | None,
        items: jax.Array,
        weights: jax.Array,
        rows: Rows,
        *,
        key: jax.Array,
    ) -> jax.Array:
        """The weighted mean over positions.

        Args:
          f: ``[B, L, D]`` vectors.
          table: ``[I, D]``.
          bias: ``[I]``, or None for none.
          items: ``[B, L + 1]`` the window; the target of a position is what comes behind it.
          weights: ``[B, L]``, 0 where nothing does.
          rows: of which the window is.
          key: of negatives.
        """
        targets = items[:, 1:]
        flat = (f.reshape(-1, f.shape[2]), table, bias, targets.reshape(-1), weights.reshape(-1))
        if self.name == "softmax":
            total = softmax_cross_entropy(*flat, mesh=rows.mesh)
        elif self.name == "sampled":
            drawn = jax.random.choice(key, rows.n_items, (self.negatives,), replace=False)
            total = sampled_softmax(*flat, drawn, jnp.full(self.negatives, -math.log(rows.n_items)))
        else:
            total = self._binary(f, table, bias, items, weights, user_keys(key, rows.users))
        return total / jnp.maximum(jnp.sum(weights), 1.0)

    def _binary(
        self,
        f: jax.Array,
        table: jax.Array,
        bias: jax.Array | None,
        items: jax.Array,
        weights: jax.Array,
        keys: jax.Array,
    ) -> jax.Array:
        """The sum over positions of ``bce`` or ``gbce``; what the window holds is no negative."""
        targets, original = items[:, 1:], self.name == "bce"
        count = targets.shape[1] if original else self.negatives
        drawn = jax.vmap(lambda key: jax.random.randint(key, (count,), 0, table.shape[0]))(keys)  # [B, count]
        is_negative = jnp.all(drawn[:, :, None] != items[:, None, :], axis=2)
        f = f.astype(jnp.float32)
        target, negative = (table.at[a].get(mode="clip").astype(jnp.float32) for a in (targets, drawn))
        b = jnp.zeros(table.shape[0]) if bias is None else bias.astype(jnp.float32)
        own, their = (b.at[a].get(mode="clip") for a in (targets, drawn))
        positive = jnp.sum(f * target, axis=2) + own
        if original:
            others = jax.nn.softplus(jnp.sum(f * negative, axis=2) + their) * is_negative.astype(f.dtype)
            return jnp.sum(weights * (jax.nn.softplus(-positive) + others))
        others = jax.nn.softplus(jnp.einsum("bld,bkd->blk", f, negative) + their[:, None, :])
        others = others * is_negative[:, None, :].astype(f.dtype)
        beta = gbce_beta(self.negatives, table.shape[0], self.t)
        return jnp.sum(weights * (beta * jax.nn.softplus(-positive) + jnp.sum(others, axis=2))) / (count + 1)

"""The causal form of DiffuRec: every event of a history is denoised at once, from what stands before it.

With the letters of ``models.diffurec``, and a causal transformer T_θ::

    x_j = √alphabar_{t_j} · E[s_{j+1}] + √(1 - alphabar_{t_j}) · ε_j,   t_j uniform        (1)
    z_j = N(E[s_j] + P_j) + λ_j ⊙ (x_j + d(t_j)),     λ_j ~ N(δ, δ²)                       (2)
    L   = mean over j of  -log softmax_i(T_θ(z)_j · E_i)[s_{j+1}]                          (3)

One pass trains as many targets as a history has, where DiffuRec trains one. Nothing leaks: what is noised at an earlier
event is an item of the history. Ranked is by one pass with x_j = 0, t_j = 0 and λ = δ. With ``delta=0`` nothing is
noised, and it is a transformer like any other.

Ours; after Li, Sun & Li, *DiffuRec* (arXiv 2304.00686), and the token-wise noise of Chen et al., *ADRec* (KDD 2025).
"""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp

from diffrec_jax.data.packing import in_few_rows
from diffrec_jax.data.rows import Rows
from diffrec_jax.data.windows import next_items, user_keys, window
from diffrec_jax.diffusion.process import q_sample
from diffrec_jax.fit_options import FitOptions
from diffrec_jax.models.contract import LossAux, Memory, Params
from diffrec_jax.models.diffused import Diffused
from diffrec_jax.models.item_losses import softmax_cross_entropy
from diffrec_jax.models.sasrec import SASRec
from diffrec_jax.options import again


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalDiffuRec(Diffused):
    """Hyper-parameters of the causal form and its functions; see ``models.contract.Model``."""

    width: int = again(Diffused, "width", default=64)
    blocks: int = again(Diffused, "blocks", default=2)
    heads: int = again(Diffused, "heads", default=2)
    positions: bool = again(Diffused, "positions", default=True)
    embedding_dropout: float = again(Diffused, "embedding_dropout", default=0.1)
    packing: bool = again(SASRec, "packing")

    causal: ClassVar[bool] = True
    fit_options: ClassVar[FitOptions] = FitOptions(batch_size=128)

    def loss(
        self, params: Params, memory: Memory, rows: Rows, *, key: jax.Array, step: jax.Array, epoch: jax.Array
    ) -> tuple[jax.Array, LossAux]:
        """Eq. 3, averaged over the events with a next one."""
        del memory, step, epoch
        own_key, embedding_key, dropout_key = jax.random.split(key, 3)
        items, real = window(rows, min(self.length, rows.items.shape[1] - 1 or 1) + 1)
        inputs, targets, weights = next_items(items, real & (rows.users >= 0)[:, None])
        guide = self.guide(params, targets, user_keys(own_key, rows.users))

        def packed(inputs: jax.Array, segments: jax.Array, columns: jax.Array, guide: jax.Array) -> jax.Array:
            h = self.history(params, inputs, columns, key=embedding_key)
            return self.apply(params, h + guide, segments >= 0, segments, key=dropout_key)

        if self.packing:
            f = in_few_rows(packed, inputs, weights > 0, guide)
        else:
            h = self.history(params, inputs, key=embedding_key)
            f = self.apply(params, h + guide, weights > 0, key=dropout_key)
        flat = (f.reshape(-1, self.width), params["items"], None, targets.reshape(-1), weights.reshape(-1))
        total = softmax_cross_entropy(*flat, mesh=rows.mesh)
        return total / jnp.maximum(jnp.sum(weights), 1.0), LossAux()

    def guide(self, params: Params, targets: jax.Array, keys: jax.Array) -> jax.Array:
        """``λ_j ⊙ (x_j + d(t_j))`` of Eq. 1 and 2 for targets ``[B, L]``, drawn by the keys ``[B]``; ``[B, L, D]``.

        Draws count back from the last event, so that a wider window changes none of them.
        """
        length, table = targets.shape[1], params["items"]

        def draw(key: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            of_t, of_noise, of_factor = jax.random.split(key, 3)
            t = jax.random.randint(of_t, (self.length,), 0, self.steps)
            noise, spread = (jax.random.normal(each, (self.length, self.width)) for each in (of_noise, of_factor))
            return t[-length:], noise[-length:], spread[-length:]

        t, noise, spread = jax.vmap(draw)(keys)
        target = table.at[targets].get(mode="fill", fill_value=0)
        x = jax.vmap(functools.partial(q_sample, self.schedule))(target, t, noise)
        d = self.apply(params, jnp.arange(self.steps), method="at_step")[t]
        return ((self.delta + self.delta * spread) * (x + d)).astype(table.dtype)

    def now(self, params: Params, rows: Rows, key: jax.Array) -> jax.Array:
        """T_θ at the last event, ``[B, D]``."""
        items, real = window(rows, min(self.length, rows.items.shape[1]))
        guide = self.delta * self.apply(params, jnp.zeros(1, jnp.int32), method="at_step")[:, None, :]
        return self.apply(params, self.history(params, items) + guide, real)[:, -1]

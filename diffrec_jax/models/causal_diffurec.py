"""Causal DiffuRec: every position of a history carries the item after it as noise, and tells it from what is before.

The network is that of ``noised_target``, causal. Position j carries x_t of the item s_{j + 1}, with a step and noise of
its own, so that one pass trains all targets of a history, where DiffuRec has a pass for each prefix::

    L = mean over real j of  -log softmax_i(x̂_0(z)_j · E_i)[s_{j + 1}]                        (1)

Nothing leaks: the targets that positions before j carry are events up to s_j. When ranking, positions before the last
carry theirs at t = 0 without noise, √alphabar_0 · E[s_{j + 1}], and the last one what the reverse process has.
With ``delta=0`` it is a plain causal transformer; without ``carries_target`` positions carry a step and no item.

Source: ours, after *DiffuRec* (arXiv 2304.00686); Chen et al., *ADRec* (KDD 2025), likewise noises every position.
Letters: B rows, L positions, I items, D width.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from diffrec_jax.data.rows import Rows
from diffrec_jax.data.windows import user_keys
from diffrec_jax.diffusion.process import q_sample
from diffrec_jax.models.contract import LossAux, Memory, Params
from diffrec_jax.models.noised_target import NoisedTarget
from diffrec_jax.options import again


@dataclasses.dataclass(frozen=True, kw_only=True)
class CausalDiffuRec(NoisedTarget):
    """Hyper-parameters of the causal form and its functions; see ``models.contract.Model``."""

    width: int = again(NoisedTarget, "width", default=64)
    blocks: int = again(NoisedTarget, "blocks", default=2)
    heads: int = again(NoisedTarget, "heads", default=2)
    length: int = again(NoisedTarget, "length", default=128)
    positions: bool = again(NoisedTarget, "positions", default=True)
    history_dropout: float = again(NoisedTarget, "history_dropout", default=0.1)
    init_std: float | None = again(
        NoisedTarget, "init_std", help="standard deviation of the table at first; None: 0.02"
    )
    reverse_steps: int | None = again(
        NoisedTarget, "reverse_steps", help="passes of the reverse process when ranking, of T; None: one"
    )
    draws: int | None = again(NoisedTarget, "draws", help="draws of noise averaged when ranking; 0, or None: no noise")

    causal: ClassVar[bool] = True

    def loss(
        self, params: Params, memory: Memory, rows: Rows, *, key: jax.Array, step: jax.Array, epoch: jax.Array
    ) -> tuple[jax.Array, LossAux]:
        """Eq. 1 over the positions with a next event."""
        del memory, step, epoch
        t_key, key = jax.random.split(key)
        _, inputs, targets, weights = self.examples(rows)

        def steps(key: jax.Array) -> jax.Array:
            return jax.random.randint(key, inputs.shape[1:], 0, self.steps)

        t = jnp.flip(jax.vmap(steps)(user_keys(t_key, rows.users)), axis=1)  # [B, L], counted back from the last event

        def noised(row: jax.Array, column: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
            x0, now = params["items"].at[targets[row, column]].get(mode="fill", fill_value=0), t[row, column]
            return q_sample(self.schedule, x0, now, jax.random.normal(key, x0.shape).astype(x0.dtype)), now

        x0_hat = self.trained_on(params, inputs, weights > 0, noised, key)
        return self.mean_cross_entropy(params, x0_hat, targets, weights, rows), LossAux()

    def placed(self, params: Params, items: jax.Array, x: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        """At the last position; those before it carry the item after them, without noise."""
        known = params["items"].at[items[:, 1:]].get(mode="fill", fill_value=0)
        known = q_sample(self.schedule, known, jnp.zeros((), jnp.int32), jnp.zeros_like(known))
        before = jnp.zeros(known.shape[:2], t.dtype)
        return jnp.concatenate([known, x[:, None]], axis=1), jnp.concatenate([before, t[:, None]], axis=1)

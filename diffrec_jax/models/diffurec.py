"""DiffuRec: what comes next, told from a history that carries the next item as noise.

The network is that of ``noised_target``, bidirectional: one x_t of the next item joins every position of the prefix
before it, and x̂_0 is read at its last position. With m uniform over the events of the log that have one before them::

    L = mean of  -log softmax_i(x̂_0(s_1 … s_m, x_t, t) · E_i)[s_{m + 1}],     t uniform        (1)

There is no other term: the mean squared error of diffusion is not part of it. One prefix is cut of each history in a
batch, and weighs as many as the history has (``data.windows.one_cut``). ``t_sampling`` draws steps otherwise, and
divides by how likely they are: ``fixstep`` the first half of them twice as often, ``lossaware`` by their last losses
(``diffusion.importance``).

``reference=True`` is the released code: padding is a token that all positions see, whose own attention is uniform, and
a class of Eq. 1; E starts as N(0, I); dropout also falls on attention weights and whole blocks; ranking runs the whole
reverse from one draw of noise. It does not rank padding, which is no item. Otherwise padding is not seen, and one pass
without noise ranks. As δ is small the noise says next to nothing at ranking time, and without ``positions`` the order
of the events before the last one is not seen at all: it is in effect a bidirectional transformer on prefixes.

Source: Li, Sun & Li, *DiffuRec: A Diffusion Model for Sequential Recommendation* (ACM TOIS 2023, arXiv 2304.00686),
Section 4 and the released code, which names ``lossaware`` but never feeds it, so that t stays uniform.
Letters: B rows, I items, D width, T steps.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from diffrec_jax.data.rows import Rows
from diffrec_jax.data.windows import one_cut, user_keys
from diffrec_jax.diffusion import importance
from diffrec_jax.diffusion.importance import LossHistory
from diffrec_jax.diffusion.process import q_sample
from diffrec_jax.fit_options import FitOptions
from diffrec_jax.models.contract import Catalogue, LossAux, Memory, Params
from diffrec_jax.models.item_losses import softmax_cross_entropy, softmax_losses
from diffrec_jax.models.noised_target import NoisedTarget
from diffrec_jax.options import option

T_SAMPLING = ("uniform", "fixstep", "lossaware")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffuRec(NoisedTarget):
    """Hyper-parameters of DiffuRec and its functions; see ``models.contract.Model``."""

    t_sampling: str = option("uniform", "how diffusion steps are drawn in training", choices=T_SAMPLING)
    reference: bool = option(False, "the network, the training and the ranking of the released code")

    causal: ClassVar[bool] = False
    fit_options: ClassVar[FitOptions] = FitOptions(batch_size=512)

    @property
    def released(self) -> bool:
        """``reference``."""
        return self.reference

    def init(self, key: jax.Array, catalogue: Catalogue) -> Params:
        """See ``NoisedTarget.init``; in the reference E has I + 1 rows, the last for padding, and layers are PyTorch's.

        Those are U(±1/√n) of n inputs, but for weights behind attention and of F, which are Xavier normal.
        """
        params: dict[str, Params] = super().init(key, catalogue)
        if not self.reference:
            return params
        for part in ("time", "encoder"):
            for n, (name, layer) in enumerate(sorted(params[part].items())):
                if "kernel" in layer:
                    own = jax.random.fold_in(jax.random.fold_in(key, len(part)), n)
                    params[part][name] = _pytorch_layer(own, layer, xavier=_is_xavier(name))
        return params

    def init_memory(self, params: Params) -> LossHistory | None:
        """The last losses of each diffusion step, none yet, where they decide which are drawn."""
        return LossHistory.create(self.steps) if self.t_sampling == "lossaware" else None

    def watched(self, memory: Memory) -> Mapping[str, jax.Array]:
        """``importance``: how likely each diffusion step is drawn, ``[T]``, where that changes."""
        return {} if memory is None else {"importance": importance.probabilities(memory)}

    def step_probabilities(self, memory: LossHistory | None = None) -> jax.Array:
        """How likely each diffusion step is drawn, ``[T]``."""
        if memory is not None:
            return importance.probabilities(memory)
        weights = np.ones(self.steps)
        if self.t_sampling == "fixstep":
            weights[self.steps // 2 :] = 0.5
        return jnp.asarray(weights / weights.sum())

    def loss(
        self, params: Params, memory: Memory, rows: Rows, *, key: jax.Array, step: jax.Array, epoch: jax.Array
    ) -> tuple[jax.Array, LossAux]:
        """Eq. 1 over one prefix of each history with two events or more."""
        del step, epoch
        cut_key, t_key, noise_key, key = jax.random.split(key, 4)
        length = self.length if self.released else min(self.length, max(rows.items.shape[1] - 1, 1))
        items, real, targets, weights = one_cut(rows, length, cut_key)
        t, unlikely = importance.draw(self.step_probabilities(memory), t_key, targets.shape[0])
        noise = jax.vmap(lambda k: jax.random.normal(k, (self.width,)))(user_keys(noise_key, rows.users))
        table = params["items"]
        x0 = table.at[targets].get(mode="fill", fill_value=0)
        x = q_sample(self.schedule, x0, t, noise.astype(x0.dtype))
        every = self.trained_on(params, items, real, lambda row, column, key: (x[row], t[row]), key)
        weighed = weights * unlikely
        total = softmax_cross_entropy(every[:, -1], table, None, targets, weighed, mesh=rows.mesh)
        if memory is not None:
            found = softmax_losses(every[:, -1], table, None, jnp.where(weights > 0, targets, 0))
            memory = importance.record(memory, t, found, weights > 0)
        return total / jnp.maximum(jnp.sum(weights), 1.0), LossAux(memory)

    def placed(self, params: Params, items: jax.Array, x: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        """At every position."""
        return x[:, None], t[:, None]


def _is_xavier(name: str) -> bool:
    """Whether a layer of the encoder, by its name, is one behind attention or of F."""
    kind, _, place = name.partition("_")
    return kind == "dense" or (kind == "attention" and place.endswith("_3"))


def _pytorch_layer(key: jax.Array, layer: Mapping[str, jax.Array], *, xavier: bool) -> dict[str, jax.Array]:
    """Drawn anew: what PyTorch gives a layer of this shape, or Xavier normal weights."""
    kernel_key, bias_key = jax.random.split(key)
    n_in, n_out = layer["kernel"].shape
    bound = n_in**-0.5
    found = {"kernel": jax.random.uniform(kernel_key, (n_in, n_out), minval=-bound, maxval=bound)}
    if xavier:
        found["kernel"] = (2.0 / (n_in + n_out)) ** 0.5 * jax.random.normal(kernel_key, (n_in, n_out))
    if "bias" in layer:
        found["bias"] = jax.random.uniform(bias_key, (n_out,), minval=-bound, maxval=bound)
    return found

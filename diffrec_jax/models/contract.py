"""What the loop, the evaluator and the recommender know of a model.

A model is a frozen dataclass of hyper-parameters and pure functions of parameters. A trained model implements
``Model``; a closed-form one implements ``ClosedForm``; both rank with ``scores``. Where the scores are an inner
product, the model may say so (``Factored``). A new model is one new file.

Letters: B rows of a batch, I items, T diffusion steps.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import optax

from diffrec_jax.data.rows import Rows
from diffrec_jax.diffusion.importance import LossHistory

Params = Any  # a pytree of arrays


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """What a model must know of the data before it can be initialised."""

    n_items: int
    n_users: int


class LossAux(NamedTuple):
    """What a loss gives beside its value."""

    history: LossHistory  # the importance-sampling history after this batch
    metrics: dict[str, jax.Array]  # scalars worth a curve


@runtime_checkable
class Scorer(Protocol):
    """Anything that ranks items."""

    def prepare(self, params: Params) -> Any:
        """Compute once per set of parameters what every batch of ``scores`` needs; a pytree of arrays."""
        ...

    def scores(self, params: Params, rows: Rows, *, key: jax.Array, tables: Any = None) -> jax.Array:
        """Scores ``[B, I]``; ``tables`` is what ``prepare`` gave, computed on the spot if None."""
        ...


@runtime_checkable
class Model(Scorer, Protocol):
    """A model trained by gradient descent."""

    @property
    def steps(self) -> int:
        """T; 1 for a model without diffusion."""
        ...

    def init(self, key: jax.Array, catalogue: Catalogue) -> Params:
        """Draw parameters."""
        ...

    def loss(
        self, params: Params, history: LossHistory, rows: Rows, *, key: jax.Array, step: jax.Array, epoch: jax.Array
    ) -> tuple[jax.Array, LossAux]:
        """Mean loss over the real rows of a batch; rows with ``users == -1`` are padding and weigh nothing."""
        ...

    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer this model is trained with."""
        ...


@runtime_checkable
class ClosedForm(Scorer, Protocol):
    """A model that is fitted in one go; its parameters are computed again where they are needed, or kept in the model
    folder where that takes long: ``keeps_params = True``, for a dictionary of arrays."""

    def fit(self, train: Any) -> Params:
        """Parameters from the host ``CSR`` of the training interactions."""
        ...


@runtime_checkable
class Factored(Scorer, Protocol):
    """A scorer whose scores are ``user_vectors @ item_vectors.T``, so that any vector index serves it."""

    @property
    def factored(self) -> bool:
        """Whether this holds for the hyper-parameters at hand."""
        ...

    def user_vectors(self, params: Params, rows: Rows, *, key: jax.Array, tables: Any = None) -> jax.Array:
        """Vectors ``[B, V]``; the last column is the factor of the item's bias, the same for every user."""
        ...

    def item_vectors(self, params: Params) -> jax.Array:
        """Vectors ``[I, V]``; the last column is the item's bias."""
        ...


def item_axes(model: Any) -> Mapping[str, int]:
    """The parameters and prepared tables that are as long as the catalogue, or as a part of it, by name, and which of
    their axes is: ``model.item_axes``. A mesh may spread these over devices; without the attribute nothing is spread.
    """
    return getattr(model, "item_axes", {})


def shapes(model: Any, catalogue: Catalogue) -> Params:
    """The parameters of a trained model, without their values."""
    return jax.eval_shape(lambda: model.init(jax.random.key(0), catalogue))


def is_factored(model: Any) -> bool:
    """Whether the scores of ``model`` are products of user and item vectors."""
    return isinstance(model, Factored) and model.factored

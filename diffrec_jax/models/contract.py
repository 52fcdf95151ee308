"""What the loop, the evaluator and the recommender know of a model.

A model is a frozen dataclass of hyper-parameters and pure functions of parameters. It inherits from ``Model`` if it is
trained by gradient descent, from ``ClosedForm`` if it is fitted in one go, from ``composite.Composite`` if it is made
of others; all of them are ``Scorer``, which declares everything that is ever asked of a model and answers what most
models would. A new model is one new file, and one line in ``models.registry``.

Letters: B rows of a batch, I items, V width of a vector.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import ClassVar, NamedTuple, Self, TypeAlias

import jax
import jax.typing
import numpy as np
import optax

from diffrec_jax.data.events import CSR
from diffrec_jax.data.recency import Recency
from diffrec_jax.data.rows import Rows
from diffrec_jax.fit_options import FitOptions
from diffrec_jax.types import PyTree

Params: TypeAlias = PyTree
Prepared: TypeAlias = PyTree  # what ``Scorer.prepare`` gives; None where there is nothing to prepare
Memory: TypeAlias = PyTree  # what ``Model.init_memory`` gives, and every loss after it; None for a model without


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """What a model must know of the data before it can be initialised."""

    n_items: int
    n_users: int


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What of the data and of training decides which of several ways costs least."""

    n_users: int
    n_items: int
    n_interactions: int
    batch_size: int

    @classmethod
    def of(cls, train: CSR, batch_size: int) -> "Sizes":
        """Those of training interactions."""
        return cls(train.n_users, train.n_items, train.n_interactions, min(batch_size, train.n_users))


class LossAux(NamedTuple):
    """What a loss gives beside its value."""

    memory: Memory = None  # after this batch, of a model that has one (``Model.init_memory``)
    metrics: Mapping[str, jax.Array] = {}  # scalars worth a curve


class Stepped(NamedTuple):
    """What a step of training gives."""

    params: Params
    opt_state: optax.OptState
    loss: jax.Array  # []
    memory: Memory


class Scorer(abc.ABC):
    """Anything that ranks items.

    Attributes:
      recency: the kernel that weighs the history that is scored; None weighs every interaction 1.
      fit_weighted: whether the rows that are fitted are weighted by it, too.
      forecast: half-life of the futures that are fitted, in interactions; 0 reconstructs rows (``data.forecast``).
      length: the most recent events of a history that it sees; None: all of it.
      packing: whether short histories share rows of windows in training (``data.packing``).
      needs_order: whether what it learns is the order of events: a log without one is refused (``data.ordered``), and
        repeated items are read as they stand, where others read each item once.
      user_axes: which axis of each named parameter has an entry for every user of the training data.
      keeps_params: whether a run keeps the parameters of a model that is fitted in one go, because that takes long;
        they are then a dictionary of arrays. Otherwise they are computed again where they are needed.
    """

    recency: Recency | None = None
    fit_weighted: bool = True
    forecast: float = 0.0
    length: int | None = None
    packing: bool = False
    needs_order: ClassVar[bool] = False
    user_axes: ClassVar[Mapping[str, int]] = {}
    keeps_params: ClassVar[bool] = False

    @property
    def weighs(self) -> bool:
        """Whether it reads what the log says that events count (``CSR.weights``); models of order do not."""
        return not self.needs_order

    # ranking

    def prepare(self, params: Params) -> Prepared:
        """Compute once per set of parameters what every batch of ``scores`` needs; a pytree of arrays, or None."""
        return None

    @abc.abstractmethod
    def scores(self, params: Params, rows: Rows, *, key: jax.Array, tables: Prepared = None) -> jax.Array:
        """Scores ``[B, I]``; ``tables`` is what ``prepare`` gave, computed on the spot if None."""

    @property
    def factored(self) -> bool:
        """Whether the scores are ``user_vectors @ item_vectors.T``, so that any vector index serves them."""
        return False

    def user_vectors(self, params: Params, rows: Rows, *, key: jax.Array, tables: Prepared = None) -> jax.Array:
        """Vectors ``[B, V]``; the last column is the factor of the item's bias, the same for every user."""
        raise ValueError(f"{type(self).__name__}, as configured, has no user vectors: its scores are no inner product")

    def item_vectors(self, params: Params) -> jax.Array:
        """Vectors ``[I, V]``; the last column is the item's bias."""
        raise ValueError(f"{type(self).__name__}, as configured, has no item vectors: its scores are no inner product")

    # parameters

    @property
    @abc.abstractmethod
    def trained(self) -> "Model | None":
        """What of it is trained by gradient descent; None if nothing is."""

    @abc.abstractmethod
    def assemble(self, train: CSR, trained: Params) -> Params:
        """All parameters, given those of ``self.trained`` (None if that is): the rest is fitted to ``train``."""

    def by_part(self, params: Params) -> "list[tuple[Scorer, Params]]":
        """The parameters beside the model, or beside each of the models it is made of."""
        return [(self, params)]

    def shapes(self, catalogue: Catalogue) -> Params | None:
        """The parameters without their values; None for a model whose shapes are known once it is fitted."""
        return None

    @property
    def item_axes(self) -> Mapping[str, int]:
        """Which axis of each named array (of the parameters, and of what is prepared) has an entry for every item, or
        for a part of them. A mesh may spread these over devices; what is not named is on every device.
        """
        return {}

    # what it takes

    def bytes_needed(self, n_items: int) -> int:
        """Peak host memory to fit it in one go, where that depends on the catalogue; 0: not worth a word."""
        return 0

    def fits(self, n_items: int) -> bool:
        """Whether the catalogue is small enough for it."""
        return True

    def check_size(self, n_items: int) -> None:
        """Refuse a catalogue that is too large, before anything is trained.

        Raises:
          ValueError: with what it would take.
        """
        if not self.fits(n_items):
            raise ValueError(
                f"{type(self).__name__} needs {self.bytes_needed(n_items) / 2**30:.1f} GiB for {n_items:,} items, "
                "which it was told not to take: use another model for this catalogue"
            )

    def suited(self, sizes: Sizes) -> tuple[Self, str]:
        """The model with what it leaves open chosen for these sizes, and why, in a line; empty where nothing is."""
        return self, ""

    @property
    def needs_clusters(self) -> bool:
        """Whether it needs the cluster of each item before it has parameters."""
        return False

    def with_clusters(self, clusters: np.ndarray) -> Self:
        """The model with these clusters of items, where it needs any."""
        return self


class Model(Scorer):
    """A model trained by gradient descent.

    Attributes:
      fit_options: how it is trained unless somebody says otherwise.
    """

    fit_options: ClassVar[FitOptions] = FitOptions()

    @property
    def advice(self) -> str:
        """What to do where the loss is not finite."""
        return "lower the learning rate, or look at the data"

    @property
    def reads_packed(self) -> bool:
        """Whether its loss reads ``data.packed.PackedRows``, which no long history makes large, instead of ``Rows``."""
        return False

    @abc.abstractmethod
    def init(self, key: jax.Array, catalogue: Catalogue) -> Params:
        """Draw parameters."""

    @abc.abstractmethod
    def loss(
        self, params: Params, memory: Memory, rows: Rows, *, key: jax.Array, step: jax.Array, epoch: jax.Array
    ) -> tuple[jax.Array, LossAux]:
        """Mean loss over the real rows of a batch; rows with ``users == -1`` are padding and weigh nothing.

        Args:
          params: the parameters.
          memory: what ``init_memory`` gave, or the last loss; None for a model without one.
          rows: the batch, packed if it ``reads_packed``.
          key: of everything random in this step.
          step: steps done.
          epoch: epochs completed.
        """

    @abc.abstractmethod
    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer this model is trained with."""

    def init_memory(self, params: Params) -> Memory:
        """What the loss remembers from batch to batch beside the parameters, before the first; None: nothing."""
        return None

    @property
    def steps_itself(self) -> bool:
        """Whether a step is ``own_step``, where gradients of all parameters would cost too much."""
        return False

    def own_step(
        self,
        params: Params,
        opt_state: optax.OptState,
        memory: Memory,
        rows: Rows,
        *,
        optimizer: optax.GradientTransformation,
        key: jax.Array,
        step: jax.Array,
        epoch: jax.Array,
        dtype: jax.typing.DTypeLike | None = None,
    ) -> Stepped:
        """One step of training, of a model that ``steps_itself``; see ``loss``. On a mesh, arrays are as stored.

        Args:
          params: all parameters.
          opt_state: of ``optimizer``, for ``optimized(params)``.
          memory: what ``init_memory`` gave, or the last step.
          rows: the batch.
          optimizer: moves ``optimized(params)``.
          key: of everything random in this step.
          step: steps done.
          epoch: epochs completed.
          dtype: what the network between the tables computes in; None: as the parameters are.
        """
        raise NotImplementedError

    def optimized(self, params: Params) -> Params:
        """What of the parameters the optimizer moves."""
        return params

    def settled(self, params: Params, memory: Memory) -> tuple[Params, Memory]:
        """Both after the last step of an epoch, as they rank."""
        return params, memory

    def watched(self, memory: Memory) -> Mapping[str, jax.Array]:
        """What of the memory is worth recording after an epoch, by name."""
        return {}

    @property
    def training_recency(self) -> Recency | None:
        """The kernel of the rows it is trained on: its ``recency``, unless ``fit_weighted`` says otherwise."""
        return self.recency if self.fit_weighted else None

    @property
    def trained(self) -> "Model | None":
        """All of it."""
        return self

    def assemble(self, train: CSR, trained: Params) -> Params:
        """What was trained."""
        return trained

    def shapes(self, catalogue: Catalogue) -> Params:
        """The parameters without their values."""
        return jax.eval_shape(lambda: self.init(jax.random.key(0), catalogue))


class ClosedForm(Scorer):
    """A model that is fitted in one go."""

    @abc.abstractmethod
    def fit(self, train: CSR) -> Params:
        """Parameters from the training interactions."""

    @property
    def trained(self) -> Model | None:
        """Nothing."""
        return None

    def assemble(self, train: CSR, trained: Params) -> Params:
        """What is fitted."""
        return self.fit(train)


def lacking(kind: type) -> tuple[str, ...]:
    """The members that a class lacks to be a model, by name."""
    if issubclass(kind, Scorer):
        return tuple(sorted(kind.__abstractmethods__))
    wanted: type[Scorer] = Model if hasattr(kind, "init") or hasattr(kind, "loss") else ClosedForm
    return tuple(sorted(name for name in wanted.__abstractmethods__ if not hasattr(kind, name)))


def check_model(model: object) -> None:
    """Refuse what is no model.

    Raises:
      ValueError: naming what it lacks.
    """
    if isinstance(model, Scorer):
        return
    kind = model if isinstance(model, type) else type(model)
    lacks = lacking(kind)
    if isinstance(model, type) and issubclass(kind, Scorer) and not lacks:
        raise ValueError(f"{kind.__name__} is a class: pass a model, as in {kind.__name__}()")
    said = f"it lacks {', '.join(lacks)}" if lacks else "it does not say so"
    raise ValueError(
        f"{kind.__name__} is no model ({said}): inherit from Model or ClosedForm of diffrec_jax.models.contract, which "
        "bring all but the equations"
    )


def hyper_parameters(model: Scorer) -> tuple[dict[str, str], dict[str, str]]:
    """Those of a model by name, and the defaults of those that have one; a class that is no dataclass is one value."""
    if not dataclasses.is_dataclass(model):
        return {"model": repr(model)}, {}
    fields = dataclasses.fields(model)
    values = {f"model.{field.name}": repr(getattr(model, field.name)) for field in fields}
    known = (field for field in fields if field.default is not dataclasses.MISSING)
    before = {field.name: getattr(field.metadata.get("option"), "before", None) for field in fields}
    defaults = {f"model.{field.name}": repr(before[field.name] or field.default) for field in known}
    return {"model": type(model).__name__, **values}, defaults

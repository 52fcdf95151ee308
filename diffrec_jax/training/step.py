"""The training step, and many of them in one dispatch.

Everything random is a function of ``(seed, step)`` and everything that must survive an interruption is an array of
``TrainState``, so that a resumed run equals an uninterrupted one bit for bit.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh

from diffrec_jax.data.packed import AnyRows, take_packed
from diffrec_jax.data.rows import DeviceCSR, take_rows
from diffrec_jax.fit_options import FitOptions
from diffrec_jax.mesh import Layout, batch_size_on, replicated
from diffrec_jax.models.contract import Catalogue, Memory, Model, Params
from diffrec_jax.training.moments import with_mu_dtype


class TrainState(struct.PyTreeNode):
    """All that training changes."""

    step: jax.Array  # [] int32, steps done
    params: Any
    ema: Any  # the exponential moving average of the parameters, or None
    opt_state: Any
    history: Memory  # what the loss remembers (``Model.init_memory``); under this name in every checkpoint
    loss_sum: jax.Array  # [] float32, summed over the real rows of this epoch so far
    loss_rows: jax.Array  # [] float32, how many rows that was
    bad_step: jax.Array  # [] int32, the first step whose loss was not finite; -1: none

    @classmethod
    def create(
        cls, model: Model, optimizer: optax.GradientTransformation, params: Any, *, ema: bool = False
    ) -> "TrainState":
        """The state before the first step, with or without a moving average of the parameters."""
        return cls(
            step=jnp.zeros((), jnp.int32),
            params=params,
            ema=jax.tree.map(jnp.copy, params) if ema else None,
            opt_state=optimizer.init(model.optimized(params)),
            history=model.init_memory(params),
            loss_sum=jnp.zeros(()),
            loss_rows=jnp.zeros(()),
            bad_step=jnp.full((), -1, jnp.int32),
        )

    @property
    def ranking_params(self) -> Any:
        """The parameters to validate, keep and serve: their moving average where there is one."""
        return self.params if self.ema is None else self.ema


def train_step(
    model: Model,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    rows: AnyRows,
    *,
    key: jax.Array,
    epoch: jax.Array | int = 0,
    ema_decay: float = 0.0,
    dtype: Any = None,
    view: Callable[[Any], Params] | None = None,
) -> TrainState:
    """One step of gradient descent on a batch of rows: pure, to be called inside any jitted pipeline.

    Args:
      model: gives the loss.
      optimizer: any optax transformation; ``model.optimizer()`` is the one the paper used.
      state: before the step.
      rows: the batch, packed if the model ``reads_packed``; rows with ``users == -1`` are padding.
      key: the run's key; the step number is folded in here.
      epoch: epochs completed, for models that anneal.
      ema_decay: of the moving average of the parameters, for a state that has one; young averages forget faster, by
        ``(1 + n) / (10 + n)`` after n steps.
      dtype: what the model computes in, such as ``jnp.bfloat16``; None: as the parameters are. Parameters, optimizer
        state, diffusion tables, loss and memory stay as they are.
      view: what the model sees of ``state.params``, where these are stored padded (``mesh.Layout.cut``); None: as is.

    Returns:
      The state after the step; its ``loss_sum / loss_rows`` is the mean loss since both were last zero.
    """
    key = jax.random.fold_in(key, state.step)
    computed: Any = rows if dtype is None else rows.cast(dtype)  # of the kind that the model reads

    def mean_loss(params: Any) -> tuple[jax.Array, Any]:
        params = params if view is None else view(params)
        return model.loss(
            _cast(params, dtype), state.history, computed, key=key, step=state.step, epoch=jnp.asarray(epoch)
        )

    if model.steps_itself:
        now = {"key": key, "step": state.step, "epoch": jnp.asarray(epoch), "dtype": dtype}
        stepped = model.own_step(state.params, state.opt_state, state.history, computed, optimizer=optimizer, **now)
        params, opt_state, loss, memory = stepped
    else:
        (loss, aux), gradient = jax.value_and_grad(mean_loss, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        params, memory = optax.apply_updates(state.params, updates), aux.memory
    ema = state.ema
    if ema is not None:
        decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
        ema = optax.incremental_update(params, ema, 1.0 - decay)
    n_rows = jnp.sum(rows.users >= 0).astype(jnp.float32)
    return TrainState(
        step=state.step + 1,
        params=params,
        ema=ema,
        opt_state=opt_state,
        history=memory,
        loss_sum=state.loss_sum + loss * n_rows,
        loss_rows=state.loss_rows + n_rows,
        bad_step=jnp.where((state.bad_step < 0) & ~jnp.isfinite(loss), state.step, state.bad_step),
    )


def check_average(model: Model, options: FitOptions) -> None:
    """Refuse a moving average of parameters that are written once an epoch."""
    if model.steps_itself and options.ema_decay:
        raise ValueError(
            f"ema_decay={options.ema_decay:g} averages parameters from step to step, and {type(model).__name__}, as "
            "configured, writes its last layer once an epoch, an average over steps already: use ema_decay=0"
        )


def training_rows(model: Model, csr: DeviceCSR, users: jax.Array, *, mesh: Mesh | None = None) -> AnyRows:
    """The histories of ``users [B]`` as the loss of a model reads them."""
    take: Callable[..., AnyRows] = take_packed if model.reads_packed else take_rows
    return take(csr, users, recency=model.training_recency, mesh=mesh)


def _cast(tree: Any, dtype: Any) -> Any:
    return tree if dtype is None else jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


@dataclasses.dataclass(frozen=True)
class Trainer:
    """A model, the way it is trained, and the compiled program that does it.

    Attributes:
      model: what is trained.
      catalogue: what ``model.init`` needs.
      mesh: the devices.
      seed: of everything random.
      options: how it is trained; the last, short batch of an epoch is kept and padded.
      begin: from the parameters as they are drawn, what training begins with; None: these.
    """

    model: Model
    catalogue: Catalogue
    mesh: Mesh
    seed: int
    options: FitOptions
    begin: Callable[[Params], Params] | None = None

    def __post_init__(self) -> None:
        check_average(self.model, self.options)

    @property
    def batch_size(self) -> int:
        """Rows per step, B."""
        return min(self.options.batch_size, self.catalogue.n_users)

    @property
    def steps_per_epoch(self) -> int:
        """Steps that visit every user once."""
        return -(-self.catalogue.n_users // self.batch_size)

    def key(self, name: str) -> jax.Array:
        """The run's key for one purpose: ``init``, ``shuffle`` or ``train``."""
        impl = self.options.prng_impl if name == "train" else "threefry2x32"
        return jax.random.fold_in(jax.random.key(self.seed, impl=impl), ("init", "shuffle", "train").index(name))

    @functools.cached_property
    def layout(self) -> Layout:
        """Where the state lies on the mesh."""
        return Layout(self.mesh, self.model.item_axes)

    @functools.cached_property
    def optimizer(self) -> optax.GradientTransformation:
        """The model's own, its first moments in ``mu_dtype``."""
        optimizer = self.model.optimizer()
        return optimizer if self.options.mu_dtype == "float32" else with_mu_dtype(optimizer, self.options.mu_dtype)

    @functools.cached_property
    def shapes(self) -> Params:
        """The parameters as the model sees them, without their values."""
        return self.model.shapes(self.catalogue)

    def init(self) -> TrainState:
        """The state before training, made on the devices by one compiled program."""
        if self.begin is None:
            return jax.jit(self._init, out_shardings=self._shardings)()
        drawn = jax.jit(lambda: self.model.init(self.key("init"), self.catalogue))()
        begun = jax.device_put(self.begin(drawn), replicated(self.mesh))
        return jax.jit(self._init, out_shardings=self._shardings)(begun)

    def abstract_state(self) -> TrainState:
        """Shapes and shardings of the state, without the state."""
        return self.layout.abstract(jax.eval_shape(self._init))

    def compile(self, csr: DeviceCSR) -> Any:
        """Compile ``(state, csr, epoch, n_steps) -> state``: any number of steps within one epoch, state donated."""
        return self.trace(csr).lower().compile()

    def trace(self, csr: DeviceCSR) -> Any:
        """The program of ``compile``, traced only; ``csr`` may be abstract."""
        scalar = jax.ShapeDtypeStruct((), jnp.int32, sharding=replicated(self.mesh))
        program = jax.jit(self._run, donate_argnums=0, out_shardings=self._shardings)
        return program.trace(self.abstract_state(), csr, scalar, scalar)

    @property
    def _shardings(self) -> Any:
        return self.layout.shardings(jax.eval_shape(self._init))

    def _init(self, params: Params = None) -> TrainState:
        params = self.model.init(self.key("init"), self.catalogue) if params is None else params
        params = self.layout.pad(params)
        return self.layout.pad(TrainState.create(self.model, self.optimizer, params, ema=self.options.ema_decay > 0.0))

    def _run(self, state: TrainState, csr: DeviceCSR, epoch: jax.Array, n_steps: jax.Array) -> TrainState:
        """``n_steps`` steps of ``epoch``, beginning where the state stands."""
        key = self.key("train")
        order = self.order(epoch)
        first = state.step - epoch * self.steps_per_epoch
        fresh = first == 0
        state = state.replace(
            loss_sum=jnp.where(fresh, 0.0, state.loss_sum), loss_rows=jnp.where(fresh, 0.0, state.loss_rows)
        )

        def body(i: jax.Array, state: TrainState) -> TrainState:
            users = jax.lax.dynamic_slice_in_dim(order, (first + i) * self.batch_size, self.batch_size)
            padding = batch_size_on(self.mesh, self.batch_size) - self.batch_size
            users = jnp.pad(users, (0, padding), constant_values=-1)
            rows = training_rows(self.model, csr, users, mesh=self.mesh)
            return train_step(
                self.model,
                self.optimizer,
                state,
                rows,
                key=key,
                epoch=epoch,
                ema_decay=self.options.ema_decay,
                dtype=None if self.options.dtype == "float32" else self.options.dtype,
                view=lambda params: self.layout.cut(params, self.shapes),
            )

        state = jax.lax.fori_loop(0, n_steps, body, state)
        if not self.model.steps_itself:
            return state

        def settled() -> TrainState:
            params, memory = self.model.settled(state.params, state.history)
            return state.replace(params=params, history=memory)

        return jax.lax.cond(first + n_steps == self.steps_per_epoch, settled, lambda: state)

    def order(self, epoch: jax.Array) -> jax.Array:
        """The users in the order of this epoch, padded with -1 to whole batches."""
        order = jax.random.permutation(jax.random.fold_in(self.key("shuffle"), epoch), self.catalogue.n_users)
        padding = self.steps_per_epoch * self.batch_size - self.catalogue.n_users
        return jnp.pad(order.astype(jnp.int32), (0, padding), constant_values=-1)

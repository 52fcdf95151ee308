"""The conformance suite: what the loop, the evaluator and the recommender rely on, tested of one model.

::

    class TestEASE(ModelSuite):
        model = EASE(l2=10.0)
        bad = (("l2", 0.0),)

All tests of a class share one fitted model. Where eight devices are simulated (``jax_num_cpu_devices``), those that
need several use them; on a single device they say nothing.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import jax.typing
import numpy as np
import pytest

from diffrec_jax import api
from diffrec_jax.data.packed import AnyRows
from diffrec_jax.data.rows import Rows, device_csr, make_rows, take_rows
from diffrec_jax.finite import NonFiniteParametersError
from diffrec_jax.mesh import make_mesh
from diffrec_jax.models.composite import Composite
from diffrec_jax.models.contract import Catalogue, Model, Params, Scorer, check_model
from diffrec_jax.options import options_of, search_space
from diffrec_jax.serving import Recommender, Vocabulary, export_program, export_safetensors, load, load_program
from diffrec_jax.testing.data import N_ITEMS, N_USERS, small_split
from diffrec_jax.training.step import TrainState, train_step, training_rows
from diffrec_jax.warm_start import beginning, trained_params

HOW: Mapping[str, Any] = {"batch_size": 8, "epochs": 2, "eval_every": 1, "seed": 3}
WIDTH = 16  # of histories, padded: the longest has fewer
USERS = (*range(0, N_USERS, 3), -1)  # the last has no history


class ModelSuite:
    """Tests of one model; inherit, and give it.

    Attributes:
      model: what is tested, its sizes small; one that needs clusters gets two of them.
      bad: hyper-parameters, each with a value that must be refused by a sentence that says ``name=`` and the value.
      tolerance: what two ways to the same scores may differ by.
    """

    model: ClassVar[Scorer]
    bad: ClassVar[tuple[tuple[str, Any], ...]] = ()
    tolerance: ClassVar[float] = 1e-4

    @classmethod
    @functools.cache
    def fitted(cls) -> api.Fitted:
        """The model on ``small_split``, fitted on one device."""
        return cls.fit(mesh=make_mesh(devices=jax.devices()[:1]))

    @classmethod
    def fit(cls, **how: Any) -> api.Fitted:
        """The model on ``small_split``, with clusters where it needs them."""
        clusters = np.arange(N_ITEMS) % 2
        return api.fit(cls.model.with_clusters(clusters), small_split().train, **{**HOW, **how})

    @classmethod
    @functools.cache
    def scores_of(cls) -> Callable[[Params, jax.Array, jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]:
        """``(params, rows of histories) -> scores``, compiled for each shape of histories."""
        model = cls.fitted().model

        def scores(
            params: Params,
            items: jax.Array,
            lengths: jax.Array,
            users: jax.Array,
            days: jax.Array,
            logged: jax.Array,
        ) -> jax.Array:
            rows = make_rows(items, lengths, users, n_items=N_ITEMS, days=days, logged=logged, recency=model.recency)
            key = jax.random.fold_in(jax.random.key(0), 3)  # of whatever ranks with seed 0
            return model.scores(params, rows, key=key, tables=model.prepare(params))

        return jax.jit(scores)

    def scores(
        self, users: Sequence[int], *, width: int = WIDTH, params: Params = None, weight: float | jax.Array = 1.0
    ) -> np.ndarray:
        """Scores of users of the split by their histories, padded to ``width``, every event counting ``weight``."""
        numbers = jnp.asarray(users, jnp.int32)
        rows = take_rows(device_csr(self.fitted().train), numbers)
        room = ((0, 0), (0, width - rows.items.shape[1]))
        items, days = jnp.pad(rows.items, room, constant_values=N_ITEMS), jnp.pad(_days(rows), room)
        params = self.fitted().params if params is None else params
        logged = jnp.broadcast_to(jnp.asarray(weight, jnp.float32), items.shape)
        return np.asarray(self.scores_of()(params, items, rows.lengths, numbers, days, logged))

    def close(self, one: jax.typing.ArrayLike, other: jax.typing.ArrayLike) -> None:
        """Both within ``tolerance``."""
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=self.tolerance), one, other)

    def test_it_declares_what_is_asked_of_a_model(self) -> None:
        """A frozen dataclass that inherits from the contract, and a search space that holds its defaults."""
        check_model(self.model)
        assert dataclasses.is_dataclass(self.model) and self.model == dataclasses.replace(self.model)
        defaults = {field.name: field.default for field in dataclasses.fields(self.model)}
        space = {} if isinstance(self.model, Composite) else search_space(type(self.model))  # its parts have theirs
        for name, values in space.items():
            assert defaults[name] in values, f"the default of {name} is not in the range of its search"

    def test_bad_hyper_parameters_are_refused_by_a_sentence(self) -> None:
        """``bad`` values raise ``ValueError``, which names them."""
        flags = {} if isinstance(self.model, Composite) else {o.name: o.flag for o in options_of(type(self.model))}
        for name, value in self.bad:
            with pytest.raises(ValueError, match=f"{flags.get(name, name)}=") as said:
                dataclasses.replace(self.model, **{name: value})  # type: ignore[type-var]
            assert str(value) in str(said.value), f"the sentence on {name} does not say what was given"

    def test_padding_changes_nothing(self) -> None:
        """Scores of a user do not depend on who else is in the batch, and are finite, also without a history."""
        together, few = self.scores(USERS), 3
        assert together.shape == (len(USERS), N_ITEMS) and np.isfinite(together).all()
        padded = (*USERS[:few], *[-1] * (len(USERS) - few))
        self.close(self.scores(padded)[:few], together[:few])

    def test_a_batch_equals_its_users_one_by_one(self) -> None:
        """Nor on the size of the batch, or how far its histories are padded."""
        together = self.scores(USERS)
        for row in (0, 3, len(USERS) - 1):
            self.close(self.scores(USERS[row : row + 1], width=WIDTH + 9)[0], together[row])

    def test_what_an_event_counts_matters_to_a_model_that_weighs(self) -> None:
        """To the scores of a history, or to what is fitted to the log in one go; to no model that does not weigh."""
        fitted, before = self.fitted(), self.scores(USERS)
        model, train = fitted.model, fitted.train
        counts = jnp.where(jnp.arange(WIDTH) % 2 == 0, 1.0, 3.0)[None, :]
        matters = not np.allclose(self.scores(USERS, weight=counts), before)
        if model.trained is None:
            weights = np.where(train.indices % 2 == 0, 1.0, 3.0).astype(np.float32)
            params = model.assemble(dataclasses.replace(train, weights=weights), None)
            matters |= not np.allclose(self.scores(USERS, params=params), before)
        assert matters == model.weighs

    def test_user_times_item_vectors_are_the_scores(self) -> None:
        """Vectors serve what the model would, or are refused."""
        ranker = self.fitted().recommender.ranker
        if not self.fitted().model.factored:
            with pytest.raises(ValueError, match="no user and item vectors"):
                ranker.item_vectors()
            return
        asked = self.fitted().recommender.ask(small_split().user_ids[list(USERS[:-1])].tolist(), None, None)
        vectors = ranker.user_vectors(asked.histories) @ ranker.item_vectors().T
        self.close(vectors, self.scores(USERS)[:-1])

    def test_what_is_served_is_what_is_evaluated(self) -> None:
        """The lists of ``recommend`` have the precision that ``evaluate`` says."""
        fitted, test = self.fitted(), small_split().test
        found = api.evaluate(fitted, test, ks=(5,))
        lists = fitted.recommend(test.user_ids[found.users].tolist(), k=5)
        held_out = set(zip(test.user_ids[test.users].tolist(), test.item_ids[test.items].tolist()))
        hits = dict.fromkeys(test.user_ids[found.users].tolist(), 0)
        for pair in zip(lists["user"].tolist(), lists["item"].tolist()):
            hits[pair[0]] += pair in held_out
        np.testing.assert_allclose(found.per_user["precision@5"], np.array([*hits.values()]) / 5, atol=1e-6)

    def test_several_devices_equal_one(self) -> None:
        """Parameters and metrics are those of one device on a mesh that divides users and items."""
        if jax.device_count() == 1:
            pytest.skip("one device: set jax_num_cpu_devices to simulate several")
        n = jax.device_count()
        mesh = make_mesh(items=n // 2 if n % 2 == 0 else n)
        one, many = self.fitted(), self.fit(mesh=mesh)
        self.close(many.params, one.params)
        assert many.result.parameters == one.result.parameters == sum(a.size for a in jax.tree.leaves(one.params))
        here, there = (api.evaluate(f, small_split().test, ks=(5,)) for f in (one, dataclasses.replace(one, mesh=mesh)))
        for name, values in here.per_user.items():
            np.testing.assert_allclose(there.per_user[name], values, atol=1e-5, err_msg=name)

    def test_bfloat16_trains_and_what_is_kept_is_float32(self) -> None:
        """The loss stays near, and nothing that is kept loses digits."""
        model = self.fitted().model.trained
        if model is None:
            return  # nothing is trained
        params = model.init(jax.random.key(0), Catalogue(n_items=N_ITEMS, n_users=N_USERS))
        optimizer = model.optimizer()
        state = TrainState.create(model, optimizer, params)
        rows = training_rows(model, device_csr(self.fitted().train), jnp.arange(8))

        def step(state: TrainState) -> TrainState:
            return train_step(model, optimizer, state, rows, key=jax.random.key(1), dtype=jnp.bfloat16)

        kept = jax.tree.leaves(jax.eval_shape(step, state))
        assert {str(a.dtype) for a in kept if jnp.issubdtype(a.dtype, jnp.floating)} == {"float32"}
        high, low = losses(model, state, rows)
        assert low == pytest.approx(high, rel=0.05)

    def test_ranks_and_precisions_meet_as_written(self) -> None:
        """Loss and scores are traced where JAX promotes neither shapes nor types by itself."""
        model, params = self.fitted().model, self.fitted().params
        now = {"key": jax.random.key(0), "step": jnp.asarray(0), "epoch": jnp.asarray(0)}

        def traced(params: Params, of_trained: Params) -> list[jax.Array]:
            csr, users = device_csr(self.fitted().train), jnp.arange(8)
            rows = take_rows(csr, users, recency=model.recency)
            found = [model.scores(params, rows, key=now["key"], tables=model.prepare(params))]
            if model.trained is not None:
                batch: Any = training_rows(model.trained, csr, users)
                found.append(model.trained.loss(of_trained, model.trained.init_memory(of_trained), batch, **now)[0])
            return found

        shapes = None if model.trained is None else model.trained.shapes(Catalogue(n_items=N_ITEMS, n_users=N_USERS))
        with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
            jax.eval_shape(traced, params, shapes)

    def test_a_run_taken_up_again_ends_as_if_it_had_not_stopped_and_is_loaded(self, tmp_path: Path) -> None:
        """Bit for bit, and what is loaded from its folder likewise."""
        one = self.fitted()
        for epochs in (1, HOW["epochs"]):
            again = self.fit(mesh=one.mesh, epochs=epochs, workdir=tmp_path / "run")
        loaded = load(tmp_path / "run")
        for params in (again.params, loaded.ranker.params):
            jax.tree.map(np.testing.assert_array_equal, params, one.params)
        assert loaded.content.model == one.model

    def test_a_warm_start_takes_over_what_it_knows_by_raw_ids(self) -> None:
        """Every parameter of the items that are left, in another order; those of new ones as they are drawn."""
        ours = self.fitted()
        if self.model.trained is None or self.model.needs_clusters:
            with pytest.raises(ValueError, match="warm_start means nothing to"):
                self.fit(warm_start=ours.recommender)
            return
        model = ours.recommender.content.model.trained
        assert model is not None
        before, ids = ours.recommender.vocabulary, ours.recommender.vocabulary.item_ids
        left = np.array(sorted([*ids[3:].tolist(), "another", "item999"]), object)
        now, catalogue = Vocabulary(before.user_ids[:-1], left, None), Catalogue(n_items=len(left), n_users=N_USERS - 1)
        said: list[str] = []
        begin = beginning(ours.recommender, model, catalogue, now, workdir=None, say=said.append)
        assert begin is not None
        drawn = model.init(jax.random.key(3), catalogue)
        found, known = begin(drawn), np.flatnonzero(np.isin(left, ids))
        assert said == [
            f"warm start: of {len(left)} items it knows {len(known)}, 2 are new, 3 are gone; of {N_USERS - 1} users it "
            f"knows {N_USERS - 1}, 0 are new, 1 are gone"
        ]
        old = dict(jax.tree_util.tree_leaves_with_path(trained_params(ours.recommender)))
        jax.tree.map(lambda a, b: None, found, drawn)  # of one structure
        for (path, mine), new in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(drawn)):
            name = jax.tree_util.keystr(path, simple=True, separator=".").rsplit(".", 1)[-1]
            axis = model.item_axes.get(name)
            if name in model.user_axes:
                np.testing.assert_array_equal(mine, np.asarray(old[path])[: N_USERS - 1])
            elif axis is None:
                np.testing.assert_array_equal(mine, old[path])
            else:
                taken, theirs, as_drawn = (np.moveaxis(np.asarray(each), axis, 0) for each in (mine, old[path], new))
                np.testing.assert_array_equal(taken[known], theirs[before.items(left[known])[0]])
                fresh = np.setdiff1d(np.arange(len(left)), known)
                np.testing.assert_array_equal(taken[fresh], as_drawn[fresh])

    def test_what_is_exported_is_loaded(self, tmp_path: Path) -> None:
        """Weights and hyper-parameters, bit for bit."""
        ours = self.fitted().recommender
        export_safetensors(ours, tmp_path / "exported")
        theirs = load(tmp_path / "exported")
        jax.tree.map(np.testing.assert_array_equal, theirs.ranker.params, ours.ranker.params)
        assert theirs.content.model == ours.content.model

    def test_an_exported_program_gives_the_lists_of_the_live_model(self, tmp_path: Path) -> None:
        """Of histories of nobody it knows, whatever their number and padding."""
        ours = self.fitted().recommender
        export_program(ours, tmp_path / "program", k=4)
        program, histories = load_program(tmp_path / "program"), [[2, 5], [3], [], [7, 1, 4]]
        items = np.full((4, 3), N_ITEMS, np.int32)
        for row, history in enumerate(histories):
            items[row, : len(history)] = history
        lengths = np.array([len(history) for history in histories], np.int32)
        timed = ours.ranker.needs_days
        days = (np.zeros(items.shape, np.float32),) if timed else ()
        found = np.asarray(program(items, lengths, *days)[0])
        ids = ours.vocabulary.item_ids
        times = [[0] * len(history) for history in histories] if timed else None
        live = ours.recommend(histories=[ids[history].tolist() for history in histories], history_times=times, k=4)
        np.testing.assert_array_equal(ids[found].ravel(), live["item"])
        again = program(items[:1], lengths[:1], *(each[:1] for each in days))[0]
        np.testing.assert_array_equal(again, found[:1])

    def test_parameters_that_are_no_numbers_are_refused(self) -> None:
        """One NaN, and nothing is served."""
        leaves, tree = jax.tree.flatten(self.fitted().params)
        at = next(n for n, leaf in enumerate(leaves) if jnp.issubdtype(leaf.dtype, jnp.inexact))
        leaves[at] = leaves[at].at[(0,) * leaves[at].ndim].set(jnp.nan)
        with pytest.raises(NonFiniteParametersError, match=f"parameters of {type(self.model).__name__} are not finite"):
            Recommender(self.fitted().recommender.content, jax.tree.unflatten(tree, leaves))


def losses(model: Model, state: TrainState, rows: AnyRows) -> tuple[float, float]:
    """The loss of a batch, computed in float32 and in bfloat16 from the same draws."""

    @jax.jit
    def both(params: Params) -> list[jax.Array]:
        now = {"key": jax.random.key(1), "step": state.step, "epoch": jnp.zeros((), jnp.int32)}
        found = []
        for dtype in (jnp.float32, jnp.bfloat16):
            cast = jax.tree.map(lambda a, dtype=dtype: a.astype(dtype), params)
            computed: Any = rows.cast(dtype)
            found.append(model.loss(cast, state.history, computed, **now)[0])
        return found

    high, low = both(state.params)
    return float(high), float(low)


def _days(rows: Rows) -> jax.Array:
    assert rows.days is not None
    return rows.days

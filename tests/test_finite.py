"""Parameters and scores that are no numbers are said, whatever model, list or catalogue."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shop import one_device

import diffrec_jax as dr
from diffrec_jax.data import synthetic
from diffrec_jax.evaluation.ranking import top_k
from diffrec_jax.finite import (
    NonFiniteParametersError,
    NonFiniteScoresError,
    all_finite,
    check_scores,
    rankable,
    unranked,
)
from diffrec_jax.models.linear_path import LinearPath
from diffrec_jax.training import NonFiniteLossError

TOO_FAST = {"batch_size": 1000, "epochs": 1}  # one step in all, so that the loss is from before the damage


@pytest.fixture(scope="module")
def split():
    return synthetic.generate(n_users=60, n_items=30, seed=1).k_core(3).split_by_time(0.7, 0.1, 0.2)


@pytest.mark.parametrize("n_items", [50, 40_000])  # the second is searched by maxima of blocks
@pytest.mark.parametrize("bad", [np.nan, -np.float32(np.nan), np.inf])
def test_one_score_that_is_no_number_is_seen_in_the_list(n_items, bad):
    scores = np.random.default_rng(0).normal(size=(3, n_items)).astype(np.float32)
    scores[1, 7] = bad
    values, _ = jax.jit(lambda scores: top_k(rankable(scores), 5))(scores)
    np.testing.assert_array_equal(unranked(values), [False, True, False])


def test_a_list_that_ran_out_of_items_is_none_without_numbers():
    nothing = jnp.full((2, 3), -jnp.inf)
    np.testing.assert_array_equal(unranked(nothing), [False, False])
    np.testing.assert_array_equal(unranked(nothing, jnp.array([0, 4])), [False, True])


def test_the_sentence_names_the_model_and_how_many_users():
    check_scores(np.zeros(4, bool), dr.EASE())
    with pytest.raises(NonFiniteScoresError, match=r"EASE gives scores .* to 2 of 4 users.*: lower the learning rate"):
        check_scores(np.array([True, False, True, False]), dr.EASE())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_parameter_that_is_no_number_is_seen_wherever_it_lies(bad):
    tree = {"a": jnp.zeros((3, 4)), "b": [jnp.arange(3), jnp.ones(5, jnp.bfloat16)]}
    assert all_finite(tree) and all_finite(None) and all_finite({"n": jnp.arange(2)})
    assert not all_finite({**tree, "b": [jnp.arange(3), jnp.ones(5, jnp.bfloat16).at[4].set(bad)]})


@pytest.mark.parametrize("decay, has_valid", [pytest.param(0.0, True, marks=pytest.mark.long), (0.9, False)])
def test_parameters_that_the_last_step_spoiled_stop_the_run(split, decay, has_valid, tmp_path):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Overflows(dr.DiffRec):
        def loss(self, params, history, rows, *, key, step, epoch):
            loss, aux = super().loss(params, history, rows, key=key, step=step, epoch=epoch)
            weight = jax.tree.leaves(params)[0].ravel()[0]
            return loss + jnp.sqrt(jnp.where(step >= 2, weight - weight, 1.0)), aux  # no slope at 0

    model, valid = Overflows(dims=(8,), steps=3), split.valid if has_valid else None
    options = {"mesh": one_device(), "batch_size": 1000, "eval_every": 1, "ema_decay": decay, "workdir": tmp_path}
    with pytest.raises(NonFiniteParametersError, match=r"not finite after step 3 \(epoch 3\): lower the learning rate"):
        dr.fit(model, split.train, valid, epochs=3, **options)
    steps = sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit())
    assert steps == [1, 2]  # those before


@pytest.mark.parametrize(
    "model", [dr.LightGCN(lr=1e20, updates=3, triples=64), dr.EASE(l2=float("inf"))], ids=["lightgcn", "ease"]
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_closed_forms_without_a_result_are_refused(model, split, tmp_path):
    with pytest.raises(NonFiniteParametersError, match=f"parameters of {type(model).__name__} are not finite"):
        dr.fit(model, split.train, split.valid, mesh=one_device(), workdir=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_linear_path_without_a_result_is_refused(split):
    path = LinearPath(network=dr.DiffRec(dims=(8,), steps=2), linear=dr.EASE(l2=float("inf")))
    with pytest.raises(NonFiniteParametersError, match="parameters of EASE are not finite"):
        dr.fit(path, split.train, split.valid, mesh=one_device(), **TOO_FAST)


def test_scores_that_are_no_numbers_are_not_served(split):
    model = dr.DiffRec(dims=(8,), steps=2, lr=1e20)  # parameters stay finite, their products do not
    fitted = dr.fit(model, split.train, mesh=one_device(), **TOO_FAST)
    with pytest.raises(NonFiniteScoresError, match="DiffRec gives scores that are no numbers"):
        fitted.recommend(users=split.user_ids[:1])
    with pytest.raises(NonFiniteScoresError, match="DiffRec gives scores that are no numbers"):
        fitted.recommender.explain(users=split.user_ids[:1], items=split.item_ids[:1])


@pytest.mark.parametrize("bad", [-np.float32(np.nan), -np.inf])
def test_scores_that_are_no_numbers_are_not_evaluated(split, bad):
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Divides(dr.EASE):
        def scores(self, params, rows, *, key=None, tables=None):
            return jnp.where((rows.users == 5)[:, None], bad, super().scores(params, rows))  # of one user alone

    fitted = dr.fit(Divides(), split.train, split.valid, mesh=one_device())
    truth = split.test.select(split.test.users != 5)
    assert (
        dr.evaluate(fitted, truth).per_user.keys() == dr.evaluate(fitted, truth, ks=(10, 20, 50, 100)).per_user.keys()
    )
    with pytest.raises(NonFiniteScoresError, match=r"Divides gives scores that are no numbers .* to 1 of \d+ users"):
        dr.evaluate(fitted, split.test)


def test_a_run_whose_first_validation_is_no_number_ends_with_a_sentence(split, tmp_path):
    model = dr.DiffRec(dims=(8,), steps=2, lr=1e20)
    with pytest.raises(NonFiniteScoresError, match="DiffRec gives scores that are no numbers"):
        dr.fit(model, split.train, split.valid, mesh=one_device(), workdir=tmp_path, **TOO_FAST)


def test_damaged_parameters_are_not_served(split):
    good = dr.fit(dr.EASE(), split.train, mesh=one_device()).recommender
    params = good.ranker.params.at[3, 1].set(jnp.nan)
    with pytest.raises(NonFiniteParametersError, match="parameters of EASE are not finite"):
        dr.Recommender(good.content, params)


@pytest.mark.parametrize("error", [NonFiniteLossError, NonFiniteParametersError, NonFiniteScoresError])
def test_the_command_line_says_them_in_one_sentence(error, capsys):
    from experiments.settings import guard

    def main(argv):
        raise error("the parameters are not finite: lower the learning rate")

    assert guard.guarded(main, []) == 2
    assert capsys.readouterr().err == "error: the parameters are not finite: lower the learning rate\n"

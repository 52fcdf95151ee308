"""LightGCN: its graph against a dense adjacency, its gradient against automatic differentiation, and what it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax import api
from diffrec_jax.data.events import CSR
from diffrec_jax.data.recency import Recency
from diffrec_jax.data.rows import device_csr, make_rows, take_rows
from diffrec_jax.mesh import make_mesh
from diffrec_jax.models.baselines import Popularity
from diffrec_jax.models.contract import ClosedForm
from diffrec_jax.models.lightgcn import Graph, LightGCN, bpr_loss, propagate


def some_csr(U=13, I=17, seed=0):
    """Users of many degrees, one of them and one item without interactions."""
    rng = np.random.default_rng(seed)
    x = (rng.random((U, I)) < np.linspace(0.0, 0.95, U)[:, None]).astype(int)
    x[:, 3] = 0
    users, items = np.nonzero(x)
    order = rng.permutation(len(users))
    return x, CSR.from_pairs(users[order], items[order], n_users=U, n_items=I)


def dense_propagation(x, users, items, layers):
    U = len(x)
    adjacency = np.zeros((sum(x.shape),) * 2)
    adjacency[:U, U:], adjacency[U:, :U] = x, x.T
    degree = adjacency.sum(1)
    scale = np.where(degree > 0, np.maximum(degree, 1) ** -0.5, 0.0)
    a = scale[:, None] * adjacency * scale
    e = np.concatenate([users, items])
    total = sum(np.linalg.matrix_power(a, k) @ e for k in range(layers + 1)) / (layers + 1)
    return {"users": total[:U], "items": total[U:]}


def embeddings_of(U, I, D=5, seed=1):
    rng = np.random.default_rng(seed)
    return {"users": jnp.asarray(rng.normal(size=(U, D)), jnp.float32),
            "items": jnp.asarray(rng.normal(size=(I, D)), jnp.float32)}  # fmt: skip


@pytest.mark.parametrize("layers", [1, 3])
def test_propagation_equals_a_dense_adjacency(layers):
    x, csr = some_csr()
    e = embeddings_of(*x.shape)
    ours = jax.jit(lambda g, e: propagate(g, e, layers=layers))(Graph.create(csr), e)
    expected = dense_propagation(x, e["users"], e["items"], layers)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, expected)


def test_a_propagated_gradient_is_the_gradient():
    x, csr = some_csr()
    graph, e = Graph.create(csr), embeddings_of(*x.shape)
    rng = np.random.default_rng(2)
    users, items, others = (jnp.asarray(rng.integers(0, n, 30)) for n in (13, 17, 17))
    real = jnp.arange(30) < 25

    def whole(e):
        return bpr_loss(propagate(graph, e, layers=2), users, items, others, real)

    expected = jax.grad(whole)(e)
    ours = propagate(graph, jax.grad(bpr_loss)(propagate(graph, e, layers=2), users, items, others, real), layers=2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), ours, expected)


def test_the_loss_equals_numpy():
    e = jax.tree.map(np.asarray, embeddings_of(4, 6))
    u, i, j = np.array([0, 3, 1]), np.array([5, 0, 2]), np.array([1, 1, 4])
    margin = (e["users"][u] * (e["items"][i] - e["items"][j])).sum(1)
    expected = -np.log(1 / (1 + np.exp(-margin)))[:2].mean()
    assert float(bpr_loss(e, u, i, j, jnp.asarray([True, True, False]))) == pytest.approx(expected, rel=1e-5)


def test_the_graph_knows_who_met_what():
    x, csr = some_csr()
    users, items = np.divmod(np.arange(x.size), x.shape[1])
    np.testing.assert_array_equal(Graph.create(csr).has(jnp.asarray(users), jnp.asarray(items)), x.reshape(-1) > 0)


def two_tastes(U=60, I=40, seed=0):
    """Even users like even items; returns training and held-out interactions."""
    rng = np.random.default_rng(seed)
    liked = [2 * rng.permutation(I // 2)[:12] + u % 2 for u in range(U)]
    users = np.repeat(np.arange(U), 12)
    items, held = np.concatenate(liked), np.tile(np.arange(12) >= 8, U)
    return (CSR.from_pairs(users[part], items[part], n_users=U, n_items=I) for part in (~held, held))


def test_it_learns_tastes_and_goes_through_the_evaluator():
    train, truth = two_tastes()
    model = LightGCN(dim=8, layers=2, updates=60, lr=0.05, triples=256)
    assert isinstance(model, ClosedForm)
    fitted = api.fit(model, train)
    ours = api.evaluate(fitted, truth).mean("standard")["recall@10"]
    popular = api.evaluate(api.fit(Popularity(), train), truth).mean("standard")["recall@10"]
    assert ours > 0.6 > 0.5 > popular  # knowing the taste alone gives 10 of 12 items: 0.83
    again = api.fit(model, train)
    jax.tree.map(np.testing.assert_array_equal, fitted.params, again.params)


def test_scores_are_inner_products_also_for_strangers():
    _, csr = some_csr()
    model, params = LightGCN(dim=5), embeddings_of(13, 17)
    rows = take_rows(device_csr(csr), jnp.asarray([4, 0, 12], jnp.int32))
    scores = model.scores(params, rows)
    np.testing.assert_allclose(scores, params["users"][jnp.asarray([4, 0, 12])] @ params["items"].T, atol=1e-5)
    stranger = make_rows(jnp.asarray([[2, 9, 0]]), jnp.asarray([2]), n_items=17)
    expected = (params["items"][2] + params["items"][9]) @ params["items"].T
    np.testing.assert_allclose(model.scores(params, stranger)[0], expected, atol=1e-5)
    np.testing.assert_allclose(model.user_vectors(params, rows) @ model.item_vectors(params).T, scores, atol=1e-5)


def test_a_user_without_training_interactions_is_a_stranger_and_a_kernel_makes_everybody_one():
    x, csr = some_csr()
    model = LightGCN(dim=5, updates=2, triples=16)
    params = model.fit(csr)
    assert not x[0].any() and x[12].any()
    np.testing.assert_array_equal(params["users"].any(axis=1), csr.lengths() > 0)
    rows = make_rows(jnp.asarray([[2, 9, 0]] * 2), jnp.asarray([2, 2]), n_items=17, users=jnp.asarray([0, 12]))
    own = (params["items"][2] + params["items"][9]) @ params["items"].T
    np.testing.assert_allclose(model.scores(params, rows)[0], own, atol=1e-5)
    np.testing.assert_allclose(model.scores(params, rows)[1], params["users"][12] @ params["items"].T, atol=1e-5)
    timely = LightGCN(dim=5, recency=Recency("linear"))
    rows = rows.replace(weights=jnp.asarray([[0.1, 1.0, 0.0]] * 2))
    weighted = (0.1 * params["items"][2] + params["items"][9]) @ params["items"].T
    np.testing.assert_allclose(timely.scores(params, rows), np.stack([weighted] * 2), atol=1e-5)


@pytest.mark.parametrize(
    "change, sentence",
    [({"layers": 0}, "layers=0 must be at least 1"), ({"lr": 0.0}, "lr=0.0 must be positive")],
)
def test_bad_hyper_parameters_are_refused(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        LightGCN(**change)


def test_no_interactions_are_refused():
    with pytest.raises(ValueError, match="LightGCN has nothing to learn from"):
        LightGCN().fit(CSR.from_pairs(np.arange(0), np.arange(0), n_users=3, n_items=3))


@pytest.mark.long
def test_a_catalogue_that_the_shards_do_not_divide_is_ranked_as_on_one_device():
    _, train = some_csr()  # 17 items
    held = np.random.default_rng(1).integers(0, 17, 13)
    truth = CSR.from_pairs(np.arange(13), held, n_users=13, n_items=17)
    found = []
    for mesh in (make_mesh(devices=jax.devices()[:1]), make_mesh(users=2, items=4)):
        fitted = api.fit(LightGCN(dim=4, updates=2, triples=64), train, mesh=mesh)
        found.append(api.evaluate(fitted, truth, seen=[], ks=(1, 5, 17)).per_user)
    for name, values in found[0].items():
        np.testing.assert_array_equal(found[1][name], values, err_msg=name)

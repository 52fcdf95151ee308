"""Many devices: the same results on every mesh, nothing as long as the catalogue in one place, nor on the wires."""

import dataclasses
import math
import re

import jax
import numpy as np
import pytest

import diffrec_jax as dr
from diffrec_jax import api
from diffrec_jax.data import synthetic
from diffrec_jax.data.events import CSR
from diffrec_jax.data.rows import DeviceCSR, device_csr
from diffrec_jax.evaluation import Evaluator, Standing
from diffrec_jax.fit_options import FitOptions
from diffrec_jax.mesh import Layout, bytes_per_device, make_mesh, parse_mesh, replicated
from diffrec_jax.models import Catalogue, DiffRec, LatentDiffRec
from diffrec_jax.training import InterruptedRunError, Observer, Trainer
from diffrec_jax.training.checkpoint import load_best

N_ITEMS = 43  # no number of shards divides it
CLUSTERS = np.arange(N_ITEMS) % 3 % 2
MODELS = {
    "diffrec": DiffRec(dims=(6, 12), steps=3, noise_scale=0.1, lr=1e-2, norm=True),
    "latent": LatentDiffRec(clusters=CLUSTERS, in_dims=(7,), mlp_dims=(6,), steps=5),
}


@pytest.fixture(scope="module")
def split():
    split = synthetic.generate(n_users=60, n_items=N_ITEMS, seed=1).split_by_time(0.7, 0.1, 0.2)
    assert split.n_items == N_ITEMS
    return split


def fit(model, split, mesh, **options):
    defaults = {"valid": split.valid, "batch_size": 16, "epochs": 2, "eval_every": 2, "seed": 3, "ema_decay": 0.9}
    return api.fit(model, split.train, mesh=mesh, **{**defaults, **options})


def one_device():
    return make_mesh(devices=jax.devices()[:1])


def close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-4), a, b)


def test_training_and_ranking_do_not_depend_on_the_mesh(split):
    """With a validation on every mesh; ``test_contract`` has every model on one."""
    one, many = (fit(MODELS["latent"], split, mesh) for mesh in (one_device(), parse_mesh("items:8")))
    close(one.params, many.params)
    assert one.result.parameters == many.result.parameters == sum(leaf.size for leaf in jax.tree.leaves(many.params))
    assert many.result.progress.best_value == pytest.approx(one.result.progress.best_value, abs=2e-3)


class StopAfterOne(Observer):
    done = 0

    def epoch(self, report):
        self.done = report.epoch

    def interrupted(self):
        return self.done > 0


@pytest.mark.long
def test_a_run_goes_on_on_another_mesh_and_another_models_checkpoint_is_refused(split, tmp_path):
    model = MODELS["diffrec"]
    whole = fit(model, split, one_device())
    with pytest.raises(InterruptedRunError):
        fit(model, split, parse_mesh("users:2,items:4"), workdir=tmp_path, eval_every=1, observer=StopAfterOne())
    like = model.shapes(Catalogue(n_items=N_ITEMS, n_users=split.n_users))
    here = Layout(one_device(), {}).abstract(like)
    found = load_best(tmp_path / "checkpoints", here)
    assert jax.tree.map(lambda a: a.shape, found) == jax.tree.map(lambda a: a.shape, like)
    assert len(dr.load(tmp_path).recommend(users=[split.user_ids[0]], k=3)) == 3
    for other, sentence in (
        ({"dims": (6, 14)}, r"hidden_0/kernel has shape \(12, 6\) there, shape \(14, 6\) here"),
        ({"emb_size": 8}, r"emb/bias has shape \(10,\) there, shape \(8,\) here"),
    ):
        wrong = dataclasses.replace(model, **other).shapes(Catalogue(n_items=N_ITEMS, n_users=split.n_users))
        with pytest.raises(ValueError, match=sentence):
            load_best(tmp_path / "checkpoints", Layout(one_device(), {}).abstract(wrong))
    shorter = model.shapes(Catalogue(n_items=N_ITEMS - 4, n_users=split.n_users))
    with pytest.raises(ValueError, match=r"has shape \(44, 12\) there, shape \(39, 12\) here"):
        load_best(tmp_path / "checkpoints", Layout(one_device(), {}).abstract(shorter))
    close(whole.params, fit(model, split, parse_mesh("items:8"), workdir=tmp_path, eval_every=1).params)


def collectives(program):
    """``(operation, [shape, …])`` of everything that crosses between devices in a compiled program."""
    pattern = r"= (.*?) (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(?:-start)?\("
    return [
        (operation, [tuple(map(int, filter(None, dims.split(",")))) for dims in re.findall(r"\w+\[([\d,]*)\]", types)])
        for types, operation in re.findall(pattern, program.as_text())
    ]


@pytest.mark.parametrize("name", ["diffrec", "latent"])
@pytest.mark.parametrize("users, items", [(2, 4), pytest.param(8, 1, marks=pytest.mark.long)])
def test_only_hidden_vectors_and_lists_cross_between_devices(name, users, items):
    B, H, K, I, U, mesh = 16, 24, 5, 1201, 64, make_mesh(users=users, items=items)
    rng = np.random.default_rng(0)
    csr = CSR.from_pairs(rng.integers(0, U, 600), rng.integers(0, I, 600), n_users=U, n_items=I)
    model = DiffRec(dims=(H,), steps=3)
    if name == "latent":
        model = LatentDiffRec(clusters=np.arange(I) % 2, in_dims=(H,), mlp_dims=(H,), steps=3)
    trainer = Trainer(model, Catalogue(n_items=I, n_users=U), mesh, 0, FitOptions(batch_size=B))
    rows = {"history": csr, "seen": csr, "truth": csr, "standing": Standing.of(np.arange(I), csr)}
    evaluator = Evaluator(model, **rows, mesh=mesh, ks=(K,), batch_size=B)
    evaluate = evaluator.compile(trainer.abstract_state().params)[1]
    crossing = collectives(evaluate)
    assert crossing  # the mesh is used at all
    for operation, arrays in crossing:
        for shape in arrays:
            assert math.prod(shape) <= B // users * max(2 * H, items * K), (operation, shape)
    crossing = collectives(trainer.compile(device_csr(csr, mesh=mesh)))
    assert crossing
    for operation, arrays in crossing:  # gradients cross between rows of devices, of one shard each
        for shape in arrays:
            assert max(shape, default=0) <= -(-I // items), (operation, shape)


def test_a_device_of_eight_holds_a_quarter_at_the_size_of_amazon_book():
    model, catalogue = DiffRec(dims=(1000,), steps=5), Catalogue(n_items=94_949, n_users=108_822)
    mesh = parse_mesh("users:2,items:4")
    one, many = (Trainer(model, catalogue, m, 0, FitOptions()) for m in (one_device(), mesh))

    def on_every(*shape):
        return jax.ShapeDtypeStruct(shape, np.int32, sharding=replicated(mesh))

    csr = DeviceCSR(on_every(108_823), on_every(1000), None, catalogue.n_items, 50)
    memory = many.compile(csr).memory_analysis()
    held = memory.argument_size_in_bytes - bytes_per_device(csr) - 8  # epoch and number of steps
    assert held == pytest.approx(bytes_per_device(many.abstract_state()), rel=1e-6)
    whole = bytes_per_device(one.abstract_state())
    assert whole == pytest.approx(3 * 4 * (2 * 94_949 * 1000 + 94_949), rel=1e-3)
    assert whole / held >= 3.5
    assert memory.alias_size_in_bytes >= held  # the state is updated in place


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("users:3,items:2", r"a mesh of users:3,items:2 does not fit 8 device\(s\): choose two numbers"),
        ("users:5", r"a mesh of users:5,items:1 does not fit 8"),
        ("items:16", r"a mesh of users:0,items:16 does not fit 8"),
        ("rows:8", r"mesh='rows:8' is no mesh: write users:4,items:2"),
        ("users:2,users:4", "is no mesh"),
        ("users:0", "is no mesh|does not fit"),
        ("users=8", "is no mesh"),
    ],
)  # fmt: skip
def test_what_is_no_mesh_is_refused(text, sentence):
    with pytest.raises(ValueError, match=sentence):
        parse_mesh(text)


def test_meshes_are_read_as_typed():
    for text, shape in (("", (8, 1)), ("users:4,items:2", (4, 2)), ("items:4", (2, 4)), ("users:2", (2, 4))):
        assert tuple(parse_mesh(text).shape.values()) == shape

"""The benchmarks measure what they say; at full size they are run by hand."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffrec_jax.models import Catalogue, DiffRec
from diffrec_jax.models.sasrec import SASRec
from experiments.benchmarks import evaluate, in_torch, measure, scale, sequential, train_step


def test_the_flops_of_a_step_are_those_counted_by_hand():
    B, I, H, h = 400, 2810, 600, 200
    forward = I * H + H * h + h * H + H * I
    weights = forward
    inputs = H * h + h * H + H * I  # the first layer's input needs no gradient
    assert train_step.flops_per_step(DiffRec(dims=(h, H)), I) == 2 * B * (forward + weights + inputs)


def test_made_up_interactions_have_the_shape_and_are_split_by_position():
    csr = measure.interactions_like(n_users=300, n_items=200, n_interactions=4_000)
    assert (csr.n_users, csr.n_items) == (300, 200) and 3_000 <= csr.n_interactions <= 4_000
    counts = np.bincount(csr.indices, minlength=200)
    assert counts[:20].sum() > 3 * counts[-20:].sum()  # popularity is skewed
    history, truth = evaluate.last_of_each(csr, 0.2)
    assert history.n_interactions + truth.n_interactions == csr.n_interactions
    assert truth.lengths()[csr.lengths() > 0].min() >= 1


def test_medians_and_the_peak_are_positive_and_the_result_is_one_json_line(capsys):
    assert measure.matmul_peak(size=64, repeats=2) > 0
    assert measure.median_seconds(lambda: np.zeros(3), repeats=3) > 0
    assert measure.peak_bytes() > 2**20
    measure.finish(a=1.23456789, b=2)
    assert capsys.readouterr().out == '{"a": 1.2346, "b": 2}\n'


def test_the_products_of_a_sequential_epoch_are_those_counted_by_hand():
    model, D, I = SASRec(width=8, blocks=2, heads=2, length=4), 8, 30
    by_position = 2 * (4 * D * D + 2 * D * D) + I * D
    attention = 2 * 2 * D * (1 + 2 + 3 + 1)  # logits and sums, of what each position sees
    assert sequential.products(model, I, np.array([3, 1])) == 2 * 3 * (4 * by_position + attention)


def test_a_sequential_benchmark_reads_histories_and_says_what_it_is_made_of(tmp_path, capsys):
    lines = [(user, (user + n) % 9 + 1) for user in (7, 3, 5) for n in range(4 + user)]
    (tmp_path / "log.txt").write_text("".join(f"{user} {item}\n" for user, item in lines))
    csr = sequential.histories(str(tmp_path / "log.txt"))
    assert csr.lengths().tolist() == [5, 7, 9] and csr.indices[:5].tolist() == [3, 4, 5, 6, 7]  # of users 3, 5, 7
    found, lengths = sequential.right_padded(csr, 6)
    assert lengths.tolist() == [5, 6, 6] and found[0].tolist() == [3, 4, 5, 6, 7, 0]
    assert found[1].tolist() == csr.indices[csr.indptr[2] - 6 : csr.indptr[2]].tolist()
    sequential.finished(csr, "sasrec", turns=1, steps=1, against_torch=False, width=8, length=6)
    told = json.loads(capsys.readouterr().out)
    assert told["model"] == "sasrec" and told["positions"] == 4 + 6 + 6 and 0 <= told["waste"] < 1
    assert told["waste_padded"] == pytest.approx(1 - 16 / 18, abs=1e-4)
    with pytest.raises(SystemExit, match="--against_torch compares SASRec"):
        sequential.finished(csr, "diffrec", turns=1, steps=1, against_torch=True)


def test_the_network_that_is_compared_with_is_the_same():
    torch = pytest.importorskip("torch")
    model = SASRec(width=8, heads=2, length=5, dropout=0.0)
    params = model.init(jax.random.key(0), Catalogue(n_items=11, n_users=3))
    theirs = in_torch.SASRec(n_items=11, length=5, width=8, blocks=2, heads=2, dropout=0.0)

    def give(to, value):
        to.data = torch.from_numpy(np.array(value))

    give(theirs.items, params["items"])
    give(theirs.positions, params["positions"])
    encoder = params["encoder"]
    give(theirs.last["scale"], encoder["last_norm"]["scale"])
    for n, layer in enumerate(theirs.layers):
        for name, ours in zip(("q", "k", "v", "out"), range(4)):
            give(layer[name], encoder[f"attention_{n}_{ours}"]["kernel"].T)
        for name, ours in zip(("up", "down"), range(2)):
            give(layer[name], encoder[f"dense_{n}_{ours}"]["kernel"].T)
    items = np.random.default_rng(0).integers(0, 11, (3, 5))
    ours = model.features(params, jnp.asarray(items), jnp.ones((3, 5), bool))
    found = theirs.features(torch.from_numpy(items), torch.ones(3, 5)).detach().numpy()
    np.testing.assert_allclose(found, ours, atol=1e-5)


def test_steps_without_the_catalogue_are_timed_at_every_size():
    found = scale.steps({"a": 300, "b": 900}, turns=1, batch=8, width=4)
    assert found["seconds_a"] > 0 and found["seconds_b"] > 0 and found["largest_by_smallest"] >= 1
    assert found["temporaries_a"] > 0


@pytest.mark.long
def test_the_ways_to_train_are_timed_side_by_side():
    found = scale.shapes(4, turns=1, sizes={"n_users": 300, "n_items": 200, "n_interactions": 4_000})
    assert {"dense_400", "gram_2048", "ridge_400"} <= set(found) and found["dense_by_best"] > 0


@pytest.mark.long
def test_a_made_up_log_is_learned_from_and_listed_by_the_commands(tmp_path):
    written = scale.write_log(tmp_path, users=400, items=2_000)
    assert 400 * 25 <= written["events"] <= 400 * 75
    found = scale.epoch(tmp_path, width=8, lists=20, sample=50)
    assert found["epoch_seconds"] > 0 and found["peak_bytes"] > 2**20 and found["recall@20"] > 0
    assert (tmp_path / "lists.parquet").is_file()

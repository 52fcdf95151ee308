"""The benchmarks measure what they say; at full size they are run by hand."""

import numpy as np

from diffrec_jax.models import DiffRec
from experiments.benchmarks import evaluate, measure, train_step


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

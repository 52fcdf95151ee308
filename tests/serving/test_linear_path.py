"""The linear path: what both parts say, added; trained and fitted each on its own; the same on any mesh."""

import dataclasses

import numpy as np
import pytest
from marks import quick
from shop import MODELS, one_device

import diffrec_jax as dr
from diffrec_jax import api
from diffrec_jax.mesh import parse_mesh

MODEL = MODELS["path"]


@pytest.mark.long
@pytest.mark.parametrize(
    "model", quick([MODEL, MODELS["latent_path"]], MODELS["latent_path"]), ids=["diffrec", "l_diffrec"]
)
def test_it_is_the_sum_of_its_parts_on_any_mesh(split, model):
    options = {"epochs": 2, "eval_every": 1}
    truth = split.test
    both = dr.fit(model, split.train, split.valid, mesh=parse_mesh("users:4,items:2"), **options)
    alone = dr.fit(model.network, split.train, split.valid, mesh=one_device(), **options)
    linear = dr.fit(model.linear, split.train, split.valid, mesh=one_device())
    assert both.result.progress.best_epoch == alone.result.progress.best_epoch
    assert both.result.parameters == alone.result.parameters + split.n_items**2
    user = split.user_ids[:1]
    parts = [dict(zip(t["item"].tolist(), t["score"])) for t in (f.recommend(user, k=5) for f in (alone, linear))]
    found = both.recommend(user, k=5)
    for item, score in zip(found["item"].tolist(), found["score"]):
        if item in parts[0] and item in parts[1]:
            np.testing.assert_allclose(score, parts[0][item] + model.weight * parts[1][item], atol=1e-5 * model.weight)
    here = dr.evaluate(both, truth).mean("official")
    there = dr.evaluate(dataclasses.replace(both, mesh=one_device(), stored=both.params), truth).mean("official")
    assert here.keys() == there.keys() and all(abs(here[name] - there[name]) < 1e-6 for name in here)


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(ValueError, match=r"forecast is 3.0 of the network and 0.0 of the linear path: give both the"):
        dr.models.linear_path.LinearPath(network=MODEL.network, linear=dataclasses.replace(MODEL.linear, forecast=0.0))
    with pytest.raises(ValueError, match=r"weight=0.0 of the linear path must be positive"):
        dataclasses.replace(MODEL, weight=0.0)
    with pytest.raises(ValueError, match="use BlockEASE or ELSA for this catalogue"):
        MODEL.check_size(200_000)


def test_a_catalogue_too_large_for_it_is_refused_before_the_network_is_trained(split, monkeypatch):
    monkeypatch.setattr(api, "Trainer", lambda *_, **__: pytest.fail("trained"))
    small = dataclasses.replace(MODEL, linear=dataclasses.replace(MODEL.linear, max_bytes=1000))
    with pytest.raises(ValueError, match=r"EASE needs 0.0 GiB for 60 items.*: use BlockEASE or ELSA"):
        dr.fit(small, split.train, split.valid)

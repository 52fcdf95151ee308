"""Every registered model keeps the promises of the contract, and the registry keeps its own."""

import dataclasses
import subprocess
import sys

import pytest

import diffrec_jax as dr
from diffrec_jax.models.contract import Model, Scorer
from diffrec_jax.models.linear_path import LinearPath
from diffrec_jax.models.registry import HOMES, MODELS, Entry, registry
from diffrec_jax.testing import ModelSuite, small_split


class TestDiffRec(ModelSuite):
    model = dr.DiffRec(dims=(6, 10), steps=3, noise_scale=0.1, norm=True)
    bad = (("dropout", 1.0), ("lr", 0.0))


class TestDiffRecByGram(ModelSuite):
    model = dr.DiffRec(dims=(6, 10), steps=3, noise_scale=0.1, output="gram", w0=0.5)
    bad = (("w0", -1.0),)


class TestDiffRecByRidge(ModelSuite):
    model = dr.DiffRec(dims=(6, 10), steps=3, noise_scale=0.1, output="ridge", ridge_l2=0.1)
    bad = (("ridge_l2", 0.0), ("ridge_half_life", 0.0), ("rows_lr", 0.0))


class TestLatentDiffRec(ModelSuite):
    mirrored = dr.LatentDiffRec(in_dims=(7, 9), out_dims=(7, 9), mlp_dims=(6,), steps=3)
    model = dataclasses.replace(mirrored, anneal_steps=4, vae_anneal_steps=5, recency=dr.Recency("power"))
    bad = (("vae_dropout", 1.0),)


class TestPopularity(ModelSuite):
    model = dr.Popularity(recency=dr.Recency("linear"))


class TestRecentPopularity(ModelSuite):
    model = dr.RecentPopularity(half_life=5.0)
    bad = (("half_life", 0.0),)


class TestItemKNN(ModelSuite):
    model = dr.ItemKNN(neighbours=4)
    bad = (("neighbours", 0), ("shrink", -1.0))


class TestEASE(ModelSuite):
    model = dr.EASE(l2=10.0)
    bad = (("l2", 0.0),)


class TestBlockEASE(ModelSuite):
    model = dr.BlockEASE(l2=10.0, head=6, block=5, kept=8)
    bad = (("l2", 0.0), ("head", 0), ("block", 0), ("kept", 0))


class TestMultVAEInChunks(ModelSuite):
    model = dr.MultVAE(dims=(5, 8), output="chunked")


class TestMultiDAEOfDrawnItems(ModelSuite):
    model = dr.MultiDAE(dims=(5,), output="sampled", negatives=16)
    bad = (("negatives", 0),)


class TestELSA(ModelSuite):
    model = dr.ELSA(dim=5)
    bad = (("dim", 0),)


class TestMultVAE(ModelSuite):
    model = dr.MultVAE(dims=(5, 8))
    bad = (("vae_anneal_cap", -1.0),)


class TestMultiDAE(ModelSuite):
    model = dr.MultiDAE(dims=(5,))
    bad = (("dropout", 1.0),)


class TestLightGCN(ModelSuite):
    model = dr.LightGCN(dim=4, updates=3, triples=32)
    bad = (("layers", 0),)


class TestSASRec(ModelSuite):
    model = dr.SASRec(width=8, length=7, dropout=0.2, packing=False)
    bad = (("width", 9), ("heads", 0), ("length", 1), ("dropout", 1.0), ("norm", "none"), ("loss_name", "mse"))


class TestDiffuRec(ModelSuite):
    model = dr.DiffuRec(width=8, blocks=1, heads=2, length=7, steps=5, t_sampling="lossaware", packing=False)
    bad = (("delta", -1.0), ("reverse_steps", 6), ("draws", -1), ("noise_schedule", "binomial"), ("t_sampling", "odd"))


class TestCausalDiffuRec(ModelSuite):
    model = dr.CausalDiffuRec(width=8, blocks=1, length=7, steps=5, reverse_steps=2, draws=1, packing=False)
    bad = (("delta", -1.0), ("reverse_steps", 0), ("history_dropout", 1.0), ("init_std", 0.0), ("lr", 0.0))


class TestGRU4Rec(ModelSuite):
    model = dr.GRU4Rec(width=8, layers=2, length=7, packing=False)
    bad = (("width", 0), ("layers", 0), ("dropout", 1.0))


class TestBERT4Rec(ModelSuite):
    model = dr.BERT4Rec(width=8, length=7, blocks=1)
    bad = (("mask_share", 0.0), ("force_last", 1.5), ("heads", 3), ("length", 1))


class TestSeqDiffRec(ModelSuite):
    model = dr.SeqDiffRec(width=8, blocks=1, length=7, steps=5, noise_schedule="trunc_lin", draws=2, dropout=0.1)
    bad = (("from_step", 6), ("steps", 0), ("heads", 3), ("init_std", 0.0), ("draws", -1))


class TestSTOSA(ModelSuite):
    model = dr.STOSA(width=8, heads=2, length=7, packing=False)
    bad = (("heads", 3), ("pvn", -0.1), ("length", 1))


class TestACVAE(ModelSuite):
    model = dr.ACVAE(width=8, hidden=6, latent=4, length=7)
    bad = (("hidden", 0), ("latent", 0), ("kl_weight", -0.1), ("length", 1))


class TestCaser(ModelSuite):
    model = dr.Caser(width=6, order=3, vertical=2, horizontal=3, length=7, dropout=0.2)
    bad = (("order", 0), ("targets", 0), ("negatives", 0), ("l2", -1.0), ("length", 1))


class TestMarkov(ModelSuite):
    model = dr.Markov()
    bad = (("last", 0),)


class TestTransitions(ModelSuite):
    model = dr.Transitions(distance=3, last=4)
    bad = (("distance", 0), ("last", 0), ("decay", 0.0))


class TestLinearPath(ModelSuite):
    recency = dr.Recency("exponential", half_life=3.0)
    model = LinearPath(
        network=dr.DiffRec(dims=(6,), steps=2, recency=recency), linear=dr.EASE(l2=10.0, recency=recency)
    )
    bad = (("weight", 0.0),)


def test_every_model_that_is_registered_is_held_to_the_contract():
    tested = {type(suite.model).__name__ for suite in ModelSuite.__subclasses__() if suite.__module__ == __name__}
    assert tested == set(HOMES)


def test_the_list_says_of_each_model_what_its_class_says():
    for name, entry in MODELS.items():
        assert issubclass(entry.model, Scorer) and entry.model.__name__ == entry.class_name, name
        assert entry.latent == entry.model().needs_clusters, name
        assert entry.time_aware is None or "recency" in {f.name for f in dataclasses.fields(entry.model)}, name
        assert getattr(dr, entry.class_name) is entry.model and entry.class_name in dr.__all__


def test_listing_models_imports_none_of_them():
    script = "import sys, diffrec_jax; from diffrec_jax.models import registry; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize(
    "entry, sentence",
    [
        (Entry("ease", "mine:Mine", "Mine", "graph"), "two models are called ease, baselines:EASE and mine:Mine: give"),
        (Entry("mine", "mine:EASE", "Mine", "graph"), "two classes are called EASE, baselines:EASE and mine:EASE"),
        (Entry("mine", "mine:Mine", "Mine", "trees"), "family='trees' of mine is unknown: choose one of diffusion, a"),
    ],
)
def test_models_that_cannot_be_told_apart_are_refused_when_the_list_is_made(entry, sentence):
    with pytest.raises(ValueError, match=sentence):
        registry(*MODELS.values(), entry)


class Duck:
    def fit(self, train):
        return None


class Unfinished(Model):
    def init(self, key, catalogue):
        return {}


@pytest.mark.parametrize(
    "model, sentence",
    [
        (Duck(), r"Duck is no model \(it lacks scores\): inherit from Model or ClosedForm of diffrec"),
        (dr.EASE, r"EASE is a class: pass a model, as in EASE\(\)"),
        (Unfinished, r"Unfinished is no model \(it lacks loss, optimizer, scores\)"),
        ("ease", r"str is no model \(it lacks"),
        (None, r"NoneType is no model"),
    ],
)
def test_what_is_no_model_is_refused_naming_what_it_lacks(model, sentence, tmp_path):
    with pytest.raises(ValueError, match=sentence):
        dr.fit(model, small_split().train)


def test_only_a_model_that_remembers_has_a_memory():
    assert dr.ELSA().init_memory(None) is None and dr.MultVAE().watched(None) == {}
    memory = dr.DiffRec(steps=7).init_memory(None)
    assert memory.history.shape == (7, 10)
    assert dr.DiffRec(steps=7).watched(memory)["importance"].shape == (7,)

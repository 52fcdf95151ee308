"""Every registered model keeps the promises of the contract, and the registry keeps its own."""

import dataclasses

import pytest

import diffrec_jax as dr
from diffrec_jax.models.linear_path import LinearPath
from diffrec_jax.testing import ModelSuite

LATENT = {"in_dims": (7,), "mlp_dims": (6,), "steps": 3}


class TestDiffRec(ModelSuite):
    model = dr.DiffRec(dims=(6, 10), steps=3, noise_scale=0.1, norm=True)
    bad = {"dropout": 1.0, "lr": 0.0}


class TestTDiffRec(ModelSuite):
    model = dr.DiffRec(dims=(6,), steps=3, recency=dr.Recency("exponential", half_life=3.0), mean_type="eps")


class TestLatentDiffRec(ModelSuite):
    model = dr.LatentDiffRec(**LATENT)
    bad = {"vae_dropout": 1.0}


class TestMirroredLTDiffRec(ModelSuite):
    model = dr.LatentDiffRec(**{**LATENT, "in_dims": (7, 9)}, out_dims=(7, 9), recency=dr.Recency("power"))


class TestPopularity(ModelSuite):
    model = dr.Popularity(recency=dr.Recency("linear"))


class TestRecentPopularity(ModelSuite):
    model = dr.RecentPopularity(half_life=5.0)
    bad = {"half_life": 0.0}


class TestItemKNN(ModelSuite):
    model = dr.ItemKNN(neighbours=4)
    bad = {"neighbours": 0, "shrink": -1.0}


class TestEASE(ModelSuite):
    model = dr.EASE(l2=10.0)
    bad = {"l2": 0.0}


class TestELSA(ModelSuite):
    model = dr.ELSA(dim=5)
    bad = {"dim": 0}


class TestMultVAE(ModelSuite):
    model = dr.MultVAE(dims=(5, 8))
    bad = {"vae_anneal_cap": -1.0}


class TestMultiDAE(ModelSuite):
    model = dr.MultiDAE(dims=(5,))
    bad = {"dropout": 1.0}


class TestLightGCN(ModelSuite):
    model = dr.LightGCN(dim=4, updates=3, triples=32)
    bad = {"layers": 0}


class TestLinearPath(ModelSuite):
    model = LinearPath(network=dr.DiffRec(dims=(6,), steps=2), linear=dr.EASE(l2=10.0))
    bad = {"weight": 0.0}

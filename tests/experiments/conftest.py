"""Runs on a small made-up data set that several tests read."""

import os

import jax
import numpy as np
import pytest
from filelock import FileLock
from rich.console import Console

from diffrec_jax.data import synthetic
from diffrec_jax.mesh import make_mesh, parse_mesh
from experiments.reporting import pictures
from experiments.running import one_run, seeds, sweeping
from experiments.settings import cli

TINY = ["--dims=[8]", "--steps=3", "--epochs=4", "--eval_every=2", "--batch_size=32"]


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """A folder for ``--data_dir``, with the dataset ``tiny`` in the released layout."""
    folder = tmp_path_factory.mktemp("data")
    split = synthetic.generate(n_users=80, n_items=130, seed=4).k_core(3).split_by_time(0.7, 0.1, 0.2)
    (folder / "tiny").mkdir()
    for part, log in zip(("train", "valid", "test"), split):
        np.save(folder / "tiny" / f"{part}_list.npy", np.stack([log.users, log.items], axis=1))
    return folder


@pytest.fixture(scope="session")
def runs(tiny_data, tmp_path_factory):
    """A folder of finished runs: ``a`` (seeds 0 and 1), ``t`` (T-DiffRec, one seed); made once, also for the other
    workers, so nobody writes to it."""
    place = tmp_path_factory.getbasetemp()
    place = place.parent if "PYTEST_XDIST_WORKER" in os.environ else place
    with FileLock(place / "runs.lock"):
        if not (place / "runs").exists():
            with pytest.MonkeyPatch.context() as patch:  # one device compiles faster than eight
                patch.setattr(one_run, "parse_mesh", lambda text: make_mesh(devices=jax.devices()[:1]))
                make_runs(place / "unfinished", [f"--data_dir={tiny_data}", *TINY])
            (place / "unfinished").rename(place / "runs")
    return place / "runs"


def make_runs(folder, common):
    for name, flags in {
        "a": ["--dataset=tiny", "--seeds=2"],
        "t": ["--dataset=tiny", "--model=t_diffrec", "--baselines=false"],
    }.items():
        config = cli.parse(["run.py", *common, *flags, f"--workdir={folder / name}"], usage="")
        console = Console(quiet=True)
        assert (
            one_run.run(config, console) if config.run.seeds == 1 else seeds.run_each(config, one_run.run, console)
        ) == 0


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    """Runs use one device unless they say --mesh: fewer devices compile faster."""
    for module in (one_run, sweeping):
        monkeypatch.setattr(
            module, "parse_mesh", lambda text: parse_mesh(text) if text else make_mesh(devices=jax.devices()[:1])
        )


@pytest.fixture(autouse=True)
def nothing_drawn(request, monkeypatch):
    """Pictures take two seconds of a run and are drawn in the tests of reports only."""
    if request.module.__name__ != "test_report":
        monkeypatch.setattr(pictures, "draw", lambda paint, **size: "<svg/>")

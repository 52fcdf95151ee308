"""Shared by all tests: eight simulated devices, the recorded reference behaviour, and where real data may lie."""

import gc
import json
import os
import tempfile
from importlib.metadata import version
from pathlib import Path

# Tests compile many small programs: lightly optimised, without the fusions that take half the time to compile, and kept
# for the whole session, also for the other workers and the processes that tests start.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix="diffrec_jax_tests_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _CACHE.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
if "XLA_FLAGS" not in os.environ:
    os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    if version("jaxlib").startswith("0.10."):  # a flag that XLA does not know ends the process
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"

import jax
import numpy as np
import pytest
from programs import forget, shared_programs

from diffrec_jax.testing import ModelSuite

__all__ = ["few_mappings", "golden", "real_data", "shared_programs"]

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def golden():
    """``golden("name")`` gives the arrays of a recording; JSON entries come decoded."""

    def load(name: str) -> dict:
        with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        return {k: json.loads(str(v)) if v.dtype.kind == "U" else v for k, v in arrays.items()}

    return load


@pytest.fixture
def real_data():
    """``real_data("ml-1m_clean")`` gives a folder of real data, or skips the test where there is none."""

    def find(name: str) -> Path:
        path = Path(os.environ.get("DIFFREC_JAX_DATA", ROOT / "data")) / name
        if not path.exists():
            pytest.skip(f"{name} is not on this machine (set DIFFREC_JAX_DATA)")
        return path

    return find


MAPPINGS = Path("/proc/self/maps")
MANY_MAPPINGS = 20_000  # every compiled program takes a few, and the kernel allows 65,530


@pytest.fixture(autouse=True, scope="module")
def few_mappings():
    """Before a process holds too many compiled programs, they are let go; those on disk are found again."""
    yield
    if MAPPINGS.exists() and MAPPINGS.read_bytes().count(b"\n") > MANY_MAPPINGS:
        forget()
        jax.clear_caches()
        gc.collect()


HELD_IN_FULL = ("TestDiffRec", "TestEASE", "TestPopularity")
HELD_IN_PART = ("TestDiffuRec", "TestLatentDiffRec", "TestLightGCN", "TestLinearPath", "TestMarkov", "TestSASRec")
WITHOUT_FITTING = ("test_it_declares_what_is_asked_of_a_model", "test_bad_hyper_parameters_are_refused_by_a_sentence")
PART = (
    *WITHOUT_FITTING,
    "test_padding_changes_nothing",
    "test_ranks_and_precisions_meet_as_written",
    "test_user_times_item_vectors_are_the_scores",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """The conformance suite knows no long tests; all of it for every model compiles much, and most of it waits."""
    for item in items:
        if item.cls is None or not issubclass(item.cls, ModelSuite) or item.cls.__name__ in HELD_IN_FULL:
            continue
        if item.originalname not in (PART if item.cls.__name__ in HELD_IN_PART else WITHOUT_FITTING):
            item.add_marker(pytest.mark.long)

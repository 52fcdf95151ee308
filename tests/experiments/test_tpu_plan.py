"""Planning for TPUs: what is counted here, and a plan from the command line where their compiler is installed."""

import importlib.util
import os
import re
import subprocess
import sys

import jax
import pytest
from small_flags import SMALL

from diffrec_jax.fit_options import FitOptions
from diffrec_jax.mesh import make_mesh
from diffrec_jax.models import Catalogue, DiffRec
from diffrec_jax.models.registry import MODELS
from diffrec_jax.planning import no_tpu, programs
from diffrec_jax.planning.programs import Cost, Shape
from diffrec_jax.training import Trainer
from experiments import tpu_plan
from experiments.benchmarks.train_step import flops_per_step
from experiments.settings import guard


def test_products_equal_the_count_by_hand():
    mesh, shape = make_mesh(users=2, items=4), Shape(108_822, 94_949, 1000, 50)
    model = DiffRec(dims=(1000,), steps=5)
    trainer = Trainer(model, Catalogue(n_items=shape.n_items, n_users=shape.n_users), mesh, 0, FitOptions())
    traced = trainer.trace(programs._csr(shape, mesh))
    by_hand = flops_per_step(model, shape.n_items)
    assert by_hand == 2 * 400 * 5 * 1000 * 94_949  # three products forth and back, but no gradient of the input
    assert programs._products(traced.jaxpr.jaxpr, loops=False) == pytest.approx(by_hand, rel=0.02)


def test_loops_of_known_length_count_every_turn():
    def f(x):
        return jax.lax.scan(lambda x, _: (x @ x, None), x, length=7)[0]

    jaxpr = jax.make_jaxpr(f)(jax.numpy.zeros((4, 4))).jaxpr
    assert programs._products(jaxpr, loops=True) == 7 * programs._products(jaxpr, loops=False) == 7 * 2 * 4**3


def test_what_crosses_is_read_from_the_compiled_program():
    text = """
      %a = (f32[8,24]{1,0:T(8,128)}, bf16[8]{0}) all-reduce(%x, %y), channel_id=1
      %b = (f32[2,3]{1,0}, f32[8,3]{1,0}) all-gather-start(%z), dimensions={0}
      %c = f32[8,3]{1,0} all-gather-done(%b)
      %d = pred[5]{0} collective-permute(%w)
    """
    found = programs._collectives(text)
    assert found == {"all-reduce": 8 * 24 * 4 + 8 * 2, "all-gather": 8 * 3 * 4, "collective-permute": 5}


def test_the_bound_is_that_of_the_slower_of_the_two():
    v5e = programs.GENERATIONS["v5e"]
    cost = Cost(0, 0, 0, flops=197e12, products=0.0, bytes_accessed=819e6, collectives={})
    assert cost.seconds(v5e) == 1.0 and cost.bound_by(v5e) == "products"
    assert Cost(0, 0, 0, 197e6, 0.0, 819e9, {}).bound_by(v5e) == "memory"


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--topology=v5e:3x3"], r"topology=v5e:3x3 is unknown: choose one of v4:{2x2x1,"),
        (["--topology=v9:2x2"], r"topology=v9:2x2 is unknown: .*v5e:{1x1,2x2,2x4"),
        (["--topology=v5e:2x4", "--model=ease"], r"model=ease is computed in closed form, on the host"),
    ],
)
def test_bad_input_gets_one_sentence(flags, sentence, capsys):
    assert guard.guarded(tpu_plan.main, ["tpu_plan", *flags]) == 2
    assert re.search(sentence, capsys.readouterr().err)


@pytest.mark.long
def test_a_plan_from_the_command_line(capsys):
    pytest.importorskip("libtpu")
    flags = ["--dataset=ml-1m_clean", "--data_dir=absent", "--dims=[16]", "--steps=3", "--topology=v5e:2x2"]
    assert guard.guarded(tpu_plan.main, ["tpu_plan", *flags]) == 0
    text = capsys.readouterr().out
    assert "training step" in text and "time bound" in text and "all-reduce" in text
    assert "smallest v5e that fits: v5e:1x1 with --mesh=users:1,items:1" in text


@pytest.mark.long
@pytest.mark.parametrize("model", [name for name in SMALL if MODELS[name].is_trained and not MODELS[name].latent])
def test_every_trained_model_has_a_plan(model, monkeypatch, capsys):
    """Compiled for four simulated devices where the compiler of TPUs is not installed."""
    if importlib.util.find_spec("libtpu") is None:
        monkeypatch.setattr(programs, "devices_of", lambda topology: jax.devices()[:4])
    small = [
        flag for flag in SMALL[model] if not flag.startswith(("--epochs", "--eval_every", "--linear", "--guidance"))
    ]
    size = ["--dataset=ml-1m_clean", "--data_dir=absent", "--topology=v5e:2x2"]
    assert guard.guarded(tpu_plan.main, ["tpu_plan", f"--model={model}", *size, *small]) == 0
    text = capsys.readouterr().out
    assert "training step" in text and "time bound" in text and "smallest v5e that fits: v5e:" in text


PLAN = ["tpu_plan", "--dataset=ml-1m_clean", "--data_dir=absent", "--dims=[16]", "--steps=3"]


@pytest.fixture
def a_compiler_that_refuses(monkeypatch):
    """``refusing("v5e:1x1")`` makes the compiler refuse these topologies, and every step cost nothing."""

    def refusing(*topologies):
        def devices_of(topology):
            if topology in topologies:
                raise programs.RefusedTopologyError(topology, "not divisible by 2x2x1")
            return jax.devices()[:4]

        monkeypatch.setattr(programs, "devices_of", devices_of)
        for step in ("train_cost", "score_cost"):
            monkeypatch.setattr(programs, step, lambda *args, **how: Cost(1, 1, 2, 2e9, 1e9, 1e9, {}))

    return refusing


def test_a_topology_that_the_compiler_refuses_is_passed_over_with_its_reason(a_compiler_that_refuses, capsys):
    a_compiler_that_refuses("v5e:1x1", "v5e:2x2")
    assert guard.guarded(tpu_plan.main, [*PLAN, "--topology=v5e:2x4"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "smallest v5e that fits: v5e:2x4 with --mesh=users:4,items:1" in text
    assert "not looked at: v5e:1x1, which the installed TPU compiler refuses (not divisible by 2x2x1)" in text
    assert "not looked at: v5e:2x2" in text


def test_of_several_topologies_those_that_the_compiler_takes_are_planned(a_compiler_that_refuses, capsys):
    a_compiler_that_refuses("v5e:1x1")
    assert guard.guarded(tpu_plan.main, [*PLAN, "--topology=v5e:1x1,v5e:2x2", "--no_search"]) == 0
    said = capsys.readouterr()
    assert "v5e:2x2, 4 chip(s)" in said.out and "v5e:1x1, " not in said.out
    assert "left out: the installed TPU compiler refuses topology=v5e:1x1 (not divisible by 2x2x1)" in said.err


def test_topologies_that_are_all_refused_are_one_sentence(a_compiler_that_refuses, capsys):
    a_compiler_that_refuses("v5e:1x1")
    assert guard.guarded(tpu_plan.main, [*PLAN, "--topology=v5e:1x1"]) == 2
    assert "error: the installed TPU compiler refuses topology=v5e:1x1" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("topology, chips", [("v4:2x2x1", 4), ("v5e:1x1", 1), ("v5e:2x4", 8), ("v6e:1x1", 1)])
def test_the_installed_compiler_knows_the_topologies(topology, chips):
    pytest.importorskip("libtpu")
    assert len(programs.devices_of(topology)) == chips


@pytest.mark.long
def test_what_the_compiler_refuses_is_no_native_traceback(monkeypatch):
    pytest.importorskip("libtpu")
    monkeypatch.setattr(programs, "ALONE", {})  # as before hosts of one chip were said
    monkeypatch.setattr(programs, "GENERATIONS", {"v5e": programs.Generation(1, 1.0, 1.0, ("1x1", "3x3"))})
    with pytest.raises(programs.RefusedTopologyError, match=r"refuses topology=v5e:3x3 \(.+\): choose another one"):
        programs.devices_of("v5e:3x3")


def test_without_a_tpu_its_runtime_is_told_so(tmp_path):
    environ = {"HOME": "/home/a", "TPU_SKIP_MDS_QUERY": "1", "TPU_LIBRARY_PATH": "a.so"}  # as the packages leave it
    no_tpu.quieten(environ, root=tmp_path)
    assert environ == {"HOME": "/home/a", "TPU_LIBRARY_PATH": "a.so", **no_tpu.WORDS}


@pytest.mark.long
def test_a_command_with_the_compiler_installed_begins_without_its_warnings(tmp_path):
    pytest.importorskip("libtpu")
    if no_tpu.has_tpu():
        pytest.skip("there is a TPU")
    command = (
        "from experiments.settings import guard; import jax; guard.guarded(lambda argv: print(len(jax.devices())), [])"
    )
    usual = {name: value for name, value in os.environ.items() if not name.startswith(("TPU_", "JAX_PLATFORMS"))}
    found = subprocess.run([sys.executable, "-c", command], env=usual, capture_output=True, text=True, check=True)
    assert found.stdout.strip().isdigit() and "TPU" not in found.stderr


@pytest.mark.parametrize("device", ["dev/accel0", "dev/vfio/0", "sys/bus/pci/devices/0000:00:05.0/vendor"])
def test_on_a_tpu_machine_nothing_is_touched(device, tmp_path):
    (tmp_path / device).parent.mkdir(parents=True)
    (tmp_path / device).write_text("0x1ae0\n")
    environ = {}
    no_tpu.quieten(environ, root=tmp_path)
    assert not environ


@pytest.mark.parametrize("name", ["TPU_NAME", "TPU_WORKER_ID", "JAX_FORCE_TPU_INIT"])
def test_what_a_person_says_of_tpus_stands(name, tmp_path):
    environ = {name: "mine"}
    no_tpu.quieten(environ, root=tmp_path)
    assert environ == {name: "mine"}


def test_other_cards_are_no_tpu(tmp_path):
    (tmp_path / "sys/bus/pci/devices/0000:00:05.0").mkdir(parents=True)
    (tmp_path / "sys/bus/pci/devices/0000:00:05.0/vendor").write_text("0x10de\n")
    (tmp_path / "dev/vfio").mkdir(parents=True)
    (tmp_path / "dev/vfio/vfio").touch()  # of any machine that can host virtual ones
    assert not no_tpu.has_tpu(tmp_path)


def test_every_trained_flag_file_has_its_lines_also_where_the_chip_is_too_small(monkeypatch, capsys):
    def costs(model, shape, *args, **how):
        if shape.n_items > 90_000:
            raise RuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm")
        return Cost(2**30, 2**20, 2**31, 2e9, 1e9, 1e9, {})

    monkeypatch.setattr(programs, "devices_of", lambda topology: jax.devices()[:8])
    monkeypatch.setattr(programs, "train_cost", costs)
    monkeypatch.setattr(programs, "score_cost", costs)
    assert guard.guarded(tpu_plan.main, ["tpu_plan", "--all", "--data_dir=absent", "--topology=v5e:2x4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "| `amazon.flags` | v5e:2x4 | does not fit the memory of the chip | | | | | | |" in lines
    assert sum(line.startswith("| `yelp.flags` | v5e:2x4 | ") and "12.5%" in line for line in lines) == 2
    assert not any("ease" in line for line in lines)

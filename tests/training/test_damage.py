"""Damaged checkpoints, full disks, lost folders, clocks that jump: one sentence each, and nothing lost."""

import contextlib
import resource
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from diffrec_jax import api, files
from diffrec_jax.data import synthetic
from diffrec_jax.mesh import make_mesh
from diffrec_jax.models import DiffRec
from diffrec_jax.training import Observer
from diffrec_jax.training.checkpoint import load_best
from diffrec_jax.training.checksum import checksum

MODEL = DiffRec(dims=(16,), steps=3, noise_scale=0.1, lr=1e-2)
STEPS_PER_EPOCH = 3


@pytest.fixture(scope="module")
def fit():
    """``fit(workdir, observer)`` trains six epochs, with a checkpoint every second one."""
    split = synthetic.generate(n_users=90, n_items=40, seed=1).k_core(3).split_by_time(0.7, 0.1, 0.2)
    mesh = make_mesh(devices=jax.devices()[:1])

    def do(workdir, observer=None):
        options = {"batch_size": 32, "epochs": 6, "eval_every": 2, "patience": 50, "seed": 3}
        return api.fit(MODEL, split.train, split.valid, workdir=workdir, mesh=mesh, observer=observer, **options)

    return do


@pytest.fixture(scope="module")
def finished(fit, tmp_path_factory):
    """The folder of a finished run, not to be changed, and its parameters."""
    folder = tmp_path_factory.mktemp("trouble") / "finished"
    return folder, fit(folder).params


def same(a, b):
    return jax.tree.all(jax.tree.map(lambda x, y: np.array_equal(x, y), a, b))


class During(Observer):
    """Does something after an epoch; remembers how training started."""

    def __init__(self, epoch=0, action=lambda: None):
        self.at, self.action, self.step, self.warnings = epoch, action, None, None

    def started(self, *, epoch, step, warnings):
        self.step, self.warnings = step, list(warnings)

    def epoch(self, report):
        if report.epoch == self.at:
            self.action()


@contextlib.contextmanager
def no_file_larger_than(size):
    """A full disk, as far as a process that may do anything can have one."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_every_changed_bit_changes_the_checksum_and_a_mesh_or_zeros_at_the_end_do_not():
    rng = np.random.default_rng(0)
    array = rng.normal(size=(6, 8)).astype(np.float32)
    tree = {"a": array, "b": np.arange(5, dtype=np.int32), "c": jnp.ones(3, jnp.bfloat16)}
    expected = int(checksum(tree))
    for bit in range(0, array.nbytes * 8, 7):
        changed = array.copy()
        changed.view(np.uint8).reshape(-1)[bit // 8] ^= 1 << bit % 8
        assert int(checksum({**tree, "a": changed})) != expected
    assert int(checksum({**tree, "a": array[::-1]})) != expected
    assert int(checksum({**tree, "a": np.pad(array, ((0, 2), (0, 3)))})) == expected
    sharding = NamedSharding(make_mesh(users=2, items=4), P("users", "items"))
    assert int(checksum({**tree, "a": jax.device_put(array, sharding)})) == expected


def test_a_changed_byte_is_noticed(fit, finished, tmp_path):
    folder, expected = finished
    shutil.copytree(folder, tmp_path / "run")
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), expected)
    best = load_best(folder / "checkpoints", shapes)
    metrics = (folder / "checkpoints").rglob("metrics/metrics")
    step = max(int(file.parts[-3]) for file in metrics if '"best_is_here": 1' in file.read_text())
    place = tmp_path / "run" / "checkpoints" / str(step) / "state"
    data = max(place.rglob("d/*"), key=lambda file: file.stat().st_size)
    content, noticed = data.read_bytes(), []
    for at in range(len(content) // 16, len(content), len(content) // 8):
        changed = bytearray(content)
        changed[at] ^= 4
        data.write_bytes(changed)
        try:
            assert same(load_best(tmp_path / "run" / "checkpoints", shapes), best)  # a byte that nobody reads
        except ValueError as error:
            noticed.append((str(error), bytes(changed)))
    silent = [changed for sentence, changed in noticed if "the checksum of params is not that of what was" in sentence]
    data.write_bytes(silent[0])  # what nothing but the checksum notices
    observer = During()
    assert same(fit(tmp_path / "run", observer).params, expected) and "cannot be read" in observer.warnings[0]


def test_a_full_disk_is_one_sentence_and_the_same_call_goes_on(fit, finished, tmp_path):
    with (
        no_file_larger_than(2000) as fill,
        pytest.raises(OSError, match=r"cannot write .*checkpoints \(File too large\): raise the limit on file sizes.*"
                      "run the same command again; it goes on from the last checkpoint"),
    ):  # fmt: skip
        fit(tmp_path, During(5, fill))
    observer = During()
    assert same(fit(tmp_path, observer).params, finished[1])
    assert observer.step in (2 * STEPS_PER_EPOCH, 4 * STEPS_PER_EPOCH) and observer.warnings == []


def test_a_folder_that_is_lost_is_one_sentence_and_the_same_call_goes_on(fit, finished, tmp_path):
    def lose():
        (tmp_path / "checkpoints").rename(tmp_path / "elsewhere")
        (tmp_path / "checkpoints").write_text("in the way")

    with pytest.raises(OSError, match=r"cannot write .*checkpoints \(Not a directory\): .*run the same command again"):
        fit(tmp_path, During(3, lose))
    (tmp_path / "checkpoints").unlink()
    (tmp_path / "elsewhere").rename(tmp_path / "checkpoints")
    assert same(fit(tmp_path).params, finished[1])


def test_a_clock_that_goes_back_changes_nothing(fit, finished, tmp_path, monkeypatch):
    real, offset = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + offset[0])
    assert same(fit(tmp_path, During(3, lambda: offset.append(offset.pop() - 86_400))).params, finished[1])
    observer = During()
    assert same(fit(tmp_path, observer).params, finished[1]) and observer.step == 6 * STEPS_PER_EPOCH


def test_a_damaged_claim_is_named(fit, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "run.json").write_text('{"model": ')
    with pytest.raises(ValueError, match=r"run\.json is damaged \(.*\): delete it if the checkpoints beside it"):
        fit(tmp_path)


def test_files_and_folders_are_written_whole_or_not_at_all(tmp_path):
    files.write_atomically(tmp_path / "a.txt", "old")
    with (
        no_file_larger_than(10) as fill,
        pytest.raises(OSError, match=r"cannot write .*a\.txt \(File too large\): raise the limit"),
    ):
        fill()
        files.write_atomically(tmp_path / "a.txt", "new" * 10)
    assert (tmp_path / "a.txt").read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    for content in ("old", "new"):
        with files.new_folder(tmp_path / "folder") as folder:
            (folder / "b.txt").write_text(content)
    with pytest.raises(ZeroDivisionError), files.new_folder(tmp_path / "folder") as folder:
        (folder / "b.txt").write_text(str(1 / 0))
    assert (tmp_path / "folder" / "b.txt").read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.txt", "folder"]

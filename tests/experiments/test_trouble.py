"""A run in trouble: stopped, killed, locked out, out of room. Nothing is lost, and the same command goes on."""

import errno
import json
import os
import re
import resource
import signal

import jax
import numpy as np
import pytest
from filelock import FileLock
from tensorboardX.proto.event_pb2 import Event

from experiments import run
from experiments.benchmarks import faults
from experiments.running import locks, one_run
from experiments.running.curves import Curves
from experiments.running.run_folder import RunFolder
from experiments.settings import guard

SMALL = ["--dims=[8]", "--steps=3", "--epochs=6", "--eval_every=2", "--batch_size=32", "--baselines=false"]


@pytest.fixture
def dataset(tiny_data):
    return tiny_data / "tiny"


@pytest.fixture
def command(dataset, tmp_path, capsys):
    """Runs a command line in ``tmp_path/NAME``; the exit code and what was printed."""
    handlers = {signal.SIGTERM: signal.SIG_IGN, signal.SIGINT: signal.default_int_handler}  # as in a terminal
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}

    def do(name="run"):
        argv = ["run.py", f"--dataset={dataset}", *SMALL, f"--workdir={tmp_path / name}"]
        code = guard.guarded(run.main, argv)
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    yield do
    for number, handler in before.items():
        signal.signal(number, handler)


def raising(number, function, *, when=lambda *args: True):
    """``function``, with a signal before it."""

    def do(*args, **kwargs):
        if when(*args):
            os.kill(os.getpid(), number)
        return function(*args, **kwargs)

    return do


@pytest.mark.long
def test_sigterm_saves_says_run_me_again_and_the_same_command_ends_alike(command, tmp_path, monkeypatch):
    assert command("whole")[0] == 0
    with monkeypatch.context() as patch:
        third = lambda folder, report: report.epoch == 3  # noqa: E731
        patch.setattr(RunFolder, "record", raising(signal.SIGTERM, RunFolder.record, when=third))
        code, text = command()
    assert code == guard.EXIT_RUN_AGAIN == 75 and "stopped after step 9, state saved; to go on: python -m" in text, text
    assert (tmp_path / "run" / "checkpoints" / "9").is_dir()
    code, text = command()
    assert code == 0 and "going on after epoch 3, step 9" in text
    assert faults.differences(tmp_path / "whole", tmp_path / "run") == []


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
@pytest.mark.parametrize("where", ["load", "measured"])
def test_before_and_after_training_a_signal_ends_the_run_at_once(command, monkeypatch, number, code, where):
    with monkeypatch.context() as patch:
        module = one_run.source if where == "load" else one_run
        patch.setattr(module, where, raising(number, getattr(module, where)))
        found, text = command()
    assert found == code and "stopped; what was saved stays" in text
    if number == signal.SIGTERM:
        assert command()[0] == 0


def test_a_device_out_of_memory_is_one_sentence_and_a_defect_is_none(command, monkeypatch):
    def out_of_memory(*args, **options):
        raise jax.errors.JaxRuntimeError(text)

    monkeypatch.setattr(one_run.api, "fit", out_of_memory)
    text = "RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nmore"
    code, said = command()
    assert code == 2 and "the device's memory does not hold this (RESOURCE_EXHAUSTED: Out of memory" in said
    assert "choose a smaller --batch_size" in said and "more" not in said
    with monkeypatch.context() as patch:
        patch.setattr(one_run.api, "fit", lambda *args, **options: np.empty(2**62, np.int8))
        code, said = command()
    assert code == 2 and "the memory of this machine does not hold this (Unable to allocate" in said
    text = "INTERNAL: something else"
    with pytest.raises(jax.errors.JaxRuntimeError):
        command()


def test_a_second_process_is_kept_out_of_a_run_folder(command, tmp_path):
    with RunFolder(tmp_path / "run").locked():
        code, text = command()
    assert code == 2 and f"is in use by process {os.getpid()} on" in text and "choose another --workdir" in text
    assert command()[0] == 0


def test_what_a_dead_process_left_keeps_nobody_out_and_no_locks_are_needed(tmp_path, monkeypatch):
    def held():
        with locks.held(tmp_path, what="it", in_use="{holder} is here"):
            return (tmp_path / ".holder").read_text()

    (tmp_path / ".lock").touch()
    (tmp_path / ".holder").write_text("process 1 on another machine")
    assert held().startswith(f"process {os.getpid()} on ")

    def unknown(lock, *args, **options):
        raise OSError(errno.ENOLCK, "no locks available")

    with locks.held(tmp_path, what="it", in_use="{holder} is here"):
        (tmp_path / ".holder").unlink()
        with pytest.raises(ValueError, match="another process is here: wait for it, or choose another --workdir"):
            held()
        monkeypatch.setattr(FileLock, "acquire", unknown)
        assert held()


def test_records_that_cannot_be_written_are_one_sentence_and_the_same_command_goes_on(command, tmp_path, monkeypatch):
    metrics, kept = tmp_path / "run" / "metrics.jsonl", tmp_path / "kept"

    def lose(folder, report, record=RunFolder.record):
        if report.epoch == 3:
            metrics.rename(kept)
            metrics.mkdir()
        record(folder, report)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "record", lose)
        code, text = command()
    assert code == 2 and text.splitlines()[-1].startswith(f"error: cannot write {metrics} (Is a directory)"), text
    metrics.rmdir()
    kept.rename(metrics)
    code, text = command()
    assert code == 0 and "going on after epoch 2" in text
    assert [json.loads(line)["epoch"] for line in metrics.read_text().splitlines()] == [1, 2, 3, 4, 5, 6]


def test_a_full_disk_is_one_sentence_and_the_same_command_goes_on(command, tmp_path, monkeypatch):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(folder, report, record=RunFolder.record):
        record(folder, report)
        if report.epoch == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (6_000, limits[1]))

    try:
        with monkeypatch.context() as patch:
            patch.setattr(RunFolder, "record", fill)
            code, text = command()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 2 and re.search(r"^error: cannot write \S+/run/\S+ \(File too large\): raise the limit", text, re.M)
    assert "Traceback" not in text and "ERROR" not in text
    assert command()[0] == 0


def test_curves_are_in_order_even_if_the_clock_went_back(tmp_path, monkeypatch):
    clock = iter([2e9, 2e9, 2e9, 2e9, 1e9, 1e9, 1e9, 1e9])
    monkeypatch.setattr("time.time", lambda: next(clock))
    for run_ in range(2):
        curves = Curves(tmp_path, purge_step=5 * run_)
        curves.add(5 * run_ + 1, {"loss": 0.5})
        curves.close()
    earlier, later = sorted(tmp_path.iterdir())
    assert [(e.step, [v.tag for v in e.summary.value]) for e in events(later)] == [(5, []), (5, []), (6, ["loss"])]
    assert events(earlier)[-1].summary.value[0].simple_value == 0.5


def events(file):
    content, found = file.read_bytes(), []
    while content:
        size = int.from_bytes(content[:8], "little")
        found.append(Event.FromString(content[12 : 12 + size]))
        content = content[16 + size :]
    return found


@pytest.mark.long
def test_a_run_that_is_killed_ends_like_one_that_is_left_alone(dataset, tmp_path):
    flags = [f"--dataset={dataset}", *SMALL, "--epochs=12", "--eval_every=1", "--patience=1000"]
    outcome = faults.torment(tmp_path, flags, kills=2, seed=0)
    assert outcome["kills"] == 2 and outcome["differences"] == [], (tmp_path / "killed.log").read_text()

"""Compilation, profiles, and several processes."""

import collections
import contextlib
import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import programs
import pytest
from test_run import ROOT

from experiments import run
from experiments.settings import guard, rendezvous, runtime
from experiments.settings.cli import as_flags
from experiments.settings.config import configure

SMALL = ["--dims=[8]", "--steps=3", "--epochs=4", "--eval_every=2", "--batch_size=32", "--baselines=false"]


@pytest.fixture
def dataset(tiny_data):
    return tiny_data / "tiny"


@pytest.fixture
def command(dataset, tmp_path, capsys):
    """Runs a command line; the exit code and what was printed."""

    def do(*flags, name="run"):
        argv = ["run.py", f"--dataset={dataset}", *SMALL, *flags, f"--workdir={tmp_path / name}"]
        code = guard.guarded(run.main, argv)
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return do


def test_every_program_is_compiled_once_in_a_whole_run(command, caplog):
    jax.clear_caches()
    programs.forget()
    with jax.log_compiles(), caplog.at_level("WARNING"):
        assert command()[0] == 0
    found = re.findall(r"Finished XLA compilation of jit\((\w+)\)", caplog.text)
    counts = collections.Counter(found)
    assert {name: counts[name] for name in ("_run", "_init")} == {"_run": 1, "_init": 1}
    assert counts["evaluate"] == 2  # on validation, and on test, whose shapes differ


def test_compiled_programs_are_kept_for_the_next_run(command, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "cache"))
    assert runtime.cache_folder() == str(tmp_path / "cache")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    assert runtime.cache_folder().startswith((os.path.expanduser("~"), os.environ.get("XDG_CACHE_HOME", "~")))
    updated = {}
    monkeypatch.setattr(jax.config, "update", lambda name, value: updated.update({name: value}))
    assert command()[0] == 0 and updated == {}  # off unless said
    runtime.prepare(configure(compile_cache=True))
    assert updated["jax_compilation_cache_dir"] == runtime.cache_folder()


def test_a_profile_of_some_steps_lies_in_the_run_folder(command, tmp_path):
    code, text = command("--profile_steps=4:6")
    assert code == 0 and f"the profile of steps 4:6 is in {tmp_path}/run/profile: tensorboard --logdir=" in text
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
    assert "profile_steps" not in (tmp_path / "run" / "flags.txt").read_text()
    code, text = command("--profile_steps=900:901", name="other")
    assert code == 0 and "the profile of steps 900:901 was not taken: this run" in text
    lines = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("run", "other")]
    losses = [[json.loads(line)["loss"] for line in of_run] for of_run in lines]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--profile_steps=5"], r"profile_steps=5 is no FIRST:LAST"),
        (["--profile_steps=7:7"], r"profile_steps=7:7 is no FIRST:LAST"),
        (["--process_id=1"], r"process_id means nothing without --multihost"),
        (["--multihost", "--seeds=2"], r"seeds=2 is not for several processes"),
        (["--multihost", "--coordinator=localhost"], r"multihost needs all of coordinator=localhost \(HOST:PORT"),
        (
            ["--multihost", "--coordinator=localhost:1", "--process_id=2", "--process_count=2"],
            r"process_id=2 must lie between 0 and process_count - 1 = 1",
        ),
        (
            ["--multihost", "--coordinator=localhost:1", "--process_id=0", "--process_count=0"],
            r"process_count=0 must be at least 1",
        ),
        (
            ["--multihost", "--coordinator=localhost:99999", "--process_id=0", "--process_count=2"],
            r"multihost needs all of coordinator=localhost:99999 \(HOST:PORT",
        ),
        (["--multihost", "--join_timeout=0"], r"join_timeout=0 must be at least 1"),
    ],
)
def test_bad_input_gets_one_sentence(command, flags, sentence):
    code, text = command(*flags)
    assert code == 2 and re.search(sentence, text), text


def test_a_coordinator_nobody_answers_is_named(command):
    address = f"localhost:{free_port()}"
    flags = [f"--coordinator={address}", "--process_id=1", "--process_count=2", "--join_timeout=1"]
    code, text = command("--multihost", *flags)
    assert code == 2 and f"no coordinator answers at {address} within 1 s" in text


def test_a_partner_that_never_comes_is_named_by_process_0(command):
    address = f"localhost:{free_port()}"
    flags = [f"--coordinator={address}", "--process_id=0", "--process_count=3", "--join_timeout=1"]
    code, text = command("--multihost", *flags)
    assert code == 2 and text == (
        f"error: of 3 processes, number 1, 2 did not come to the coordinator at {address} within 1 s: start all of "
        "them, with the same --coordinator and --process_count\n"
    )


def together(*calls):
    """What each of some functions said, run at once; empty where all went well."""

    def said(call):
        try:
            call()
        except OSError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(len(calls)) as threads:
        return list(threads.map(said, calls))


@pytest.mark.long
def test_processes_meet_in_any_order_and_are_told_what_is_the_matter():
    address = f"localhost:{free_port()}"
    attend = functools.partial(rendezvous.attend, address)
    gather = functools.partial(rendezvous.gather, address)
    assert together(lambda: attend(2, 3, 9), lambda: attend(1, 3, 9), lambda: gather(3, 9)) == ["", "", ""]
    alone, missed = together(lambda: attend(1, 3, 9), lambda: gather(3, 1))
    assert alone == missed and "number 2 did not come" in missed
    twice = together(lambda: attend(1, 3, 9), lambda: attend(1, 3, 9), lambda: gather(3, 1))
    assert "process_id=1 has come to process 0 already" in "".join(twice[:2])
    counted = together(lambda: attend(1, 4, 9), lambda: gather(3, 1))
    assert counted[0] == "process_count=4 here, and 3 at process 0: say the same to all processes"
    waiting = together(lambda: attend(1, 3, 1), lambda: gather(3, 2))
    assert "still waits for other processes after 1 s" in waiting[0] and "number 1, 2 did not come" in waiting[1]


def test_strangers_at_the_address_are_told_apart():
    with socket.create_server(("localhost", 0)) as other:
        address = f"localhost:{other.getsockname()[1]}"
        (said,) = together(lambda: rendezvous.gather(address, 2, 1))
        assert f"process 0 cannot listen at {address} (Address already in use)" in said
        said, _ = together(lambda: rendezvous.attend(address, 1, 2, 1), lambda: other.accept()[0].close())
        assert f"what answers at {address} is no process 0" in said
    address = f"localhost:{free_port()}"

    def stranger():
        with rendezvous.wait_for("localhost", int(address.partition(":")[2]), 9) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n")

    assert together(stranger, lambda: rendezvous.gather(address, 2, 1))[1].startswith(
        "of 2 processes, number 1 did not"
    )


def test_what_belongs_to_the_machine_is_recorded_in_no_flag_file():
    flags = as_flags(configure(multihost=True, coordinator="a:1", process_id=1, process_count=2, compile_cache=True))
    assert flags == as_flags(configure())


@pytest.mark.long
def test_two_processes_stop_together_go_on_and_have_the_loss_curve_of_one(command, dataset, tmp_path):
    more = ["--epochs=30", "--eval_every=15", "--patience=1000"]
    flags = [f"--dataset={dataset}", *SMALL, *more, f"--workdir={tmp_path / 'two'}"]
    with two_processes(flags) as processes:
        metrics, deadline = tmp_path / "two" / "metrics.jsonl", time.monotonic() + 120
        while time.monotonic() < deadline and not (metrics.is_file() and metrics.read_text()):
            time.sleep(0.02)
        processes[1].send_signal(signal.SIGTERM)  # a scheduler may tell any of them
        texts = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [guard.EXIT_RUN_AGAIN] * 2, texts
    assert "state saved; to go on: python -m" in texts[0]
    assert len(metrics.read_text().splitlines()) < 30, "it was over before it was stopped"
    with two_processes(flags) as processes:
        texts = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], texts
    assert "going on after epoch" in texts[0]
    assert "official protocol" in texts[0] and "official protocol" not in texts[1]
    assert command(*more, name="one")[0] == 0
    curves = {}
    for name in ("one", "two"):
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        curves[name] = [json.loads(line)["loss"] for line in lines]
        curves[name] += [json.loads((tmp_path / name / "result.json").read_text())["test"]["official"]["recall@20"]]
    assert len(curves["two"]) == 31
    np.testing.assert_allclose(curves["two"], curves["one"], rtol=1e-4)


@contextlib.contextmanager
def two_processes(flags):
    """The same command in two processes that share one run."""
    joined = ["--multihost", f"--coordinator=localhost:{free_port()}", "--process_count=2", "--join_timeout=60"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "experiments.run", *flags, *joined, f"--process_id={number}"],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for number in range(2)
    ]  # fmt: skip
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]

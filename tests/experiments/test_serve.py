"""``python -m experiments.serve`` as a process: loopback, answers under load, and an orderly end on SIGTERM."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

from shop import run_folder, split  # noqa: F401 (fixtures)

from experiments import serve
from experiments.settings import guard

ROOT = Path(__file__).resolve().parents[2]


def test_it_serves_and_finishes_what_it_accepted(run_folder):  # noqa: F811
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    argv = [sys.executable, "-m", "experiments.serve", f"--workdir={run_folder}", "--port=0"]
    process = subprocess.Popen(argv, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        address = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())[0]
        answers = []

        def ask():
            body = json.dumps({"history": ["sku1", "sku2"], "k": 5, "explain": True}).encode()
            request = urllib.request.Request(f"{address}/recommend", body, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=60) as response:
                answers.append(len(json.load(response)["items"]))

        ask()
        threads = [threading.Thread(target=ask) for _ in range(12)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert answers == [5] * 13
        assert process.wait(timeout=60) == 0 and "every accepted request was answered" in process.stdout.read()
    finally:
        process.kill()
        process.stdout.close()


def test_mistakes(tmp_path, capsys):
    for flags, sentence in ((["--max_k=0"], "must be at least 1"), ([], "is not there: name the --workdir")):
        assert guard.guarded(serve.main, ["serve.py", f"--workdir={tmp_path / 'nowhere'}", *flags]) == 2
        assert sentence in capsys.readouterr().err

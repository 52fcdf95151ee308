"""The worked examples of docs/adding.md, applied to a copy of the library."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_worked_example_of_a_model_applies_and_passes_the_suite(tmp_path):
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "diffrec_jax", tmp_path / "diffrec_jax", ignore=ignored)
    (tmp_path / "tests" / "models").mkdir(parents=True)
    diffs = re.findall(r"```diff\n(.*?)```", (ROOT / "docs" / "adding.md").read_text(), re.S)
    assert len(diffs) == 3  # one new file, one line, one test
    for diff in diffs:
        command = ["git", "apply", "--unidiff-zero", "--whitespace=error-all", "-"]
        done = subprocess.run(command, cwd=tmp_path, input=diff, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
    options = ["-q", "-o", "addopts=", "-p", "no:cacheprovider", f"--rootdir={tmp_path}", "-k", "padding"]
    command = [sys.executable, "-m", "pytest", *options, "tests/models/test_co_occurrence.py"]
    done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, check=False)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr

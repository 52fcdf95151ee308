"""The worked examples of docs/adding.md, applied to a copy of the tree, where each must do what the page says."""

import datetime
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DIFFS = re.findall(r"```diff\n(.*?)```", (ROOT / "docs" / "adding.md").read_text(), re.S)
NEW = {  # the files that the page adds
    "diffrec_jax/models/co_occurrence.py",
    "tests/models/test_co_occurrence.py",
    "tests/evaluation/test_map.py",
    "tests/data/test_corner_shop.py",
    "tests/serving/test_export_similar.py",
}


def till():
    """The made-up file of the corner shop, whose checksum the page gives."""
    start, lines = datetime.date(2024, 1, 1), ["buyer,thing,at"]
    for u in range(12):
        for i in range(15):
            if (u * i + u + i) % 4:
                day = start + datetime.timedelta(days=(7 * u + 11 * i) % 180)
                lines.append(f"b{u:02},t{i:02},{day.isoformat()}")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of the tree with every diff of the page applied, and the file of the made-up dataset in ``cache``."""
    copy = tmp_path_factory.mktemp("copy")
    for name in ("diffrec_jax", "experiments", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "golden"))
    for diff in DIFFS:
        command = ["git", "apply", "--unidiff-zero", "--whitespace=error-all", "-"]
        done = subprocess.run(command, cwd=copy, input=diff, text=True, capture_output=True, check=False)
        assert done.returncode == 0, diff + done.stderr
    (copy / "cache").mkdir()
    (copy / "cache" / "corner-shop.csv").write_bytes(till().encode())
    return copy


def passed(copy, *asked):
    """How many of the tests that are asked for pass in the copy; all of them must."""
    options = ["-q", "-o", "addopts=", "-p", "no:cacheprovider", f"--rootdir={copy}"]
    command = [sys.executable, "-m", "pytest", *options, *asked]
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    done = subprocess.run(command, cwd=copy, env=environment, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return int(re.search(r"(\d+) passed", done.stdout)[1])


def test_every_new_file_is_whole_and_no_other_is_added():
    assert set(re.findall(r"^--- /dev/null\n\+\+\+ b/(.*)$", "".join(DIFFS), re.M)) == NEW


@pytest.mark.long
def test_the_worked_examples_apply_and_each_does_what_it_says(copy):
    shutil.move(copy / "tests" / "conftest.py", copy / "conftest.aside")  # one device compiles faster than eight
    try:
        quick = ["tests/models/test_co_occurrence.py", "tests/evaluation/test_map.py", "tests/data/test_corner_shop.py"]
        assert passed(copy, "tests/worked_examples.py", *quick, "-k", "not TestCoOccurrence or padding or bad") >= 8
    finally:
        shutil.move(copy / "conftest.aside", copy / "tests" / "conftest.py")


@pytest.mark.long
def test_the_worked_examples_pass_every_test_that_the_page_adds_or_changes(copy):
    added = sorted(name for name in NEW if name.startswith("tests/"))
    assert passed(copy, *added, "tests/experiments/test_report.py", "-k", "not report or writes_its_report") >= 10

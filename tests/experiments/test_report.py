"""Reports of runs and of comparisons: complete, self-contained, and never in the way of a run."""

import json
import re
import shlex
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

from experiments import report
from experiments.reporting import compare_report, groups, pictures, run_report, systems
from experiments.reporting.comparison import compare
from experiments.settings import cli, guard
from experiments.settings.commands import command
from experiments.settings.config import as_json

pytest.importorskip("matplotlib")


def check(folder, names):
    """Both files show the pictures of these names and ask nothing of anybody else."""
    html, text = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    assert html.count("data:image/svg+xml;base64,") == len(names)
    assert not re.search(r"(src|href)=['\"]?(?!['\"]?data:)\w", html) and "@import" not in html
    assert re.findall(r"\(pictures/([\w-]+)\.svg\)", text) == names
    for name in names:
        ElementTree.parse(folder / "pictures" / f"{name}.svg")


def test_a_run_writes_its_report(runs):
    check(runs / "a-s0", ["curves", "importance", "groups"])
    text = (runs / "a-s0" / "report.md").read_text()
    result = json.loads((runs / "a-s0" / "result.json").read_text())
    for part in (result["test"]["official"], result["baselines"]["ease"]["standard"]):
        assert f"{part['recall@20']:.4f}" in text
    assert "python -m experiments.run --dataset=tiny" in text and "/" not in re.search(r"```\n(.*)\n```", text)[1]
    lines = [json.loads(line) for line in (runs / "a-s0" / "metrics.jsonl").read_text().splitlines()]
    assert [len(line["importance"] or []) for line in lines] == [0, 3, 0, 3]
    assert sum(lines[-1]["importance"]) == pytest.approx(1, abs=1e-5)
    check(runs / "t", ["curves", "importance", "groups"])


def test_without_matplotlib_or_room_a_run_still_ends_well(runs, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "a"
    shutil.copytree(runs / "t", folder, ignore=shutil.ignore_patterns("report.*", "pictures", "checkpoints"))
    monkeypatch.setattr(pictures, "available", lambda: False)
    assert guard.guarded(report.main, ["report.py", str(folder)]) == 0 and "report.html" in capsys.readouterr().out
    check(folder, [])
    assert "Pictures need matplotlib" in (folder / "report.html").read_text()
    (folder / "report.html").unlink()
    (folder / "report.html").mkdir()
    run_report.of_run(folder, console=Console())
    assert "warning: no report written" in capsys.readouterr().out
    monkeypatch.undo()
    shutil.rmtree(folder / "report.html")
    for name in ("per_user.parquet", "metrics.jsonl"):  # as an older version left it
        (folder / name).unlink()
    run_report.of_run(folder)
    check(folder, [])


def test_a_comparison_shows_what_depends_on_what(runs, tmp_path):
    one, two, t = (systems.read(runs / name) for name in ("a-s0", "a-s1", "t"))
    stronger = systems.Run(two.path, {**two.result, "seed": 0}, {**two.config, "noise_scale": 0.5, "seed": 0})
    found = compare(systems.group([one, stronger, t]), metrics=["recall@20", "ndcg@20"], resamples=50)
    made = compare_report.build(found)
    made.write(tmp_path)
    check(tmp_path, ["quality", "effect-noise_scale", "groups", "cost"])
    assert "s (--noise_scale)" in made.pictures[1].svg
    assert compare_report._lines(found.systems, "steps", found.metrics, found) == {}
    lines = compare_report._lines(found.systems, "noise_scale", found.metrics, found)
    assert [point[0] for point in lines["DiffRec"]] == [0.005, 0.5]


def test_groups_have_equal_weight_and_hold_everybody(runs):
    key, weight = np.array([5, 1, 1, 9, 7, 3]), np.array([1.0, 2, 1, 1, 2, 1])
    np.testing.assert_array_equal(groups.groups_of_equal_weight(key, weight, 2), [1, 0, 0, 1, 1, 0])
    np.testing.assert_array_equal(groups.groups_of_equal_weight(np.ones(4), np.ones(4), 3), np.zeros(4))
    system = systems.group([systems.read(runs / "t")])
    users = groups.by_history(system, "recall@20")
    mean = systems.read(runs / "t").result["test"]["standard"]["recall@20"]
    assert np.average(users.values["T-DiffRec"], weights=users.sizes) == pytest.approx(mean, abs=1e-6)
    items = groups.by_popularity(system, 20)
    assert 2 <= len(items.labels) == len(items.sizes) <= 5 and np.all(items.values["T-DiffRec"] <= 1)


@pytest.mark.parametrize(
    "flags, seeds, expected",
    [
        (["--flagfile=l-yelp.flags"], [0], "--flagfile=l-yelp.flags --seed=0"),
        (["--flagfile=ml-1m.flags", "--dims=9,8"], [0, 1, 2], "--flagfile=ml-1m.flags --dims=9,8 --seeds=3"),
        (["--model=l_diffrec", "--out_dims=300"], [4, 5], "--model=l_diffrec --out_dims=300 --seed=4 --seeds=2"),
        (["--data=/home/me/log.csv", "--user_col=a b"], [3], "--data=log.csv '--user_col=a b' --seed=3"),
    ],
)
def test_commands_are_short_and_make_the_same_configuration(flags, seeds, expected):
    config = cli.parse(["run.py", *flags], usage="")
    text = command(as_json(config), seeds)
    assert text == f"python -m experiments.run {expected}"
    again = cli.parse(["run.py", *shlex.split(text)[3:]], usage="")
    assert set(again.differences(as_json(config))) <= {"seed", "data"}
    assert command({**as_json(config), "data_dir": "/somewhere"}, seeds).count("DATA") == (not config.data.data)

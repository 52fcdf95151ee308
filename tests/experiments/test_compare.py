"""``python -m experiments.compare``: against the definitions, in every format, and what it refuses."""

import csv
import json
import shutil

import numpy as np
import pytest
import scipy.stats

from experiments import compare
from experiments.reporting import evidence, run_report, systems
from experiments.reporting.comparison import compare as compare_systems
from experiments.reporting.sheet import Sheet
from experiments.settings import guard


@pytest.fixture
def command(runs, capsys):
    def do(*flags):
        code = guard.guarded(compare.main, ["compare.py", *map(str, flags)])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return do


def test_numbers_are_those_of_the_definitions(runs):
    read = [systems.read(runs / name) for name in ("t", "a-s1", "a-s0")]
    found = compare_systems(systems.group(read), metrics=["recall@20", "ndcg@10"], test="t", resamples=200)
    t, a = found.systems
    assert (t.name, a.name) == ("T-DiffRec", "DiffRec") and [run.path.name for run in a.runs] == ["a-s0", "a-s1"]
    users = {name: evidence.read(runs / name, evidence.PER_USER) for name in ("t", "a-s0", "a-s1")}
    mean_user = {m: (users["a-s0"][m].astype(float) + users["a-s1"][m]) / 2 for m in found.metrics}
    p = [scipy.stats.ttest_rel(mean_user[m], users["t"][m].astype(float)).pvalue for m in found.metrics]
    for m, metric in enumerate(found.metrics):
        cell, reference = found.cells[a.name, metric], found.cells[t.name, metric]
        values = [run.result["test"]["official"][metric] for run in a.runs]
        assert cell.mean == pytest.approx(np.mean(values)) and cell.deviation == pytest.approx(np.std(values, ddof=1))
        assert reference.deviation is None and reference.p is None
        assert cell.p == pytest.approx(p[m]) and cell.p_holm == pytest.approx(min(1, max(2 * min(p), p[m])))
        assert cell.difference == pytest.approx(cell.mean - reference.mean, abs=1e-8)
        assert cell.low < cell.mean < cell.high and cell.difference_low <= cell.difference <= cell.difference_high


def test_what_is_no_metric_or_no_run_is_refused(command, runs):
    code, text = command(runs / "a-s0", "--metrics=history")
    assert code == 2 and "metric 'history' is not in" in text
    code, text = command(runs / "a-s0", "--metrics=")
    assert code == 2 and "no metric is named: say --metrics=recall@20" in text
    with pytest.raises(ValueError, match="holds a baseline: its report is that of the run it lies in"):
        run_report.build(systems.read(next((runs / "a-s0" / "baselines").iterdir())))


def test_every_format_names_every_system(command, runs, tmp_path):
    names = ("DiffRec", "T-DiffRec", "Popularity", "EASE")
    for suffix in ("md", "tex", "csv"):
        out = [f"--out={tmp_path / f'table.{suffix}'}", f"--report={tmp_path / 'report'}"]
        code, text = command(runs / "a-s0", runs / "a-s1", runs / "t", *out)
        assert code == 0 and all(name in text for name in names), text
        assert "Wilcoxon" in text and "Gini@20".lower() in text and "peak memory" in text
        written = (tmp_path / f"table.{suffix}").read_text()
        if suffix == "csv":
            rows = list(csv.DictReader(written.splitlines()))
            assert {row["system"] for row in rows} == set(names) and len(rows) == 16
            mean = np.mean([systems.read(runs / f"a-s{n}").result["test"]["official"]["ndcg@20"] for n in (0, 1)])
            row = next(r for r in rows if r["system"] == "DiffRec" and r["metric"] == "ndcg@20")
            assert float(row["mean"]) == mean and row["p"] == "" and int(row["seeds"]) == 2
        else:
            assert all(name in written for name in names) and written.count("Paired tests") == 1
        if suffix == "tex":
            assert written.count(r"\begin{tabular}") == written.count(r"\bottomrule") == 4
            assert "±" not in written and r"$\pm$" in written and "95\\%" in written
    assert (tmp_path / "report" / "report.html").is_file()
    code, text = command(
        runs / "a-s0", runs / "t", f"--report={tmp_path}", "--nobaselines", "--metrics=hit@10", "--test=t"
    )
    assert code == 0 and "EASE" not in text and "hit@10" in text and "paired t-test" in text


def changed(folder, new, **result):
    shutil.copytree(folder, new)
    file = new / "result.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **result}))
    return new


@pytest.mark.parametrize(
    "result, sentence",
    [
        ({"dataset": "more"}, "cannot be compared, dataset: 'tiny' there, 'more' here"),
        ({"data": "00aa"}, "cannot be compared, interactions, by checksum: "),
        ({"eval_history": "train+valid"}, "cannot be compared, eval_history: 'train' there, 'train+valid' here"),
        ({"split": "random"}, "cannot be compared, split: 'released' there, 'random' here; name runs on the same data"),
    ],
)
def test_runs_on_other_data_split_or_protocol_are_refused(command, runs, tmp_path, result, sentence):
    code, text = command(runs / "a-s0", changed(runs / "t", tmp_path / "b", **result))
    assert code == 2 and sentence in text and text.count("\n") == 1


def test_other_mistakes_get_one_sentence(command, runs, tmp_path):
    (tmp_path / "unfinished").mkdir()
    lost = changed(runs / "t", tmp_path / "lost")
    (lost / "per_user.parquet").unlink()
    for flags, sentence in (
        ([tmp_path / "nowhere"], "nowhere is no folder: name run folders"),
        ([tmp_path / "unfinished"], "it is no run folder, or its run is not finished"),
        ([runs / "a-s0", lost], "has no per_user.parquet"),
        ([runs / "a-s0", "--metrics=auc"], "metric 'auc' is not in"),
        ([runs / "a-s0", "--level=5"], "--level=5.0 must lie in [0.5, 1)"),
        ([runs / "a-s0", "--out=table.pdf"], "--out=table.pdf must end in .md, .tex or .csv"),
        ([runs / "a-s0", "--out=nowhere/table.md"], "there is no folder nowhere"),
    ):
        code, text = command(*flags)
        assert code == 2 and sentence in text and "Traceback" not in text, text


def test_systems_are_named_by_what_sets_them_apart(runs, tmp_path):
    one = systems.read(runs / "a-s0")
    other = systems.Run(tmp_path / "x", one.result, {**one.config, "steps": 7, "dims": [9], "workdir": "x"})
    names = [system.name for system in systems.group([one, other, systems.read(runs / "t")])]
    assert names == ["DiffRec, steps=3, dims=[8]", "DiffRec, steps=7, dims=[9]", "T-DiffRec"]


def test_systems_are_what_differs_in_a_flag_of_some_account(runs, tmp_path):
    one = systems.read(runs / "a-s0")
    elsewhere = systems.Run(tmp_path / "x", {**one.result, "seed": 7}, {**one.config, "dataset": "/elsewhere/tiny"})
    (system,) = systems.group([one, elsewhere])
    assert [run.result["seed"] for run in system.runs] == [0, 7] and system.name == "DiffRec"
    older = changed(runs / "a-s0", tmp_path / "older", seed=3)
    record = json.loads((older / "config.json").read_text())
    record["config"] |= {
        "n_cate": 9,
        "w_min": 0.7,
        "lr": None,
        "fit_weighted": False,
        "min_rating": 4.0,
    }  # as older versions recorded it
    (older / "config.json").write_text(json.dumps(record))
    assert systems.read(older).identity == one.identity
    for name, value in {"dims": [0], "steps": "many", "model": "gone", "gone": 1}.items():
        (older / "config.json").write_text(json.dumps({**record, "config": {**record["config"], name: value}}))
        with pytest.raises(ValueError, match=r"config\.json holds what this version refuses: "):
            systems.read(older)


def test_the_report_of_a_comparison_and_repeated_seeds_are_left_out(command, runs, tmp_path):
    again = changed(runs / "a-s0", tmp_path / "again")
    flags = [runs / "t", runs / "a-s0", f"--report={tmp_path / 'comparison'}", "--nobaselines", "--metrics=recall@20"]
    assert command(*flags)[0] == 0
    code, text = command(*flags, tmp_path / "comparison", again)
    assert code == 0 and f"left out: {tmp_path / 'comparison'} is the report of a comparison" in text
    assert f"left out: {again} has the configuration and the seed of {runs / 'a-s0'}" in text
    code, text = command(tmp_path / "comparison")
    assert code == 2 and "comparison holds no run: name run folders" in text


def test_the_official_share_of_users_is_known_where_the_reference_finds_nothing(runs, tmp_path):
    official, standard = {"recall@20": 0.1}, {"recall@20": 0.2}  # half of the users have held-out items
    half = changed(runs / "t", tmp_path / "half", test={"official": official, "standard": standard})
    none = {"recall@20": 0.0}
    nothing = changed(runs / "a-s0", tmp_path / "nothing", test={"official": none, "standard": none})
    found = compare_systems(
        systems.group([systems.read(nothing), systems.read(half)]), metrics=["recall@20"], resamples=50
    )
    t = found.systems[1]
    ours, theirs = (evidence.read(path, evidence.PER_USER)["recall@20"].mean() for path in (half, nothing))
    assert found.cells[t.name, "recall@20"].difference == pytest.approx(0.5 * (ours - theirs), abs=1e-6)


def test_cells_are_escaped():
    sheet = Sheet("50 % of a_b", ("m|x", "v"), (("<b>&_", "1"),), frozenset({(0, 1)}), "n")
    assert r"50 \% of a\_b" in sheet.latex() and r"<b>\&\_" in sheet.latex() and r"\textbf{1}" in sheet.latex()
    assert "&lt;b&gt;&amp;_" in sheet.html() and "m\\|x" in sheet.markdown() and "**1**" in sheet.markdown()

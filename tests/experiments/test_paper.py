"""The paper's experiments as commands, and the page of results."""

import re
import shlex

import pytest

from experiments import paper, results
from experiments.reporting import results_page, systems
from experiments.running import grids
from experiments.settings import cli, guard
from experiments.settings.commands import command as command_of
from experiments.settings.commands import without_seeds
from experiments.settings.config import as_json, configure


@pytest.fixture
def command(tiny_data, tmp_path, capsys):
    def do(*flags, data_dir=tiny_data):
        code = guard.guarded(paper.main, ["paper.py", f"--data_dir={data_dir}", f"--out={tmp_path / 'paper'}", *flags])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return do


@pytest.mark.long
def test_a_grid_is_ordinary_runs_and_goes_on_where_it_was(command, tmp_path, monkeypatch):
    monkeypatch.setitem(grids.GRIDS, "w_min", grids._values("w_min", 0.1, 0.5))
    flags = ["--experiment=w_min", "--dataset=tiny", "--model=ease", "--recency=linear", "--baselines=false"]
    code, text = command(*flags)
    assert code == 0, text
    folder = tmp_path / "paper" / "w_min"
    assert {p.name for p in folder.iterdir()} == {"tiny-w_min-0.1-s0", "tiny-w_min-0.5-s0", "comparison", "results.md"}
    assert (folder / "comparison" / "report.html").is_file()
    page = (folder / "results.md").read_text()
    assert "EASE, w_min=0.1" in page and "EASE, w_min=0.5" in page
    code, again = command(*flags)
    assert code == 0 and again.count("is finished") == 2 and (folder / "results.md").read_text() == page


@pytest.mark.long
def test_cells_on_different_data_are_shown_but_not_tested(command, tmp_path, monkeypatch):
    monkeypatch.setitem(grids.GRIDS, "noise_random", grids._values("noise", "random:0.3", ""))
    code, text = command("--experiment=noise_random", "--dataset=tiny", "--model=item_knn")
    assert code == 0, text
    page = (tmp_path / "paper" / "noise_random" / "results.md").read_text()
    assert "## tiny: noise_random\n" in page and page.count("\n## ") == 1
    names = merged_names(page)
    assert names[:3] == ["model", "ItemKNN, noise=none", "ItemKNN, noise=random:0.3"]
    assert {"EASE, noise=none", "EASE, noise=random:0.3"} < set(names[3:])
    assert results_page.merged(page, page) == page
    assert not list((tmp_path / "paper" / "noise_random").glob("comparison*"))


@pytest.mark.parametrize("experiment", [*grids.FLAG_FILES, *grids.GRIDS])
def test_every_cell_of_every_experiment_is_a_valid_command(command, experiment):
    base = {"clusters": ["--flagfile=l-yelp.flags"], "w_min": ["--model=t_diffrec"], "w_max": ["--model=lt_diffrec"]}
    base["noise_natural"] = ["--dataset=ml-100k"]
    flags = base.get(experiment, [] if experiment in grids.FLAG_FILES else ["--flagfile=ml-1m.flags"])
    code, text = command(f"--experiment={experiment}", "--dry_run", "--seeds=2", *flags)
    assert code == 0, text
    lines = text.splitlines()
    configs = [cli.parse(shlex.split(line)[2:], usage="") for line in lines]
    assert len(configs) == len(set(configs)) >= 2 and all(config.run.seeds == 2 for config in configs)
    assert len({config.run.workdir for config in configs}) == len(configs)


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--experiment=main", "--flagfile=ml-1m.flags"], "experiment=main brings its own flag files"),
        (["--experiment=steps", "--workdir=x"], "workdir is made for every cell: say --out=FOLDER instead"),
        (["--experiment=steps", "--steps=3"], "steps is what experiment=steps varies: drop it"),
        (["--experiment=clusters"], "n_cate means nothing to diffrec: drop it, or say --model=l_diffrec"),
        (["--experiment=figure"], "experiment"),
        (["--experiment=noise_natural", "--dataset=tiny"], "adds low ratings, which tiny comes without"),
        (["--experiment=noise_natural", "--dataset=gowalla"], "adds low ratings, which gowalla comes without"),
        (["--experiment=steps", "--multihost"], "multihost is for a single run"),
    ],
)
def test_mistakes_get_one_sentence(command, flags, sentence):
    code, text = command(*flags)
    assert code == 2 and sentence in text and "Traceback" not in text


def test_a_cell_that_fails_does_not_take_the_others_with_it(command, tmp_path, monkeypatch):
    monkeypatch.setitem(grids.GRIDS, "w_min", grids._values("w_min", 0.1, 0.5))
    flags = ["--experiment=w_min", "--dataset=tiny", "--model=ease", "--recency=linear", "--baselines=false"]
    real = grids.one_run.run

    def run(config, console):
        if config.network.recency.w_min == 0.1 or broken == "all":
            raise MemoryError("9 GiB") if broken == "memory" else ArithmeticError("the loss is nan")
        return real(config, console)

    monkeypatch.setattr(grids.one_run, "run", run)
    broken = "one"
    code, text = command(*flags)
    assert code == 2 and "left out: the loss is nan" in text and "1 of 2 cells failed, as said above: " in text
    assert "EASE" in (tmp_path / "paper" / "w_min" / "results.md").read_text()
    broken = "memory"
    code, text = command(*flags)
    assert code == 2 and "does not hold this (9 GiB)" in text and "1 of 2 cells failed" in text
    broken = "all"
    code, text = command(*flags)
    assert code == 2 and "2 of 2 cells failed and none was run, as said above: " in text


def test_rows_without_data_are_left_out(command, tmp_path):
    code, text = command("--experiment=main", data_dir=tmp_path)
    assert code == 2 and text.count("left out: ") == 10 and "no cell could be run, for want of data" in text


@pytest.mark.parametrize(
    "flags",
    [
        ["--flagfile=t-best-ml-1m.flags", "--linear_path=0", "--linear_l2=500"],
        ["--flagfile=ease-power-ml-1m.flags", "--recency=linear", "--recency_power=2"],
        ["--flagfile=l-ml-1m.flags", "--model=lt_diffrec"],
        ["--model=popularity"],
    ],
)
def test_a_command_takes_back_what_its_flag_file_says_in_vain(flags):
    config = cli.parse(["run.py", *flags], usage="")
    again = cli.parse(shlex.split(command_of(as_json(config), [0]))[2:], usage="")
    assert not again.differences(as_json(config))


@pytest.mark.parametrize(
    "seeds, flags",
    [
        ([0], "--seed=0"),
        ([3], "--seed=3"),
        ([0, 1, 2], "--seeds=3"),
        ([2, 1], "--seed=1 --seeds=2"),
        ([0, 2], "--seed=0 && python -m experiments.run --model=popularity --seed=2"),
    ],
)
def test_a_command_makes_its_seeds(seeds, flags):
    config = cli.parse(["run.py", "--model=popularity"], usage="")
    text = command_of(as_json(config), seeds)
    assert text == f"python -m experiments.run --model=popularity {flags}"
    assert without_seeds(text) == "python -m experiments.run --model=popularity"


def merged_names(page):
    return [line.split(" | ")[0].split("<br>")[0].removeprefix("| ") for line in page.splitlines() if line[:2] == "| "]


@pytest.mark.long
def test_the_page_has_means_published_numbers_and_commands(runs, tmp_path, capsys):
    read = [systems.read(runs / name) for name in ("a-s0", "a-s1", "t")]
    old = systems.Run(
        tmp_path, {**read[0].result, "dataset": "ml-1m_clean"}, {**read[0].config, "dataset": "ml-1m_clean"}
    )
    page = results_page.page([*read, old])
    assert page.index("## ml-1m_clean") < page.index("## tiny") and "| DiffRec, published |  | 0.1058 | 0.1787" in page
    (system,) = systems.group(read[:2])
    mean, deviation = system.mean("official", "ndcg@20"), system.deviation("official", "ndcg@20")
    assert "| 0,1 |" in page and f"{mean:.4f} ± {deviation:.4f}" in page and "| EASE |" in page
    commands = re.findall(r"<br>`(.*?)`", page)
    assert len(commands) == 3 and not any("/" in text for text in commands)
    again = cli.parse(shlex.split(next(c for c in commands if "t_diffrec" in c))[2:], usage="")
    assert set(again.differences(read[2].config)) <= {"baselines"}
    assert (
        guard.guarded(results.main, ["results.py", *map(str, runs.iterdir()), f"--out={tmp_path / 'results.md'}"]) == 0
        and "from 3 runs; 0 not finished" in capsys.readouterr().out
    )
    whole = (tmp_path / "results.md").read_text()
    assert "T-DiffRec" in whole
    for kept, new in (("a", "t"), ("t", "a")):  # a page of some runs, and then the others beside them
        for name, flag in ((kept, ""), (new, "--keep")):
            folders = [str(path) for path in runs.glob(f"{name}*")]
            assert (
                guard.guarded(results.main, ["results.py", *folders, f"--out={tmp_path / 'two.md'}", *flag.split()])
                == 0
            )
        assert (tmp_path / "two.md").read_text() == whole
    assert (
        guard.guarded(
            results.main, ["results.py", *folders, f"--out={tmp_path / 'two.md'}", "--keep", "--protocol=standard"]
        )
        == 2
        and "is no page of the standard protocol" in capsys.readouterr().err
    )
    row = next(line for line in page.splitlines() if line.startswith("| DiffRec<br>`"))
    both = results_page.merged(page, page.replace(row, row.replace("--dims", "--lr=0.5 --dims")))
    assert both.count("| DiffRec, published |") == 1 and len(merged_names(both)) == len(merged_names(page)) + 1
    more = results_page.merged(page.replace("--seeds=2", "--seeds=5"), page)  # more seeds replace fewer
    assert len(merged_names(more)) == len(merged_names(page)) and "--seeds=5" in more and "--seeds=2" not in more
    fewer = results_page.merged(page.replace("| 0,1 |", "| 1 |"), page)  # and fewer replace none
    assert "| 0,1 |" in fewer and "| 1 |" in fewer
    cells = results_page.page(read, heading="cells")
    with pytest.raises(ValueError, match="these runs are not all of tiny: cells"):
        results_page.merged(results_page.page(read[2:], heading="cells"), cells)
    assert results_page.merged(page, cells).count("## tiny: cells") == 1
    other = systems.Run(tmp_path, {**read[0].result, "data": "00"}, {**read[0].config, "k_core": 1})
    mixed = results_page.page([read[0], other], heading="cells")
    assert mixed.count("| EASE, data ") == 2
    with_own = merged_names(results_page.merged(whole.replace("| EASE |", "| EASE<br>`x` |"), whole))
    assert with_own.count("EASE") == 1 and merged_names(results_page.merged(page, page)) == merged_names(page)
    assert (
        guard.guarded(results.main, ["results.py", str(tmp_path), f"--out={tmp_path / 'results.md'}"]) == 2
        and "holds a finished run" in capsys.readouterr().err
    )
    assert as_json(configure())["seeds"] == 1

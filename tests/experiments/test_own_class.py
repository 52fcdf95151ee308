"""A model of somebody's own: its fields are flags, every command runs it, and only who is named is imported."""

import gc
import json
import re
import signal
import sys

import pytest

import diffrec_jax
from experiments import compare, export, recommend, run, serve, sweep
from experiments.settings import cli, guard
from experiments.settings.config import configure
from experiments.settings.groups import refuse_two_of_one_name

MINE = """
import dataclasses
import jax.numpy as jnp
from diffrec_jax.data.recency import Recency
from diffrec_jax.models.contract import ClosedForm, Model
from diffrec_jax.models.elsa import ELSA
from diffrec_jax.options import check, option
from diffrec_jax.ranges import Real


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mine(ClosedForm):
    strength: float = option(1.0, "how much popularity counts", above=0.0, search=Real(0.5, 2.0))
    places: tuple[float, ...] = (1.0, 2.0)
    shout: bool = False
    recency: Recency | None = None

    def __post_init__(self):
        check(self)

    def fit(self, train):
        return jnp.bincount(jnp.asarray(train.indices), length=train.n_items) * self.strength

    def scores(self, params, rows, *, key=None, tables=None):
        return jnp.broadcast_to(params * self.places[0], (rows.items.shape[0], params.shape[0]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Net(ELSA):
    fit_options = dataclasses.replace(ELSA.fit_options, epochs=2, batch_size=32)


class Half(ClosedForm):
    def fit(self, train):
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Odd(Mine):
    table: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Twice(Mine):
    seed: int = 0
    workdir: str = ""
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A folder with the module ``mine``, which is the current one."""
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "broken.py").write_text("import nowhere_to_be_found\n")
    (tmp_path / "faulty.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    yield tmp_path
    for name in ("mine", "broken", "faulty"):
        sys.modules.pop(name, None)
    diffrec_jax.models.registry.find.cache_clear()


@pytest.fixture
def do(capsys, tiny_data):
    """Runs a command; returns its exit code and what it printed."""

    def do(door, *flags):
        code = guard.guarded(door.main, ["command", *flags])
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return do


def test_every_command_runs_it_and_a_folder_never_imports_it(mine, do, tiny_data):
    data = [f"--data_dir={tiny_data}", "--dataset=tiny", "--nobaselines"]
    code, text = do(run, "--model=mine:Mine", "--strength=2", "--places=3,4", "--shout", *data, "--workdir=runs/a")
    assert code == 0, text
    recorded = json.loads((mine / "runs/a/config.json").read_text())["config"]
    assert (recorded["model"], recorded["strength"], recorded["places"]) == ("mine:Mine", 2.0, [3.0, 4.0])
    code, text = do(run, "--model=popularity", *data, "--workdir=runs/b")
    assert code == 0, text

    sys.modules.pop("mine")
    diffrec_jax.models.registry.find.cache_clear()
    for door, flags in ((run, ["--flagfile=runs/a/flags.txt"]), (recommend, ["--workdir=runs/a", "--users=0"])):
        code, text = do(door, *flags)
        assert code == 2 and "never causes an import by itself" in text and "--model=mine:Mine" in text
        assert "mine" not in sys.modules
    code, text = do(compare, "runs/a", "runs/b", "--out=table.md")  # reads what was found, and no class
    assert code == 0 and "mine:Mine" in text and "mine" not in sys.modules

    code, text = do(run, "--flagfile=runs/a/flags.txt", "--model=mine:Mine")
    assert code == 0 and "is finished" in text
    code, text = do(recommend, "--workdir=runs/a", "--model=mine:Mine", "--users=0", "--k=2")
    assert code == 0, text
    code, text = do(export, "--workdir=runs/a", "--model=mine:Mine", "--format=jax", "--out=program", "--k=3")
    assert code == 0, text
    kind = sys.modules["mine"].Mine
    expected = kind(strength=2.0, places=(3.0, 4.0), shout=True)
    for named in ("mine:Mine", kind, expected):
        assert diffrec_jax.load("runs/a", model=named).content.model == kind(
            strength=2.0, places=(3.0, 4.0), shout=True
        )
    code, text = do(sweep, "--model=mine:Mine", *data[:2], "--trials=2", "--workdir=sweeps/a")
    assert code == 0 and "--strength=" in text, text


def test_it_is_served_once_it_is_named(mine, do, tiny_data, monkeypatch):
    uvicorn, testclient = pytest.importorskip("uvicorn"), pytest.importorskip("fastapi.testclient")
    served = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda server, sockets: served.append((server.config.app, sockets)))
    monkeypatch.setattr(uvicorn.Config, "configure_logging", lambda config: None)  # its handlers would outlive the test
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # this process has handlers of its own
    monkeypatch.setattr(gc, "freeze", lambda: None)  # and goes on
    code, text = do(
        run, "--model=mine:Mine", f"--data_dir={tiny_data}", "--dataset=tiny", "--nobaselines", "--workdir=a"
    )
    assert code == 0, text
    code, text = do(serve, "--workdir=a", "--port=0")
    assert code == 2 and "--model=mine:Mine" in text
    code, text = do(serve, "--workdir=a", "--port=0", "--model=mine:Mine", "--max_k=5", "--max_history=8")
    assert code == 0 and "every accepted request was answered" in text, text
    ((app, (socket,)),) = served
    socket.close()
    answer = testclient.TestClient(app).post("/recommend", json={"user": "0", "k": 2})
    assert answer.status_code == 200 and len(answer.json()["items"]) == 2


def test_one_that_is_trained_brings_its_own_defaults(mine, do, tiny_data):
    code, text = do(run, "--model=mine:Net", "--dim=4", f"--data_dir={tiny_data}", "--dataset=tiny", "--workdir=runs/n")
    assert code == 0, text
    assert json.loads((mine / "runs/n/result.json").read_text())["epochs_run"] == 2
    assert configure(model="mine:Net").fit.batch_size == 32 and configure(model="elsa").fit.batch_size == 400


def test_its_fields_are_flags_with_their_help(mine, capsys):
    with pytest.raises(SystemExit):
        cli.read(["run", "--model=mine:Mine", "--help"], usage="")
    text = capsys.readouterr().out
    assert "Mine (your own)" in text and "how much popularity counts" in text
    assert all(flag in text for flag in ("--strength=1.0", "--places=[1.0,2.0]", "--[no]shout", "--recency="))


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (
            ["--model=nothing"],
            r"model=nothing is unknown: choose one of diffusion: diffrec, .*; autoencoders: multvae",
        ),
        (["--model=mine:Gone"], r"model=mine:Gone is not there: mine has no Gone"),
        (["--model=elsewhere:Mine"], r"model=elsewhere:Mine cannot be imported \(No module named 'elsewhere'\)"),
        (["--model=mine:Half"], r"Half is no model \(it lacks scores\)"),
        (["--model=mine:dataclasses"], r"is no class: name one that inherits from Model or ClosedForm"),
        (["--model=json:JSONDecoder"], r"JSONDecoder is no model \(it lacks fit, scores\)"),
        (["--model=mine:Odd"], r"table of Odd is a <class 'dict'>, which makes no flag: use bool, int, float, str"),
        (["--model=mine:Twice"], r"--seed is declared by Twice and by RunOptions: rename the field of one"),
        (["--model=mine:Mine", "--strength=0"], r"strength=0.0 must be positive"),
        (["--model=mine:Mine", "--l2=3"], r"l2 means nothing to mine:Mine: drop it, or say --model=ease"),
    ],
)
def test_mistakes_are_sentences(mine, do, flags, sentence):
    code, text = do(run, *flags)
    assert code == 2 and re.search(sentence, text), text


@pytest.mark.parametrize("module, error", [("broken", ModuleNotFoundError), ("faulty", ZeroDivisionError)])
def test_the_error_of_an_import_is_its_own(mine, module, error):
    with pytest.raises(error):
        cli.parse(["run", f"--model={module}:Mine"], usage="")


def test_parts_that_declare_one_flag_are_refused_by_name():
    from experiments.settings.parts import RunOptions

    class Again(RunOptions):
        """The same."""

    with pytest.raises(ValueError, match="--seed is declared by RunOptions and by Again"):
        refuse_two_of_one_name(RunOptions, Again)

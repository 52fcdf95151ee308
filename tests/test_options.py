"""Options are said once: on a field, from which check, search, help and flags follow."""

import ast
import dataclasses
from pathlib import Path

import pytest

from diffrec_jax.data.recency import Recency
from diffrec_jax.fit_options import FitOptions
from diffrec_jax.models.registry import MODELS
from diffrec_jax.options import Needs, Option, again, check, internal, option, options_of, search_space, values_of
from diffrec_jax.ranges import Choice, Real
from experiments.settings import parts

ROOT = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Some:
    width: int = option(4, "a width", at_least=1, hint="4, say")
    rate: float = option(0.5, "a rate", at_least=0.0, below=1.0, search=Real(0.1, 0.9), flag="the_rate")
    kind: str = option("a", "a kind", choices=("a", "b"))
    dims: tuple[int, ...] = option((2,), "widths", at_least=1, nonempty=True, search=Choice(((2,), (3,))))
    least: float | None = option(None, "may be none", above=1.0)
    most: float = option(1.0, "at most", at_most=2.0)
    plain: bool = False
    kernel: Recency | None = None
    hidden: dict | None = internal(None)

    def __post_init__(self) -> None:
        check(self)


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"width": 0}, r"^width=0 must be at least 1: 4, say$"),
        ({"width": "wide"}, r"^width='wide' must be a number$"),
        ({"rate": 1.0}, r"^the_rate=1.0 must lie in \[0, 1\)$"),
        ({"rate": float("nan")}, r"^the_rate=nan must lie in \[0, 1\)$"),
        ({"kind": "c"}, r"^kind='c' is unknown: choose one of a, b$"),
        ({"dims": ()}, r"^dims=\[\] needs at least one number, each >= 1$"),
        ({"dims": (2, 0)}, r"^dims=\[2, 0\] needs"),
        ({"least": 1.0}, r"^least=1.0 must be above 1$"),
        ({"most": 2.5}, r"^most=2.5 must be at most 2$"),
    ],
)
def test_what_lies_outside_is_refused_by_a_sentence(change, sentence):
    with pytest.raises(ValueError, match=sentence):
        Some(**change)


def test_what_follows_from_a_field():
    assert [(o.flag, o.kind, o.optional) for o in options_of(Some)] == [
        ("width", int, False),
        ("the_rate", float, False),
        ("kind", str, False),
        ("dims", tuple[int, ...], False),
        ("least", float, True),
        ("most", float, False),
        ("plain", bool, False),
    ]
    assert list(search_space(Some)) == ["rate", "dims"]
    assert values_of(Some(least=3.0))["least"] == 3.0 and "hidden" not in values_of(Some())

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Other(Some):
        rate: float = again(Some, "rate", default=0.25, search=None)

    assert (
        Other().rate == 0.25 and list(search_space(Other)) == ["dims"] and options_of(Other)[1].about.help == "a rate"
    )
    with pytest.raises(ValueError, match=r"the_rate=2\.0"):
        Other(rate=2.0)


def test_fields_that_make_no_option_are_refused():
    @dataclasses.dataclass
    class Odd:
        table: dict = dataclasses.field(default_factory=dict)

    @dataclasses.dataclass
    class Bare:
        width: int

    @dataclasses.dataclass
    class Many:
        each: tuple[bool, ...] = (True,)

    with pytest.raises(ValueError, match=r"each of Many is a .*, which makes no flag"):
        options_of(Many)
    with pytest.raises(ValueError, match="table of Odd is a <class 'dict'>, which makes no flag"):
        options_of(Odd)
    with pytest.raises(ValueError, match="width of Bare has no default, and an option needs one"):
        options_of(Bare)


def test_needs():
    assert Needs("data", "--data=LOG").met({"data": "x"}) and not Needs("data", "--data=LOG").met({"data": ""})
    assert Needs("recency", "", "power").met({"recency": "power"}) and not Needs("recency", "", "power").met({})
    assert Needs("loss", "", ("a", "b")).met({"loss": "b"}) and not Needs("loss", "", ("a", "b")).met({"loss": "c"})


PARTS = [kind for kind in vars(parts).values() if dataclasses.is_dataclass(kind) and kind.__module__ == parts.__name__]
EVERY = [*dict.fromkeys(entry.model for entry in MODELS.values()), Recency, FitOptions, *PARTS]


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_every_option_of_ours_says_what_it_is_in_plain_english(kind):
    for found in options_of(kind):
        said = found.about.help
        assert len(said) > 7, f"{found.flag} of {kind.__name__} has no help"
        assert not said.startswith(("of ", "The ")) and not said.endswith("."), said
        assert isinstance(found.about, Option) and not found.about.refusal(found.flag, found.default)
        assert found.about.search is None or found.default in found.about.search


def test_no_default_of_a_hyper_parameter_stands_in_the_command_line():
    """A field of a model is declared nowhere in experiments."""
    hyper = {found.name for entry in MODELS.values() for found in options_of(entry.model)}
    declared = set()
    for path in (ROOT / "experiments").rglob("*.py"):
        if "benchmarks" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                declared |= {n.target.id for n in node.body if isinstance(n, ast.AnnAssign) and n.value is not None}
    assert not declared & hyper

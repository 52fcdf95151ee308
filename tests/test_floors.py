"""The floors of the house, read from its imports: they point downwards, and no file is too long to read."""

import ast
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOORS, ROOMS = 15, 4  # at most
LINES = 350  # of a file, at most
UNTYPED = 80  # parameters and returns of the library that may be Any
SCREEN = 80  # lines of a function of the library, at most
FLOORS = {"settings": 0, "reporting": 1, "running": 2, "benchmarks": 3, "": 3}  # of experiments; "": the doors
# Of the library: an import leads to a lower number, or stays in its room. Files beside the rooms are at the bottom,
# but for those that tie rooms together.
LEVELS = {
    **dict.fromkeys(("data", "diffusion"), 1),
    **dict.fromkeys(("models",), 2),
    **dict.fromkeys(("training", "evaluation"), 3),
    **dict.fromkeys(("serving", "planning"), 4),
    "held_out": 5,
    "warm_start": 6,
    "api": 7,
    "testing": 8,
    "": 9,  # diffrec_jax/__init__.py, which offers what the others hold
}
# What the library imports of itself when it is first needed: listing models is to cost nothing.
LATE = {"diffrec_jax.models.registry": {"diffrec_jax.models.contract"}}


def files(package: str) -> dict[str, Path]:
    """The modules of a package, by dotted name."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path, known: dict[str, Path], *, late: bool = False) -> Iterator[str]:
    """The modules among ``known`` that a file imports, or only those ``late``: inside functions; not what only types
    need.
    """
    tree = ast.parse(path.read_text())
    for node in [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"]:
        node.body = []
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    for node in itertools.chain.from_iterable(map(ast.walk, functions if late else [tree])):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                if name in known or node.module in known:
                    yield name if name in known else node.module


LIBRARY, EXPERIMENTS = files("diffrec_jax"), files("experiments")
ARROWS = {name: set(imports(path, LIBRARY | EXPERIMENTS)) for name, path in (LIBRARY | EXPERIMENTS).items()}


def room(name: str) -> str:
    """The folder of a module of experiments; empty for a door."""
    return name.split(".")[1] if name.count(".") == 2 or (ROOT / name.replace(".", "/")).is_dir() else ""


def circles(arrows: dict[str, set[str]]) -> list[str]:
    """The modules that import each other in circles."""
    left = {name: set(to) for name, to in arrows.items()}
    while free := [name for name, to in left.items() if not to & left.keys()]:
        for name in free:
            del left[name]
    return sorted(left)


def test_a_room_of_experiments_imports_only_its_own_floor_and_those_below():
    upwards = [
        f"{name} -> {other}"
        for name, to in ARROWS.items()
        for other in to & EXPERIMENTS.keys()
        if name in EXPERIMENTS and other != "experiments" and FLOORS[room(other)] > FLOORS[room(name)]
    ]
    assert not upwards


def test_no_door_stands_behind_a_door():
    doors = {name for name in EXPERIMENTS if name != "experiments" and not room(name)}
    assert len(doors) <= DOORS
    assert not [f"{name} -> {other}" for name in EXPERIMENTS for other in ARROWS[name] & doors]


def test_the_rooms_behind_the_doors_are_few():
    folders = {path.parent.name for path in (ROOT / "experiments").rglob("*.py")} - {"experiments"}
    assert folders == FLOORS.keys() - {""} and len(folders) <= ROOMS


def test_no_modules_of_experiments_import_each_other_in_a_circle():
    assert not circles({name: ARROWS[name] & EXPERIMENTS.keys() for name in EXPERIMENTS if name != "experiments"})


def test_the_library_imports_downwards_and_never_the_experiments():
    def place(name: str) -> str:
        return name.split(".")[1] if "." in name else ""

    upwards = []
    for name in LIBRARY:
        assert not ARROWS[name] & EXPERIMENTS.keys(), f"{name} imports experiments"
        for other in ARROWS[name] - {"diffrec_jax"}:
            here, there = place(name), place(other)
            if here != there and LEVELS.get(here, 0) <= LEVELS.get(there, 0) and there in LEVELS:
                upwards.append(f"{name} -> {other}")
    assert not upwards


def test_no_modules_of_the_library_import_each_other_in_a_circle():
    assert not circles({name: ARROWS[name] & LIBRARY.keys() for name in LIBRARY})


def test_the_library_imports_itself_where_a_reader_looks_for_it():
    late = {name: set(imports(path, LIBRARY, late=True)) for name, path in LIBRARY.items()}
    assert {name: to for name, to in late.items() if to} == LATE


def test_circles_are_found_where_there_are_some():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": set()}) == ["a", "b", "c"]
    assert not circles({"a": {"b"}, "b": {"c"}, "c": set()})


def test_nothing_that_only_posix_has_is_imported_with_a_module():
    """On Windows every module can be imported; what is missing there is said where it is used."""
    posix = {"fcntl", "grp", "pty", "pwd", "resource", "termios"}
    for name, path in {**files("diffrec_jax"), **files("experiments")}.items():
        for node in ast.parse(path.read_text()).body:
            named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            named += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not posix & {each.split(".")[0] for each in named}, name


@pytest.mark.parametrize("package", ["diffrec_jax", "experiments"])
def test_every_file_can_be_read_in_a_sitting(package):
    lengths = {name: len(path.read_text().splitlines()) for name, path in files(package).items()}
    assert not {name: length for name, length in lengths.items() if length > LINES}


def test_every_function_of_the_library_can_be_seen_at_once():
    long = {
        f"{name}.{node.name}"
        for name, path in LIBRARY.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno >= SCREEN
    }
    assert not long


def untyped(path: Path) -> Iterator[str]:
    """The parameters and returns of a file's functions whose annotation is, or contains, ``Any``.

    Names for trees of arrays (``types.PyTree``, and ``Params``, ``Prepared`` and ``Memory`` in ``models.contract``)
    are not counted: Python has no type for them.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            every = node.args
            given = [*every.posonlyargs, *every.args, *every.kwonlyargs, every.vararg, every.kwarg]
            annotated = {each.arg: each.annotation for each in given if each is not None} | {"return": node.returns}
            for name, annotation in annotated.items():
                text = "" if annotation is None else ast.unparse(annotation)
                if re.search(r"\bAny\b", text):
                    yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {name}: {text}"


def test_signatures_of_the_library_say_what_they_take_and_give():
    found = [line for path in LIBRARY.values() for line in untyped(path)]
    assert len(found) <= UNTYPED, "\n".join(found)
    assert not [line for line in found if line.startswith(("diffrec_jax/diffusion", "diffrec_jax/evaluation"))]


def test_untyped_signatures_are_counted(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    file = tmp_path / "a.py"
    file.write_text("def f(a: Any, b: 'list[Any] | None', c: Anyone, *d: int, e=1, **g: Any) -> dict[str, Any]: ...\n")
    assert [line.split(": ")[1] for line in untyped(file)] == ["a", "b", "g", "return"]


def documented(path: Path) -> Iterator[str]:
    """The docstrings of the classes and functions of a file."""
    kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, kinds)]
    return filter(None, map(ast.get_docstring, nodes))


def test_docstrings_of_the_library_are_written_one_way():
    odd = re.compile(r"(?<!`)`(?!`)[^`\n]+`(?!`)|\b[Rr]aises `")  # one backtick; errors that are in no section
    found = [
        f"{name}: {odd.search(text)[0]}" for name in LIBRARY for text in documented(LIBRARY[name]) if odd.search(text)
    ]
    assert not found

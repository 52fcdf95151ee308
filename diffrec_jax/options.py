"""Options, each said once: type, default, help, range, check and search range stand on the field of a dataclass.

::

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Mine(Model):
        width: int = option(64, "width of the hidden layer", at_least=1, search=Whole(16, 256, log=True))

        def __post_init__(self) -> None:
            check(self)

``check`` refuses what lies outside, ``search_space`` collects the ranges of a search, and the command line makes a flag
of every option. A field of a plain type without ``option`` is an option too, without help or range; ``internal`` makes
one that is none, and a field that holds another dataclass (a recency kernel, say) is none either.
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar, get_args, get_origin

from diffrec_jax.ranges import Range

Value = TypeVar("Value")  # a field is typed as what it holds
PLAIN = (bool, int, float, str)


@dataclasses.dataclass(frozen=True)
class Needs:
    """Without what an option means nothing.

    Attributes:
      flag: another flag of the same configuration, which must have a value (not empty, zero or None).
      example: how it is given, for a sentence.
      value: the value that it must have, or one of several; None for any.
    """

    flag: str
    example: str
    value: Any = None

    def met(self, values: Mapping[str, Any]) -> bool:
        """Whether these values of flags give the option a meaning."""
        there = values.get(self.flag)
        if self.value is None:
            return bool(there)
        return there in self.value if isinstance(self.value, tuple) else there == self.value


@dataclasses.dataclass(frozen=True)
class Option:
    """What is known of a field beside its type and default.

    Attributes:
      help: one line for a person.
      choices: the values there are; None for any.
      at_least, above, at_most, below: the range of a number, or of each number of a tuple.
      nonempty: whether a tuple must hold something.
      hint: ends the sentence of a refusal, as in ``: 500, say``.
      search: what a search tries; None is not searched.
      flag: its name on the command line, where it is not that of the field.
      needs: without what it means nothing.
      rare: shown in the long help only.
      before: what held in runs that are older than the option, where that is not its default.
    """

    help: str = ""
    choices: tuple[Any, ...] | None = None
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    nonempty: bool = False
    hint: str = ""
    search: Range | None = None
    flag: str = ""
    needs: Needs | None = None
    rare: bool = False
    before: Any = None

    def refusal(self, name: str, value: Any) -> str:
        """Why a value is refused, as a sentence; empty if it is fine."""
        if self.choices is not None and value not in self.choices:
            return f"{name}={value!r} is unknown: choose one of {', '.join(map(str, self.choices))}"
        if isinstance(value, tuple):
            fine = (value or not self.nonempty) and all(self._holds(each) for each in value)
            each = "" if self.at_least is None else f", each >= {self.at_least:g}"
            least = "at least one number" if self.nonempty else "numbers"
            return "" if fine else f"{name}={list(value)} needs {least}{each}{self.hint and f', {self.hint}'}"
        if value is None or isinstance(value, str) or self._holds(value):
            return ""
        return f"{name}={value} must {self._range()}{self.hint and f': {self.hint}'}"

    def _holds(self, value: float) -> bool:
        """Whether a number lies in the range; one that is none (NaN) lies in no range."""
        return (
            (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def _range(self) -> str:
        low = self.at_least if self.above is None else self.above
        high = self.at_most if self.below is None else self.below
        if low is not None and high is not None:
            return f"lie in {'[' if self.above is None else '('}{low:g}, {high:g}{']' if self.below is None else ')'}"
        if high is not None:
            return f"be {'at most' if self.below is None else 'below'} {high:g}"
        assert low is not None
        if low == 0:
            return "not be negative" if self.above is None else "be positive"
        return f"be {'at least' if self.above is None else 'above'} {low:g}"


def option(default: Value, help: str, **more: Any) -> Value:
    """A field of a frozen dataclass that is an option: its default, its help, and what ``Option`` may hold."""
    return dataclasses.field(default=default, metadata={"option": Option(help=help, **more)})


def internal(default: Value) -> Value:
    """A field that is no option: nobody sets it by a flag."""
    return dataclasses.field(default=default, metadata={"option": None})


def again(kind: type, name: str, **changes: Any) -> Any:
    """The option that another dataclass has, with another ``default`` or other entries of ``Option``."""
    found = {each.name: each for each in dataclasses.fields(kind)}[name]
    default = changes.pop("default", found.default)
    return dataclasses.field(
        default=default, metadata={"option": dataclasses.replace(found.metadata["option"], **changes)}
    )


@dataclasses.dataclass(frozen=True)
class Field:
    """An option of a dataclass, with all that is known of it."""

    name: str  # of the field
    flag: str  # on the command line
    kind: Any  # bool, int, float, str, or a tuple[one of these, ...]
    optional: bool  # whether it may be None
    default: Any
    about: Option


def options_of(kind: type) -> tuple[Field, ...]:
    """The options of a dataclass, in declared order.

    Raises:
      ValueError: for a field of a type that makes no option, and for one without a default.
    """
    return _options_of(kind)


@functools.cache
def _options_of(kind: type) -> tuple[Field, ...]:
    hints, found = typing.get_type_hints(kind), []
    for field in dataclasses.fields(kind):
        about = field.metadata.get("option", Option())
        if about is None or not field.init:
            continue
        hint = hints[field.name]
        optional = isinstance(hint, types.UnionType) or get_origin(hint) is typing.Union
        if optional:
            rest = [each for each in get_args(hint) if each is not type(None)]
            hint = rest[0] if len(rest) == 1 else hint
        if dataclasses.is_dataclass(hint):  # a part, with options of its own, such as a recency kernel
            continue
        if get_origin(hint) is typing.Literal:
            about = dataclasses.replace(about, choices=about.choices or get_args(hint))
            hint = type(get_args(hint)[0])
        element = get_args(hint)[0] if get_origin(hint) is tuple and get_args(hint)[1:] == (Ellipsis,) else hint
        if element not in PLAIN or (element is bool and hint is not bool):
            raise ValueError(
                f"{field.name} of {kind.__name__} is a {hint!r}, which makes no flag: use bool, int, float, str, or a "
                "tuple of whole numbers, numbers or text, or make it diffrec_jax.options.internal(...)"
            )
        if field.default is dataclasses.MISSING:
            raise ValueError(f"{field.name} of {kind.__name__} has no default, and an option needs one: give it one")
        found.append(Field(field.name, about.flag or field.name, hint, optional, field.default, about))
    return tuple(found)


def check(instance: Any) -> None:
    """Refuse options whose values lie outside their range.

    Raises:
      ValueError: with the value, what is allowed, and a hint.
    """
    for field in options_of(type(instance)):
        value = getattr(instance, field.name)
        if isinstance(value, str) and field.kind in (int, float):
            raise ValueError(f"{field.flag}={value!r} must be a number")
        refusal = field.about.refusal(field.flag, value)
        if refusal:
            raise ValueError(refusal)


def search_space(kind: type) -> dict[str, Range]:
    """What a search tries, by the name of the field."""
    return {field.name: field.about.search for field in options_of(kind) if field.about.search is not None}


def values_of(instance: Any) -> dict[str, Any]:
    """The values of the options, by flag."""
    return {field.flag: getattr(instance, field.name) for field in options_of(type(instance))}

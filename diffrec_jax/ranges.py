"""How the hyper-parameters of a model may be searched: declared with the option (``options.option(search=…)``).

What has no range is not searched. The default of every hyper-parameter lies in its range, so that a search can begin
with it.
"""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Real:
    """A number between two others, drawn uniformly, or uniformly in its logarithm."""

    low: float
    high: float
    log: bool = False

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high


@dataclasses.dataclass(frozen=True)
class Whole:
    """A whole number between two others, both possible."""

    low: int
    high: int
    log: bool = False

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int) and self.low <= value <= self.high


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of several values."""

    of: tuple[Any, ...]

    def __contains__(self, value: object) -> bool:
        return value in self.of


Range = Real | Whole | Choice

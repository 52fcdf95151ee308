"""What a run may take: more of it can be allowed later, less cannot."""

from collections.abc import Mapping
from typing import Any

BUDGET = ("epochs", "patience", "train_minutes")


def is_more(name: str, there: Any, here: Any) -> bool:
    """Whether ``here`` allows a run all that ``there`` did, and more."""
    if name not in BUDGET:
        return False
    unlimited = name == "train_minutes"  # at 0
    return (here or float("inf")) > (there or float("inf")) if unlimited else here > there


def not_more(differences: Mapping[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    """Those of the differences ``{name: (there, here)}`` that a run cannot be taken up with."""
    return {name: pair for name, pair in differences.items() if not is_more(name, *pair)}

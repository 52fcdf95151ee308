"""Names for what goes from room to room and has no class of its own."""

import os
from typing import Any, Protocol, TypeAlias, TypeVar

PyTree: TypeAlias = Any  # arrays (or their shapes, their shardings, None) in any nest of containers: no type says that
RawId: TypeAlias = str | int  # of a user or an item, as the person's files hold it
PathLike: TypeAlias = str | os.PathLike[str]  # here or on a remote store, as in ``files``
Carried = TypeVar("Carried")  # what comes back as it was given


class HasShape(Protocol):
    """An array, or what is known of one before it is there."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""

    @property
    def ndim(self) -> int:
        """How many there are."""

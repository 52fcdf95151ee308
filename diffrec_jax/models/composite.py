"""A model made of models: its hyper-parameters hold them, and its parameters are theirs, by name.

Each part is trained or fitted as if it were alone; what is asked of the whole is asked of the parts. At most one of
them is trained by gradient descent.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from diffrec_jax.data.events import CSR
from diffrec_jax.models.contract import Model, Params, Scorer, Sizes


class Composite(Scorer):
    """A frozen dataclass whose fields hold models; a subclass says how their scores become one (``scores``)."""

    @property
    def parts(self) -> Mapping[str, Scorer]:
        """The models it is made of, by the name of their field."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {name: value for name, value in values.items() if isinstance(value, Scorer)}

    @property
    def trained(self) -> Model | None:
        """The part that is trained by gradient descent."""
        return next((part.trained for part in self.parts.values() if part.trained is not None), None)

    def assemble(self, train: CSR, trained: Params) -> Params:
        """``{name: the part's parameters}``."""
        parts = self.parts.items()
        return {name: part.assemble(train, trained if part.trained is not None else None) for name, part in parts}

    def by_part(self, params: Params) -> list[tuple[Scorer, Params]]:
        """The parts, each beside its own."""
        return [each for name, part in self.parts.items() for each in part.by_part(params[name])]

    def bytes_needed(self, n_items: int) -> int:
        """Those of all parts."""
        return sum(part.bytes_needed(n_items) for part in self.parts.values())

    def fits(self, n_items: int) -> bool:
        """Whether the catalogue is small enough for every part."""
        return all(part.fits(n_items) for part in self.parts.values())

    def check_size(self, n_items: int) -> None:
        """Refuse a catalogue that is too large for a part.

        Raises:
          ValueError: with what it would take.
        """
        for part in self.parts.values():
            part.check_size(n_items)

    def suited(self, sizes: Sizes) -> tuple[Self, str]:
        """Every part suited."""
        found = {name: part.suited(sizes) for name, part in self.parts.items()}
        changed: dict[str, Any] = {name: part for name, (part, _) in found.items()}
        return dataclasses.replace(self, **changed), "; ".join(filter(None, (why for _, why in found.values())))  # type: ignore[type-var]

    @property
    def needs_clusters(self) -> bool:
        """Whether a part does."""
        return any(part.needs_clusters for part in self.parts.values())

    def with_clusters(self, clusters: np.ndarray) -> Self:
        """The model whose parts have these clusters, where they need any."""
        changed: dict[str, Any] = {name: part.with_clusters(clusters) for name, part in self.parts.items()}
        return dataclasses.replace(self, **changed)  # type: ignore[type-var]

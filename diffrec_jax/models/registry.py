"""Which models there are: everything that lists models reads this.

A class is imported when it is first used, so that listing models costs nothing.
"""

import dataclasses
import functools
from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffrec_jax.models.contract import Scorer

FAMILIES = ("diffusion", "autoencoders", "linear and neighbours", "graph", "sequential", "popularity")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model by its name on the command line.

    Attributes:
      name: of the model; one class may have several.
      home: its module below ``diffrec_jax.models``, and its class.
      title: what tables call it.
      family: one of ``FAMILIES``.
      time_aware: True for a name that means the class with a recency kernel, False for one that means it without; None
        where a kernel is an option, if the class has one.
      latent: whether it needs clusters of items.
    """

    name: str
    home: str
    title: str
    family: str
    time_aware: bool | None = None
    latent: bool = False

    @property
    def class_name(self) -> str:
        """The name of the class."""
        return self.home.split(":")[1]

    @property
    def is_trained(self) -> bool:
        """Whether it is trained by epochs, not fitted in one go."""
        from diffrec_jax.models.contract import Model

        return issubclass(self.model, Model)

    @functools.cached_property
    def model(self) -> "type[Scorer]":
        """The class."""
        return load_class(self.home)


def registry(*entries: Entry) -> Mapping[str, Entry]:
    """Entries by their name.

    Raises:
      ValueError: for two of one name, a family that is none, or classes of one name in two places.
    """
    found: dict[str, Entry] = {}
    homes: dict[str, str] = {}
    for entry in entries:
        if entry.name in found:
            raise ValueError(
                f"two models are called {entry.name}, {found[entry.name].home} and {entry.home}: give one another name"
            )
        if entry.family not in FAMILIES:
            raise ValueError(f"family={entry.family!r} of {entry.name} is unknown: choose one of {', '.join(FAMILIES)}")
        other = homes.setdefault(entry.class_name, entry.home)
        if other != entry.home:
            raise ValueError(f"two classes are called {entry.class_name}, {other} and {entry.home}: rename one of them")
        found[entry.name] = entry
    return MappingProxyType(found)


MODELS = registry(
    Entry("diffrec", "diffrec:DiffRec", "DiffRec", "diffusion", time_aware=False),
    Entry("t_diffrec", "diffrec:DiffRec", "T-DiffRec", "diffusion", time_aware=True),
    Entry("l_diffrec", "latent_diffrec:LatentDiffRec", "L-DiffRec", "diffusion", time_aware=False, latent=True),
    Entry("lt_diffrec", "latent_diffrec:LatentDiffRec", "LT-DiffRec", "diffusion", time_aware=True, latent=True),
    Entry("popularity", "baselines:Popularity", "Popularity", "popularity"),
    Entry("recent_popularity", "baselines:RecentPopularity", "Recent popularity", "popularity"),
    Entry("item_knn", "item_knn:ItemKNN", "ItemKNN", "linear and neighbours"),
    Entry("ease", "baselines:EASE", "EASE", "linear and neighbours"),
    Entry("elsa", "elsa:ELSA", "ELSA", "linear and neighbours"),
    Entry("multvae", "mult_vae:MultVAE", "MultVAE", "autoencoders"),
    Entry("multidae", "mult_vae:MultiDAE", "MultiDAE", "autoencoders"),
    Entry("lightgcn", "lightgcn:LightGCN", "LightGCN", "graph"),
    Entry("sasrec", "sasrec:SASRec", "SASRec", "sequential"),
    Entry("markov", "markov:Markov", "Markov chain", "sequential"),
    Entry("transitions", "markov:Transitions", "Decayed transitions", "sequential"),
)
COMPOSITES = ("linear_path:LinearPath",)  # made of models: none has a name of its own on the command line
HOMES = {home.split(":")[1]: home for home in (*(entry.home for entry in MODELS.values()), *COMPOSITES)}  # by class


def load_class(home: str) -> "type[Scorer]":
    """The class at ``module:Class`` below ``diffrec_jax.models``."""
    module, name = home.split(":")
    found: type[Scorer] = getattr(import_module(f"diffrec_jax.models.{module}"), name)
    return found

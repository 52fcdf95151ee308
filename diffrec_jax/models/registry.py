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

YOUR_OWN = "your own"  # the family of classes that are no part of this library
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
        return own_class(self.home) if self.family == YOUR_OWN else load_class(self.home)


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
    Entry("block_ease", "block_ease:BlockEASE", "EASE in blocks", "linear and neighbours"),
    Entry("elsa", "elsa:ELSA", "ELSA", "linear and neighbours"),
    Entry("multvae", "mult_vae:MultVAE", "MultVAE", "autoencoders"),
    Entry("multidae", "mult_vae:MultiDAE", "MultiDAE", "autoencoders"),
    Entry("lightgcn", "lightgcn:LightGCN", "LightGCN", "graph"),
    Entry("sasrec", "sasrec:SASRec", "SASRec", "sequential"),
    Entry("gru4rec", "gru4rec:GRU4Rec", "GRU4Rec", "sequential"),
    Entry("bert4rec", "bert4rec:BERT4Rec", "BERT4Rec", "sequential"),
    Entry("diffurec", "diffurec:DiffuRec", "DiffuRec", "sequential"),
    Entry("causal_diffurec", "causal_diffurec:CausalDiffuRec", "Causal DiffuRec", "sequential"),
    Entry("seq_diffrec", "seq_diffrec:SeqDiffRec", "SeqDiffRec", "sequential"),
    Entry("stosa", "stosa:STOSA", "STOSA", "sequential"),
    Entry("caser", "caser:Caser", "Caser", "sequential"),
    Entry("acvae", "acvae:ACVAE", "ACVAE", "sequential"),
    Entry("markov", "markov:Markov", "Markov chain", "sequential"),
    Entry("transitions", "markov:Transitions", "Decayed transitions", "sequential"),
)
COMPOSITES = ("linear_path:LinearPath",)  # made of models: none has a name of its own on the command line
HOMES = {home.split(":")[1]: home for home in (*(entry.home for entry in MODELS.values()), *COMPOSITES)}  # by class


def by_family() -> str:
    """Every model by name, for a sentence."""
    names = ((family, [name for name, entry in MODELS.items() if entry.family == family]) for family in FAMILIES)
    return "; ".join(f"{family}: {', '.join(found)}" for family, found in names if found)


@functools.cache
def find(name: str) -> Entry:
    """A model by its name, or a class of one's own by ``package.module:Class``, which is then imported.

    Raises:
      ValueError: for a name that is none, a module or class that is not there, or a class that is no model.
      Exception: whatever the module itself raises when it is imported.
    """
    if name in MODELS:
        return MODELS[name]
    module, colon, class_name = name.partition(":")
    if not (colon and module and class_name.isidentifier()):
        raise ValueError(
            f"model={name} is unknown: choose one of {by_family()}; or name a class of your own, as in "
            "--model=package.module:Class"
        )
    entry = Entry(name, name, class_name, YOUR_OWN)
    check_class(entry.model)
    return entry


def check_class(kind: "type[Scorer]") -> None:
    """Refuse a class that is no model.

    Raises:
      ValueError: naming the members that it lacks.
    """
    from diffrec_jax.models.contract import Scorer, check_model, lacking

    if not isinstance(kind, type):
        raise ValueError(f"{kind!r} is no class: name one that inherits from Model or ClosedForm")
    if not issubclass(kind, Scorer) or lacking(kind):
        check_model(kind)
    if not dataclasses.is_dataclass(kind):
        raise ValueError(f"{kind.__name__} is no dataclass, so it has no options: make it a frozen one")


def load_class(home: str) -> "type[Scorer]":
    """The class at ``module:Class`` below ``diffrec_jax.models``."""
    module, name = home.split(":")
    found: type[Scorer] = getattr(import_module(f"diffrec_jax.models.{module}"), name)
    return found


def own_class(home: str) -> "type[Scorer]":
    """A class of one's own, at ``package.module:Class``.

    Raises:
      ValueError: if it is not there.
      Exception: whatever the module itself raises when it is imported.
    """
    module, name = home.split(":")
    try:
        there = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, and lacks something itself
        raise ValueError(f"model={home} cannot be imported ({error}): name a module that Python finds") from None
    if not hasattr(there, name):
        raise ValueError(f"model={home} is not there: {module} has no {name}")
    found: type[Scorer] = getattr(there, name)
    return found

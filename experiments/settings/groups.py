"""Which options a model has, in groups, and to which models an option belongs."""

import dataclasses
import difflib
import functools
from typing import Any

from diffrec_jax.data.recency import Recency
from diffrec_jax.fit_options import FitOptions
from diffrec_jax.models.registry import MODELS, Entry
from diffrec_jax.options import Field, options_of
from experiments.settings.data_options import DataOptions
from experiments.settings.parts import (
    ClusterOptions,
    EvaluationOptions,
    LinearPathOptions,
    MachineOptions,
    RunOptions,
    TraceOptions,
)

MODEL = "model"  # the flag that names the model, and so decides which others there are
NETWORKS = ("diffusion", "autoencoders")  # the families beside which EASE may stand


@dataclasses.dataclass(frozen=True)
class Group:
    """Options that belong together.

    Attributes:
      title: above them in the help.
      kind: the dataclass whose fields they are.
      part: the field of ``Config`` that holds its values.
      kernel: of recency options, the kernel that the model has unless one is named; empty for none.
      usual: holds the defaults, where they are not those of ``kind``.
    """

    title: str
    kind: Any
    part: str
    kernel: str = ""
    usual: Any = None

    @property
    def options(self) -> tuple[Field, ...]:
        """Its options; a recency kernel may be none, which a dataclass of a kernel can't say."""
        found = options_of(self.kind)
        if self.usual is not None:
            found = tuple(dataclasses.replace(option, default=getattr(self.usual, option.name)) for option in found)
        return tuple(self._unless_named(option) if option.flag == "recency" else option for option in found)

    def _unless_named(self, option: Field) -> Field:
        choices = ("", *(option.about.choices or ()))
        return dataclasses.replace(
            option, default=self.kernel, about=dataclasses.replace(option.about, choices=choices)
        )


def takes_recency(entry: Entry) -> bool:
    """Whether a model may have a recency kernel: DiffRec without one and T-DiffRec have two names."""
    named = {field.name for field in dataclasses.fields(entry.model)}  # type: ignore[arg-type]
    return "recency" in named and entry.time_aware is not False


def usual_training(entry: Entry) -> FitOptions:
    """How a model is trained unless more is said."""
    usual: FitOptions | None = getattr(entry.model, "fit_options", None)
    return FitOptions() if usual is None else usual


@functools.cache
def groups_of(entry: Entry) -> tuple[Group, ...]:
    """The groups of options of a model, in the order of the help.

    Raises:
      ValueError: if two of them declare the same flag.
    """
    trained = entry.is_trained
    found = [
        Group("data", DataOptions, "data"),
        Group(f"{entry.title} ({entry.family})", entry.model, "network"),
        Group("recency", Recency, "recency", "linear" if entry.time_aware else "") if takes_recency(entry) else None,
        Group("item clusters", ClusterOptions, "clusters") if entry.latent else None,
        Group("linear path", LinearPathOptions, "linear") if trained and entry.family in NETWORKS else None,
        Group("training", FitOptions, "fit", usual=usual_training(entry)) if trained else None,
        Group("evaluation", EvaluationOptions, "evaluation"),
        Group("run", RunOptions, "run"),
        Group("machine", TraceOptions, "trace") if trained else None,
        Group("machine", MachineOptions, "machine"),
    ]
    groups = tuple(group for group in found if group is not None)
    refuse_two_of_one_name(*(group.kind for group in groups))
    return groups


def options_by_flag(entry: Entry) -> dict[str, Field]:
    """Every option of a model, by flag."""
    return {option.flag: option for group in groups_of(entry) for option in group.options}


def refuse_two_of_one_name(*kinds: type) -> None:
    """Refuse dataclasses of which two declare the same flag.

    Raises:
      ValueError: naming both.
    """
    owner: dict[str, type] = {}
    for kind in kinds:
        for option in options_of(kind):
            other = owner.setdefault(option.flag, kind)
            if other is not kind:
                raise ValueError(
                    f"--{option.flag} is declared by {other.__name__} and by {kind.__name__}: rename the field of one"
                )
            if option.flag == MODEL:
                raise ValueError(f"--{MODEL} of {kind.__name__} is the flag that names the model: rename the field")


@functools.cache
def owners(flag: str) -> tuple[str, ...]:
    """The models to which a flag belongs, by name."""
    return tuple(name for name, entry in MODELS.items() if flag in options_by_flag(entry))


@functools.cache
def every_option() -> dict[str, Field]:
    """The options of all models together, by flag; of several of one name the first."""
    found: dict[str, Field] = {}
    for entry in MODELS.values():
        found |= {flag: option for flag, option in options_by_flag(entry).items() if flag not in found}
    return found


@functools.cache
def defaults_of(flag: str) -> tuple[Any, ...]:
    """The defaults that a flag has in the models to which it belongs; empty for a flag of no model."""
    defaults = [options_by_flag(MODELS[name])[flag].default for name in owners(flag)]
    return tuple({repr(default): default for default in defaults}.values())


def means_nothing(flag: str, model: str) -> str:
    """Why a flag is refused with a model: it belongs to others, or to none."""
    models = owners(flag)
    if flag == "recency" and model in MODELS and MODELS[model].time_aware is False:
        aware = next(n for n, entry in MODELS.items() if entry.time_aware and entry.home == MODELS[model].home)
        return f"recency makes the model time-aware: say --model={aware}, or drop it"
    if models:
        return f"{flag} means nothing to {model}: drop it, or say --model={' or '.join(models)}"
    near = difflib.get_close_matches(flag, [*every_option(), MODEL], n=3)
    instead = f"did you mean --{near[0]}?" if near else "--helpfull lists those there are"
    return f"Unknown command line flag '{flag}': {instead}"

"""One frozen ``Config`` holds everything a run depends on, in parts; the command line is made from their options.

Which parts there are depends on the model: its own options, those of training if it is trained by epochs, and so on.
``configure`` makes one from the values of flags, ``Config.values`` gives them back.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from diffrec_jax.data.recency import Recency
from diffrec_jax.evaluation.metrics import parse_metric
from diffrec_jax.fit_options import FitOptions
from diffrec_jax.models.baselines import EASE
from diffrec_jax.models.contract import Scorer
from diffrec_jax.models.linear_path import LinearPath
from diffrec_jax.models.registry import Entry, find
from diffrec_jax.options import Needs, options_of, values_of
from diffrec_jax.training.step import check_average
from experiments.settings import own_splits, selection
from experiments.settings.data_options import DataOptions
from experiments.settings.groups import (
    MODEL,
    every_option,
    groups_of,
    means_nothing,
    options_by_flag,
    takes_recency,
    usual_training,
)
from experiments.settings.parts import (
    ClusterOptions,
    EvaluationOptions,
    LinearPathOptions,
    MachineOptions,
    RunOptions,
    TraceOptions,
)

DEFAULT_MODEL = "diffrec"
REPLACED_BY: Mapping[str, str] = {}  # of options that are no more: what there is instead
MACHINE = tuple(option.flag for option in options_of(MachineOptions) if option.flag != "mesh")  # in no flag file
NOT_PART_OF_A_RUN = (  # which may differ when a run is taken up again
    "mesh", "workdir", "data_dir", "protocol", "seeds", "segments", "quiet", "profile_steps", *MACHINE,
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Everything a run depends on.

    Attributes:
      model_name: as ``--model`` says it.
      network: the model without the linear path beside it; a latent one without its clusters.
    """

    model_name: str
    network: Scorer
    data: DataOptions
    clusters: ClusterOptions
    linear: LinearPathOptions
    fit: FitOptions
    evaluation: EvaluationOptions
    run: RunOptions
    trace: TraceOptions
    machine: MachineOptions

    @property
    def entry(self) -> Entry:
        """The model's entry in the registry."""
        return find(self.model_name)

    @functools.cached_property
    def model(self) -> Scorer:
        """What is fitted: the network, with a linear path if there is one."""
        network, weight = self.network, self.linear.linear_path
        if not weight:
            return network
        fit_weighted = network.recency is not None and network.fit_weighted
        shared = {"recency": network.recency, "forecast": network.forecast, "fit_weighted": fit_weighted}
        return LinearPath(network=network, linear=EASE(l2=self.linear.linear_l2, **shared), weight=weight)  # type: ignore[arg-type]

    @functools.cached_property
    def values(self) -> Mapping[str, Any]:
        """The value of every flag that means something to this configuration, in the order of the help."""
        every = {MODEL: self.model_name, **_all(self)}
        needs = {flag: option.about.needs for flag, option in options_by_flag(self.entry).items()}
        return {flag: value for flag, value in every.items() if _is_met(needs.get(flag), every)}

    @property
    def fit_arguments(self) -> dict[str, Any]:
        """What ``diffrec_jax.fit`` takes by these names."""
        chosen_by = selection.parse(self.evaluation.select)
        ks = (*self.evaluation.ks, parse_metric(chosen_by[1])[1])
        more = {"ks": ks, "mask_seen": self.evaluation.mask_seen}
        more["warm_start"] = self.run.warm_start or None
        return {"options": self.fit, "seed": self.run.seed, "selection": chosen_by, **more}

    @property
    def test_arguments(self) -> dict[str, Any]:
        """What ``diffrec_jax.evaluate`` takes by these names for the test part."""
        return {"ks": self.evaluation.ks, "others": True, "sample": self.evaluation.test_users}

    def changed(self, **values: Any) -> "Config":
        """The configuration with other values of some flags."""
        kept = self.values if values.get("model", self.model_name) == self.model_name else {}
        return configure(**{**kept, **values})

    def differences(self, recorded: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Flags in which a recorded configuration differs, as ``{name: (recorded, ours)}``.

        What an older version did not record had its default, and what means nothing to this configuration is passed
        over.
        """
        ours = as_json(self)
        theirs = {**as_json(configure(model=self.model_name)), **recorded_flags(recorded, self.entry)}
        names = [name for name in ours if name not in NOT_PART_OF_A_RUN]
        return {n: (theirs.get(n), ours[n]) for n in names if theirs.get(n) != ours[n]}


def configure(**values: Any) -> Config:
    """A configuration from values of flags, ``model`` among them; whatever is left out has its default.

    Raises:
      ValueError: for a flag that means nothing to the model or to the other flags, or a value that is refused.
    """
    name = values.get(MODEL, DEFAULT_MODEL)
    entry = find(name)
    if values.get("recency") == "":  # as older flag files say that none is named
        del values["recency"]
    groups = groups_of(entry)
    fields = {option.flag: (group, option) for group in groups for option in group.options}
    for flag in values:
        if flag not in fields and flag != MODEL:
            raise ValueError(means_nothing(flag, name))
    for flag, needs in unmet(entry, values).items():
        if values[flag] != fields[flag][1].default:
            to = {"data": "to a named dataset", "multihost": f"without {needs.example}", "titles": "without titles"}
            raise ValueError(
                f"{flag} means nothing {to.get(needs.flag, f'to {name}')}: drop it, or say {needs.example}"
            )
    said: dict[str, dict[str, Any]] = {group.part: {} for group in groups}
    for flag, value in values.items():
        if flag in fields:
            group, option = fields[flag]
            said[group.part][option.name] = tuple(value) if isinstance(value, list) else value
    recency = _recency(entry, said.pop("recency", {}))
    run, data = RunOptions(**said["run"]), DataOptions(**said["data"])
    evaluation = EvaluationOptions(**said["evaluation"])
    if not evaluation.eval_history:
        shown = "train+valid" if entry.model.needs_order and own_splits.keeps_time(data) else "train"
        evaluation = dataclasses.replace(evaluation, eval_history=shown)
    config = Config(
        model_name=name,
        network=_network(entry, said["network"], recency, run.seed),
        data=data,
        clusters=ClusterOptions(**said.get("clusters", {})),
        linear=LinearPathOptions(**said.get("linear", {})),
        fit=dataclasses.replace(usual_training(entry), **said.get("fit", {})),
        evaluation=evaluation,
        run=run,
        trace=TraceOptions(**said.get("trace", {})),
        machine=MachineOptions(**said["machine"]),
    )
    _check_together(config)
    return config


def _recency(entry: Entry, said: dict[str, Any]) -> Recency | None:
    """The kernel, if one is named, or the model's name means one; without one nothing may be said of it."""
    if not takes_recency(entry):
        return None
    kernel = said.pop("kernel", "") or ("linear" if entry.time_aware else "")
    return Recency(kernel=kernel, **said) if kernel else None


def _network(entry: Entry, said: dict[str, Any], recency: Recency | None, seed: int) -> Scorer:
    """The model itself; one that draws at random takes the seed of the run."""
    fields = {field.name for field in dataclasses.fields(entry.model)}  # type: ignore[arg-type]
    more = {"recency": recency} if "recency" in fields else {}
    return entry.model(**said, **more, **({"seed": seed} if "seed" in fields else {}))


def unmet(entry: Entry, values: Mapping[str, Any]) -> dict[str, Needs]:
    """Of the flags that are said, those that mean nothing for want of another, and that other one."""
    options = options_by_flag(entry)
    known = {flag: option.default for flag, option in options.items()} | dict(values)
    needs = {flag: options[flag].about.needs for flag in values if flag in options}
    return {flag: need for flag, need in needs.items() if need is not None and not need.met(known)}


def _is_met(need: Needs | None, values: Mapping[str, Any]) -> bool:
    return need is None or need.met(values)


def _check_together(config: Config) -> None:
    """Refuse options of several parts that contradict each other."""
    if config.machine.multihost and config.run.seeds > 1:
        raise ValueError(f"seeds={config.run.seeds} is not for several processes: start one command for each --seed")
    widths = getattr(config.network, "in_dims", ())
    if config.entry.latent and config.clusters.n_cate > min(widths, default=config.clusters.n_cate):
        raise ValueError(
            f"n_cate={config.clusters.n_cate} clusters do not share widths of in_dims={list(widths)}: choose n_cate "
            "between 1 and the smallest of them"
        )
    draws = getattr(config.network, "sampling_steps", 0) or getattr(config.network, "sampling_noise", False)
    if config.fit.prng_impl != "threefry2x32" and draws:
        raise ValueError(
            f"prng_impl={config.fit.prng_impl} cannot draw noise per user, which --sampling_steps and "
            "--sampling_noise need: use threefry2x32"
        )
    if config.model.trained is not None:
        check_average(config.model.trained, config.fit)


def _all(config: Config) -> dict[str, Any]:
    """The value of every flag of the configuration, whether it means something or not."""
    found: dict[str, Any] = {}
    for group in groups_of(config.entry):
        if group.part == "recency":
            kernel = config.network.recency
            found |= {"recency": ""} if kernel is None else values_of(kernel)
        else:
            found |= values_of(getattr(config, group.part))
    return found


def recorded_flags(recorded: Mapping[str, Any], entry: Entry) -> dict[str, Any]:
    """What of a recorded configuration means something to a model; older versions recorded every option there was.

    Raises:
      ValueError: for an option that is no more.
    """
    options = options_by_flag(entry)
    for name, value in recorded.items():
        if name not in options and name not in every_option() and name != MODEL:
            instead = REPLACED_BY.get(name, "it was made by another version of diffrec_jax")
            raise ValueError(f"{name}={value} is recorded, and this version has no such option: {instead}")
    said = {n: v for n, v in recorded.items() if (n in options or n == MODEL) and v is not None}
    if not said.get("recency", "one"):
        del said["recency"]  # as older versions recorded that none is named
    return {n: v for n, v in said.items() if n not in unmet(entry, said)}


def as_json(config: Config) -> dict[str, Any]:
    """The values of the flags as JSON would hold them."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in config.values.items()}

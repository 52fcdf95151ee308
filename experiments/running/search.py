"""A search that survives its process: an Optuna study in SQLite, asked for one trial after the other.

A trial that was interrupted (Ctrl-C, or a process that died) is asked for again first. What a study is about (model,
fixed flags, ranges, data) is recorded in it, and another search is refused in its folder.
"""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffrec_jax.ranges import Choice, Range, Real
from experiments.settings.groups import defaults_of
from experiments.settings.guard import out_of_memory

try:
    import optuna
except ImportError:
    raise ValueError("a search needs the package optuna: pip install 'diffrec_jax[tune]'") from None

Values = dict[str, Any]
Pruned = optuna.TrialPruned
STATES = optuna.trial.TrialState


class Search:
    """Trials of one space: maximises what ``run`` measures.

    Attributes:
      space: what is searched.
      study: the trials so far.
    """

    def __init__(
        self, path: Path, space: Mapping[str, Range], *, about: Mapping[str, Any], start: Values, seed: int, warmup: int
    ) -> None:
        """Open the study, or begin it.

        Args:
          path: the SQLite file.
          space: ranges by name.
          about: JSON values that say what is searched; a study about something else is refused.
          start: the values of the first trial.
          seed: of the sampler.
          warmup: epochs before a trial may be pruned.

        Raises:
          ValueError: for a study of something else, or a damaged file.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space, self._values = space, {n: _texts(r) for n, r in space.items() if isinstance(r, Choice)}
        try:
            storage = optuna.storages.RDBStorage(f"sqlite:///{path.absolute()}")
            self.study = optuna.create_study(
                storage=storage, study_name="search", direction="maximize", load_if_exists=True
            )
        except Exception as error:  # whatever the layers below raise
            raise ValueError(
                f"{path} is no readable study ({type(error).__name__}): choose another --workdir"
            ) from None
        trials = self.study.get_trials(deepcopy=False)
        self.study.sampler = optuna.samplers.TPESampler(seed=seed + len(trials))
        self.study.pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=warmup)
        recorded, ours = self.study.user_attrs.get("about"), json.loads(json.dumps(dict(about)))
        if recorded is None:
            self.study.set_user_attr("about", ours)
            self.study.enqueue_trial(self._encoded({n: v for n, v in start.items() if v in space[n]}))
        elif unlike(recorded, ours):
            names = unlike(recorded, ours)
            listed = "; ".join(f"{n}: {recorded.get(n)!r} there, {ours.get(n)!r} now" for n in names)
            raise ValueError(f"{path.parent} holds another search ({listed}): choose another --workdir")
        for trial in trials:
            if trial.state == STATES.RUNNING:  # its process died
                self.study.tell(trial.number, state=STATES.FAIL)
                self._again(trial.params)

    def done(self) -> list[optuna.trial.FrozenTrial]:
        """Trials that count: finished, pruned, or refused by the model."""
        return [t for t in self.study.get_trials(deepcopy=False) if "seconds" in t.user_attrs]

    def seconds(self) -> float:
        """Time of all trials, interrupted ones included."""
        trials = self.study.get_trials(deepcopy=False)
        return sum(t.user_attrs.get("seconds", t.user_attrs.get("lost", 0.0)) for t in trials)

    def values(self, trial: optuna.trial.FrozenTrial) -> Values:
        """What a finished trial tried, by the name of its flag."""
        return {name: self._decoded(name, value) for name, value in trial.params.items()}

    def best(self) -> optuna.trial.FrozenTrial | None:
        """The best finished trial, the earliest of equal ones; None without any."""
        finished = [t for t in self.done() if t.state == STATES.COMPLETE]
        return max(finished, key=lambda t: (t.value, -t.number), default=None)

    def step(self, run: Callable[[Values, optuna.Trial], float]) -> optuna.trial.FrozenTrial:
        """One trial: ask for values, ``run`` them, record what came of it.

        ``run`` returns the value, raises ``Pruned``, or ``ValueError`` or ``ArithmeticError`` for values that make no
        model, or runs out of memory. Values that were tried before are not run again. An interruption is recorded and
        raised.
        """
        trial = self.study.ask()
        began = time.monotonic()
        values = {name: self._suggested(trial, name) for name in self.space}
        outcome: dict[str, Any] = {}
        same = [t for t in self.done() if t.state == STATES.COMPLETE and self.values(t) == values]
        try:
            outcome["values"] = same[0].value if same else run(values, trial)
        except Pruned:
            outcome["state"] = STATES.PRUNED
        except (ValueError, ArithmeticError, MemoryError, RuntimeError) as error:
            memory = out_of_memory(error)
            if isinstance(error, RuntimeError) and not memory:
                self.study.tell(trial, state=STATES.FAIL)  # a defect; the same values would meet it again
                raise
            trial.set_user_attr("error", memory or str(error))
            outcome["state"] = STATES.FAIL
        except KeyboardInterrupt:
            trial.set_user_attr("lost", time.monotonic() - began)
            self.study.tell(trial, state=STATES.FAIL)
            self._again(trial.params)
            raise
        trial.set_user_attr("seconds", time.monotonic() - began)
        return self.study.tell(trial, **outcome)

    def _again(self, params: Values) -> None:
        if params:
            self.study.enqueue_trial(params)

    def _suggested(self, trial: optuna.Trial, name: str) -> Any:
        values = self.space[name]
        if isinstance(values, Choice):
            return self._decoded(name, trial.suggest_categorical(name, list(self._values[name])))
        if isinstance(values, Real):
            return self._decoded(name, trial.suggest_float(name, values.low, values.high, log=values.log))
        return trial.suggest_int(name, values.low, values.high, log=values.log)

    def _decoded(self, name: str, value: Any) -> Any:
        """A parameter of Optuna as the value of a flag; three digits of a number are enough."""
        if name in self._values:
            return self._values[name][value]
        return float(f"{value:.3g}") if isinstance(self.space[name], Real) else value

    def _encoded(self, values: Values) -> Values:
        return {name: str(value) if name in self._values else value for name, value in values.items()}


def _texts(values: Choice) -> dict[str, Any]:
    """Options by their text: Optuna stores no tuples."""
    return {str(value): value for value in values.of}


USED_TO_BE = {"eval_history": "train"}  # defaults of versions in which they did not depend on the model


def unlike(recorded: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """In what two searches differ; an option that one of them did not record, as versions differ, had its default."""

    def same(name: str) -> bool:
        there, here = recorded.get(name), ours.get(name)
        if name == "space":
            return set(str(there).split("; ")) == set(str(here).split("; "))
        if name in recorded and name in ours:
            return bool(there == here)
        said = there if name in recorded else here
        usual = [list(value) if isinstance(value, tuple) else value for value in defaults_of(name)]
        return said is None or said in [*usual, USED_TO_BE.get(name)]

    return [name for name in {**recorded, **ours} if not same(name)]

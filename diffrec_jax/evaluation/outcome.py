"""What an evaluation finds: the metrics of every user, and what a person should know of them."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from diffrec_jax.evaluation import conventions, shown
from diffrec_jax.evaluation import metrics as metrics_lib


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Metrics of every user with truth."""

    users: np.ndarray  # [n] int32
    per_user: Mapping[str, np.ndarray]  # each [n] float32
    n_users: int  # all users, with and without truth
    seconds: float = 0.0  # of the evaluation, compilation aside
    compile_seconds: float = 0.0
    beyond: Mapping[str, float] = dataclasses.field(default_factory=dict)  # "coverage@20": …, see ``beyond``
    per_item: Mapping[str, np.ndarray] = dataclasses.field(
        default_factory=dict
    )  # each [I] int32: "listed@20", "hits@20", …
    ties: Mapping[str, int] = dataclasses.field(default_factory=dict)  # "20": lists of 20 whose end lies among equals
    masked: int = 0  # held-out interactions that were not to be recommended, and can't be hits
    notes: tuple[str, ...] = ()  # what a person should read
    ranking: str = conventions.MASKED  # of all the numbers above, see ``conventions``
    others: Mapping[str, Mapping[str, np.ndarray]] = dataclasses.field(default_factory=dict)  # by name, as ``per_user``

    def __str__(self) -> str:
        sizes = (self.n_users, len(self.users))
        return "\n".join((shown.evaluation_text(self.means(), *sizes, beyond=self.beyond), *self.notes))

    def _repr_html_(self) -> str:
        sizes = (self.n_users, len(self.users))
        table = shown.evaluation_html(self.means(), *sizes, beyond=self.beyond)
        return table + "".join(f"<p>{note}.</p>" for note in self.notes)

    def mean(self, protocol: metrics_lib.Protocol) -> dict[str, float]:
        """Averages by one of the two conventions of ``metrics``."""
        return metrics_lib.average(self.per_user, n_users=self.n_users, protocol=protocol)

    def means(self) -> dict[str, dict[str, float]]:
        """Averages by both conventions."""
        return {protocol: self.mean(protocol) for protocol in metrics_lib.PROTOCOLS}

    def other_means(self) -> dict[str, dict[str, dict[str, float]]]:
        """Averages of the other rankings of the same scores, by name and by both conventions."""
        return {
            name: {p: metrics_lib.average(found, n_users=self.n_users, protocol=p) for p in metrics_lib.PROTOCOLS}
            for name, found in self.others.items()
        }

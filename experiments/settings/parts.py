"""The parts of a configuration that no model brings: data, evaluation, the run itself, and the machine.

Each option stands once, here; those of a model stand on its class, those of training in ``diffrec_jax.fit_options``.
"""

import dataclasses

from diffrec_jax.evaluation import KS
from diffrec_jax.evaluation.metrics import PROTOCOLS, list_lengths
from diffrec_jax.mesh import mesh_sizes
from diffrec_jax.models.baselines import EASE
from diffrec_jax.options import Needs, again, check, option
from experiments.settings import selection

EVAL_HISTORIES = ("train", "train+valid")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """The clusters of items that a latent model needs."""

    item_emb: str = option(
        "lightgcn", "item embeddings to cluster: lightgcn, svd, or a .npy file (here or in the data's folder)"
    )
    n_cate: int = option(2, "number of item clusters", at_least=1)

    def __post_init__(self) -> None:
        check(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearPathOptions:
    """EASE beside a network; see ``models.linear_path``."""

    linear_path: float = option(
        0.0, "share of EASE's scores that is added to the network's; about 1, or 20 to logits; 0 for none", at_least=0.0
    )
    linear_l2: float = again(
        EASE, "l2", help="strength λ of that EASE", search=None, needs=Needs("linear_path", "--linear_path=0.5")
    )

    def __post_init__(self) -> None:
        check(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """What is measured, and what is shown of it."""

    protocol: str = option("official", "convention of the printed table; both are recorded", choices=PROTOCOLS)
    select: str = option(
        selection.DEFAULT, "validation metric that chooses the epoch, such as ndcg@10 or standard:ndcg@10"
    )
    ks: tuple[int, ...] = option(KS, "list lengths K that are evaluated and recorded, such as 1,5,20")
    segments: str = option("", "also say metrics by user group: a table with the columns user and group")
    eval_history: str = option(
        "",
        "what the history holds when the test part is ranked; unless given, train+valid for a model of order where the "
        "split of a log keeps time, else train",
        choices=("", *EVAL_HISTORIES),
    )

    test_users: int = option(
        0, "users of the test part that are ranked, drawn once; 0 is all of them", at_least=0, hint="0 is all of them"
    )
    mask_seen: bool = option(
        True, "leave what somebody has out of the ranking that is selected by and shown first; both are recorded"
    )

    def __post_init__(self) -> None:
        check(self)
        selection.parse(self.select)
        object.__setattr__(self, "ks", list_lengths(self.ks))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The run as a whole."""

    seed: int = option(0, "seed of everything random")
    seeds: int = option(1, "number of runs, of --seed and those after it, each in its own folder", at_least=1)
    baselines: bool = option(True, "also evaluate popularity and EASE")
    warm_start: str = option("", "begin from the weights of another run folder, items matched by their ids")
    workdir: str = option("", "the run folder; runs/<flag file or dataset>-s<seed> if empty")
    track: str = option("", "also tell a tracker of the run: mlflow or wandb", choices=("", "mlflow", "wandb"))
    quiet: bool = option(False, "print nothing but errors and, at the end, where the result is")

    def __post_init__(self) -> None:
        check(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TraceOptions:
    """A closer look at training."""

    profile_steps: str = option("", "FIRST:LAST, as in 10:15: trace these training steps, for TensorBoard", rare=True)

    def __post_init__(self) -> None:
        first, _, last = self.profile_steps.partition(":")
        if self.profile_steps and not (first.isdigit() and last.isdigit() and int(first) < int(last)):
            raise ValueError(
                f"profile_steps={self.profile_steps} is no FIRST:LAST such as 10:15, with FIRST before LAST"
            )

    @property
    def steps(self) -> tuple[int, int] | None:
        """First step to trace, and the one to stop before; None without."""
        first, _, last = self.profile_steps.partition(":")
        return (int(first), int(last)) if last else None


@dataclasses.dataclass(frozen=True, kw_only=True)
class MachineOptions:
    """Devices and processes."""

    mesh: str = option(
        "", "devices: users:4,items:2 spreads rows over 4 and the catalogue over 2; rows over all unless given"
    )
    compile_cache: bool = option(False, "keep compiled programs for the next run, in your own cache folder")
    multihost: bool = option(
        False, "be one of several processes that share one run; start this command in each", rare=True
    )
    coordinator: str = option(
        "", "HOST:PORT of process 0, where JAX cannot find out by itself", needs=Needs("multihost", "--multihost"),
        rare=True,
    )  # fmt: skip
    process_id: int | None = option(
        None, "number of this process, from 0", needs=Needs("multihost", "--multihost"), rare=True
    )
    process_count: int | None = option(None, "number of processes", needs=Needs("multihost", "--multihost"), rare=True)
    join_timeout: int = option(
        300, "seconds in which all processes must have come", at_least=1, needs=Needs("multihost", "--multihost"),
        rare=True,
    )  # fmt: skip

    def __post_init__(self) -> None:
        check(self)
        mesh_sizes(self.mesh)  # refuses what is no mesh

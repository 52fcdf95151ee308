"""What is told of a run while it trains, and how it is asked to stop."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from diffrec_jax.training.checkpoint import Progress

Metrics = dict[str, dict[str, float]]  # by protocol, then by name


class InterruptedRunError(KeyboardInterrupt):
    """The run was asked to stop, and did so after saving its state."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step}")
        self.step = step


@dataclasses.dataclass(frozen=True)
class EpochReport:
    """What happened in one epoch."""

    epoch: int  # epochs completed
    step: int
    loss: float
    seconds: float  # of this epoch's training in this process
    valid: Metrics | None  # when the epoch ended with a validation
    evaluate_seconds: float
    progress: Progress
    watched: Mapping[str, np.ndarray]  # what the model wants recorded of its memory (``Model.watched``)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What training will take on each device, known before any of it is taken."""

    parameters: int  # how many numbers the model learns
    state_bytes: int  # parameters, their moving average, optimizer state and memory
    data_bytes: int  # the interactions
    temporary_bytes: int  # gradients, the dense batch and what is computed from it
    compile_seconds: float

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.state_bytes + self.data_bytes + self.temporary_bytes


class Observer:
    """Is told what happens in ``fit``; this one ignores it all. The command line and tests override what they need."""

    def decided(self, sentence: str) -> None:
        """Something was chosen by the sizes of the data, before anything is compiled."""

    def planned(self, plan: Plan) -> None:
        """The step is compiled; nothing has been allocated yet."""

    def started(self, *, epoch: int, step: int, warnings: list[str]) -> None:
        """Training begins after ``epoch`` epochs and ``step`` steps, both 0 for a new run."""

    def epoch(self, report: EpochReport) -> None:
        """An epoch is over."""

    def interrupted(self) -> bool:
        """Asked between dispatches and batches of validation: True saves the state and raises
        ``InterruptedRunError``.
        """
        return False

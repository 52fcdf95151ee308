"""From parameters to trained parameters: the step, the loop, the mesh, the checkpoints."""

from diffrec_jax.finite import NonFiniteParametersError
from diffrec_jax.training.checkpoint import Checkpoints, Progress
from diffrec_jax.training.loop import FitResult, NonFiniteLossError
from diffrec_jax.training.observer import EpochReport, InterruptedRunError, Observer, Plan
from diffrec_jax.training.progress import ProgressLines
from diffrec_jax.training.step import Trainer, TrainState, train_step

__all__ = [
    "Checkpoints",
    "EpochReport",
    "FitResult",
    "InterruptedRunError",
    "NonFiniteLossError",
    "NonFiniteParametersError",
    "Observer",
    "Plan",
    "Progress",
    "ProgressLines",
    "TrainState",
    "Trainer",
    "train_step",
]

"""Checkpoints of a run: asynchronous, atomic, checked by checksums, the last two and the best kept (Orbax)."""

import contextlib
import dataclasses
import errno
import json
import logging
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.tree_util import KeyPath
from orbax.checkpoint import v1 as ocp

from diffrec_jax import files
from diffrec_jax.diffusion.importance import LossHistory
from diffrec_jax.processes import is_writer
from diffrec_jax.training.checksum import checksum
from diffrec_jax.training.step import TrainState
from diffrec_jax.types import PathLike, PyTree


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a checkpoint holds beside the arrays of the state."""

    best_epoch: int = 0  # epochs completed when the best validation was seen; 0: none yet
    best_value: float | None = None  # of the selection metric
    train_seconds: float = 0.0
    evaluate_seconds: float = 0.0
    epoch_is_open: bool = False  # the last epoch is trained, and its validation was interrupted


class DamagedError(ValueError):
    """A checkpoint is not what was written."""


@dataclasses.dataclass(frozen=True)
class KeepLastTwoAndBest:
    """Which checkpoints stay: the last two, and for each of these the best until then.

    The last may turn out damaged; the run then goes on from the one before, and needs what was best at that time.
    """

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """One flag per checkpoint, given in the order of their steps."""
        del context
        best = [i for i, c in enumerate(checkpoints) if (c.metrics or {}).get("best_is_here")]
        kept = {len(checkpoints) - 1, len(checkpoints) - 2}
        kept |= {max((i for i in best if i <= last), default=-1) for last in kept}
        return [i in kept for i in range(len(checkpoints))]


class Checkpoints:
    """The checkpoints below one folder.

    Attributes:
      warnings: sentences about checkpoints that could not be read, for the person who runs it.
    """

    def __init__(self, folder: str | Path) -> None:
        """Open (or create) the folder.

        Raises:
          OSError: if it cannot be written.
        """
        _quiet()
        self.folder = files.absolute(folder)
        self.warnings: list[str] = []
        self._failed = False
        with files.explained(self.folder):
            self._manager = ocp.training.Checkpointer(
                self.folder, preservation_policy=KeepLastTwoAndBest(), cleanup_tmp_directories=True
            )

    def claim(self, identity: dict[str, Any], *, defaults: Mapping[str, Any]) -> None:
        """Say which run the checkpoints belong to, or check that they are this one's.

        Args:
          identity: what decides the parameters, as JSON values.
          defaults: what holds of it where a run does not say, as one that is older than a hyper-parameter.

        Raises:
          ValueError: if they belong to another run, with the difference.
        """
        file = self.folder / "run.json"
        if not is_writer():
            return
        if not file.is_file():
            files.write_atomically(file, json.dumps(identity, indent=2) + "\n")
            return
        try:
            recorded = {**defaults, **json.loads(file.read_text())}
        except ValueError as error:
            raise ValueError(
                f"{file} is damaged ({error}): delete it if the checkpoints beside it are of this run, or choose "
                "another workdir"
            ) from None
        names = {**recorded, **identity}
        differences = {k: (recorded.get(k), identity.get(k)) for k in names if recorded.get(k) != identity.get(k)}
        if differences:
            listed = "; ".join(f"{k}: {a} there, {b} now" for k, (a, b) in differences.items())
            raise ValueError(f"{self.folder} holds the checkpoints of another run ({listed}): choose another workdir")

    def steps(self) -> list[int]:
        """Steps with a checkpoint, ascending."""
        return sorted(int(checkpoint.step) for checkpoint in self._manager.checkpoints)

    def save(self, state: TrainState, progress: Progress, *, is_best: bool, step: int) -> None:
        """Begin to save the state after ``step`` steps, in place of an earlier one; returns before it is on disk.

        Raises:
          OSError: if this checkpoint, or the one before it, cannot be written.
        """
        sums = {name: int(checksum(part)) for name, part in _parts(state).items()}
        with self._explained():
            self._manager.save_async(
                step,
                state,
                force=True,
                overwrite=step in self.steps(),
                metrics={"best_is_here": float(is_best), "has_ema": float(state.ema is not None)},
                custom_metadata={"progress": dataclasses.asdict(progress), "checksums": sums},
            )

    def restore(self, abstract_state: TrainState, step: int | None = None) -> tuple[TrainState, Progress] | None:
        """The state at ``step``, or the last one that can be read; None if there is none.

        A checkpoint that cannot be read (truncated, say) is passed over, with a sentence in ``warnings``.
        """
        self.wait()
        for candidate in reversed(self.steps()) if step is None else [step]:
            try:
                metadata = self._manager.metadata(candidate)
                check_shapes(metadata.metadata, abstract_state)
                with _any_padding():
                    state = self._manager.load(candidate, _as_stored(abstract_state, metadata.metadata))
                custom = metadata.custom_metadata or {}
                _verify(_parts(state), custom)
                progress = Progress(**custom.get("progress", custom))  # or of an older version
                state = state if abstract_state.history is not None else state.replace(history=None)
            except Exception as error:  # whatever a damaged file makes Orbax raise
                damaged = self.folder / str(candidate)
                self.warnings.append(
                    f"checkpoint {damaged} cannot be read and is left out: damaged, or of another model "
                    f"({type(error).__name__})"
                )
                continue
            return state, progress
        return None

    def forget_after(self, step: int) -> None:
        """Delete checkpoints later than ``step``: damaged ones, which the run is about to write anew."""
        with self._explained():
            for later in [s for s in self.steps() if s > step]:
                self._manager.delete(later)

    def wait(self) -> None:
        """Block until everything is on disk.

        Raises:
          OSError: if a checkpoint cannot be written.
        """
        with self._explained():
            self._manager.wait()

    def close(self) -> None:
        """Finish writing and let go of the folder.

        Raises:
          OSError: if a checkpoint cannot be written, and this was not said before.
        """
        said_before = self._failed
        try:
            with self._explained():
                self._manager.close()
        except OSError:
            if not said_before:
                raise

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Whatever Orbax raises when it cannot write, as one sentence."""
        try:
            yield
        except Exception as error:
            self._failed = True
            raise OSError(_sentence(self.folder, error)) from error


def load_best(folder: str | Path, abstract_params: PyTree) -> PyTree:
    """The parameters of the best checkpoint below ``folder``, and nothing else of it; a run may be writing there.

    Raises:
      ValueError: if there is no checkpoint, or it is not one of this model.
    """
    _quiet()
    root = files.absolute(folder)
    if not root.is_dir():
        raise ValueError(f"there are no checkpoints in {folder}: the run has not begun")
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    context.array.loading.enable_padding_and_truncation = True
    with context, ocp.training.Checkpointer(root) as manager:
        found = [c for c in manager.checkpoints if (c.metrics or {}).get("best_is_here")]
        if not found:
            raise ValueError(f"{folder} holds no checkpoint yet: train for longer, or finish the run")
        try:
            name = "ema" if (found[-1].metrics or {}).get("has_ema") else "params"
            metadata = manager.metadata(found[-1])
            check_shapes({name: metadata.metadata[name]}, {name: abstract_params})
            params = manager.load(found[-1], {name: abstract_params})[name]
            _verify({name: params}, metadata.custom_metadata or {})
            return params
        except Exception as error:  # whatever a damaged or foreign file makes Orbax raise
            reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
            raise ValueError(f"checkpoint {found[-1].step} below {folder} cannot be read: {reason}") from None


def check_shapes(stored: PyTree, wanted: PyTree) -> None:
    """Refuse to load arrays ``stored`` (Orbax's metadata of them) as the abstract arrays ``wanted``.

    A sharded axis is stored padded to a multiple of its shards (``mesh.Layout``), on whatever mesh that was: two such
    lengths fit if there is a length that both may be paddings of.

    Raises:
      ValueError: if there is none, or an array is missing.
    """
    found = {_names(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(stored)[0]}
    for path, leaf in jax.tree_util.tree_flatten_with_path(wanted)[0]:
        there = found.get(_names(path))
        if there is None or not _fits(there, leaf):
            shape = "nothing" if there is None else f"shape {tuple(there.shape)}"
            raise ValueError(f"another model's: {_names(path)} has {shape} there, shape {leaf.shape} here")


def _fits(stored: PyTree, wanted: PyTree) -> bool:
    if len(stored.shape) != len(wanted.shape):
        return False
    spec = getattr(stored.sharding_metadata, "partition_spec", None) or ()
    sizes = dict(zip(stored.sharding_metadata.axis_names, stored.sharding_metadata.shape.tolist())) if spec else {}
    shard = wanted.sharding.shard_shape(wanted.shape)
    for axis, (there, here) in enumerate(zip(stored.shape, wanted.shape)):
        their_shards = sizes.get(spec[axis], 1) if axis < len(spec) else 1
        our_shards = here // shard[axis] if shard[axis] else 1
        if not (there - their_shards < here and here - our_shards < there):
            return False
    return True


def _as_stored(abstract_state: TrainState, stored: PyTree) -> TrainState:
    """The abstract state as a checkpoint has it: those of older versions hold a memory of any model, if an idle one."""
    memory = stored.get("history")
    if abstract_state.history is not None or not memory:
        return abstract_state
    where = abstract_state.step.sharding
    found: dict[str, Any] = {
        name: jax.ShapeDtypeStruct(tuple(a.shape), a.dtype, sharding=where) for name, a in memory.items()
    }
    return abstract_state.replace(history=LossHistory(**found))


def _names(path: KeyPath[Hashable]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _any_padding() -> Any:
    """Within it, Orbax pads and cuts arrays to the shape that is wanted; ``check_shapes`` comes first."""
    context = ocp.Context()
    context.array.loading.enable_padding_and_truncation = True
    return context


def _parts(state: TrainState) -> dict[str, PyTree]:
    """The state in parts with a checksum each; the parameters that are served come apart."""
    rest = state.replace(params=None, ema=None)
    return {"params": state.params, **({} if state.ema is None else {"ema": state.ema}), "rest": rest}


def _verify(parts: dict[str, PyTree], metadata: dict[str, Any]) -> None:
    """Compare with the checksums that were saved; older versions saved none."""
    sums = metadata.get("checksums", {})
    for name, part in parts.items():
        if name in sums and int(checksum(part)) != sums[name]:
            raise DamagedError(f"the checksum of {name} is not that of what was saved")


def _sentence(folder: PathLike, error: Exception) -> str:
    """Why a checkpoint cannot be written, in one sentence; TensorStore gives the number of the error as text."""
    found = re.search(r"os_error_code='(\d+)'", str(error))
    number = getattr(error, "errno", None) or (int(found[1]) if found else None)
    if number is not None and number in errno.errorcode:
        return files.cannot_write(folder, number)
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return f"cannot write a checkpoint below {folder} ({reason}): the earlier ones are kept; run the same command again"


def _quiet() -> None:
    """Orbax logs what is said in sentences here."""
    logging.getLogger("orbax").setLevel(logging.ERROR)

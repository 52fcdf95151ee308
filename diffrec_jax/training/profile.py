"""A profile of a few training steps, for TensorBoard or xprof (``jax.profiler``)."""

import os
from types import TracebackType

import jax

from diffrec_jax.types import PathLike, PyTree


class Profile:
    """Traces the steps from ``first`` until before ``last``; a context, so that a trace always ends.

    Attributes:
      was_taken: whether the trace was written.
    """

    def __init__(self, folder: PathLike | None, *, first: int, last: int) -> None:
        """Say what is to be traced, and where to.

        Raises:
          ValueError: if there is no step between the two.
        """
        if not 0 <= first < last:
            raise ValueError(f"profile_steps={first}:{last} holds no step: say FIRST:LAST, as in 10:15")
        self.folder, self.first, self.last = folder, first, last
        self.was_taken, self._is_open = False, False

    @classmethod
    def none(cls) -> "Profile":
        """One that traces nothing."""
        return cls(None, first=2**31 - 2, last=2**31 - 1)

    def room(self, step: int) -> int:
        """How many steps there are from ``step`` to where the trace begins or ends next."""
        return min((place - step for place in (self.first, self.last) if place > step), default=2**31)

    def at(self, step: int, state: PyTree) -> None:
        """Begin or end the trace if it is time; ``state`` is that after ``step`` steps."""
        if step == self.first and self.folder is not None:
            jax.block_until_ready(state)
            jax.profiler.start_trace(os.fspath(self.folder))
            self._is_open = True
        elif step == self.last and self._is_open:
            jax.block_until_ready(state)
            self.__exit__(None, None, None)
            self.was_taken = True

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._is_open:
            self._is_open = False
            jax.profiler.stop_trace()

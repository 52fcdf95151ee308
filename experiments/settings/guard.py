"""How a command ends: its exit codes, and a sentence for whatever the person who typed it can mend."""

import logging
import signal
import sys
import types
import warnings
from collections.abc import Callable, Sequence

from diffrec_jax.planning import no_tpu

EXIT_INTERRUPTED = 130  # by Ctrl-C
EXIT_RUN_AGAIN = 75  # by SIGTERM: EX_TEMPFAIL of sysexits.h, "try again later"


class Terminated(KeyboardInterrupt):
    """SIGTERM came."""


def guarded(main: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """Run a command; what the person who typed it can mend becomes one sentence on stderr and exit code 2.

    Ctrl-C ends it with exit code 130, SIGTERM with 75: run it again.

    Args:
      main: the command.
      argv: what was typed, as in ``sys.argv``.
    """
    no_tpu.quieten()
    previous = signal.signal(signal.SIGTERM, _terminate)
    logging.getLogger("absl").setLevel(logging.CRITICAL)  # what Orbax logs is raised, and said in a sentence, too
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    try:
        return main(argv)
    except KeyboardInterrupt as stop:
        print("stopped; what was saved stays, and the same command goes on from there", file=sys.stderr)
        return EXIT_RUN_AGAIN if isinstance(stop, Terminated) else EXIT_INTERRUPTED
    except (ValueError, OSError, ArithmeticError, MemoryError, RuntimeError) as error:
        memory = out_of_memory(error)
        if not memory and isinstance(error, RuntimeError) and type(error).__module__.startswith(("jax", "builtins")):
            raise  # a defect of ours, not of the input
        print(f"error: {memory or error}", file=sys.stderr)
        return 2
    finally:
        signal.signal(signal.SIGTERM, previous)


def out_of_memory(error: BaseException) -> str:
    """A sentence if the memory of the host or of a device did not hold something; empty for any other error."""
    said = (str(error).splitlines() or ["no more was said"])[0]
    if isinstance(error, MemoryError):
        return f"the memory of this machine does not hold this ({said}): take less data, or a larger machine"
    if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
        return (
            f"the device's memory does not hold this ({said}): choose a smaller --batch_size, or spread the catalogue "
            "with --mesh, where the command has them"
        )
    return ""


def _terminate(number: int, frame: types.FrameType | None) -> None:
    raise Terminated

"""What JAX is told before its first array: where programs are kept, and which processes work together."""

import os

import jax
import pooch

from experiments.settings import rendezvous
from experiments.settings.config import Config

KEPT_FROM_SECONDS = 0.2  # of compilation, for a program to be kept


def prepare(config: Config) -> None:
    """Set up JAX as the flags say.

    Raises:
      ValueError: for an incomplete or contradictory description of the processes.
      OSError: if the coordinator does not answer.
    """
    if config.machine.compile_cache:
        jax.config.update("jax_compilation_cache_dir", cache_folder())
        jax.config.update("jax_persistent_cache_min_compile_time_secs", KEPT_FROM_SECONDS)
    if config.machine.multihost and not jax.distributed.is_initialized():
        join(config)


def cache_folder() -> str:
    """Where compiled programs of this person are kept; ``JAX_COMPILATION_CACHE_DIR`` overrides it.

    Never a place that others write to: a cached program is run as it is.
    """
    return os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(pooch.os_cache("diffrec_jax") / "programs")


def join(config: Config) -> None:
    """Become one of several processes.

    On Cloud TPU, Slurm and other clusters that JAX knows, it finds out the rest by itself; elsewhere the coordinator
    (the address of process 0), the number of this process and how many there are come from flags, or from
    ``JAX_COORDINATOR_ADDRESS``, ``JAX_PROCESS_ID`` and ``JAX_PROCESS_COUNT``.
    """
    address = config.machine.coordinator or os.environ.get("JAX_COORDINATOR_ADDRESS", "")
    number = _number("process_id", config.machine.process_id)
    count = _number("process_count", config.machine.process_count)
    if not address and number is None and count is None:
        try:
            jax.distributed.initialize(initialization_timeout=config.machine.join_timeout)
        except (ValueError, RuntimeError) as error:
            raise OSError(
                f"multihost: JAX did not find or reach the other processes by itself ({str(error).splitlines()[0]}): "
                "say --coordinator, --process_id and --process_count in each"
            ) from None
        return
    host, _, port = address.rpartition(":")
    if number is None or count is None or not host or not _is_port(port):
        raise ValueError(
            f"multihost needs all of coordinator={address or '?'} (HOST:PORT of process 0), process_id="
            f"{'?' if number is None else number} and process_count={'?' if count is None else count}, or none of them "
            "on a cluster that JAX knows"
        )
    if count < 1:
        raise ValueError(f"process_count={count} must be at least 1")
    if not 0 <= number < count:
        raise ValueError(f"process_id={number} must lie between 0 and process_count - 1 = {count - 1}")
    if number:
        rendezvous.attend(address, number, count, config.machine.join_timeout)
        rendezvous.wait_for(host, int(port), config.machine.join_timeout).close()  # JAX's own service, which comes next
    else:
        rendezvous.gather(address, count, config.machine.join_timeout)
    try:
        jax.distributed.initialize(address, count, number, initialization_timeout=config.machine.join_timeout)
    except RuntimeError as error:
        raise OSError(
            f"not all of {count} processes came to the coordinator at {address} within {config.machine.join_timeout} s "
            f"({str(error).splitlines()[0][:120]}): start all of them, with the same --coordinator and --process_count"
        ) from None


def _is_port(text: str) -> bool:
    return text.isdecimal() and 0 < int(text) < 2**16


def _number(name: str, given: int | None) -> int | None:
    """A number by flag or environment."""
    found = os.environ.get(f"JAX_{name.upper()}", "")
    if given is not None or not found:
        return given
    if not found.isdigit():
        raise ValueError(f"JAX_{name.upper()}={found!r} is no whole number")
    return int(found)

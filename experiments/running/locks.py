"""One process at a time in a folder."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

LOCK, HOLDER = ".lock", ".holder"  # two files: on Windows nobody reads a file that is locked


@contextlib.contextmanager
def held(folder: Path, *, what: str, in_use: str) -> Iterator[None]:
    """Make a folder and keep other processes out of it; the lock ends with the process, however it ends.

    File systems that know no locks are left to the person's care.

    Args:
      folder: on this machine.
      what: the folder in the sentence of one that cannot be written.
      in_use: the sentence of one that another process holds; ``{holder}`` in it says which.

    Raises:
      OSError: if the folder cannot be written.
      ValueError: if another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LOCK).open("a").close()
    except OSError as error:
        raise OSError(f"cannot write {what} ({error.strerror or error}): choose another --workdir") from None
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(FileLock(folder / LOCK, timeout=0))
        except Timeout:
            holder = _holder(folder)
            raise ValueError(
                f"{in_use.replace('{holder}', holder)}: wait for it, or choose another --workdir"
            ) from None
        except (OSError, NotImplementedError):
            pass
        (folder / HOLDER).write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield


def _holder(folder: Path) -> str:
    """The process that holds the folder, in words."""
    with contextlib.suppress(OSError):
        return (folder / HOLDER).read_text().strip() or "another process"
    return "another process"

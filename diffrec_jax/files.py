"""The files of a run: on this machine or on a remote store (``gs://``), written whole or not at all.

Paths are those of ``etils.epath``, which reads and writes both; a remote store needs ``pip install gcsfs`` (extra
``gcs``).
"""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from etils import epath

from diffrec_jax.types import PathLike


def is_remote(path: PathLike) -> bool:
    """Whether the path is that of an object store, which has no renaming and no locks, and writes files whole."""
    return "://" in os.fspath(path)


def absolute(path: PathLike) -> epath.Path:
    """The path from the root; one on a remote store is so already."""
    return epath.Path(path) if is_remote(path) else epath.Path(Path(path).absolute())


def write_atomically(path: PathLike, content: str | bytes) -> None:
    """Write a file so that a reader, or a process that comes after a crash, sees the old content or the new.

    Raises:
      OSError: if it cannot be written, with the path and what to do; the old content is still there.
    """
    place = epath.Path(path)
    data = content.encode() if isinstance(content, str) else content
    with explained(path):
        if is_remote(path):
            place.write_bytes(data)
            return
        temporary = place.with_name(f".{place.name}.new")
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, place)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


@contextlib.contextmanager
def new_folder(path: PathLike) -> Iterator[Path]:
    """A local folder to write into; at the end it becomes ``path``, in place of an earlier one.

    On a remote store the files are put there one after the other, in the order they were written in.

    Raises:
      OSError: if it cannot be written, with the path and what to do; an earlier folder is still there.
    """
    with explained(path):
        if is_remote(path):
            with tempfile.TemporaryDirectory() as temporary:
                yield Path(temporary)
                for file in sorted(Path(temporary).iterdir(), key=lambda file: file.stat().st_mtime_ns):
                    (epath.Path(path) / file.name).write_bytes(file.read_bytes())
            return
        place = Path(path)
        temporary_path, old = (place.with_name(f".{place.name}.{word}") for word in ("new", "old"))
        shutil.rmtree(temporary_path, ignore_errors=True)
        temporary_path.mkdir(parents=True)
        try:
            yield temporary_path
        except BaseException:
            shutil.rmtree(temporary_path, ignore_errors=True)
            raise
        shutil.rmtree(old, ignore_errors=True)
        if place.exists():
            place.rename(old)
        temporary_path.rename(place)
        shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def explained(path: PathLike) -> Iterator[None]:
    """Turn a failure to write into one sentence about ``path``: what is the matter and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # a sentence already
            raise
        raise OSError(cannot_write(path, error.errno)) from error


def cannot_write(path: PathLike, number: int, *, resumes: str = "the last checkpoint") -> str:
    """The sentence for one of the numbers of ``errno``; the command that is run again goes on from ``resumes``."""
    remedies = {
        errno.ENOSPC: "make room",
        errno.EDQUOT: "make room in the quota",
        errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
        errno.EACCES: "allow writing there",
        errno.EPERM: "allow writing there",
        errno.EROFS: "make it writable",
    }
    remedy = remedies.get(number, "see what became of it")
    return (
        f"cannot write {path} ({os.strerror(number)}): {remedy}, and run the same command again; it goes on from "
        f"{resumes}"
    )

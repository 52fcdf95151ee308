"""A model as one compiled-anywhere program (``jax.export``): padded histories in, top-K or user vectors out.

The program is StableHLO with symbolic batch and history length, for cpu, cuda and tpu at once. Weights are arguments,
not constants: they lie beside it as safetensors, together with what ``prepare`` computes once from them. Item *numbers*
go in and out; ``items.parquet`` says which raw id each number is.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, TypedDict

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from diffrec_jax.data.rows import make_rows
from diffrec_jax.evaluation.ranking import mask_seen, top_k
from diffrec_jax.serving.ranker import Ranker
from diffrec_jax.serving.weights import flatten, read_arrays, write_weights
from diffrec_jax.types import PyTree

PLATFORMS = ("cpu", "cuda", "tpu")
MISSING = "exported programs need the package flatbuffers: pip install 'diffrec_jax[export]'"
PROGRAM, DESCRIPTION, WEIGHTS = "program.jax_export", "program.json", "weights.safetensors"


class Description(TypedDict):
    """What ``program.json`` says of a program."""

    inputs: list[str]  # name, type and shape of each
    outputs: list[str]
    k: int | None  # length of the lists; None: it gives user vectors
    n_items: int
    platforms: list[str]
    jax: str  # the version it was written with


def write_program(ranker: Ranker, folder: Path, *, k: int | None) -> Description:
    """Export the model of ``ranker``.

    Args:
      ranker: of the model; on one device.
      folder: gets the program, its weights and its description.
      k: length of the lists; None exports user vectors instead.

    Returns:
      The description.
    """
    held = {"params": ranker.params, "tables": ranker.tables}
    if k is not None:
        held["standing"] = ranker.standing
    state, tree = flatten(held), jax.tree.structure(held)
    further = [name for name, there in (("days", ranker.needs_days), ("logged", ranker.weighed)) if there]

    def program(weights: dict[str, jax.Array], items: jax.Array, lengths: jax.Array, *known: jax.Array) -> PyTree:
        held = jax.tree.unflatten(tree, [weights[name] for name in state])
        n_items, model = ranker.n_items, ranker.model
        given = dict(zip(further, known))
        days, logged = given.get("days"), given.get("logged")
        rows = make_rows(items, lengths, n_items=n_items, days=days, logged=logged, recency=ranker.recency)
        key = jax.random.fold_in(jax.random.key(0), 3)
        if k is None:
            return model.user_vectors(held["params"], rows, key=key, tables=held["tables"])
        scores = model.scores(held["params"], rows, key=key, tables=held["tables"])
        standing = held["standing"]
        scores = mask_seen(standing.settle(scores, lengths), make_rows(items, lengths, n_items=n_items))
        best, found = top_k(scores, k, place=standing.place)
        return jnp.where(jnp.isneginf(best), -1, found), best

    batch, length = jax.export.symbolic_shape("b, l")
    weights = {name: jax.ShapeDtypeStruct(a.shape, a.dtype) for name, a in state.items()}
    inputs = [jax.ShapeDtypeStruct((batch, length), np.int32), jax.ShapeDtypeStruct((batch,), np.int32)]
    inputs += [jax.ShapeDtypeStruct((batch, length), np.float32) for _ in further]
    with _without_source_locations():
        exported = jax.export.export(jax.jit(program), platforms=PLATFORMS)(weights, *inputs)
    description: Description = {
        "inputs": [
            "weights",
            "items int32 [b, l]",
            "lengths int32 [b]",
            *(f"{name} float32 [b, l]" for name in further),
        ],
        "outputs": ["user vectors float32 [b, v]"] if k is None else ["items int32 [b, k]", "scores float32 [b, k]"],
        "k": k,
        "n_items": ranker.n_items,
        "platforms": list(PLATFORMS),
        "jax": jax.__version__,
    }
    try:
        (folder / PROGRAM).write_bytes(bytes(exported.serialize()))
    except ImportError:
        raise ValueError(MISSING) from None
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")
    write_weights(folder / WEIGHTS, held)
    return description


@contextlib.contextmanager
def _without_source_locations() -> Iterator[None]:
    """Keep the paths of this machine's files out of the program."""
    limit = jax.config.values["jax_traceback_in_locations_limit"]
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", limit)


class Program(Protocol):
    """An exported program, weights filled in."""

    def __call__(self, items: ArrayLike, lengths: ArrayLike, *known: ArrayLike) -> "jax.Array | tuple[jax.Array, ...]":
        """User vectors ``[b, V]``, or the numbers and scores ``[b, K]`` of the best items, best first."""


def load_program(folder: str | Path) -> Program:
    """An exported program as a function of ``(items [b, l] int32, lengths [b] int32, …)``, weights filled in; further
    inputs, where ``program.json`` names any, are ``days`` and ``logged``, what each item counts, float32 like items.

    Programs are code and run when called: load only what you trust, as with any program.

    Raises:
      ValueError: if the folder holds no program that this JAX can read.
    """
    folder = Path(folder)
    try:
        exported = jax.export.deserialize(bytearray((folder / PROGRAM).read_bytes()))
    except ImportError:
        raise ValueError(MISSING) from None
    except OSError as error:
        raise ValueError(f"{folder} holds no exported program ({error}): export with --format=jax or vectors") from None
    except Exception as error:  # whatever the reader of another version's file raises
        raise ValueError(
            f"{folder / PROGRAM} cannot be read by JAX {jax.__version__} ({error}): export again"
        ) from None
    weights = {name: jnp.asarray(array) for name, array in read_arrays(folder / WEIGHTS).items()}
    call = jax.jit(exported.call)

    def program(items: ArrayLike, lengths: ArrayLike, *known: ArrayLike) -> jax.Array | tuple[jax.Array, ...]:
        found: jax.Array | tuple[jax.Array, ...]
        found = call(weights, jnp.asarray(items, jnp.int32), jnp.asarray(lengths, jnp.int32), *known)
        return found

    return program

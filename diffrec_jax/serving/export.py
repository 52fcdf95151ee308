"""Ways out, each a folder with a model card: weights and ids, a program, vectors for an index.

=============  =====================================================================================================
safetensors    everything ``load`` needs: weights, hyper-parameters, ids and titles, histories
jax            ``program.jax_export`` (histories in, top-K out), its weights, ``items.parquet``
vectors        ``item_vectors.npy``, a program from histories to user vectors, its weights, ``items.parquet``; and, if
               asked, vectors with their ids in parts (``vector_files``)
=============  =====================================================================================================

Nothing is pickled. A folder gets its name when it is complete.
"""

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from diffrec_jax.serving.card import Results, model_card
from diffrec_jax.serving.program import write_program
from diffrec_jax.serving.recommender import Recommender
from diffrec_jax.serving.vector_files import check_vector_files, write_vector_files
from diffrec_jax.serving.weights import write_weights


def export_safetensors(recommender: Recommender, folder: str | Path, *, results: Results | None = None) -> None:
    """Weights, hyper-parameters, ids and histories: what ``load`` reads, on any machine, without the run.

    Args:
      recommender: the model.
      folder: is made; must not exist.
      results: what the model card reports, as in a run's ``result.json``.

    Raises:
      ValueError: if the folder exists.
    """
    with _new_folder(folder) as temporary:
        recommender.content.write(temporary)
        write_weights(temporary / "weights.safetensors", recommender.ranker.params)
        _write_card(recommender, temporary, folder, "safetensors", results)


def export_program(
    recommender: Recommender, folder: str | Path, *, k: int = 100, results: Results | None = None
) -> None:
    """One program for cpu, cuda and tpu, of any batch size and history length: item numbers in, top-K out.

    Args:
      recommender, folder, results: as in ``export_safetensors``.
      k: length of the lists, cut to the catalogue.

    Raises:
      ValueError: if the folder exists, or for a bad ``k``.
    """
    if k < 1:
        raise ValueError(f"k={k} must be at least 1")
    with _new_folder(folder) as temporary:
        k = min(k, recommender.n_items)
        write_program(recommender.ranker, temporary, k=k)
        recommender.vocabulary.write_items(temporary)
        _write_card(recommender, temporary, folder, "jax", results, k=k, jax=jax.__version__)


def export_vectors(
    recommender: Recommender,
    folder: str | Path,
    *,
    files: Sequence[str] = (),
    users: bool = False,
    results: Results | None = None,
) -> None:
    """Item vectors for any index of maximum inner product, and the program that makes user vectors.

    Args:
      recommender, folder, results: as in ``export_safetensors``.
      files: ``parquet`` or ``json``, in parts with ids, beside ``item_vectors.npy``.
      users: also the vectors of all known users, in the same kinds of files.

    Raises:
      ValueError: if the folder exists, for an unknown kind of file, or for a model whose scores are no inner product.
    """
    check_vector_files(files)
    if users and not files:
        raise ValueError("the vectors of users come in parts: say which files, parquet or json")
    vectors = recommender.item_vectors()
    with _new_folder(folder) as temporary:
        np.save(temporary / "item_vectors.npy", vectors, allow_pickle=False)
        write_vector_files(recommender, temporary, files, users=users)
        write_program(recommender.ranker, temporary, k=None)
        recommender.vocabulary.write_items(temporary)
        _write_card(recommender, temporary, folder, "vectors", results, width=vectors.shape[1])


@dataclasses.dataclass(frozen=True)
class Format:
    """One way out.

    Attributes:
      export: writes it: ``(recommender, folder, *, results)``.
      lists: whether it holds lists, so that ``export`` takes their length, ``k``.
      vectors: whether it holds vectors, so that ``export`` takes ``files`` and ``users``.
    """

    export: Callable[..., None]
    lists: bool = False
    vectors: bool = False


FORMATS: Mapping[str, Format] = {
    "safetensors": Format(export_safetensors),
    "jax": Format(export_program, lists=True),
    "vectors": Format(export_vectors, vectors=True),
}


def _write_card(
    recommender: Recommender,
    temporary: Path,
    folder: str | Path,
    kind: str,
    results: Results | None,
    **loading: str | int,
) -> None:
    card = model_card(recommender.content, kind=kind, folder=Path(folder).name, results=results, **loading)
    (temporary / "README.md").write_text(card)


@contextlib.contextmanager
def _new_folder(folder: str | Path) -> Iterator[Path]:
    """A temporary folder that gets its name at the end, or vanishes."""
    folder = Path(folder)
    if folder.exists():
        raise ValueError(f"{folder} exists: name another folder, or remove it first")
    temporary = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)

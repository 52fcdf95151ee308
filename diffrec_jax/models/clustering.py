"""Clusters of items for the latent variants: k-means on item embeddings, and the cheap embeddings.

``k_means`` minimises ``Σ_i ‖v_i - m_{c(i)}‖²`` over assignments c and centres m, from ten seeded starts, the best kept.
``svd_embeddings`` factorises the interaction matrix, ``X ≈ U Σ Vᵀ``; the embedding of an item is its row of V Σ.

Source: the DiffRec paper (arXiv 2304.04971, Section 3.5) clusters LightGCN embeddings (``models.lightgcn``).
Letters: I items, D embedding width, C clusters.

scikit-learn is loaded where it is used: a second that every command and every model would spend at its start.
"""

import numpy as np
import scipy.sparse

from diffrec_jax.data.events import CSR
from diffrec_jax.models.cluster_vae import Clusters

N_STARTS = 10
LOPSIDED = 0.9  # share of the items in one cluster above which clusters are hardly that


def k_means(embeddings: np.ndarray, n_clusters: int, *, n_items: int, seed: int = 0) -> Clusters:
    """Cluster items by their embeddings ``[I, D]``.

    Raises:
      ValueError: for embeddings of other items or with values that are not finite; for more clusters than items; for a
        cluster left empty or with one item.
    """
    check_embeddings(embeddings, n_items)
    if not 1 <= n_clusters <= n_items:
        raise ValueError(f"n_cate={n_clusters} clusters cannot be made of {n_items} items: choose 1 to {n_items}")
    if n_clusters == 1:
        return Clusters(np.zeros(n_items, np.int32))
    distinct = len(np.unique(embeddings, axis=0))
    if distinct < n_clusters:
        raise ValueError(
            f"n_cate={n_clusters} clusters cannot be made of {distinct} distinct embeddings: use fewer clusters, or "
            "other item embeddings"
        )
    from sklearn.cluster import KMeans

    found = KMeans(n_clusters, n_init=N_STARTS, random_state=seed).fit(np.asarray(embeddings, np.float32))
    return Clusters(found.labels_)


def check_embeddings(embeddings: np.ndarray, n_items: int) -> None:
    """Refuse what is no finite embeddings ``[n_items, D]``.

    Raises:
      ValueError: saying what they are.
    """
    if embeddings.ndim != 2 or len(embeddings) != n_items or not embeddings.shape[1]:
        raise ValueError(
            f"item embeddings of shape {list(embeddings.shape)} do not fit {n_items} items: one row per item is needed"
        )
    if embeddings.dtype.kind not in "fiu":
        raise ValueError(f"item embeddings hold {embeddings.dtype}, not numbers")
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(bad):
        raise ValueError(f"the embedding of item {bad[0]} (and {len(bad) - 1} more) holds NaN or infinity: mend it")


def remarks(clusters: Clusters) -> list[str]:
    """What a person should know of the clusters: their sizes, and whether one holds nearly everything."""
    sizes = clusters.sizes
    sentences = [f"{len(sizes)} item clusters of {', '.join(f'{size:,}' for size in sizes)} items"]
    share = max(sizes) / sum(sizes)
    if len(sizes) > 1 and share > LOPSIDED:
        sentences.append(
            f"warning: cluster {int(np.argmax(sizes))} holds {share:.0%} of the items, so that little is gained by "
            "clustering: try other item embeddings, or another n_cate"
        )
    return sentences


def svd_embeddings(train: CSR, *, dim: int = 64, seed: int = 0) -> np.ndarray:
    """Item embeddings ``[I, D]`` float32 by TruncatedSVD of the interactions: seconds, where LightGCN takes minutes.

    Raises:
      ValueError: if the matrix has fewer rows or columns than ``dim``.
    """
    if not 1 <= dim <= min(train.n_items, train.n_users):
        raise ValueError(
            f"embeddings of width {dim} need as many users and items, and there are {train.n_users} and {train.n_items}"
        )
    from sklearn.decomposition import TruncatedSVD

    ones = np.ones(train.n_interactions, np.float32)
    matrix = scipy.sparse.csr_matrix((ones, train.indices, train.indptr), shape=(train.n_users, train.n_items))
    found: np.ndarray = TruncatedSVD(dim, random_state=seed).fit_transform(matrix.T).astype(np.float32)
    return found

"""The shortlist of search: the vectors with the largest products, found by FAISS.

With up to FLAT_LIMIT vectors all products are computed (IndexFlatIP), which is exact. More vectors are divided into
4 sqrt(n) lists by a spherical k-means, and the nearest sixteenth of the lists is searched (IndexIVFFlat), or enough
lists for four times the shortlist if that is more.

Letters: n vectors, e global size, S shortlist, L lists.
"""

import numpy as np

from bssan_lib.errors import ConfigError

FLAT_LIMIT = 200_000  # vectors; one core computes so many products faster than the model scores a shortlist
PROBED = 16  # 1/16 of the lists is searched
TRAIN_POINTS = 64  # k-means uses at most so many vectors per list


def import_faiss():
    """Imports FAISS. Raises ConfigError with the installation command if it is missing."""
    try:
        import faiss
    except ImportError as error:
        raise ConfigError(
            f"search in a gallery needs FAISS ({error}); install it with: pip install 'bssan[search]' or, in a clone, "
            "pip install -c constraints.txt -e '.[search]'"
        ) from None
    return faiss


def inverted_lists(vectors: np.ndarray, limit: int = FLAT_LIMIT, seed: int = 0) -> tuple[np.ndarray, np.ndarray] | None:
    """Centres [L, e] and the list of each vector [n]; None if there are at most `limit` vectors. vectors: [n, e]."""
    if len(vectors) <= limit:
        return None
    faiss = import_faiss()
    vectors = np.ascontiguousarray(vectors, np.float32)
    lists = max(1, round(4 * len(vectors) ** 0.5))
    means = faiss.Kmeans(
        vectors.shape[1],
        lists,
        niter=10,
        seed=seed,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=TRAIN_POINTS,
    )
    means.train(vectors)
    return means.centroids, means.assign(vectors)[1].astype(np.int64)


class VectorSearch:
    """Finds the vectors with the largest products.

    vectors: [n, e] of norm one. lists: from `inverted_lists`, or None.
    """

    def __init__(self, vectors: np.ndarray, lists: tuple[np.ndarray, np.ndarray] | None = None):
        faiss = import_faiss()
        vectors = np.ascontiguousarray(vectors, np.float32)
        self.size = len(vectors)
        if lists is None:
            self.index = faiss.IndexFlatIP(vectors.shape[1])
            self.index.add(vectors)
            return
        from faiss.contrib.ivf_tools import add_preassigned

        centres, of = (np.ascontiguousarray(part) for part in lists)
        quantizer = faiss.IndexFlatIP(vectors.shape[1])
        quantizer.add(centres)
        self.index = faiss.IndexIVFFlat(quantizer, vectors.shape[1], len(centres), faiss.METRIC_INNER_PRODUCT)
        self.index.is_trained = True
        add_preassigned(self.index, vectors, of)

    def candidates(self, vector: np.ndarray, shortlist: int) -> np.ndarray:
        """The `shortlist` rows with the largest products with a vector [e], best first.

        If the shortlist can contain all rows, returns them in their order.
        """
        if shortlist >= self.size:
            return np.arange(self.size)
        if hasattr(self.index, "nprobe"):
            lists = self.index.nlist
            self.index.nprobe = min(lists, max(-(-lists // PROBED), -(-4 * shortlist * lists // self.size)))
        _, rows = self.index.search(np.ascontiguousarray(vector[None], np.float32), shortlist)
        return rows[0][rows[0] >= 0]  # fewer, if the searched lists contain fewer

"""What lists should be, computed the slow way."""

import hashlib

import numpy as np


def ranked(scores, item_ids, popularity, seen=None):
    """Item numbers of each row of ``scores [n, I]``, best first, without those ``seen [n, I]``: items without training
    users last, equal scores by 8 bytes of the hash of their ids."""
    keys = [hashlib.blake2b(str(id_).encode(), digest_size=8).hexdigest() for id_ in np.asarray(item_ids).tolist()]
    unknown = np.asarray(popularity) == 0
    lists = []
    for n, row in enumerate(np.asarray(scores)):
        order = sorted(range(len(row)), key=lambda i: (unknown[i], 0.0 if unknown[i] else -row[i], keys[i]))
        lists.append([i for i in order if seen is None or not seen[n, i]])
    return lists

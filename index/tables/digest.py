"""A digest of labels and codes that can be carried on with each change."""

import numpy as np
from numpy.typing import NDArray

from index.codes import in_words
from index.items import CodeTable


def digest(table: CodeTable) -> int:
    """Sum of 64-bit hashes of the rows (id, label, code), modulo 2^64.

    A sum has no order and can be carried on with each change. It tells damage, not forgery.
    Mixing: the finaliser of SplitMix64 (Steele, Lea, Flood 2014), chained over the words of a row.
    """
    hashes = _mix(table.ids.astype(np.uint64))
    for column in (table.labels.astype(np.uint64), *in_words(table.codes).T):
        hashes = _mix(hashes ^ column)
    return int(hashes.sum(dtype=np.uint64))


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))

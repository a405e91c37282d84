"""What the codes themselves say of the encoder: bits that never change, bits that repeat others, and items
that share a code."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from index.codes import Codes, check_codes, in_words, unpack

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]

# Codes whose bits are held as float32 at a time: 32 MB of 256 bits; counts below 2^24 are exact.
BLOCK = 2**15


@dataclass(frozen=True)
class BitStatistics:
    """Of n codes of b bits; all exact up to the last rounding."""

    balance: Floats  # (b,) share of ones
    entropy: Floats  # (b,) in bits, 0 for one that never changes and 1 for one that is balanced
    correlation: Floats  # (b, b) Pearson's, NaN where a bit never changes

    @property
    def dead(self) -> Counts:
        """The bits that never change (d,)."""
        return np.flatnonzero((self.balance == 0) | (self.balance == 1))

    @property
    def effective(self) -> float:
        """The number of bits that would say as much if they were uncorrelated.

        (Σλ)² / Σλ² over the eigenvalues λ of the correlation matrix of the m bits that change, which is
        m² / Σ r²: 1 where all say the same, m where none says anything of another. Bretherton et al., "The
        effective number of spatial degrees of freedom of a time-varying field", Journal of Climate 1999.
        """
        living = len(self.balance) - len(self.dead)
        return float(living**2 / np.nansum(self.correlation**2)) if living else 0.0

    @property
    def mean_absolute_correlation(self) -> float:
        """Over the pairs of bits that change; 0 if there is none."""
        values = np.abs(self._pairs())
        there = ~np.isnan(values)
        return float(values[there].mean()) if there.any() else 0.0

    def most_correlated(self, count: int) -> list[tuple[int, int, float]]:
        """The pairs of bits with the largest absolute correlation, which follows them; at most `count`."""
        rows, columns = np.triu_indices(len(self.balance), 1)
        values = self._pairs()
        order = np.argsort(-np.abs(values), kind="stable")[:count]  # NaN come last
        return [
            (int(rows[at]), int(columns[at]), float(values[at])) for at in order if values[at] == values[at]
        ]

    def _pairs(self) -> Floats:
        """Correlations above the diagonal (b (b − 1) / 2,)."""
        pairs: Floats = self.correlation[np.triu_indices(len(self.balance), 1)]
        return pairs


def bit_statistics(codes: Codes) -> BitStatistics:
    """Of codes (n, b/8): one product of b² · n multiplications, in blocks. ValueError if there are none."""
    codes = check_codes(codes)
    n, b = len(codes), 8 * codes.shape[1]
    if not n:
        raise ValueError("there are no codes")
    both = np.zeros((b, b), np.int64)  # codes in which two bits are one
    for start in range(0, n, BLOCK):
        bits = unpack(codes[start : start + BLOCK]).astype(np.float32)
        both += (bits.T @ bits).astype(np.int64)
    ones = both.diagonal()
    covariance = n * both - np.outer(ones, ones)  # times n²; integers, so that what cancels cancels
    deviation = np.sqrt(covariance.diagonal().astype(np.float64))
    deviation[deviation == 0] = np.nan
    balance = ones / n
    return BitStatistics(balance, _entropy(balance), covariance / np.outer(deviation, deviation))


def same_code(codes: Codes) -> tuple[NDArray[np.intp], Counts]:
    """An order (n,) of codes (n, b/8) that brings equal ones together, stable, and where in it the stretches
    of equal ones begin (distinct,)."""
    words = in_words(codes)  # sorting numbers is several times faster than sorting strings of bytes
    order = np.lexsort(words.T)
    words = words[order]
    new = np.concatenate([np.ones(min(len(codes), 1), np.bool_), (words[1:] != words[:-1]).any(axis=1)])
    return order, np.flatnonzero(new)


def _entropy(share: Floats) -> Floats:
    """Of a coin with this share of ones, in bits."""
    shares = np.stack([share, 1 - share])
    logs = np.log2(shares, where=shares > 0, out=np.zeros_like(shares))
    entropy: Floats = np.abs((shares * logs).sum(axis=0))
    return entropy

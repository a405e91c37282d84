"""Binary codes: n codes of b bits are a uint8 array (n, b/8), most significant bit first."""

import string

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.uint8]  # (n, bits/8), the order of numpy.packbits

_POPCOUNT = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1).astype(np.int32)


def pack(bits: NDArray[np.bool_]) -> Codes:
    """Bits (n, b) as codes (n, b/8). ValueError unless b is a multiple of 8."""
    if bits.ndim != 2 or bits.shape[1] % 8:
        raise ValueError(f"bits have shape {bits.shape}; wanted (n, b) with b a multiple of 8")
    if bits.dtype != np.bool_:
        raise ValueError(f"bits have type {bits.dtype}; wanted bool")
    return np.packbits(bits, axis=1)


def unpack(codes: Codes) -> NDArray[np.bool_]:
    """Codes (n, b/8) as bits (n, b)."""
    return np.unpackbits(check_codes(codes), axis=1).astype(np.bool_)


def in_words(codes: Codes) -> NDArray[np.uint64]:
    """Codes (n, b/8) as little-endian numbers of 64 bits (n, ⌈b/64⌉), zeros after the last bytes."""
    missing = -codes.shape[1] % 8
    return np.pad(check_codes(codes), ((0, 0), (0, missing))).view("<u8")


def hamming(queries: Codes, database: Codes) -> NDArray[np.int32]:
    """Distances (q, n) in bits between all queries and all database codes.

    Plain numpy: the reference the engines are held against, not the way to search.
    """
    database = check_codes(database)
    queries = check_codes(queries, bits=8 * database.shape[1])
    distances = np.empty((len(queries), len(database)), dtype=np.int32)
    for query, row in zip(queries, distances, strict=True):  # one row at a time bounds memory
        _POPCOUNT[query ^ database].sum(axis=1, out=row)
    return distances


def to_hex(code: Codes) -> str:
    """One code, (bytes,) or (1, bytes), as lower-case hexadecimal."""
    if code.dtype != np.uint8 or code.ndim not in (1, 2) or (code.ndim == 2 and len(code) != 1):
        raise ValueError(f"one uint8 code wanted, got {code.dtype} of shape {code.shape}")
    return code.tobytes().hex()


def from_hex(text: str, bits: int) -> Codes:
    """The code (1, bits/8) that `to_hex` wrote. ValueError says what is wrong with the text."""
    strange = sorted(set(text) - set(string.hexdigits))
    if strange:
        raise ValueError(f"a code consists of hexadecimal digits; found {strange[0]!r}")
    if len(text) * 4 != bits:
        raise ValueError(f"a {bits}-bit code has {bits // 4} hexadecimal digits, not {len(text)}")
    return np.frombuffer(bytes.fromhex(text), dtype=np.uint8).reshape(1, -1).copy()


def check_codes(codes: Codes, *, bits: int | None = None) -> Codes:
    """The codes, contiguous. ValueError unless they are uint8 (n, bits/8)."""
    if codes.dtype != np.uint8 or codes.ndim != 2:
        raise ValueError(f"codes have type {codes.dtype} and shape {codes.shape}; wanted uint8 (n, bits/8)")
    if bits is not None and 8 * codes.shape[1] != bits:
        raise ValueError(f"codes have {8 * codes.shape[1]} bits; wanted {bits}")
    return np.ascontiguousarray(codes)

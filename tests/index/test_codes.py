import numpy as np
import pytest

from index.codes import from_hex, hamming, pack, to_hex, unpack
from tests.reference import hamming_distance


def bits(n: int, b: int) -> np.ndarray:
    return np.random.default_rng(n * b).random((n, b)) < 0.5


@pytest.mark.parametrize("shape", [(0, 8), (1, 8), (3, 24), (5, 256)])
def test_unpack_undoes_pack(shape: tuple[int, int]) -> None:
    given = bits(*shape)
    codes = pack(given)
    assert codes.dtype == np.uint8
    assert codes.shape == (shape[0], shape[1] // 8)
    assert np.array_equal(unpack(codes), given)


def test_the_first_bit_is_the_most_significant() -> None:
    assert pack(np.array([[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]], dtype=bool)).tolist() == [
        [128, 3]
    ]


@pytest.mark.parametrize("off", [np.zeros((2, 7), bool), np.zeros(8, bool), np.zeros((2, 8))])
def test_pack_refuses_what_is_no_table_of_bits(off: np.ndarray) -> None:
    with pytest.raises(ValueError, match="wanted"):
        pack(off)


def test_hamming_counts_differing_bits() -> None:
    queries, database = pack(bits(4, 40)), pack(bits(7, 40))
    expected = [[hamming_distance(q.tobytes(), d.tobytes()) for d in database] for q in queries]
    distances = hamming(queries, database)
    assert distances.dtype == np.int32
    assert distances.tolist() == expected


def test_hamming_refuses_codes_of_two_widths() -> None:
    with pytest.raises(ValueError, match="16 bits; wanted 24"):
        hamming(pack(bits(1, 16)), pack(bits(1, 24)))


def test_hex_there_and_back() -> None:
    code = pack(bits(1, 256))
    assert to_hex(code) == to_hex(code[0]) == code.tobytes().hex()
    assert np.array_equal(from_hex(to_hex(code).upper(), 256), code)


@pytest.mark.parametrize(
    ("text", "fault"),
    [("0g", "'g'"), (" 0", "' '"), ("", "not 0"), ("000", "not 3"), ("\u0663\u0663", "hexadecimal")],
)
def test_from_hex_names_the_fault(text: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        from_hex(text, 8)


def test_to_hex_takes_one_code() -> None:
    with pytest.raises(ValueError, match="one uint8 code"):
        to_hex(pack(bits(2, 16)))

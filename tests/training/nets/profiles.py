"""Small ICC profiles, and the colours that they mean by the formulas of ICC.1:2022 and IEC 61966-2-1."""

import struct

import numpy as np

# X, Y, Z of red, green and blue, adapted to D50, one a column.
PRIMARIES = {
    "sRGB": [[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]],
    "Display P3": [[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]],
    "Adobe RGB": [[0.60974, 0.20528, 0.14919], [0.31111, 0.62567, 0.06322], [0.01947, 0.06087, 0.74457]],
    "ProPhoto": [[0.79767, 0.13519, 0.03134], [0.28804, 0.71188, 0.00009], [0.0, 0.0, 0.82491]],
}
GAMMAS = {"Adobe RGB": 563 / 256, "ProPhoto": 1.8}  # the others have sRGB's curve
D50 = (0.9642, 1.0, 0.8249)


def linear(values, space):
    """Of 0 … 1, as the curve of the space has it."""
    if space in GAMMAS:
        return values ** GAMMAS[space]
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def curved(values, space):
    """The inverse."""
    values = np.clip(values, 0, 1)
    if space in GAMMAS:
        return values ** (1 / GAMMAS[space])
    return np.where(values <= 0.0031308, values * 12.92, 1.055 * values ** (1 / 2.4) - 0.055)


def converted(pixels, source, target):
    """uint8 pixels (…, 3) of one space in another."""
    matrix = np.linalg.inv(PRIMARIES[target]) @ PRIMARIES[source]
    values = curved(linear(pixels / 255, source) @ matrix.T, target)
    return (values * 255).round().astype(np.uint8)


def lab_to_srgb(lightness, a, b):
    """A colour of CIELAB, D50, as 8-bit sRGB."""
    y = (lightness + 16) / 116
    f = np.array([y + a / 500, y, y - b / 200])
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * D50
    return (curved(np.linalg.inv(PRIMARIES["sRGB"]) @ xyz, "sRGB") * 255).round().astype(int)


def rgb_profile(space):
    """Of a matrix and a curve."""
    columns = zip(*PRIMARIES[space], strict=True)
    tags = {name + b"XYZ": _xyz(*column) for name, column in zip((b"r", b"g", b"b"), columns, strict=True)}
    samples = linear(np.linspace(0, 1, 1024), space)
    return _profile(
        b"mntr", b"RGB ", b"XYZ ", tags | {name + b"TRC": _curve(samples) for name in (b"r", b"g", b"b")}
    )


def grey_profile(gamma):
    """Of a curve."""
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": _curve(np.linspace(0, 1, 1024) ** gamma)})


def cmyk_profile(corners):
    """Of what lies between its corners: `corners` gives CIELAB for each of (0 or 1)⁴."""
    grid = bytes(
        value
        for c in (0, 1)
        for m in (0, 1)
        for y in (0, 1)
        for k in (0, 1)
        for value in _lab8(*corners(c, m, y, k))
    )
    identity = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + identity * 4 + grid + identity * 3
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": table})


def _lab8(lightness, a, b):
    return round(lightness * 2.55), round(a + 128), round(b + 128)


def _xyz(*values):
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in values))


def _curve(samples):
    numbers = np.round(np.asarray(samples) * 65535).astype(">u2")
    return b"curv" + bytes(4) + struct.pack(">I", len(numbers)) + numbers.tobytes()


def _profile(kind, space, connection, tags):
    name = b"desc" + bytes(4) + struct.pack(">I", 2) + b"x\0" + bytes(78)
    tags = {b"desc": name, b"cprt": b"text" + bytes(4) + b"none\0", b"wtpt": _xyz(*D50)} | tags
    table, data = b"", b""
    for tag, content in tags.items():
        table += tag + struct.pack(">II", 132 + 12 * len(tags) + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    size = 132 + len(table) + len(data)
    head = struct.pack(">I4xI4s4s4s12x4s28x", size, 0x02100000, kind, space, connection, b"acsp")
    head += struct.pack(">3i", *(round(value * 65536) for value in D50))
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + data

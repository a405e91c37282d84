"""Files that any viewer shows and Pillow refuses, without what it refuses them for. No pixel is changed."""

import re
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from numpy.typing import NDArray

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
END_OF_JPEG = b"\xff\xd9"
# Chunks that are not critical and yet decide what a PNG looks like.
SHOWN = {b"tRNS", b"iCCP", b"eXIf"}
PACKED = {b"zTXt", b"iTXt"}  # kept where they are whole, so that their size goes on being looked at
# What comes where a JPEG's data breaks off must not matter. A decoder at an end goes on with zeros.
ANYTHING = bytes(0xAA ^ (value & 0x55) for value in range(64)) * 64
MARKER = re.compile(rb"\xff+([^\x00\xff])")
ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without data


class Chunk(NamedTuple):
    """Of a PNG."""

    kind: bytes
    data: bytes
    sound: bool  # its checksum is right
    whole: bytes  # with length, kind and checksum


def chunks(png: bytes) -> Iterator[Chunk]:
    """As far as they go on."""
    at = len(PNG)
    while at + 12 <= len(png):
        length = int.from_bytes(png[at : at + 4], "big")
        end = at + 12 + length
        if end > len(png):
            return
        kind, data = png[at + 4 : at + 8], png[at + 8 : end - 4]
        sound = zlib.crc32(png[at + 4 : end - 4]) == int.from_bytes(png[end - 4 : end], "big")
        yield Chunk(kind, data, sound, png[at:end])
        at = end


def png_without_damage(png: bytes) -> bytes:
    """Without the chunks that are damaged or say nothing of the picture, of those that may be left out (PNG
    specification, third edition, 5.4 and 13.1)."""
    kept, end = [PNG], len(PNG)
    for chunk in chunks(png):
        end += len(chunk.whole)
        if _matters(chunk):
            kept.append(chunk.whole)
    return b"".join(kept) + png[end:]


def _matters(chunk: Chunk) -> bool:
    critical = not chunk.kind[0] & 0x20
    return critical or (chunk.sound and _is_whole(chunk))


def _is_whole(chunk: Chunk) -> bool:
    name, separator, rest = chunk.data.partition(b"\0")
    if chunk.kind in {b"zTXt", b"iCCP"}:
        return bool(name and separator) and rest[:1] == b"\0"  # the one method of compression that there is
    return chunk.kind in SHOWN | PACKED


def depth_of_png(png: bytes, values: NDArray[Any]) -> int:
    """Bits of 16-bit grey, by its chunk sBIT; 0 where there is none.

    By the specification (12.4) all 16 bits are used whatever was significant, but cameras' software writes
    numbers as they come. They are told by the bits that the specification leaves empty in such dark pictures.
    """
    bits = next((chunk.data[0] for chunk in chunks(png) if chunk.kind == b"sBIT" and chunk.data), 0)
    if not 0 < bits < 16:
        return bits and 16
    as_they_come = values.max() < 1 << bits and bool((values & ((1 << (16 - bits)) - 1) > 1).any())
    return bits if as_they_come else 16


def jpeg_without_oddities(jpeg: bytes) -> bytes:
    """Without segments of applications that say nothing of the picture, or are too short for what they claim
    to be, and without what stands between segments, as libjpeg passes them over."""
    kept, at = [jpeg[:2]], 2
    while (found := MARKER.search(jpeg, at)) is not None and found[1] != b"\xda":
        marker, at = found[1][0], found.end()
        if marker in ALONE:
            continue
        length = max(int.from_bytes(jpeg[at : at + 2], "big"), 2)
        if _belongs(marker, jpeg[at + 2 : at + length]):
            kept.append(b"\xff" + found[1] + jpeg[at : at + length])
        at += length
    return b"".join(kept) + (jpeg[found.start() :] if found else b"")


def _belongs(marker: int, data: bytes) -> bool:
    if marker == 0xE0:
        return data.startswith(b"JFIF\0") and len(data) >= 14
    if marker == 0xE1:
        return data.startswith(b"Exif\0\0")
    if marker == 0xE2:
        return data.startswith(b"ICC_PROFILE\0") and len(data) > 14
    if marker == 0xEE:
        return data.startswith(b"Adobe") and len(data) >= 12
    return not (0xE0 <= marker <= 0xEF or marker == 0xFE)


def two_ends(jpeg: bytes) -> tuple[bytes, bytes]:
    """A JPEG without its end marker, with two different ends. Where all pixels are there, both look alike."""
    data = jpeg.rstrip(b"\xff")
    return data + END_OF_JPEG, data + ANYTHING + END_OF_JPEG

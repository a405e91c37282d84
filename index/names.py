"""Names of files: text to show, to store and to compare.

On Linux a name is any bytes but slashes. Python has those that are no UTF-8 as lone surrogates (PEP 383), and
so have the names here; neither a database nor JSON takes them.
"""

import io
import re
import sys
import unicodedata

UNREADABLE = "\N{REPLACEMENT CHARACTER}"
NO_CHARACTER = re.compile("[\ud800-\udfff]")
BYTE = re.compile("[\udc80-\udcff]")
STORED_BYTE = re.compile("//([89a-f][0-9a-f])")
# Controls and line breaks; and what turns the direction of the text that follows.
UNSAFE = ("Cc", "Zl", "Zp")
TURNING = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


def shown(name: str) -> str:
    """A name as text: � stands for each byte that is no character."""
    return NO_CHARACTER.sub(UNREADABLE, name)


def on_a_line(name: str) -> str:
    """For a terminal, where a name must neither move the cursor nor turn what is written after it."""
    return "".join(UNREADABLE if _is_unsafe(letter) else letter for letter in shown(name))


def _is_unsafe(letter: str) -> bool:
    return unicodedata.category(letter) in UNSAFE or unicodedata.bidirectional(letter) in TURNING


def normal(name: str) -> str:
    """What names are compared by: macOS writes é as two characters, others as one (NFC of UAX #15)."""
    return unicodedata.normalize("NFC", name)


def spellings(name: str) -> set[str]:
    """A name as it is, composed and decomposed: each is the same name."""
    return {name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))}


def stored(path: str) -> str:
    """A relative path as text of which `from_stored` makes the same path again.

    No part of a path is empty: two slashes and two hexadecimal digits stand for a byte that is no character.
    """
    return BYTE.sub(lambda byte: f"//{ord(byte[0]) - 0xDC00:02x}", path)


def from_stored(text: str, folder: str | None = None) -> str:
    """The path of which `stored` made this text. In no `folder`, the empty one, it is a name and no path."""
    return text if folder == "" else STORED_BYTE.sub(lambda byte: chr(0xDC00 + int(byte[1], 16)), text)


def take_any_letter() -> None:
    """Have standard output write ? for a letter that its terminal does not know, as standard error does."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")

"""Names of files, from bytes to text and back."""

import io
import os
import sys

import pytest

from index.names import from_stored, normal, on_a_line, shown, spellings, stored, take_any_letter


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"caf\xe9.png", "caf\ufffd.png"),
        (b"\xe9", "\ufffd"),
        (b"a\xff\xfe/\x80b", "a\ufffd\ufffd/\ufffdb"),
        (b"\xed\xa0\x80", "\ufffd\ufffd\ufffd"),  # half of a surrogate pair is no UTF-8
        ("café/ab/e9/👩\u200d🚀.png".encode(), "café/ab/e9/👩\u200d🚀.png"),
        (b"a\nb", "a\nb"),
    ],
)
def test_any_name_is_stored_as_text_and_found_again(name: bytes, text: str) -> None:
    path = os.fsdecode(name)
    assert stored(path).encode().decode() == stored(path)
    assert os.fsencode(from_stored(stored(path))) == name
    assert shown(path) == text
    assert (stored(path) == path) == (text == path)  # as it was before there was a rule


def test_what_was_sent_in_no_folder_has_a_name_and_no_path() -> None:
    assert from_stored("https://ab.example/x.png", "") == "https://ab.example/x.png"


def test_names_are_compared_by_what_they_say() -> None:
    assert normal("cafe\u0301.png") == normal("café.png") == "café.png"
    assert spellings("café") == spellings("cafe\u0301") == {"café", "cafe\u0301"}
    assert spellings("cat") == {"cat"}
    assert normal("\udce9") != normal("\udce8")


@pytest.mark.parametrize(
    "harmless", ["soft\u00adhyphen", "\u200emark", "\ue000", "\U0001fae9", "\u0b95\u200c", "Å"]
)
def test_a_line_for_people_holds_any_letter(harmless: str) -> None:
    assert on_a_line(harmless) == harmless


@pytest.mark.parametrize(
    "harmful", ["\n", "\x1b", "\r", "\x9b", "\u2028", "\u202e", "\u2066", "\u2069", "\udce9"]
)
def test_and_none_that_breaks_or_turns_it(harmful: str) -> None:
    assert on_a_line(f"a{harmful}b") == "a\ufffdb"


def test_a_terminal_that_does_not_know_a_letter_shows_another(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding="latin-1", errors="strict"))
    take_any_letter()
    print("é – x", flush=True)
    assert output.getvalue() == b"\xe9 ? x\n"

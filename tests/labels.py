"""Texts, and what they are as labels: what index/labels.py, the routes, the command and the page all say."""

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"  # one emoji of three that are joined
# What is given, and the label that it is.
TAKEN = [
    ("owl", "owl"),
    (" tawny owl\t", "tawny owl"),
    ("owl\r\n", "owl"),
    ("\u3000\u2028owl\x85\u00a0", "owl"),
    ("cafe\u0301", "café"),
    ("Å\u212b", "ÅÅ"),  # the sign of a unit is the letter
    ("\u1112\u1161\u11ab\u1100\u1173\u11af", "한글"),
    ("می\u200cخواهم", "می\u200cخواهم"),
    (FAMILY, FAMILY),
    ("\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",) * 2,  # England, by tags
    ("no\u00a0break\u202fspace", "no\u00a0break\u202fspace"),
    ("soft\u00adhyphen", "soft\u00adhyphen"),
    ("\u200fימין\u200e", "\u200fימין\u200e"),
    ("\ue000 private", "\ue000 private"),
    ("\U0001fae9 of Unicode 16", "\U0001fae9 of Unicode 16"),
    ("o" * 200, "o" * 200),
    ("\U0001f989" * 200, "\U0001f989" * 200),
    ("e\u0301" * 200, "é" * 200),
    (" " * 400 + "owl" + " " * 400, "owl"),
]
# What is given, and what is said of it.
REFUSED = [
    ("o\x00wl", "control character", "position 2"),
    ("owl\x07", "control character", "position 4"),
    (" \towl\x1b[0m", "control character", "position 6"),
    ("two\nlines", "control character", "position 4"),
    ("tab\tbed", "control character", "position 4"),
    ("\x9fowl", "control character", "position 1"),
    ("\x1cowl", "control character", "position 1"),
    ("\x7f", "control character", "position 1"),
    ("\U0001f989e\u0301\x01", "control character", "position 4"),  # of what was given
    ("two\u2028lines", "line break", "position 4"),
    ("two\u2029lines", "line break", "position 4"),
    ("o" * 201, "201 characters", "at most 200"),
    ("\u0958" * 101, "202 characters", "at most 200"),  # each is two in NFC
    ("e\u0301" * 201, "201 characters", "at most 200"),
    ("e" + "\u0301" * 2000, "characters", "at most 200"),
]


def rename_labels(artifact: Path, names: Mapping[str, str]) -> None:
    """As an earlier version took labels: whatever they were."""
    manifest = artifact / "manifest.json"
    written = json.loads(manifest.read_text(encoding="utf-8"))
    written["classes"] = [names.get(name, name) for name in written["classes"]]
    manifest.write_text(json.dumps(written), encoding="utf-8")
    with closing(sqlite3.connect(artifact / "catalogue.sqlite")) as connection, connection:
        for name, other in names.items():
            connection.execute("UPDATE classes SET name = ? WHERE name = ?", (other, name))

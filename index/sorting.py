"""The orders in which images are listed."""

from typing import Literal

Sort = Literal["id", "time", "name", "label", "confidence", "doubt"]

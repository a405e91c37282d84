"""How an image came to its label."""

from typing import Literal, get_args

# A person chose it, accepted a predicted one, or accepted many predicted ones at once.
Source = Literal["given", "accepted", "group"]
SOURCES: tuple[Source, ...] = get_args(Source)

"""How a mean average precision may be counted: the names alone, without what computes it.

Whoever only speaks of them, as the client does, loads neither numpy nor FAISS.
"""

from typing import Literal

Ties = Literal["expected", "order"]
Denominator = Literal["min", "retrieved"]

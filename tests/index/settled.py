"""An engine of cells that makes them at once instead of in the background, so that tests meet them."""

from index.items import Changes
from index.ivf import IvfEngine


class SettledEngine(IvfEngine):
    """Its cells are there when `apply` returns."""

    def apply(self, changes: Changes) -> None:
        super().apply(changes)
        self.settle()

"""How one artifact takes another one's place: as both catalogues note it."""

from collections.abc import Iterator
from contextlib import contextmanager

from index.items import SUCCESSOR
from index.tables.changing import write_notes
from index.tables.reading import Reader
from index.tables.rows import noted


class Succession(Reader):
    """A catalogue of which another one may take the place, or that may take another one's."""

    def check_in_place(self) -> None:
        """Superseded where another artifact took this one's place."""
        with self._connections.reading() as connection:
            self._connections.refuse_superseded(connection)

    def come_back(self) -> None:
        """Let it be changed though another took its place: it is to take over from that one again."""
        self._connections.returns_from = self.noted(SUCCESSOR)

    @contextmanager
    def handing_over(self, successor: str) -> Iterator[None]:
        """Nobody, in no process, changes it within; at the end, unless that raises, `successor` has its place
        and nobody can any more. Superseded where another one has it."""
        with self._connections.writing() as (connection, _):
            yield
            write_notes(connection, {SUCCESSOR: successor})

    def take_over(self, predecessor: str, *, since: str, before: str) -> dict[str, str | None]:
        """Have no successor any more, and note the predecessor under the key `before` and under `since` the
        revision from which on what is done here, is done here alone. What these keys had."""
        with self._connections.writing() as (connection, revision):
            had = {key: noted(connection, key) for key in (since, before, SUCCESSOR)}
            write_notes(connection, {since: str(revision), before: predecessor, SUCCESSOR: None})
        self._connections.returns_from = None
        return had

"""How one artifact takes another one's place: as both catalogues note it."""

from collections.abc import Iterator
from contextlib import contextmanager

from index.items import MOVED, SUCCESSOR
from index.tables.changing import write_notes
from index.tables.checksums import seal_notes
from index.tables.connections import Connections
from index.tables.moving import copy
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

    def move_into(self, target: Connections) -> dict[str, int]:
        """Bring all that there is into a place without a catalogue, all of it or nothing, and change this one
        no more; how many rows each table has. What is there then is compared with what was here.
        CatalogueError; Superseded where it was moved before, or another artifact has its place."""
        with self._connections.noting() as source:
            write_notes(source, {})  # which keeps others from writing from here on
            self._connections.refuse_superseded(source)
            with target.preparing() as there:
                counts = copy(source, there, self.bits)
                target.database.give_above(there, self._connections.database.last_id(source))
            write_notes(source, {MOVED: str(target.path)})
            seal_notes(source)
        return counts

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

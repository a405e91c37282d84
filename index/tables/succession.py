"""How one artifact takes another one's place: as both catalogues note it."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

from sqlalchemy import Connection

from index.items import MOVED, SUCCESSOR, SUCCESSOR_AT
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
            counts = self._copy(source, target)
            write_notes(source, {MOVED: str(target.path)})
            seal_notes(source)
        return counts

    def copy_into(self, target: Connections, at: AbstractContextManager[object]) -> None:
        """Bring all that there is into a place without a catalogue, as it is at one moment within `at`, all
        of it or nothing. What is there then is compared with what is here. CatalogueError."""
        with self._connections.reading() as source:
            with at:
                noted(source, MOVED)  # this state is what the connection sees from here on
            self._copy(source, target)

    def _copy(self, source: Connection, target: Connections) -> dict[str, int]:
        with target.preparing() as there:
            counts = copy(source, there, self.bits)
            target.database.give_above(there, self._connections.database.last_id(source))
        return counts

    @contextmanager
    def handing_over(self, successor: str, at: str | None = None) -> Iterator[Connection | None]:
        """Nobody, in no process, changes it within; at the end, unless that raises, `successor` has its place
        and nobody can any more. Superseded where another one has it. `at`: the schema of the successor's
        catalogue, if it lies in one. The transaction, where it may change that one too."""
        with self._connections.writing() as (connection, _):
            yield connection if self._connections.database.several else None
            write_notes(connection, {SUCCESSOR: successor, SUCCESSOR_AT: at})

    def take_over(
        self, predecessor: Mapping[str, str | None], *, since: str, within: Connection | None = None
    ) -> dict[str, str | None]:
        """Have no successor any more, and note the predecessor in these words and under the key `since` the
        revision from which on what is done here, is done here alone: `within` the transaction by which the
        predecessor is handing over, if there is one. What these keys had."""
        with self._connections.writing(within) as (connection, revision):
            notes = {**predecessor, since: str(revision), SUCCESSOR: None, SUCCESSOR_AT: None}
            had = {key: noted(connection, key) for key in notes}
            write_notes(connection, notes)
        self._connections.returns_from = None
        return had

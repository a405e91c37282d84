"""The catalogue: items, labels, codes and thumbnails, the one source of truth.

SQLite or PostgreSQL through SQLAlchemy Core. What is read, changed and checked lies in index/tables/, and so
do the tables. Only index/sqlite.py and index/postgres_catalogue.py know which of the two it is, and
index/tables/columns.py what the columns are there.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from index.codes import Codes
from index.database import DAMAGE, CatalogueError, Database
from index.engine import check_bits
from index.items import Changes, Embedding, Identity, Item, NewItem
from index.postgres_catalogue import PostgreSQL, is_url
from index.sources import Source
from index.sqlite import SQLite
from index.tables import checking
from index.tables.arriving import Arrival, add_unknown
from index.tables.changing import Change, create, in_json, write_notes
from index.tables.checksums import seal_notes
from index.tables.connections import Connections
from index.tables.doubts import Doubted
from index.tables.folders import Tree, tree
from index.tables.history import Batch, History
from index.tables.learned import embed, hold_out, predict
from index.tables.listing import Listing
from index.tables.pictures import Pictures
from index.tables.reading import TOGETHER
from index.tables.rows import check_id, class_indices, noted
from index.tables.succession import Succession
from index.tables.trash import Made, Trash, put, rewrite, take_out, throw, undo


class Catalogue(Succession):
    """An open catalogue. Safe to read from many threads; close it to leave one file behind, if it is one."""

    def __init__(self, connections: Connections) -> None:
        super().__init__(connections)
        self.writable = connections.database.writable  # else it stays as it is
        self.trash = Trash(connections)
        self.history = History(connections)
        self.pictures = Pictures(connections)
        self.doubts = Doubted(connections)

    @classmethod
    def create(cls, path: Path | str, *, encoder_id: str, bits: int, classes: Sequence[str]) -> Self:
        """A new, empty catalogue, in a file or in a schema of PostgreSQL, which a URL names. CatalogueError
        if there is one or it cannot be made."""
        check_bits(bits)
        if len(set(classes)) < len(classes):
            raise ValueError(f"classes are {list(classes)}; wanted each name once")
        connections = Connections(database_at(path, new=True))
        try:
            with connections.preparing() as connection:
                create(connection, encoder_id, bits, classes)
        except CatalogueError:
            connections.close()
            raise
        return cls(connections)

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """An existing catalogue, verified: schema, structure, digest of labels and codes.

        One of an older version is upgraded. Where its folder cannot be written to, it is read as it is and
        cannot be changed. CatalogueError says what is wrong.
        """
        return cls.load(path)[0]

    @classmethod
    def load(cls, path: Path | str) -> tuple[Self, Changes]:
        """`open`, and the whole database split, which was read to verify it, as `changes` since ever."""
        connections = Connections(database_at(path))
        with _closed_if_unusable(connections):
            checking.bring_up_to_date(connections)
            catalogue = cls(connections)
            with connections.reading() as connection:
                contents = checking.verified(connection, connections.database, catalogue.bits)
            if catalogue.writable:
                with connections.noting() as connection:
                    connections.database.complete(connection)
        return catalogue, contents

    @classmethod
    def read_note(cls, path: Path | str, key: str) -> str | None:
        """`noted` of a catalogue that is not open and is not verified. CatalogueError."""
        with closing(Connections(database_at(path))) as connections, connections.reading() as connection:
            return noted(connection, key)

    def add(self, items: Iterable[NewItem]) -> list[int]:
        """Store all items or none; their ids, ascending in the order given.

        Other writers wait while items are drawn; readers do not. ValueError for a label, code or
        split that does not fit this catalogue.
        """
        with self._changing() as change:
            return change.add(items)

    def add_unknown(
        self,
        items: Sequence[NewItem],
        labels: Mapping[int, str] = MappingProxyType({}),
        *,
        batch: str | None = None,
    ) -> list[tuple[int, Arrival]]:
        """Store those of `items`, of the database split, whose file is not there yet, all or none.

        For each its id and what became of it. One whose file is there already, with the same SHA-256, has the
        id that the file has, the lowest of several, and its label if that has none; if it lies in the trash,
        it comes back. So have the items with the ids in `labels`.
        """
        with self._changing(batch) as change:
            return add_unknown(change, items, labels)

    def remove(
        self, ids: Iterable[int], *, thrown_until: int | None = None, noting: str | None = None
    ) -> list[int]:
        """Forget the items of the database split and of the trash among `ids`, with their thumbnails, for
        good; which they were. With `thrown_until` only those that lie in the trash since that time or longer.
        If there are any, the note under the key `noting` says so."""
        wanted = sorted({check_id(item_id) for item_id in ids})
        with self._changing() as change:
            gone = change.remove(wanted, thrown_until)
            if gone and noting:
                write_notes(change.connection, {noting: "1"})
            return gone

    def throw(self, ids: Iterable[int], *, since: int | None = None, batch: str | None = None) -> list[int]:
        """Put the items of the database split among `ids` into the trash, where they lie `since` that time,
        in seconds since 1970 (None: now); which they were."""
        wanted = sorted({check_id(item_id) for item_id in ids})
        with self._changing(batch) as change:
            return throw(change, wanted, int(time.time()) if since is None else since)

    def throw_new(self, items: Sequence[tuple[NewItem, int, bytes | None]]) -> None:
        """Store items that lie in the trash since those times, in seconds since 1970, with their codes there;
        None: to be made when they come back."""
        with self._changing() as change:
            ids = change.add([item for item, _, _ in items])
            for id_, (_, since, code) in zip(ids, items, strict=True):
                put(change.connection, {id_: code}, since)

    def rewrite_thrown(self, item_id: int, item: Item) -> None:
        """Have an item that lies in the trash be known as `item` is, and lie there since the same time."""
        with self._changing() as change:
            rewrite(change, item_id, item)

    def take_out(
        self, ids: Iterable[int], made: Made = MappingProxyType({}), *, batch: str | None = None
    ) -> list[int]:
        """Let the items among `ids` that lie in the trash be found again; which they were. One without a code
        (`Trash.uncoded`) stays there unless it is `made`."""
        wanted = sorted({check_id(item_id) for item_id in ids})
        with self._changing(batch) as change:
            return take_out(change, wanted, made)

    def undo(self, batch: Batch, made: Made = MappingProxyType({}), *, name: str | None = None) -> list[int]:
        """Let those items of a batch that nobody has changed since be as they were before it; which these
        are. What comes out of the trash does so as by `take_out`. `name`: of the batch that this is."""
        with self._changing(name) as change:
            return undo(change, batch, int(time.time()), made)

    def change(
        self,
        item_id: int,
        *,
        label: int | str | None = None,
        metadata: Mapping[str, Any] | None = None,
        source: Source = "given",
        batch: str | None = None,
    ) -> None:
        """Give an item of the database split another label, as in NewItem, or other metadata; None leaves as
        it is. A label that is another one has this `source`, and its image is held out no more. KeyError when
        it is unknown, ValueError for a label that there is not."""
        values: dict[str, Any] = {} if metadata is None else {"metadata": in_json(metadata)}
        item_id = check_id(item_id)
        with self._changing(batch) as change:
            change.update(item_id, label, values, source)

    def every_item(self, *, trashed: bool = False) -> Iterator[Item]:
        """All that can be found or is held out, and if asked for what is `trashed`, some read at a time."""
        for split in ("database", "query", *["trash"] * trashed):
            after = 0
            while some := self.page(Listing(split=split), after=after, count=TOGETHER):
                yield from some
                after = some[-1].id

    def label_all(self, labels: Mapping[int, tuple[str | None, Source]], *, batch: str | None = None) -> None:
        """Give many items of the database split their labels, or none (None), and say how these came, all
        or nothing. KeyError when one is unknown."""
        with self._changing(batch) as change:
            change.label_all(labels)

    def hold_out(self, ids: Iterable[int], *, held: bool = True) -> None:
        """Let these labelled items be asked with and not learned from, until their labels change; not `held`:
        no more."""
        with self._connections.writing() as (connection, _):
            hold_out(connection, ids, held)

    def embed(self, embeddings: Iterable[tuple[int, Embedding]]) -> None:
        """Keep embeddings (E,) of items, in place of those there are."""
        with self._connections.writing() as (connection, _):
            embed(connection, embeddings)

    def predict(self, predictions: Iterable[tuple[int, int, float]]) -> None:
        """Ids with a class index and a confidence, in place of all predictions there are. The revision stays:
        nothing that is searched changes."""
        with self._connections.noting() as connection:
            predict(connection, predictions)

    def recode(
        self,
        encoder_id: str,
        bits: int,
        encoded: Iterable[tuple[int, Codes, Embedding | None]],
        *,
        same_embeddings: bool = False,
    ) -> dict[int, Codes]:
        """Be a catalogue of another encoder: `encoded` has the code (bits/8,) and embedding (E,) of each item
        and held-out query. Predictions go, and so do embeddings, unless the encoder makes the same ones.

        Those of the queries are given back. All or nothing: ValueError where one is missing, KeyError for an
        id that there is not. Nobody may have it open.
        """
        with self._changing() as change:
            of_queries = change.recode(encoder_id, bits, encoded, same_embeddings)
        self.bits, self.encoder_id = bits, encoder_id
        return of_queries

    def bury(self, identities: Sequence[Identity]) -> None:
        """Take note that these were removed, though they were never here: `gone` names them too."""
        if identities:
            with self._changing() as change:
                change.bury(identities)

    def note(self, key: str, value: str | None) -> None:
        """Write down something beside the items, on the disk when this returns; None: nothing any more."""
        self.note_all({key: value})

    def note_all(self, notes: Mapping[str, str | None]) -> None:
        """Several at once, all or none."""
        with self._connections.noting() as connection:
            write_notes(connection, notes)
            seal_notes(connection)

    @contextmanager
    def _changing(self, batch: str | None = None) -> Iterator[Change]:
        """One transaction, alone; afterwards its new classes are known here. `batch`: the name by which it
        can be undone."""
        with self._connections.writing() as (connection, revision):
            change = Change(connection, revision, self.bits, class_indices(connection), batch)
            yield change
        self._learn(change.classes)

    def folders(self) -> Tree:
        """Which folders the items of the database split lie in. Reads where each of them lies."""
        with self._connections.reading() as connection:
            return tree(connection)

    def faults(self, *, thumbnails: bool = True) -> Iterator[str]:
        """What `open` does not look for: it reads everything, gigabytes of thumbnails too."""
        with self._connections.reading() as connection:
            database = self._connections.database
            yield from checking.faults(connection, database, thumbnails=thumbnails)

    def close(self) -> None:
        """Let go of it: a file then stands alone."""
        self._connections.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def move(catalogue: Catalogue, url: str) -> dict[str, int]:
    """As `Catalogue.move_into`, into the schema of PostgreSQL that a URL names."""
    with closing(Connections(database_at(url, new=True))) as target:
        return catalogue.move_into(target)


def copy_to_file(url: str, path: Path, at: AbstractContextManager[object]) -> None:
    """As `Catalogue.copy_into`, of the schema of PostgreSQL that a URL names into a new file."""
    with closing(Connections(database_at(path, new=True))) as target, Catalogue.open(url) as catalogue:
        catalogue.copy_into(target, at)


def is_there(place: Path | str) -> bool:
    """Whether there is a catalogue, of whatever state, in this file or at this URL. CatalogueError where
    nobody can tell."""
    if not is_url(place):
        return Path(place).exists()
    database = PostgreSQL.new(place)
    try:
        with database.naming(), database.engine.connect() as connection:
            return database.exists(connection)
    finally:
        database.close()


def database_at(path: Path | str, *, new: bool = False) -> Database:
    """The file, or the schema of a PostgreSQL that a URL names, where a catalogue is or, `new`, is to be.
    CatalogueError."""
    if is_url(path):
        return PostgreSQL.new(path) if new else PostgreSQL.there(path)
    return SQLite.new(Path(path)) if new else SQLite.there(Path(path))


@contextmanager
def _closed_if_unusable(connections: Connections) -> Iterator[None]:
    """Whatever damage makes the database or what is read of it raise, as CatalogueError."""
    try:
        yield
    except DAMAGE as error:
        connections.close()
        if isinstance(error, CatalogueError):
            raise
        raise CatalogueError(f"{connections.path}: is damaged ({error})") from error

"""Artifacts that lie beside each other, and whose catalogues are schemas of one PostgreSQL."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from index.artifact import CATALOGUE, MANIFEST, ArtifactError, in_service, moved_place, read_manifest
from index.catalogue import Catalogue, move
from index.database import CatalogueError
from index.items import SUCCESSOR, SUCCESSOR_AT
from index.postgres_catalogue import PostgreSQL, beside, schema_of, without_password

LATER = re.compile("__[0-9]+$")  # behind the name of the first schema: those of what took its place


def in_service_at(path: Path, url: str) -> tuple[Path, str]:
    """As `index.artifact.in_service`, and the URL of that one's catalogue. ArtifactError, also where the one
    at `url` is not that of the artifact: what took its place would be served for another one's."""
    asked = path = in_service(path)  # it may have given its place before it was moved
    first, seen, passed = url, {schema_of(url)}, set[Path]()
    try:
        while (found := successor_at(path, url)) is not None:
            path, url = found
            if not path.exists():
                raise ArtifactError(
                    f"{path}: took the place of another artifact and is missing here; put it there"
                )
            if (schema := schema_of(url)) in seen:
                raise ArtifactError(f"{path}: its successors lead in a circle; serve another one")
            seen.add(schema)
            passed.add(path)
        if passed and asked not in passed and (asked / MANIFEST).exists():
            wanted, there = read_manifest(asked).encoder_id, Catalogue.read_note(first, "encoder_id")
            if there not in (None, wanted):
                raise ArtifactError(
                    f"{without_password(first)}: its encoder_id is {there}, {asked / MANIFEST} says "
                    f"{wanted}; name the schema of this artifact"
                )
    except CatalogueError as error:
        raise ArtifactError(str(error)) from error
    return path, url


def successor_at(path: Path, url: str) -> tuple[Path, str] | None:
    """The folder that took this one's place, and the URL of its catalogue; None: it has its place.
    CatalogueError, and ArtifactError for what is no folder."""
    name, schema = (Catalogue.read_note(url, key) for key in (SUCCESSOR, SUCCESSOR_AT))
    if name is None or schema is None:
        return None
    if Path(name).name != name:
        raise ArtifactError(f"{path}: its successor {name[:80]!r} is no folder beside it; serve another one")
    return path.resolve().parent / name, beside(url, schema)


def brought(path: Path, url: str) -> str:
    """The URL of the catalogue of the artifact in this folder, in the database of another one: brought there,
    into a schema of its own, where it is a file yet. Nothing ever removes it again: who serves it, this
    process cannot know. CatalogueError."""
    place = moved_place(path)
    if place is not None:
        here = beside(url, schema_of(place))
        if without_password(here) != without_password(place):
            raise CatalogueError(f"{path / CATALOGUE}: was moved to {place}, which is another database")
        return here
    first = LATER.sub("", schema_of(url))[:50]
    names = (beside(url, f"{first}__{number}") for number in count(2))
    target = next(name for name in names if not is_taken(name))
    with Catalogue.open(path / CATALOGUE) as catalogue:
        catalogue.come_back()  # also if another one took its place: it is to have it again
        move(catalogue, target)
    return target


def is_taken(url: str) -> bool:
    """Whether there is such a schema, whatever is in it. CatalogueError."""
    database = PostgreSQL.new(url)
    try:
        return database.has_schema()
    finally:
        database.close()


@contextmanager
def alone(url: str) -> Iterator[bool]:
    """Whether, of all processes, this one may have another artifact take the place of that of this catalogue
    now; nobody else may within. CatalogueError."""
    database = PostgreSQL.new(url)
    try:
        with database.naming(), database.engine.connect() as connection:  # whose end frees it
            connection.execution_options(isolation_level="AUTOCOMMIT")
            yield database.try_to(connection, "hebbsearch")
    finally:
        database.close()


def is_brought(path: Path) -> bool:
    """Whether the catalogue of the artifact in this folder was brought to a server, where others may use it.
    CatalogueError."""
    return moved_place(path) is not None

"""Artifacts that lie beside each other, and whose catalogues are schemas of one PostgreSQL."""

import re
from itertools import count
from pathlib import Path

from index.artifact import CATALOGUE, ArtifactError
from index.catalogue import Catalogue, is_there, move
from index.database import CatalogueError
from index.items import MOVED, SUCCESSOR, SUCCESSOR_AT
from index.postgres_catalogue import PostgreSQL, beside, schema_of

LATER = re.compile("__[0-9]+$")  # behind the name of the first schema: those of what took its place


def in_service_at(path: Path, url: str) -> tuple[Path, str]:
    """As `index.artifact.in_service`, and the URL of that one's catalogue. ArtifactError."""
    path, seen = path.resolve(), {schema_of(url)}
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
    """The URL of the catalogue of the artifact in this folder, on the same server as another one's: brought
    there, into a schema of its own, where it is a file yet. CatalogueError."""
    place = Catalogue.read_note(path / CATALOGUE, MOVED)
    if place is not None:
        return beside(url, schema_of(place))
    first = LATER.sub("", schema_of(url))[:50]
    names = (beside(url, f"{first}__{number}") for number in count(2))
    target = next(name for name in names if not is_there(name))
    with Catalogue.open(path / CATALOGUE) as catalogue:
        move(catalogue, target)
    return target


def taken_back(path: Path, url: str) -> None:
    """Forget what `brought` did: the catalogue is the file again. CatalogueError."""
    forget(path, url)
    with Catalogue.open(path / CATALOGUE) as catalogue:
        catalogue.note(MOVED, None)


def forget(path: Path, url: str) -> None:
    """Let the server have no catalogue of the artifact in this folder any more, if it was brought there.
    CatalogueError."""
    place = Catalogue.read_note(path / CATALOGUE, MOVED)
    if place is not None:
        database = PostgreSQL.new(beside(url, schema_of(place)))
        try:
            database.drop()
        finally:
            database.engine.dispose()

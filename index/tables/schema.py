"""The catalogue's tables, and how those of an older version become these.

SQLAlchemy Core, in types that PostgreSQL has too.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

SCHEMA = 3

metadata = MetaData()
META = Table(
    "meta",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
CLASSES = Table(
    "classes",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False, unique=True),
)
ITEMS = Table(
    "items",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("path", Text, nullable=False),
    Column("label", ForeignKey("classes.id")),
    Column("split", Text, nullable=False),
    Column("width", Integer, nullable=False),
    Column("height", Integer, nullable=False),
    Column("revision", Integer, nullable=False, server_default="0"),  # the catalogue's, of the last change
    Column("added", BigInteger),  # seconds since 1970; NULL: before version 2
    Column("sha256", LargeBinary),  # of the file; NULL: there was none
    Column("folder", Text),  # name of that of `path`; NULL: the manifest's; empty: none, it was sent alone
    Column("file_bytes", BigInteger),  # size and time of the file in `folder`, by which a change is noticed
    Column("file_time", BigInteger),
    Column("metadata", Text),  # JSON, the user's own
    sqlite_autoincrement=True,  # an id is never given twice, not even after a deletion
)
Index("items_sha256", ITEMS.c.sha256)
Index("items_revision", ITEMS.c.revision)
Index("items_folder", ITEMS.c.folder, ITEMS.c.path)
# By id within a folder: a page of a large one is found without sorting it. Not in UPGRADES, as it changes
# nothing but the time: it is made where it is missing.
items_of_folder = Index("items_of_folder", ITEMS.c.folder)
CODES = Table(
    "codes",
    metadata,
    Column("item_id", ForeignKey("items.id"), primary_key=True),
    Column("code", LargeBinary, nullable=False),
)
THUMBNAILS = Table(
    "thumbnails",
    metadata,
    Column("item_id", ForeignKey("items.id"), primary_key=True),
    Column("image", LargeBinary, nullable=False),
)
REMOVED = Table(
    "removed",
    metadata,
    Column("item_id", Integer, primary_key=True, autoincrement=False),
    Column("revision", Integer, nullable=False),
    Column("path", Text),  # by these it is known in another catalogue; all NULL: before version 3
    Column("folder", Text),
    Column("sha256", LargeBinary),
)
Index("removed_revision", REMOVED.c.revision)

# What makes tables of the version before these of each version. Written out: a later change of the tables
# above must not change what an older one became.
UPGRADES: dict[int, tuple[str, ...]] = {
    2: (
        "ALTER TABLE items ADD COLUMN revision INTEGER NOT NULL DEFAULT '0'",
        "ALTER TABLE items ADD COLUMN added BIGINT",
        "ALTER TABLE items ADD COLUMN sha256 BLOB",
        "ALTER TABLE items ADD COLUMN folder TEXT",
        "ALTER TABLE items ADD COLUMN file_bytes BIGINT",
        "ALTER TABLE items ADD COLUMN file_time BIGINT",
        "ALTER TABLE items ADD COLUMN metadata TEXT",
        "CREATE INDEX items_sha256 ON items (sha256)",
        "CREATE INDEX items_revision ON items (revision)",
        "CREATE INDEX items_folder ON items (folder, path)",
        "CREATE TABLE removed (item_id INTEGER NOT NULL, revision INTEGER NOT NULL, PRIMARY KEY (item_id))",
        "CREATE INDEX removed_revision ON removed (revision)",
    ),
    3: (
        "ALTER TABLE removed ADD COLUMN path TEXT",
        "ALTER TABLE removed ADD COLUMN folder TEXT",
        "ALTER TABLE removed ADD COLUMN sha256 BLOB",
        # A build wrote the held-out queries last, and nobody can change them; without any it wrote all at
        # once. What has a later revision, people did; without any such, all that there is was built.
        """
        INSERT INTO meta (key, value) SELECT 'built', CAST(COALESCE((
            SELECT MIN(revision) - 1 FROM items WHERE revision > COALESCE(
                (SELECT MAX(revision) FROM items WHERE split = 'query'),
                (SELECT MIN(revision) FROM items WHERE folder IS NULL),
                0
            )
        ), value) AS TEXT) FROM meta WHERE key = 'revision'
        """,
    ),
}


def upgrade(connection: Connection, found: int) -> None:
    """Turn the tables of version `found` into those of SCHEMA, in the caller's transaction."""
    for version in range(found + 1, SCHEMA + 1):
        for statement in UPGRADES[version]:
            connection.exec_driver_sql(statement)
    connection.execute(META.update().where(META.c.key == "schema").values(value=str(SCHEMA)))

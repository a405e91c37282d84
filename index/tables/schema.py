"""The catalogue's tables, and how those of an older version become these.

SQLAlchemy Core, in types that SQLite and PostgreSQL have.
"""

from collections.abc import Callable

import sqlalchemy as sa

from index.tables.columns import Code, Text, Wide

SCHEMA = 8
READABLE = ("3", "4", "5", "6", "7", "8")  # as they are, where they cannot be upgraded

metadata = sa.MetaData()
META = sa.Table(
    "meta", metadata, sa.Column("key", Text, primary_key=True), sa.Column("value", Text, nullable=False)
)
CLASSES = sa.Table(
    "classes",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("name", Text, nullable=False, unique=True),
)
ITEMS = sa.Table(
    "items",
    metadata,
    sa.Column("id", Wide, primary_key=True),
    sa.Column("path", Text, nullable=False),
    sa.Column("label", sa.ForeignKey("classes.id")),
    sa.Column("split", Text, nullable=False),
    sa.Column("width", sa.Integer, nullable=False),
    sa.Column("height", sa.Integer, nullable=False),
    sa.Column("revision", Wide, nullable=False, server_default="0"),  # of its last change
    sa.Column("added", sa.BigInteger),  # seconds since 1970; NULL: before version 2
    sa.Column("sha256", sa.LargeBinary),  # of the file; NULL: there was none
    sa.Column("folder", Text),  # name of that of `path`; NULL: the manifest's; empty: none, sent alone
    sa.Column("file_bytes", sa.BigInteger),  # size and time of the file in `folder`: a change shows in them
    sa.Column("file_time", sa.BigInteger),
    sa.Column("metadata", Text),  # JSON, the user's own
    sqlite_autoincrement=True,  # an id is never given twice, not even after a deletion
)
sa.Index("items_sha256", ITEMS.c.sha256)
sa.Index("items_revision", ITEMS.c.revision)
sa.Index("items_folder", ITEMS.c.folder, ITEMS.c.path)
# Not in UPGRADES, as they change nothing but the time: they are made where they are missing.
QUICKER = (
    # By id within a folder: a page of a large one is found without sorting it.
    sa.Index("items_of_folder", ITEMS.c.folder),
    # In the order of names, with all that skipping asks for. The split comes last: first, it would be taken
    # for the order of ids too, and then sorted.
    sa.Index("items_by_name", sa.func.lower(ITEMS.c.path), ITEMS.c.id, ITEMS.c.split),
)
CODES = sa.Table(
    "codes",
    metadata,
    sa.Column("item_id", sa.ForeignKey("items.id"), primary_key=True),
    sa.Column("code", Code, nullable=False),
)
THUMBNAILS = sa.Table(
    "thumbnails",
    metadata,
    sa.Column("item_id", sa.ForeignKey("items.id"), primary_key=True),
    sa.Column("image", sa.LargeBinary, nullable=False),
)
REMOVED = sa.Table(
    "removed",
    metadata,
    sa.Column("item_id", Wide, primary_key=True, autoincrement=False),
    sa.Column("revision", Wide, nullable=False),
    sa.Column("path", Text),  # by these it is known in another catalogue; all NULL: before version 3
    sa.Column("folder", Text),
    sa.Column("sha256", sa.LargeBinary),
)
sa.Index("removed_revision", REMOVED.c.revision)
CHECKSUMS = sa.Table(
    "checksums",
    metadata,
    sa.Column("id", Wide, primary_key=True, autoincrement=False),  # that of a row of items or removed
    sa.Column("row", sa.BigInteger, nullable=False),  # of that row
    sa.Column("thumbnail", sa.BigInteger),  # and of the item's thumbnail
)
EMBEDDINGS = sa.Table(
    "embeddings",
    metadata,
    sa.Column("item_id", sa.ForeignKey("items.id"), primary_key=True),  # held-out queries have one too
    sa.Column("vector", sa.LargeBinary, nullable=False),  # 16-bit floats, little-endian
    sa.Column("checksum", sa.BigInteger, nullable=False),
)
PICTURES = sa.Table(  # hashes of the pixels, by which copies are found; of what is held out or deleted too
    "pictures",
    metadata,
    sa.Column("item_id", sa.ForeignKey("items.id"), primary_key=True),
    sa.Column("hash", sa.LargeBinary, nullable=False),  # 32 bytes
    sa.Column("quality", sa.Integer, nullable=False),  # 0 to 100
    sa.Column("source", Text, nullable=False),  # what was hashed: file, thumbnail
    sa.Column("checksum", sa.BigInteger, nullable=False),
)
# How an image came to its label, where that is not as usual: chosen by a person, and learned from.
SOURCES = sa.Table(
    "sources",
    metadata,
    sa.Column("item_id", sa.ForeignKey("items.id"), primary_key=True),
    sa.Column("source", Text, nullable=False),
    sa.Column("held_out", sa.Boolean, nullable=False),  # asked with, and not learned from
    sa.Column("checksum", sa.BigInteger, nullable=False),
)
PREDICTIONS = sa.Table(  # of images without a label; made anew whenever something is learned
    "predictions",
    metadata,
    sa.Column("item_id", sa.ForeignKey("items.id"), primary_key=True),
    sa.Column("label", sa.ForeignKey("classes.id"), nullable=False),
    sa.Column("confidence", sa.Float, nullable=False),
)
DOUBTS = sa.Table(  # of labels; made anew whenever something is learned
    "doubts",
    metadata,
    sa.Column("item_id", sa.ForeignKey("items.id"), primary_key=True),
    sa.Column("label", sa.ForeignKey("classes.id"), nullable=False),  # which was looked at
    sa.Column("rival", sa.ForeignKey("classes.id")),  # what speaks against it; NULL: there is no other class
    sa.Column("doubt", sa.Float, nullable=False),
)
# What can come back: items of the split "trash" keep all but their code here.
TRASH = sa.Table(
    "trash",
    metadata,
    sa.Column("item_id", sa.ForeignKey("items.id"), primary_key=True),
    sa.Column("code", Code),  # NULL: another encoder came since, and it is to be made anew
    sa.Column("since", sa.BigInteger, nullable=False),  # seconds since 1970
    sa.Column("checksum", sa.BigInteger, nullable=False),
)
sa.Index("trash_since", TRASH.c.since)
# Changes that can be undone, each by the revision that it made. A copy of the catalogue has them too and goes
# on by itself: by its name no change is taken for another one.
BATCHES = sa.Table(
    "batches",
    metadata,
    sa.Column("revision", Wide, primary_key=True, autoincrement=False),
    sa.Column("name", Text, nullable=False, unique=True),
    sa.Column("time", sa.BigInteger, nullable=False),  # seconds since 1970
)
# How each item was before one of them.
HISTORY = sa.Table(
    "history",
    metadata,
    sa.Column("id", Wide, primary_key=True, autoincrement=False),
    sa.Column("revision", sa.ForeignKey("batches.revision"), nullable=False),
    sa.Column("item_id", sa.ForeignKey("items.id"), nullable=False),
    sa.Column("what", Text, nullable=False),
    sa.Column("label", sa.ForeignKey("classes.id")),
    sa.Column("source", Text),  # of that label, and whether it was held out: NULL as in SOURCES
    sa.Column("held_out", sa.Boolean),
    sa.Column("metadata", Text),
    sa.Column("checksum", sa.BigInteger, nullable=False),
)
sa.Index("history_revision", HISTORY.c.revision)
sa.Index("history_item", HISTORY.c.item_id)
# What stands in for the tables of each version where an older catalogue cannot be upgraded: empty, and
# forgotten.
STAND_INS: dict[int, tuple[str, ...]] = {
    5: (
        "CREATE TEMP TABLE embeddings (item_id INTEGER PRIMARY KEY, vector BLOB, checksum BIGINT)",
        "CREATE TEMP TABLE sources "
        "(item_id INTEGER PRIMARY KEY, source TEXT, held_out BOOLEAN, checksum BIGINT)",
        "CREATE TEMP TABLE predictions (item_id INTEGER PRIMARY KEY, label INTEGER, confidence FLOAT)",
    ),
    6: (
        "CREATE TEMP TABLE trash (item_id INTEGER PRIMARY KEY, code BLOB, since BIGINT, checksum BIGINT)",
        "CREATE TEMP TABLE batches (revision INTEGER PRIMARY KEY, name TEXT, time BIGINT)",
        "CREATE TEMP TABLE history (id INTEGER PRIMARY KEY, revision INTEGER, item_id INTEGER, what TEXT, "
        "label INTEGER, source TEXT, held_out BOOLEAN, metadata TEXT, checksum BIGINT)",
    ),
    7: (
        "CREATE TEMP TABLE pictures "
        "(item_id INTEGER PRIMARY KEY, hash BLOB, quality INTEGER, source TEXT, checksum BIGINT)",
    ),
    8: ("CREATE TEMP TABLE doubts (item_id INTEGER PRIMARY KEY, label INTEGER, rival INTEGER, doubt FLOAT)",),
}

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
    # Checksums are computed after all upgrades, of the columns that there are then.
    4: (
        "CREATE TABLE IF NOT EXISTS checksums "
        '(id INTEGER NOT NULL, "row" BIGINT NOT NULL, thumbnail BIGINT, PRIMARY KEY (id))',
    ),
    5: (
        "CREATE TABLE IF NOT EXISTS embeddings (item_id INTEGER NOT NULL, vector BLOB NOT NULL, "
        "checksum BIGINT NOT NULL, PRIMARY KEY (item_id), FOREIGN KEY(item_id) REFERENCES items (id))",
        "CREATE TABLE IF NOT EXISTS sources (item_id INTEGER NOT NULL, source TEXT NOT NULL, "
        "held_out BOOLEAN NOT NULL, checksum BIGINT NOT NULL, PRIMARY KEY (item_id), "
        "FOREIGN KEY(item_id) REFERENCES items (id))",
        "CREATE TABLE IF NOT EXISTS predictions (item_id INTEGER NOT NULL, label INTEGER NOT NULL, "
        "confidence FLOAT NOT NULL, PRIMARY KEY (item_id), FOREIGN KEY(item_id) REFERENCES items (id), "
        "FOREIGN KEY(label) REFERENCES classes (id))",
    ),
    6: (
        "CREATE TABLE IF NOT EXISTS trash (item_id INTEGER NOT NULL, code BLOB, since BIGINT NOT NULL, "
        "checksum BIGINT NOT NULL, PRIMARY KEY (item_id), FOREIGN KEY(item_id) REFERENCES items (id))",
        "CREATE INDEX IF NOT EXISTS trash_since ON trash (since)",
        "CREATE TABLE IF NOT EXISTS batches (revision INTEGER NOT NULL, name TEXT NOT NULL, "
        "time BIGINT NOT NULL, PRIMARY KEY (revision), UNIQUE (name))",
        "CREATE TABLE IF NOT EXISTS history (id INTEGER NOT NULL, revision INTEGER NOT NULL, "
        "item_id INTEGER NOT NULL, what TEXT NOT NULL, label INTEGER, source TEXT, held_out BOOLEAN, "
        "metadata TEXT, checksum BIGINT NOT NULL, PRIMARY KEY (id), "
        "FOREIGN KEY(revision) REFERENCES batches (revision), FOREIGN KEY(item_id) REFERENCES items (id), "
        "FOREIGN KEY(label) REFERENCES classes (id))",
        "CREATE INDEX IF NOT EXISTS history_revision ON history (revision)",
        "CREATE INDEX IF NOT EXISTS history_item ON history (item_id)",
    ),
    7: (
        "CREATE TABLE IF NOT EXISTS pictures (item_id INTEGER NOT NULL, hash BLOB NOT NULL, "
        "quality INTEGER NOT NULL, source TEXT NOT NULL, checksum BIGINT NOT NULL, PRIMARY KEY (item_id), "
        "FOREIGN KEY(item_id) REFERENCES items (id))",
    ),
    8: (
        "CREATE TABLE IF NOT EXISTS doubts (item_id INTEGER NOT NULL, label INTEGER NOT NULL, rival INTEGER, "
        "doubt FLOAT NOT NULL, PRIMARY KEY (item_id), FOREIGN KEY(item_id) REFERENCES items (id), "
        "FOREIGN KEY(label) REFERENCES classes (id), FOREIGN KEY(rival) REFERENCES classes (id))",
    ),
}


def upgrade(connection: sa.Connection, found: int, in_its_words: Callable[[str], str]) -> None:
    """Turn the tables of version `found` into those of SCHEMA, in the caller's transaction."""
    for version in range(found + 1, SCHEMA + 1):
        for statement in UPGRADES[version]:
            connection.exec_driver_sql(in_its_words(statement))
    connection.execute(META.update().where(META.c.key == "schema").values(value=str(SCHEMA)))

"""Whether a disk that takes no more was what failed."""

import errno
import sqlite3

WAY_OUT = "nothing was changed; free space on that disk and try again"

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# SQLite knows a full disk only by ENOSPC; the others, and a -shm that cannot grow, are I/O errors to it.
SQLITE_FULL = ("SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE")

POSTGRESQL_FULL = "53100"  # its SQLSTATE


def no_space(error: BaseException | None) -> bool:
    """Whether this error, or one that it was raised from, is of a disk, a quota or a limit that is full."""
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorname", "") in SQLITE_FULL:
        return True
    if getattr(error, "sqlstate", None) == POSTGRESQL_FULL:
        return True
    return error is not None and no_space(error.__cause__)

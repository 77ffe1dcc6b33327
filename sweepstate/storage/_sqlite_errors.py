"""What SQLite says, as errors that name the file and the remedy."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from ..core.errors import StorageError

_BUSY: Final = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
_DAMAGED: Final = (
    "the file is damaged: restore it from a backup, or rescue what is readable with the sqlite3 shell's .recover"
)
_PERMISSIONS: Final = "change the permissions of the file, of its -wal and -shm beside it, and of its directory"
#: What to do about an error of SQLite, by its primary result code.
_REMEDIES: Final[dict[int, str]] = {
    sqlite3.SQLITE_NOTADB: "it is no SQLite database; give another path, or restore it from a backup",
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_READONLY: f"it cannot be written to; {_PERMISSIONS}",
    sqlite3.SQLITE_PERM: f"it cannot be accessed; {_PERMISSIONS}",
    sqlite3.SQLITE_AUTH: f"it cannot be accessed; {_PERMISSIONS}",
    sqlite3.SQLITE_FULL: "the disk is full, and nothing was written; free some space and try again",
    sqlite3.SQLITE_IOERR: "the disk failed, or is full; look at it and try again",
    sqlite3.SQLITE_NOMEM: "memory is exhausted",
    sqlite3.SQLITE_TOOBIG: "a value is too large for SQLite; keep large data elsewhere, and where it is here",
}
#: More of what SQLite says is not shown; what cannot be decoded is quoted by it whole.
_SHOWN: Final = 200


def is_busy(error: sqlite3.Error) -> bool:
    """Return whether somebody else is in the way, who will be gone."""
    return _primary(error) in _BUSY


def is_disk_failure(error: sqlite3.Error) -> bool:
    """Return whether the disk failed, so that nobody knows what is on it."""
    return _primary(error) == sqlite3.SQLITE_IOERR


def is_readonly(error: sqlite3.Error) -> bool:
    """Return whether a connection can only read."""
    return _primary(error) == sqlite3.SQLITE_READONLY


def explain(error: sqlite3.Error, path: Path, name: str) -> StorageError:
    """Return what SQLite raised as an error that says which file it is about, and what to do."""
    text = str(error)
    if len(text) > _SHOWN:
        text = f"{text[:_SHOWN]}..."
    return StorageError(f"{name}: {text}; {_remedy(error, path)}")


def _primary(error: sqlite3.Error) -> int:
    """Return the primary result code; 0 for what Python's module found by itself, which has none."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _remedy(error: sqlite3.Error, path: Path) -> str:
    code = _primary(error)
    if code == sqlite3.SQLITE_CANTOPEN:
        return _why_not_opened(path)
    if not code and "decode" in str(error):  # the module's own error for text that is no UTF-8
        return _DAMAGED
    return _REMEDIES.get(code, "see https://www.sqlite.org/rescode.html")


def _why_not_opened(path: Path) -> str:
    """Return what may be wrong with a path; SQLite does not tell."""
    try:
        if path.is_dir():
            return "it is a directory; give the path of a file in it"
        if not path.parent.is_dir():
            return f"there is no directory {str(path.parent)!r}; make it first"
    except OSError:  # a directory on the way to it must not be looked at
        pass
    return f"it cannot be opened; {_PERMISSIONS}"

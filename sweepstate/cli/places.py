"""Which storage a command is about: a path is a SQLite file, a URL a database server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..core.errors import StorageError
from ..storage.sqlite import SQLiteStorage

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

    from ..storage.sqlalchemy import SQLAlchemyStorage

#: Where the storage is named if the command line does not.
VARIABLE: Final = "SWEEPSTATE_STORAGE"


class UsageError(Exception):
    """The command line cannot be carried out as it stands; the text says what to write instead."""


class MissingExtra(Exception):
    """What is asked for needs an extra that is not installed; the text names it."""


def open_storage(place: str | None) -> SQLiteStorage | SQLAlchemyStorage:
    """Return the storage at a place, which must be there.

    Args:
        place: a path, or a URL with ``://``; None is what the environment says.

    Raises:
        UsageError: no storage is named anywhere.
        MissingExtra: SQLAlchemy is not installed.
        InvalidValue: it is neither a path nor a URL that can be used.
        StorageError: nothing is there, or it cannot be opened.
    """
    if place is None:
        place = os.environ.get(VARIABLE) or None
    if place is None:
        raise UsageError(f"no storage: give --storage PATH_OR_URL, or set {VARIABLE}")
    if "://" in place:
        return _server(place)
    path = os.path.expanduser(place)  # noqa: PTH111 - a Path would turn "" into "."
    if path and not Path(path).exists():  # the library's remedy, to make it, is none here
        raise StorageError(f"SQLite file {path!r}: there is no such file; look at --storage, or at {VARIABLE}")
    return SQLiteStorage(path, create=False)


def _server(url: str) -> SQLAlchemyStorage:
    try:
        from ..storage.sqlalchemy import SQLAlchemyStorage  # noqa: PLC0415 - an extra, which files do not need
    except ImportError as error:
        raise MissingExtra(str(error)) from None
    storage = SQLAlchemyStorage(url)
    database = storage.database
    # SQLite makes a file that is not there when it connects; nobody wants that from a command that looks.
    if database.dialect == "sqlite" and not _is_there(database.engine.url):
        storage.close()
        raise StorageError(f"{database.place}: there is no such file; look at the URL")
    return storage


def _is_there(url: URL) -> bool:
    """Return whether the file of a SQLite URL is there; SQLite's own URIs are left to it."""
    return "uri" in url.query or (url.database is not None and Path(url.database).exists())

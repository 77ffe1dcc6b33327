"""What a database's error means: to be tried again, or a StorageError that says where, what and what to do.

Nothing here ever shows a password: of a URL only backend, host and database
are named, and what a driver says is searched for it.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import quote, quote_plus

from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from ..core.errors import OutcomeUnknown, StorageError

if TYPE_CHECKING:
    from sqlalchemy.engine import URL, Engine


class Kind(Enum):
    """What is to be done about an error."""

    LOST = "the connection is gone, and with it the transaction"
    GIVE_WAY = "the database chose this transaction to give way to another one"
    OTHER = "no use in trying again"


class Problem(NamedTuple):
    """An error of the database, understood.

    Attributes:
        kind: what is to be done about it.
        error: what the caller is told if nothing is.
    """

    kind: Kind
    error: StorageError


_NO_TABLES: Final = (
    "create the tables once by storage.create_tables(), or by your migrations; are prefix and schema right?"
)
_OLD_TABLES: Final = "these tables are not of this version of sweepstate: compare them with tables()"
_ACCESS: Final = "grant this user SELECT, INSERT, UPDATE and DELETE on the tables"
_LOGIN: Final = "check user and password, and in a URL write signs other than letters and digits as %XX"
_LOCK: Final = "another transaction holds the sweep for too long: look for one that is idle and end it, then call again"
_FULL: Final = "make room for the database"
_MANY: Final = "raise the server's limit of connections, or give an engine with a smaller pool"
_REPLICA: Final = "this server only reads: give the URL of the primary"
_PACKET: Final = "raise the server's max_allowed_packet"
_STRANGE: Final = "these tables have rows that no commit has written: restore them from a backup"
_LONG: Final = "a value does not fit its column: compare the tables with tables()"
_GONE: Final = "is the server up? Nothing was written, so the call can be repeated"
_GONE_MYSQL: Final = f"{_GONE}; where only large configurations fail, {_PACKET}"
_BUSY: Final = "another process writes to this file for too long, or it is on a network drive"
_PREPARED: Final = (
    "a pooler between here and the server changes connections: give an engine that was made with "
    "connect_args={'prepare_threshold': None}"
)
_CANCELLED: Final = "it took longer than the server's statement_timeout allows; call again"
_CONNECT: Final = "is the server up, and are host, port, database, user and password right?"

_GIVE_WAY, _OTHER = Kind.GIVE_WAY, Kind.OTHER

#: By SQLSTATE.
_POSTGRESQL: Final[dict[object, tuple[Kind, str]]] = {
    "40001": (_GIVE_WAY, "call again"),
    "40P01": (_GIVE_WAY, "call again"),
    "23505": (_OTHER, _STRANGE),
    "55P03": (_OTHER, _LOCK),
    "57014": (_OTHER, _CANCELLED),
    "42P01": (_OTHER, _NO_TABLES),
    "3F000": (_OTHER, "create the schema first"),
    "42703": (_OTHER, _OLD_TABLES),
    "42P10": (_OTHER, _OLD_TABLES),
    "42501": (_OTHER, _ACCESS),
    "28000": (_OTHER, _LOGIN),
    "28P01": (_OTHER, _LOGIN),
    "3D000": (_OTHER, "create the database first"),
    "53100": (_OTHER, _FULL),
    "53300": (_OTHER, _MANY),
    "25006": (_OTHER, _REPLICA),
    "22001": (_OTHER, _LONG),
    "26000": (_OTHER, _PREPARED),
    "42P05": (_OTHER, _PREPARED),
}
#: By the number of the error.
_MYSQL: Final[dict[object, tuple[Kind, str]]] = {
    1213: (_GIVE_WAY, "call again"),
    1020: (_GIVE_WAY, "call again"),
    1062: (_OTHER, _STRANGE),
    1205: (_OTHER, _LOCK),
    3024: (_OTHER, _CANCELLED),
    1969: (_OTHER, _CANCELLED),
    1317: (_OTHER, "somebody ended the statement; call again"),
    1146: (_OTHER, _NO_TABLES),
    1054: (_OTHER, _OLD_TABLES),
    1044: (_OTHER, _ACCESS),
    1142: (_OTHER, _ACCESS),
    1045: (_OTHER, _LOGIN),
    1049: (_OTHER, "create the database first"),
    1021: (_OTHER, _FULL),
    1114: (_OTHER, _FULL),
    1040: (_OTHER, _MANY),
    1203: (_OTHER, _MANY),
    1290: (_OTHER, _REPLICA),
    1792: (_OTHER, _REPLICA),
    1836: (_OTHER, _REPLICA),
    1153: (_OTHER, _PACKET),
    1406: (_OTHER, _LONG),
}
#: By the name of the primary error.
_SQLITE: Final[dict[object, tuple[Kind, str]]] = {
    "SQLITE_CONSTRAINT": (_OTHER, _STRANGE),
    "SQLITE_BUSY": (_OTHER, _BUSY),
    "SQLITE_LOCKED": (_OTHER, _BUSY),
    "SQLITE_FULL": (_OTHER, _FULL),
    "SQLITE_READONLY": (_OTHER, "make the file and its directory writable"),
    "SQLITE_CANTOPEN": (_OTHER, "does the directory exist, and is it writable?"),
    "SQLITE_CORRUPT": (_OTHER, "restore the file from a backup"),
    "SQLITE_NOTADB": (_OTHER, "this file is no SQLite database: give another path"),
    "SQLITE_ERROR": (_OTHER, _NO_TABLES),  # what it says about a table or column that is not there
}


class Explainer:
    """Understands the errors of one engine."""

    def __init__(self, engine: Engine) -> None:
        self.place: Final = _place(engine.url)
        self._mysql: Final = engine.dialect.name in ("mysql", "mariadb")
        self._secrets: Final = _secrets(engine.url)

    def explain(self, error: Exception) -> Problem:
        """Return what an error of SQLAlchemy or of the driver means."""
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            return Problem(Kind.LOST, self._error(error, _GONE_MYSQL if self._mysql else _GONE))
        kind, remedy = _known(error)
        return Problem(kind, self._error(error, remedy))

    def refused(self, error: Exception) -> StorageError:
        """Return what is said if no connection was to be had."""
        return self._error(error, _known(error)[1] or _CONNECT)

    def unknown(self, error: Exception) -> OutcomeUnknown:
        """Return what is said if the connection was lost after COMMIT was sent."""
        return OutcomeUnknown(
            f"{self.place}: the connection was lost while a commit was under way, which may have happened or not "
            f"({self._said(error)}); read the sweep again before acting on it"
        )

    def _error(self, error: Exception, remedy: str) -> StorageError:
        return StorageError(f"{self.place}: {self._said(error)}" + (f"; {remedy}" if remedy else ""))

    def _said(self, error: Exception) -> str:
        """Return what the driver said, on one line, and without secrets."""
        cause = _cause(error)
        whole = str(cause.args[-1] if cause.args else cause)
        text = " ".join(whole.partition("\nLINE ")[0].split())  # PostgreSQL shows the statement too
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text[:_LONGEST]


_LONGEST: Final = 400


def _cause(error: Exception) -> BaseException:
    """Return the driver's own error: SQLAlchemy's text shows the statement and all that it was given."""
    cause = error.orig if isinstance(error, StatementError) else None
    return error if cause is None else cause


def _known(error: Exception) -> tuple[Kind, str]:
    """Return what is known of an error, whichever of the drivers it comes from: what to do, and the remedy."""
    if isinstance(error, PoolTimeout):
        return _OTHER, "every connection of the pool is in use: give an engine with a larger pool"
    cause: Any = _cause(error)
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)  # psycopg, psycopg2
    if state in _POSTGRESQL:
        return _POSTGRESQL[state]
    name = getattr(cause, "sqlite_errorname", None)
    if name is not None:
        return next((found for start, found in _SQLITE.items() if name.startswith(start)), (_OTHER, ""))
    return _MYSQL.get(cause.args[0] if cause.args else None, (_OTHER, ""))


def _place(url: URL) -> str:
    """Say which database that is, for a person, without anything secret."""
    backend = _BACKENDS.get(url.get_backend_name(), url.get_backend_name())
    hosts = url.query.get("host", "")
    host = url.host or (hosts if isinstance(hosts, str) else ", ".join(hosts))
    port = f":{url.port}" if url.port else ""
    return f"{backend} database {url.database!r}" + (f" at {host}{port}" if host else "")


_BACKENDS: Final = {"postgresql": "PostgreSQL", "mysql": "MySQL", "mariadb": "MariaDB", "sqlite": "SQLite"}


def _secrets(url: URL) -> list[str]:
    """Return the spellings of what must not be shown, the longest first."""
    words = {str(url.password)} if url.password else set[str]()
    for name, value in url.query.items():
        if "pass" in name.lower():
            words.update([value] if isinstance(value, str) else value)
    spellings = {spelling for word in words for spelling in (word, quote(word, ""), quote_plus(word), repr(word)[1:-1])}
    return sorted(filter(None, spellings), key=len, reverse=True)

"""A SQLite file: its connections, who waits for whom, and what makes it one of ours."""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from sqlite3 import Connection
from threading import Lock, get_ident
from typing import Any, Final, Literal, TypeVar, cast
from weakref import finalize, ref

from ..core.errors import InvalidValue, OutcomeUnknown, StorageError
from ..core.values import show
from . import _sqlite_forks as forks
from ._sqlite_desk import Desk, Known
from ._sqlite_errors import explain, is_busy, is_disk_failure, is_readonly
from ._sqlite_schema import APPLICATION_ID, STEPS, statements_of

_T = TypeVar("_T")

Synchronous = Literal["FULL", "NORMAL"]

#: Who waits for another writer looks again after up to so many seconds: often enough that a free file is not left
#: idle, and seldom enough to cost no processor. SQLite's own handler ends at every 100 ms.
_LOOK_AGAIN: Final = 0.004
#: No SQLite database is smaller, in bytes.
_HEADER: Final = 100
#: So many connections are kept for the next who asks; what more threads at once need is made, and closed again.
_KEPT: Final = 8


class Use:
    """Somebody uses a connection. What was taken for it is noted here, so that an interrupt leaves nothing taken."""

    __slots__ = ("broken", "connection", "desk", "file", "key", "lock", "locked", "thread")

    def __init__(self, file: SQLiteFile) -> None:
        self.file: SQLiteFile = file
        self.key: int = id(self)
        self.thread: int = get_ident()
        self.connection: Connection | None = None
        self.desk: Desk | None = None
        #: Whether the connection is not to be used again.
        self.broken: bool = False
        self.lock: Lock = file.writing
        #: Has True in it if the lock was got.
        self.locked: list[bool] = []

    def abandon(self) -> Sequence[Connection]:
        """Leave the connection, in a forked child, to the parent."""
        connection, self.connection = self.connection, None
        if self.desk is not None:
            self.desk.leave()
        return [] if connection is None else [connection]


class SQLiteFile:
    """One file. Reads and transactions are functions that are given a ``Desk``.

    Args:
        path: where it is.
        synchronous: how hard a commit is pressed onto the disk.
        timeout: for how many seconds others are waited for.
        create: whether to make it, if it is not there.
    """

    def __init__(self, path: Path, synchronous: Synchronous, timeout: float, *, create: bool) -> None:
        self.path: Final = path
        self.name: Final = f"SQLite file {str(path)!r}"
        self.synchronous: Final = synchronous
        self.timeout: Final = timeout
        self._create = create
        self._known = Known()
        # Threads of one process wait for each other here; those of other processes are waited for by looking again.
        self.writing: Lock = Lock()
        self._writer = 0
        self._idle: list[Connection] = []
        self._closed = False
        # Whether some connection was made that can only read.
        self._read_only = False
        #: Which file it is, as device and inode.
        self._identity: tuple[int, int] | None = None
        forks.files[id(self)] = ref(self)
        finalize(self, _forget, id(self), self._idle)
        self.read(lambda _: None)

    # --- reading and writing ---------------------------------------------------------------------

    # Whatever is to be undone here after an interrupt (Ctrl-C), at any point, is undone by a call of C that comes first
    # of all in its `finally`: a function of Python may be interrupted before its first line.

    def read(self, work: Callable[[Desk], _T]) -> _T:
        """Do something outside of any transaction."""
        use = Use(self)
        try:
            return work(self._take(use))
        except sqlite3.Error as error:
            raise self.failed(use, error) from error
        finally:
            try:
                self._give_back(use)
            finally:
                forks.uses.pop(use.key, None)

    def write(self, work: Callable[[Desk], _T]) -> _T:
        """Do something in a transaction that nobody else writes beside; it is undone if ``work`` does not commit it."""
        use = Use(self)
        try:
            return work(self._begin(use))
        except sqlite3.Error as error:
            raise self.failed(use, error) from error
        finally:
            try:
                if use.connection is not None:
                    use.connection.rollback()  # does nothing if there is no transaction
                self._give_back(use)
            except sqlite3.Error:
                _close(use)
            finally:
                try:
                    if True in use.locked:
                        self._writer = 0
                        use.lock.release()
                finally:
                    forks.uses.pop(use.key, None)

    @contextmanager
    def transaction(self) -> Generator[tuple[Use, Desk]]:
        """Give a transaction; it is undone if it was not committed."""
        use = Use(self)
        try:
            try:
                desk = self._begin(use)
            except sqlite3.Error as error:
                raise self.failed(use, error) from error
            yield use, desk
        finally:
            try:
                if use.connection is not None:
                    use.connection.rollback()
                self._give_back(use)
            except sqlite3.Error:
                _close(use)
            finally:
                try:
                    if True in use.locked:
                        self._writer = 0
                        use.lock.release()
                finally:
                    forks.uses.pop(use.key, None)

    def _begin(self, use: Use) -> Desk:
        started = time.monotonic()
        if self._writer == use.thread:
            raise StorageError(
                f"{self.name}: this thread is in the middle of a turn or a commit, and would wait for itself; "
                "use the storage that the turn gave"
            )
        # By C alone: an interrupt comes before the lock was got, or after that was noted.
        use.locked.extend(map(use.lock.acquire, (True,), (self.timeout,)))
        if True not in use.locked:
            raise self._locked()
        self._writer = use.thread
        if self._read_only:  # then, and perhaps not now; a connection stays as it was opened
            self._read_only = False
            self.close_idle()
        desk = self._take(use)
        self.patiently(lambda: desk.execute("BEGIN IMMEDIATE"), started)
        # A newer version of this library may have migrated the file while it was open here.
        self._check_schema(desk.execute("PRAGMA user_version").fetchone()[0])
        return desk

    def failed(self, use: Use, error: sqlite3.Error) -> StorageError:
        """Return what to raise for an error of SQLite; nothing that was read or opened before is used again."""
        use.broken = True
        self._read_only = self._read_only or is_readonly(error)
        self._known.clear()
        self.close_idle()
        if use.desk is not None and use.desk.committing and is_disk_failure(error):
            # What was written before the disk failed may be found there when the file is opened after a crash.
            return OutcomeUnknown(
                f"{self.name}: {error} in the middle of a commit; look at the disk, open the sweep again and see "
                "whether it happened"
            )
        return explain(error, self.path, self.name)

    # --- waiting ---------------------------------------------------------------------------------

    def patiently(self, attempt: Callable[[], _T], started: float | None = None) -> _T:
        """Try something until no other process is in its way.

        Raises:
            StorageError: that took longer than the timeout.
        """
        deadline: float | None = None
        while True:
            try:
                return attempt()
            except sqlite3.OperationalError as error:
                if not is_busy(error):
                    raise
                now = time.monotonic()
                if deadline is None:
                    deadline = (now if started is None else started) + self.timeout
                if now >= deadline:
                    raise self._locked() from error
                time.sleep(random.uniform(0.1, 1.0) * _LOOK_AGAIN)  # noqa: S311 - so that those who wait do not march in step

    def _locked(self) -> StorageError:
        return StorageError(
            f"{self.name} was locked by others for more than {self.timeout:g} s, and nothing was written; "
            "look who writes to it for so long, or pass a longer timeout"
        )

    # --- connections -----------------------------------------------------------------------------

    def _take(self, use: Use) -> Desk:
        """Take a connection that nobody uses."""
        forks.enter(use)
        if self._closed:
            raise StorageError(f"{self.name} was closed; make a new SQLiteStorage")
        if self._identity is not None:
            self._same(self._look())
        try:
            use.connection = self._idle.pop()
        except IndexError:
            use.connection = self._connect()
        use.desk = Desk(use.connection, self.name, self._known, self.patiently)
        return use.desk

    def _give_back(self, use: Use) -> None:
        if use.desk is not None:
            use.desk.leave()
        connection, use.connection = use.connection, None
        if connection is None:
            return
        if use.broken:
            connection.close()
            return
        self._idle.append(connection)
        # Looked at afterwards, since it may be closed in between.
        if self._closed or len(self._idle) > _KEPT:
            self.close_idle(0 if self._closed else _KEPT)

    def close_idle(self, but: int = 0) -> None:
        """Close the connections that nobody uses, but for so many of them."""
        _close_all(self._idle, but)

    def close(self) -> None:
        """Close every connection; those in use are closed by whoever uses them."""
        self._closed = True
        self.close_idle()

    def begin_anew(self) -> Sequence[Connection]:
        """Be a file that a forked child has not opened yet; return the connections that it inherited."""
        self.writing, self._writer = Lock(), 0
        inherited = self._idle[:]
        self._idle.clear()
        return inherited

    def identities(self) -> set[tuple[int, int]]:
        """Return which files this is, or may be."""
        found = {self._identity}
        with suppress(StorageError):
            found.add(self._look())
        return {each for each in found if each is not None}

    def _look(self) -> tuple[int, int]:
        """Return which file lies at the path now."""
        try:
            found = os.stat(self.path)  # noqa: PTH116 - called each time; Path.stat takes twice as long
        except OSError as error:
            raise StorageError(f"{self.name} cannot be found any more ({error.strerror}); put it back") from None
        return found.st_dev, found.st_ino

    def _same(self, found: tuple[int, int]) -> tuple[int, int]:
        """Return which file was found, which must be the one that was opened: nobody sees commits to another."""
        if self._identity in {None, found}:
            return found
        raise StorageError(f"{self.name} was replaced while it was open; make a new SQLiteStorage")

    # --- opening ---------------------------------------------------------------------------------

    def _connect(self) -> Connection:
        """Return a new connection to a file that is up to date."""
        # Only at first: a file that was removed while it was open is not to be replaced by an empty one.
        create = self._create and self._identity is None
        if self.path.exists():
            forks.check(self._look(), self.name)
            # SQLite takes so short a text for a new database, and would write over it; its own files have whole pages.
            if 0 < self.path.stat().st_size < _HEADER:
                raise StorageError(f"{self.name} is not a database; give another path, or restore it from a backup")
        elif not create and self.path.parent.is_dir():
            raise StorageError(f"{self.name}: there is no such file; create=True makes it")
        # No waiting inside SQLite, no transactions begun behind our back, and any thread may take it from the pool.
        uri = f"{self.path.as_uri()}?mode={'rwc' if create else 'rw'}"
        connection = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(connection, create=create)
            self._identity = self._same(self._look())
            self._read_only = self._read_only or not os.access(self.path, os.W_OK)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: Connection, *, create: bool) -> None:
        self.patiently(lambda: connection.execute(f"PRAGMA synchronous = {self.synchronous}"))
        # On macOS, an ordinary fsync leaves it to the disk when to write; elsewhere this changes nothing.
        connection.execute(f"PRAGMA fullfsync = {int(self.synchronous == 'FULL')}")
        schema = self._schema(connection)
        if schema == 0 and not create:
            raise StorageError(f"{self.name} is empty; restore it from a backup, or make it one with create=True")
        mode = self.patiently(lambda: connection.execute("PRAGMA journal_mode = WAL").fetchone())
        if mode != ("wal",):
            raise StorageError(f"{self.name} cannot be shared where it is (no WAL mode); give a path on a local disk")
        if schema < len(STEPS):
            self._migrate(connection)

    def _schema(self, connection: Connection) -> int:
        """Return how many steps a file has seen.

        Raises:
            StorageError: it is not one of ours, or written by a newer version.
        """
        # One statement, so that what another process is just doing is seen whole or not at all.
        sql = "SELECT application_id, user_version, EXISTS (SELECT 1 FROM sqlite_master) FROM "
        sql += "pragma_application_id, pragma_user_version"
        owner, schema, used = self.patiently(lambda: connection.execute(sql).fetchone())
        if owner != APPLICATION_ID and (owner or schema or used):
            raise StorageError(f"{self.name} is another application's database; give a path of its own")
        self._check_schema(schema)
        found: int = schema
        return found

    def _check_schema(self, schema: int) -> None:
        if schema > len(STEPS):
            raise StorageError(
                f"{self.name} was written by a newer version of sweepstate (schema {schema}; this one knows "
                f"{len(STEPS)}); update sweepstate"
            )

    def _migrate(self, connection: Connection) -> None:
        """Take the steps that the file has not seen: all of them, or none."""
        self.patiently(lambda: connection.execute("BEGIN IMMEDIATE"))
        try:
            # Looked at again, because another process may have come first.
            for step in STEPS[self._schema(connection) :]:
                for statement in statements_of(step):
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {len(STEPS)}")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute("COMMIT")
        finally:
            connection.rollback()  # does nothing if it was committed


def check_path(path: object) -> Path:
    """Return an absolute path.

    Raises:
        InvalidValue: it is no path of a file.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise InvalidValue("path", f"must be a path, not {show(path)}", "e.g. 'sweeps.db'")
    text: object = os.fspath(cast("os.PathLike[Any]", path))
    if not isinstance(text, str) or not text or text == ":memory:" or "\0" in text:
        raise InvalidValue("path", f"{show(text)} is no file's path", "give the path of a file, or use MemoryStorage()")
    if "://" in text:
        raise InvalidValue("path", f"{show(text)} is a URL", "give the path alone, or use SQLAlchemyStorage")
    return Path(text).absolute()


def _close(use: Use) -> None:
    if use.desk is not None:
        use.desk.leave()
    connection, use.connection = use.connection, None
    if connection is not None:
        connection.close()


def _close_all(idle: list[Connection], but: int = 0) -> None:
    while len(idle) > but:
        try:
            connection = idle.pop()
        except IndexError:  # another thread was faster
            return
        connection.close()


def _forget(key: int, idle: list[Connection]) -> None:
    """Leave nothing behind when a file is not used any more."""
    forks.files.pop(key, None)
    _close_all(idle)

"""SQLite storage: one file, for sweeps that outlive their process and are shared by the processes of one machine.

It needs nothing but the standard library. The file is in WAL mode: readers
never wait, and writers take turns. A commit is one transaction, and it is on
the disk when it returns, unless that was given up for speed (``synchronous``).
"""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, Final, Literal, Self, TypeVar, get_args
from weakref import finalize

from ..core.decide import Change
from ..core.errors import AlreadyExists, Conflict, InvalidValue, OutcomeUnknown, StorageError, SweepNotFound
from ..core.events import Event
from ..core.questions import RunQuery
from ..core.state import RunState, SweepState
from ..core.values import check_flag, check_seconds, show
from ._rows import decode, decode_metrics, encode, encode_metrics, record_of, watched, whole_commits
from ._sqlite_schema import APPLICATION_ID, BEAT, STEPS, UNWATCH, WATCH, WRITE_EVENT, WRITE_RUN, select, statements_of

_T = TypeVar("_T")

Synchronous = Literal["FULL", "NORMAL"]

#: Who waits for another writer looks again after up to so many seconds: often enough that a free file is not left
#: idle, and seldom enough to cost no processor. SQLite's own handler ends at every 100 ms.
_LOOK_AGAIN: Final = 0.004
#: So many sweeps are remembered, so that a snapshot which has not changed is not read and parsed again.
_REMEMBERED: Final = 64

_BUSY: Final = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
_BACKUP: Final = "restore it from a backup, or rescue what is readable with the sqlite3 shell's .recover"
#: What to do about an error of SQLite, by its primary result code.
_REMEDIES: Final[dict[int, str]] = {
    sqlite3.SQLITE_NOTADB: "it is no SQLite database; give another path",
    sqlite3.SQLITE_CORRUPT: f"the file is damaged: {_BACKUP}",
    sqlite3.SQLITE_READONLY: "it cannot be written to; change the permissions of the file and of its directory",
    sqlite3.SQLITE_PERM: "it cannot be accessed; change its permissions",
    sqlite3.SQLITE_AUTH: "it cannot be accessed; change its permissions",
    sqlite3.SQLITE_CANTOPEN: "the directory must exist, and both it and the file must be readable and writable",
    sqlite3.SQLITE_FULL: "the disk is full, and nothing was written; free some space and try again",
    sqlite3.SQLITE_IOERR: "the disk failed, or is full; look at it and try again",
    sqlite3.SQLITE_NOMEM: "memory is exhausted",
    sqlite3.SQLITE_TOOBIG: "a value is too large for SQLite; keep large data elsewhere, and where it is here",
}

# What a forked child inherits. SQLite forbids to use or even to close it there, since the locks of the file are the
# parent's (https://www.sqlite.org/howtocorrupt.html, 2.6), so it is kept for ever.
_INHERITED: Final[list[sqlite3.Connection]] = []


class SQLiteStorage:
    """Keeps sweeps in one SQLite file. Safe from many threads and many processes of one machine.

    The file is made if it is not there, and brought up to date if an older version of this library
    wrote it. Beside it are two more while it is open (``-wal`` and ``-shm``), so copy it by SQLite's own
    backup, or while nothing has it open. Not for network file systems, which lack the locks and shared
    memory it needs (https://www.sqlite.org/wal.html).

    A pickled storage opens the same file where it is unpickled; a forked child opens connections of its
    own. It is a context manager that closes it.

    Args:
        path: the file; its directory must be there.
        synchronous: ``"FULL"``: what was committed survives a loss of power. ``"NORMAL"``: it survives
            the end of any process, and a loss of power may take back the last commits, in order and
            whole; several times as fast on slow disks.
        timeout: for how many seconds a commit waits while others write.
        create: whether to make the file if it is not there.

    Raises:
        StorageError: it cannot be opened: no such directory, no database, another application's, damaged,
            written by a newer version, not writable.
        InvalidValue: an argument cannot be used.

    Example:
        >>> import tempfile, os
        >>> from sweepstate import Grid, Sweep
        >>> path = os.path.join(tempfile.mkdtemp(), "sweeps.db")
        >>> with SQLiteStorage(path) as storage:
        ...     _ = Sweep(Grid({"lr": [0.1, 0.01]}), id="mine", storage=storage).next_run()
        >>> with SQLiteStorage(path) as storage:
        ...     print(Sweep.open("mine", storage=storage))
        <Sweep 'mine' RUNNING: 1 run, 1 pending>
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        synchronous: Synchronous = "FULL",
        timeout: float = 30.0,
        create: bool = True,
    ) -> None:
        self._path = _check_path(path)
        if synchronous not in get_args(Synchronous):
            raise InvalidValue("synchronous", f"must be 'FULL' or 'NORMAL', not {show(synchronous)}")
        self._synchronous = synchronous
        self._timeout = check_seconds(timeout, "timeout")
        self._create = check_flag(create, "create")
        self._name = f"SQLite file {str(self._path)!r}"
        self._known: dict[str, tuple[int, SweepState]] = {}
        # Threads of one process wait for each other here; those of other processes are waited for by looking again.
        self._writing = Lock()
        self._idle: list[sqlite3.Connection] = []
        self._process = os.getpid()
        self._closed = False
        with self._explained():
            self._idle.append(self._connect())
            self._identity = self._identify()
        finalize(self, _close, self._idle, self._process)

    @property
    def path(self) -> Path:
        """The file, as an absolute path."""
        return self._path

    def __repr__(self) -> str:
        return f"SQLiteStorage({str(self._path)!r}, synchronous={self._synchronous!r}, timeout={self._timeout:g})"

    def __reduce__(self) -> tuple[object, ...]:
        return (_reopen, (str(self._path), self._synchronous, self._timeout))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. What is called afterwards raises StorageError; closing again does nothing."""
        self._closed = True
        _close(self._idle, self._process)

    # --- the storage -----------------------------------------------------------------------------

    def sweep(self, sweep_id: str) -> SweepState:
        """Return a sweep's snapshot; see ``Storage.sweep``."""
        with self._reading() as desk:
            return desk.sweep(sweep_id)

    def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        """Return runs that a query means; see ``Storage.runs``."""
        with self._reading() as desk:
            return desk.runs(sweep_id, query, after=after, limit=limit)

    def events(self, sweep_id: str, *, after: int = 0, limit: int) -> Sequence[Event]:
        """Return events in order, ending at a commit boundary; see ``Storage.events``."""
        with self._reading() as desk:
            return desk.events(sweep_id, after=after, limit=limit)

    def commit(self, change: Change) -> None:
        """Write a change, all or nothing; see ``Storage.commit``.

        Raises:
            OutcomeUnknown: the disk failed in the middle of it.
        """
        rows = _Rows(change)  # before others are made to wait
        with self._transaction() as desk:
            desk.commit(change, rows)

    @contextmanager
    def turn(self, sweep_id: str) -> Iterator[Turn]:
        """Keep everybody else from committing, to any sweep of the file; see ``Turns.turn``."""
        with self._transaction() as desk:
            yield Turn(desk, sweep_id)

    def beat(self, sweep_id: str, index: int, attempt: int, at: float, metrics: Mapping[str, float] | None) -> None:
        """Keep a sign of life; see ``Heartbeats.beat``."""
        text = encode_metrics(metrics)
        with self._transaction() as desk:
            desk.beat(sweep_id, index, attempt, at, text)

    def last_heard(self, sweep_id: str, leases: Sequence[tuple[int, int]]) -> Sequence[float | None]:
        """Return when each attempt was last heard; see ``Heartbeats.last_heard``."""
        with self._reading() as desk:
            return desk.last_heard(sweep_id, leases)

    def last_metrics(self, sweep_id: str, index: int) -> Mapping[str, float] | None:
        """Return what a run last reported on the way; see ``Heartbeats.last_metrics``."""
        with self._reading() as desk:
            return desk.last_metrics(sweep_id, index)

    def sweeps(self, *, after: str = "", limit: int) -> Sequence[SweepState]:
        """Return sweeps by id; see ``Catalog.sweeps``."""
        with self._reading() as desk:
            return desk.sweeps(after, limit)

    def delete(self, sweep_id: str) -> None:
        """Forget a sweep with all it has; see ``Catalog.delete``. The file keeps its size, and uses the room again."""
        with self._transaction() as desk:
            desk.delete(sweep_id)

    # --- connections -----------------------------------------------------------------------------

    def _connect(self) -> sqlite3.Connection:
        """Return a new connection to a file that is up to date."""
        if not (self._create or self._path.exists()):
            raise StorageError(f"{self._name}: there is no such file; create=True makes it")
        # No waiting inside SQLite, no transactions begun behind our back, and any thread may take it from the pool.
        uri = f"{self._path.as_uri()}?mode={'rwc' if self._create else 'rw'}"
        connection = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        def pragma(text: str) -> Any:
            return self._patiently(lambda: connection.execute(f"PRAGMA {text}").fetchone())[0]

        owner, schema = pragma("application_id"), pragma("user_version")
        empty = not self._patiently(lambda: connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone())
        if owner != APPLICATION_ID and not (owner == schema == 0 and empty):
            raise StorageError(f"{self._name} is another application's database; give a path of its own")
        if schema > len(STEPS):
            raise StorageError(
                f"{self._name} was written by a newer version of sweepstate (schema {schema}; this one knows "
                f"{len(STEPS)}); update sweepstate"
            )
        if pragma("journal_mode = WAL") != "wal":
            raise StorageError(f"{self._name} cannot be shared where it is (no WAL mode); give a path on a local disk")
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        if schema < len(STEPS):
            self._migrate(connection)

    def _migrate(self, connection: sqlite3.Connection) -> None:
        """Take the steps that the file has not seen: all of them, or none."""
        self._patiently(lambda: connection.execute("BEGIN IMMEDIATE"))
        try:
            # Looked at again, because another process may have come first.
            schema = connection.execute("PRAGMA user_version").fetchone()[0]
            for step in STEPS[schema:]:
                for statement in statements_of(step):
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {max(schema, len(STEPS))}")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute("COMMIT")
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def _identify(self) -> tuple[int, int]:
        """Return which file lies at the path now."""
        try:
            found = os.stat(self._path)  # noqa: PTH116 - called for every commit; Path.stat takes twice as long
        except OSError as error:
            raise StorageError(f"{self._name} cannot be found any more ({error.strerror}); put it back") from None
        return found.st_dev, found.st_ino

    def _leave_to_parent(self) -> None:
        """Begin anew in a forked child: connections, and a lock that nobody in it will ever release, are the parent's."""
        if self._process != os.getpid():
            _INHERITED.extend(self._idle)
            self._idle, self._process, self._writing = [], os.getpid(), Lock()
            finalize(self, _close, self._idle, self._process)

    def _take(self) -> sqlite3.Connection:
        """Return a connection that nobody uses."""
        if self._closed:
            raise StorageError(f"{self._name} was closed; make a new SQLiteStorage")
        try:
            return self._idle.pop()
        except IndexError:
            return self._connect()

    def _put_back(self, connection: sqlite3.Connection) -> None:
        if self._closed:
            connection.close()
        else:
            self._idle.append(connection)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn an error of SQLite into one that names the file and the remedy."""
        try:
            yield
        except sqlite3.Error as error:
            self._known.clear()
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            remedy = _REMEDIES.get(code, "see https://www.sqlite.org/rescode.html")
            raise StorageError(f"{self._name}: {error}; {remedy}") from error

    @contextmanager
    def _reading(self) -> Iterator[_Desk]:
        """Give a connection, outside of any transaction."""
        self._leave_to_parent()
        with self._explained():
            connection = self._take()
            try:
                yield _Desk(connection, self._name, self._known, self._patiently)
            finally:
                self._put_back(connection)

    @contextmanager
    def _transaction(self) -> Iterator[_Desk]:
        """Give a connection in a transaction that nobody else writes beside; it is undone if it was not committed."""
        self._leave_to_parent()
        started = time.monotonic()
        if not self._writing.acquire(timeout=self._timeout):
            raise self._locked()
        try:
            with self._explained():
                connection = self._take()
                try:
                    # A file that was removed or replaced while it was open would take commits that nobody ever sees.
                    if self._identify() != self._identity:
                        raise StorageError(f"{self._name} was replaced while it was open; make a new SQLiteStorage")
                    self._patiently(lambda: connection.execute("BEGIN IMMEDIATE"), started)
                    yield _Desk(connection, self._name, self._known, _at_once)
                finally:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    self._put_back(connection)
        finally:
            self._writing.release()

    def _patiently(self, attempt: Callable[[], _T], started: float | None = None) -> _T:
        """Try something until no other process is in its way.

        Raises:
            StorageError: that took longer than the timeout.
        """
        deadline: float | None = None
        while True:
            try:
                return attempt()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in _BUSY:
                    raise
                now = time.monotonic()
                deadline = deadline or (now if started is None else started) + self._timeout
                if now >= deadline:
                    raise self._locked() from error
                time.sleep(random.uniform(0.1, 1.0) * _LOOK_AGAIN)  # noqa: S311 - so that those who wait do not march in step

    def _locked(self) -> StorageError:
        return StorageError(
            f"{self._name} was locked by others for more than {self._timeout:g} s, and nothing was written; "
            "look who writes to it for so long, or pass a longer timeout"
        )


class Turn:
    """What ``SQLiteStorage.turn`` gives: a storage to read from and to commit to once."""

    def __init__(self, desk: _Desk, sweep_id: str) -> None:
        self._desk = desk
        self._sweep_id = sweep_id
        self.sweep = desk.sweep
        self.runs = desk.runs
        self.events = desk.events
        self.last_heard = desk.last_heard
        self.last_metrics = desk.last_metrics

    def commit(self, change: Change) -> None:
        """Write a change, and with it end the turn; see ``Storage.commit``."""
        if change.sweep_id != self._sweep_id:
            raise StorageError(f"this turn is sweep {self._sweep_id!r}'s, and the change is {change.sweep_id!r}'s")
        self._desk.commit(change, _Rows(change))

    def beat(self, sweep_id: str, index: int, attempt: int, at: float, metrics: Mapping[str, float] | None) -> None:
        """Keep a sign of life, and with it end the turn; see ``Heartbeats.beat``."""
        self._desk.beat(sweep_id, index, attempt, at, encode_metrics(metrics))


class _Rows:
    """What a change writes, made before the file is locked."""

    __slots__ = ("beats", "body", "events", "runs")

    def __init__(self, change: Change) -> None:
        self.body = encode(change.sweep)
        self.runs = [record_of(run) for run in change.runs]
        self.beats = [(run.index, watched(run)) for run in change.runs]
        self.events = [(event.number, event.version, encode(event)) for event in change.events]


_VERSION: Final = "SELECT version FROM sweep WHERE key = ? AND body IS NOT NULL"


def _at_once(attempt: Callable[[], _T]) -> _T:
    return attempt()


class _Desk:
    """Reads and writes over one connection, in whatever transaction that is in."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        name: str,
        known: dict[str, tuple[int, SweepState]],
        patiently: Callable[[Callable[[], list[Any]]], list[Any]],
    ) -> None:
        self._connection = connection
        self._execute = connection.execute
        self._name = name
        self._known = known
        self._patiently = patiently

    def _all(self, sql: str, *values: object) -> list[Any]:
        """Return all rows: reading waits for nobody but a process that is recovering the file after a crash."""
        return self._patiently(lambda: self._execute(sql, values).fetchall())

    # --- reading ---------------------------------------------------------------------------------

    def sweep(self, sweep_id: str) -> SweepState:
        known = self._known.get(sweep_id)
        if known is not None and self._all(_VERSION, known[0]) == [(known[1].version,)]:
            return known[1]
        for key, body in self._all("SELECT key, body FROM sweep WHERE id = ? AND body IS NOT NULL", sweep_id):
            state = self._read_sweep(sweep_id, body)
            self._remember(key, state)
            return state
        raise SweepNotFound(sweep_id)

    def _read_sweep(self, sweep_id: str, body: str) -> SweepState:
        return decode(body, SweepState, f"{self._name}: sweep {sweep_id!r}")

    def _remember(self, key: int, state: SweepState) -> None:
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[state.id] = (key, state)

    def key(self, sweep_id: str) -> int:
        """Return what a sweep's rows are stored under; of a deleted one too, which has none."""
        known = self._known.get(sweep_id)
        if known is not None:
            return known[0]
        for (key,) in self._all("SELECT key FROM sweep WHERE id = ?", sweep_id):
            found: int = key
            return found
        raise SweepNotFound(sweep_id)

    def _expect(self, sweep_id: str) -> None:
        """Raise SweepNotFound if there is no such sweep any more."""
        if not self._all("SELECT 1 FROM sweep WHERE id = ? AND body IS NOT NULL", sweep_id):
            raise SweepNotFound(sweep_id)

    def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        sql, values = select(query, self.key(sweep_id), after, limit)
        rows = self._all(sql, *values)
        if not rows:
            self._expect(sweep_id)
        return [decode(body, RunState, f"{self._name}: run {number} of sweep {sweep_id!r}") for body, number in rows]

    def events(self, sweep_id: str, *, after: int = 0, limit: int) -> Sequence[Event]:
        key, most = self.key(sweep_id), max(limit, 1)
        sql = "SELECT version, body FROM event WHERE sweep = ? AND number > ? ORDER BY number LIMIT ?"
        rows = self._all(sql, key, after, most + 1)
        page = whole_commits(rows, most)
        while page is None:  # its first commit alone has more events than that
            most *= 2
            rows = self._all(sql, key, after, most + 1)
            first = [row for row in rows if row[0] == rows[0][0]]
            page = first if len(first) < len(rows) or len(rows) <= most else None
        if not page:
            self._expect(sweep_id)
        place = f"{self._name}: an event of sweep {sweep_id!r}"
        return [decode(body, Event, place) for _, body in page]

    def heard(self, key: int, index: int, attempt: int) -> float | None:
        rows = self._all("SELECT at FROM beat WHERE sweep = ? AND run = ? AND attempt = ?", key, index, attempt)
        return rows[0][0] if rows else None

    def last_heard(self, sweep_id: str, leases: Sequence[tuple[int, int]]) -> Sequence[float | None]:
        self._expect(sweep_id)
        key = self.key(sweep_id)
        return [self.heard(key, index, attempt) for index, attempt in leases]

    def last_metrics(self, sweep_id: str, index: int) -> Mapping[str, float] | None:
        self._expect(sweep_id)
        rows = self._all("SELECT metrics FROM beat WHERE sweep = ? AND run = ?", self.key(sweep_id), index)
        place = f"{self._name}: the metrics of run {index} of sweep {sweep_id!r}"
        return decode_metrics(rows[0][0], place) if rows else None

    def sweeps(self, after: str, limit: int) -> Sequence[SweepState]:
        sql = "SELECT id, body FROM sweep WHERE id > ? AND body IS NOT NULL ORDER BY id LIMIT ?"
        return [self._read_sweep(sweep_id, body) for sweep_id, body in self._all(sql, after, limit)]

    # --- writing ---------------------------------------------------------------------------------

    def commit(self, change: Change, rows: _Rows) -> None:
        if not self._connection.in_transaction:
            raise StorageError(f"this turn of {self._name} is over, as it has committed; take another")
        key = self._create(change, rows) if change.version == 0 else self._advance(change, rows)
        many = self._connection.executemany
        many(WRITE_RUN, [(*record, key) for record in rows.runs])
        for index, watch in rows.beats:
            if watch is None:
                self._execute(UNWATCH, (key, index))
            else:
                self._execute(WATCH, (key, index, *watch))
        many(WRITE_EVENT, [(key, *event) for event in rows.events])
        self._end()
        self._remember(key, change.sweep)

    def _create(self, change: Change, rows: _Rows) -> int:
        sql = "INSERT INTO sweep (id, version, body) VALUES (?, ?, ?) ON CONFLICT (id) DO NOTHING RETURNING key"
        for (key,) in self._all(sql, change.sweep_id, change.sweep.version, rows.body):
            found: int = key
            return found
        raise AlreadyExists(change.sweep_id)

    def _advance(self, change: Change, rows: _Rows) -> int:
        """Move a sweep to its next version, if it is at the one that was decided on."""
        sweep_id = change.sweep_id
        key = self.key(sweep_id)
        sql = "UPDATE sweep SET version = ?, body = ? WHERE key = ? AND version = ? AND body IS NOT NULL"
        if self._execute(sql, (change.sweep.version, rows.body, key, change.version)).rowcount != 1:
            self._expect(sweep_id)
            ((found,),) = self._all(_VERSION, key)
            raise Conflict(sweep_id, change.version, found)
        for silence in change.silences:
            heard = self.heard(key, silence.index, silence.attempt)
            if heard is not None and heard > silence.heard:
                what = f"run {silence.index} was heard meanwhile"
                raise Conflict(sweep_id, change.version, change.version, what)
        return key

    def beat(self, sweep_id: str, index: int, attempt: int, at: float, metrics: str | None) -> None:
        self._expect(sweep_id)
        self._execute(BEAT, (self.key(sweep_id), index, attempt, at, metrics))
        self._end()

    def delete(self, sweep_id: str) -> None:
        self._expect(sweep_id)
        key = self.key(sweep_id)
        self._execute("UPDATE sweep SET body = NULL WHERE key = ?", (key,))
        self._execute("DELETE FROM run WHERE sweep = ?", (key,))
        self._execute("DELETE FROM event WHERE sweep = ?", (key,))
        self._execute("DELETE FROM beat WHERE sweep = ?", (key,))
        self._end()
        self._known.pop(sweep_id, None)

    def _end(self) -> None:
        """Commit."""
        try:
            self._execute("COMMIT")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_IOERR:
                raise  # it is still open, and is going to be undone
            # What was written before the disk failed may be found there when the file is opened after a crash.
            self._known.clear()
            raise OutcomeUnknown(
                f"{self._name}: {error} in the middle of a commit; look at the disk, open the sweep again and see "
                "whether it happened"
            ) from error


def _check_path(path: object) -> Path:
    if not isinstance(path, (str, os.PathLike)):
        raise InvalidValue("path", f"must be a path, not {show(path)}", "e.g. 'sweeps.db'")
    text = os.fspath(path)
    if not isinstance(text, str) or not text or text == ":memory:" or "\0" in text:
        remedy = "give the path of a file, or use MemoryStorage()"
        raise InvalidValue("path", f"{show(text)} is no file's path", remedy)
    return Path(text).absolute()


def _close(idle: list[sqlite3.Connection], process: int) -> None:
    if process != os.getpid():
        return  # the parent's
    while idle:
        idle.pop().close()


def _reopen(path: str, synchronous: Synchronous, timeout: float) -> SQLiteStorage:
    """Open, from a pickle, a file that must still be there."""
    return SQLiteStorage(path, synchronous=synchronous, timeout=timeout, create=False)

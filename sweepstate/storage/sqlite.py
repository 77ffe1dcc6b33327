"""SQLite storage: one file, for sweeps that outlive their process and are shared by the processes of one machine.

It needs nothing but the standard library. The file is in WAL mode: readers
never wait, and writers take turns. A commit is one transaction, and it is on
the disk when it returns, unless that was given up for speed (``synchronous``).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import TIMEOUT_MAX
from typing import Self, TypeVar, get_args

from ..core.decide import Change
from ..core.errors import InvalidValue, StorageError
from ..core.events import Event
from ..core.questions import RunQuery
from ..core.state import RunState, SweepState
from ..core.values import check_flag, check_seconds, show
from ._rows import encode_metrics
from ._sqlite_desk import Desk, Rows
from ._sqlite_file import SQLiteFile, Synchronous, Use, check_path

_T = TypeVar("_T")


class _Reading:
    """What can be read from a storage, and in a turn of it."""

    def _read(self, work: Callable[[Desk], _T]) -> _T:
        raise NotImplementedError

    def sweep(self, sweep_id: str) -> SweepState:
        """Return a sweep's snapshot; see ``Storage.sweep``."""
        return self._read(lambda desk: desk.sweep(sweep_id))

    def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        """Return runs that a query means; see ``Storage.runs``."""
        return self._read(lambda desk: desk.runs(sweep_id, query, after, limit))

    def events(self, sweep_id: str, *, after: int = 0, limit: int) -> Sequence[Event]:
        """Return events in order, ending at a commit boundary; see ``Storage.events``."""
        return self._read(lambda desk: desk.events(sweep_id, after, limit))

    def last_heard(self, sweep_id: str, leases: Sequence[tuple[int, int]]) -> Sequence[float | None]:
        """Return when each attempt was last heard; see ``Heartbeats.last_heard``."""
        return self._read(lambda desk: desk.last_heard(sweep_id, leases))

    def last_metrics(self, sweep_id: str, index: int) -> Mapping[str, float] | None:
        """Return what a run last reported on the way; see ``Heartbeats.last_metrics``."""
        return self._read(lambda desk: desk.last_metrics(sweep_id, index))


class SQLiteStorage(_Reading):
    """Keeps sweeps in one SQLite file. Safe from many threads and many processes of one machine.

    The file is made if it is not there, and brought up to date if an older version of this library
    wrote it. Beside it are two more while it is open (``-wal`` and ``-shm``), so copy it by SQLite's own
    backup, or while nothing has it open. Not for network file systems, which lack the locks and shared
    memory it needs (https://www.sqlite.org/wal.html).

    A pickled storage opens the same file where it is unpickled; a forked child opens connections of its
    own, unless it was forked within a turn (a fork closes those of its parent first, which opens others when
    it needs them). It is a context manager that closes it.

    Args:
        path: the file; its directory must be there.
        synchronous: ``"FULL"``: what was committed survives a loss of power. ``"NORMAL"``: it survives
            the end of any process, and a loss of power may take back the last commits, in order and
            whole; several times as fast on slow disks.
        timeout: for how many seconds a commit waits while others write.
        create: whether to make the file if it is not there.

    Raises:
        StorageError: it cannot be opened: no such directory, no database, another application's, damaged,
            written by a newer version, in a place where nothing can be written beside it. A file that
            itself cannot be written to can be read.
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
        place = check_path(path)
        if synchronous not in get_args(Synchronous):
            raise InvalidValue("synchronous", f"must be 'FULL' or 'NORMAL', not {show(synchronous)}")
        seconds = min(check_seconds(timeout, "timeout"), TIMEOUT_MAX)
        self._file = SQLiteFile(place, synchronous, seconds, create=check_flag(create, "create"))

    @property
    def path(self) -> Path:
        """The file, as an absolute path."""
        return self._file.path

    def __repr__(self) -> str:
        file = self._file
        return f"SQLiteStorage({str(file.path)!r}, synchronous={file.synchronous!r}, timeout={file.timeout:g})"

    def __reduce__(self) -> tuple[object, ...]:
        return (_reopen, (str(self._file.path), self._file.synchronous, self._file.timeout))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. What is called afterwards raises StorageError; closing again does nothing."""
        self._file.close()

    def _read(self, work: Callable[[Desk], _T]) -> _T:
        return self._file.read(work)

    def commit(self, change: Change) -> None:
        """Write a change, all or nothing; see ``Storage.commit``.

        Raises:
            OutcomeUnknown: the disk failed in the middle of it.
        """
        rows = Rows(change)  # before others are made to wait
        self._file.write(lambda desk: desk.commit(change, rows))

    @contextmanager
    def turn(self, sweep_id: str) -> Generator[Turn]:
        """Keep everybody else from committing, to any sweep of the file; see ``Turns.turn``.

        Yields:
            A storage to read from and to commit to once, which ends the turn. Heartbeats that are sent to it are
            kept with the commit. It is of no use when the turn is over.

        Raises:
            StorageError: others wrote for longer than the timeout, or this thread is in a turn already.
        """
        with self._file.transaction() as (use, desk):
            yield Turn(use, desk, sweep_id)

    def beat(self, sweep_id: str, index: int, attempt: int, at: float, metrics: Mapping[str, float] | None) -> None:
        """Keep a sign of life; see ``Heartbeats.beat``."""
        text = encode_metrics(metrics)

        def beat(desk: Desk) -> None:
            desk.beat(sweep_id, index, attempt, at, text)
            desk.end()

        self._file.write(beat)

    def sweeps(self, *, after: str = "", limit: int) -> Sequence[SweepState]:
        """Return sweeps by id; see ``Catalog.sweeps``."""
        return self._read(lambda desk: desk.sweeps(after, limit))

    def delete(self, sweep_id: str) -> None:
        """Forget a sweep with all it has; see ``Catalog.delete``. The file keeps its size, and uses the room again."""
        self._file.write(lambda desk: desk.delete(sweep_id))


class Turn(_Reading):
    """What ``SQLiteStorage.turn`` gives: a storage to read from and to commit to once, which ends the turn.

    Heartbeats that are sent to it are part of it: they are kept if it is committed.
    """

    def __init__(self, use: Use, desk: Desk, sweep_id: str) -> None:
        self._use = use
        self._desk = desk
        self._sweep_id = sweep_id

    def _read(self, work: Callable[[Desk], _T]) -> _T:
        try:
            return work(self._desk)
        except sqlite3.Error as error:
            raise self._use.file.failed(self._use, error) from error

    def commit(self, change: Change) -> None:
        """Write a change, and end the turn, whatever comes of it; see ``Storage.commit``."""
        if change.sweep_id != self._sweep_id:
            raise StorageError(f"this turn is sweep {self._sweep_id!r}'s, and the change is {change.sweep_id!r}'s")
        rows = Rows(change)
        try:
            self._read(lambda desk: desk.commit(change, rows))
        finally:
            self._desk.leave()

    def beat(self, sweep_id: str, index: int, attempt: int, at: float, metrics: Mapping[str, float] | None) -> None:
        """Keep a sign of life, if the turn is committed; see ``Heartbeats.beat``."""
        text = encode_metrics(metrics)
        self._read(lambda desk: desk.beat(sweep_id, index, attempt, at, text))


def _reopen(path: str, synchronous: Synchronous, timeout: float) -> SQLiteStorage:
    """Open, from a pickle, a file that must still be there."""
    return SQLiteStorage(path, synchronous=synchronous, timeout=timeout, create=False)

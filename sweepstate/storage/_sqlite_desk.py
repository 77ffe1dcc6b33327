"""Reads and writes of a SQLite file, over one connection, in whatever transaction that is in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from sqlite3 import Connection
from typing import Any, Final, Never

from ..core.decide import Change
from ..core.errors import AlreadyExists, Conflict, StorageError, SweepNotFound
from ..core.events import Event
from ..core.questions import RunQuery
from ..core.state import RunState, SweepState
from ._rows import RunRecord, decode, decode_metrics, encode, page_of_events, record_of, watched
from ._sqlite_schema import BEAT, UNWATCH, WATCH, WRITE_EVENT, WRITE_RUN, select

#: So many sweeps are remembered, and so many runs.
_SWEEPS: Final = 64
_RUNS: Final = 512
#: The greatest number that SQLite knows; whatever is greater is not stored.
_MOST: Final = 2**63 - 1
_VERSION: Final = "SELECT version FROM sweep WHERE key = ? AND body IS NOT NULL"


class Known:
    """What was seen last, so that what has not changed is not parsed again.

    Attributes:
        sweeps: by id, each with the key of its rows.
        runs: those in somebody's hands, which the next report asks for, by the sweep's id and their index; each with
            the text that it was written as. What is stored is this run if it is this text.
    """

    __slots__ = ("runs", "sweeps")

    def __init__(self) -> None:
        self.sweeps: dict[str, tuple[int, SweepState]] = {}
        self.runs: dict[tuple[str, int], tuple[str, RunState]] = {}

    def clear(self) -> None:
        self.sweeps.clear()
        self.runs.clear()

    def keep(self, key: int, state: SweepState) -> None:
        if len(self.sweeps) >= _SWEEPS:
            self.sweeps.clear()
        self.sweeps[state.id] = (key, state)

    def keep_run(self, sweep_id: str, run: RunState, body: str) -> None:
        place = (sweep_id, run.index)
        if run.lease is None:
            self.runs.pop(place, None)
            return
        if len(self.runs) >= _RUNS:
            self.runs.clear()
        self.runs[place] = (body, run)


class Rows:
    """What a change writes, made before others are made to wait."""

    __slots__ = ("beats", "body", "events", "runs")

    def __init__(self, change: Change) -> None:
        self.body: str = encode(change.sweep)
        self.runs: list[RunRecord] = [record_of(run) for run in change.runs]
        self.beats: list[tuple[int, tuple[int, float] | None]] = [(run.index, watched(run)) for run in change.runs]
        self.events: list[tuple[int, int, str]] = [
            (event.number, event.version, encode(event)) for event in change.events
        ]


class Desk:
    """What can be done with a connection, until it is left."""

    __slots__ = ("_known", "_many", "_name", "_patiently", "committing", "execute")

    def __init__(
        self, connection: Connection, name: str, known: Known, patiently: Callable[[Callable[[], list[Any]]], list[Any]]
    ) -> None:
        self.execute: Callable[..., Any] = connection.execute
        self._many: Callable[..., Any] = connection.executemany
        self._name = name
        self._known = known
        self._patiently = patiently
        #: Whether a commit was sent.
        self.committing: bool = False

    def leave(self) -> None:
        """Let go of the connection, which others will use."""
        self.execute = self._many = _over

    def _all(self, sql: str, *values: object) -> list[Any]:
        """Return all rows: reading waits for nobody but a process that is recovering the file after a crash."""
        try:
            return self._patiently(lambda: self.execute(sql, values).fetchall())
        except OverflowError:
            within = [min(value, _MOST) if isinstance(value, int) else value for value in values]
            return self._patiently(lambda: self.execute(sql, within).fetchall())

    # --- reading ---------------------------------------------------------------------------------

    def sweep(self, sweep_id: str) -> SweepState:
        known = self._known.sweeps.get(sweep_id)
        if known is not None and self._all(_VERSION, known[0]) == [(known[1].version,)]:
            return known[1]
        for key, body in self._all("SELECT key, body FROM sweep WHERE id = ? AND body IS NOT NULL", sweep_id):
            state = self._read_sweep(sweep_id, body)
            self._known.keep(key, state)
            return state
        raise SweepNotFound(sweep_id)

    def _read_sweep(self, sweep_id: str, body: str) -> SweepState:
        return decode(body, SweepState, f"{self._name}: sweep {sweep_id!r}")

    def _key(self, sweep_id: str) -> int:
        """Return what a sweep's rows are stored under; of a deleted one too, which has none."""
        known = self._known.sweeps.get(sweep_id)
        if known is not None:
            return known[0]
        for (key,) in self._all("SELECT key FROM sweep WHERE id = ?", sweep_id):
            found: int = key
            return found
        raise SweepNotFound(sweep_id)

    def _expect(self, sweep_id: str) -> int:
        """Return the key of a sweep; raise SweepNotFound if there is none any more."""
        for (key,) in self._all("SELECT key FROM sweep WHERE id = ? AND body IS NOT NULL", sweep_id):
            found: int = key
            return found
        raise SweepNotFound(sweep_id)

    def runs(self, sweep_id: str, query: RunQuery, after: int, limit: int) -> Sequence[RunState]:
        sql, values = select(query, self._key(sweep_id), after, max(limit, 0))
        rows = self._all(sql, *values)
        if not rows:
            self._expect(sweep_id)
        return [self._read_run(sweep_id, body, number) for body, number in rows]

    def _read_run(self, sweep_id: str, body: str, number: int) -> RunState:
        known = self._known.runs.get((sweep_id, number))
        if known is not None and known[0] == body:
            return known[1]
        return decode(body, RunState, f"{self._name}: run {number} of sweep {sweep_id!r}")

    def events(self, sweep_id: str, after: int, limit: int) -> Sequence[Event]:
        key = self._key(sweep_id)
        sql = "SELECT version, body FROM event WHERE sweep = ? AND number > ? ORDER BY number LIMIT ?"
        page = page_of_events(lambda most: self._all(sql, key, after, most), limit)
        if not page:
            self._expect(sweep_id)
        place = f"{self._name}: an event of sweep {sweep_id!r}"
        return [decode(body, Event, place) for _, body in page]

    def _heard(self, key: int, index: int, attempt: int) -> float | None:
        rows = self._all("SELECT at FROM beat WHERE sweep = ? AND run = ? AND attempt = ?", key, index, attempt)
        return rows[0][0] if rows else None

    def last_heard(self, sweep_id: str, leases: Sequence[tuple[int, int]]) -> Sequence[float | None]:
        key = self._expect(sweep_id)
        return [self._heard(key, index, attempt) for index, attempt in leases]

    def last_metrics(self, sweep_id: str, index: int) -> Mapping[str, float] | None:
        rows = self._all("SELECT metrics FROM beat WHERE sweep = ? AND run = ?", self._expect(sweep_id), index)
        place = f"{self._name}: the metrics of run {index} of sweep {sweep_id!r}"
        return decode_metrics(rows[0][0], place) if rows else None

    def sweeps(self, after: str, limit: int) -> Sequence[SweepState]:
        sql = "SELECT id, body FROM sweep WHERE id > ? AND body IS NOT NULL ORDER BY id LIMIT ?"
        return [self._read_sweep(sweep_id, body) for sweep_id, body in self._all(sql, after, max(limit, 0))]

    # --- writing, in a transaction ---------------------------------------------------------------

    def commit(self, change: Change, rows: Rows) -> None:
        """Write a change, and end the transaction."""
        key = self._create(change, rows) if change.version == 0 else self._advance(change, rows)
        self._many(WRITE_RUN, [(*record, key) for record in rows.runs])
        for index, watch in rows.beats:
            if watch is None:
                self.execute(UNWATCH, (key, index))
            else:
                self.execute(WATCH, (key, index, *watch, watch[1]))
        self._many(WRITE_EVENT, [(key, *event) for event in rows.events])
        self.end()
        self._known.keep(key, change.sweep)
        for run, record in zip(change.runs, rows.runs, strict=True):
            self._known.keep_run(change.sweep_id, run, record.body)

    def _create(self, change: Change, rows: Rows) -> int:
        sql = "INSERT INTO sweep (id, version, body) VALUES (?, ?, ?) ON CONFLICT (id) DO NOTHING RETURNING key"
        for (key,) in self._all(sql, change.sweep_id, change.sweep.version, rows.body):
            found: int = key
            return found
        raise AlreadyExists(change.sweep_id)

    def _advance(self, change: Change, rows: Rows) -> int:
        """Move a sweep to its next version, if it is at the one that was decided on."""
        sweep_id = change.sweep_id
        key = self._key(sweep_id)
        sql = "UPDATE sweep SET version = ?, body = ? WHERE key = ? AND version = ? AND body IS NOT NULL"
        if self.execute(sql, (change.sweep.version, rows.body, key, change.version)).rowcount != 1:
            self._expect(sweep_id)
            ((found,),) = self._all(_VERSION, key)
            raise Conflict(sweep_id, change.version, found)
        for silence in change.silences:
            heard = self._heard(key, silence.index, silence.attempt)
            if heard is not None and heard > silence.heard:
                what = f"run {silence.index} was heard meanwhile"
                raise Conflict(sweep_id, change.version, change.version, what)
        return key

    def beat(self, sweep_id: str, index: int, attempt: int, at: float, metrics: str | None) -> None:
        """Keep a sign of life; the transaction goes on."""
        key = self._expect(sweep_id)
        self._all(BEAT, key, index, attempt, at, metrics, key, index)

    def delete(self, sweep_id: str) -> None:
        """Forget a sweep, and end the transaction."""
        key = self._expect(sweep_id)
        self.execute("UPDATE sweep SET body = NULL WHERE key = ?", (key,))
        self.execute("DELETE FROM run WHERE sweep = ?", (key,))
        self.execute("DELETE FROM event WHERE sweep = ?", (key,))
        self.execute("DELETE FROM beat WHERE sweep = ?", (key,))
        self.end()
        self._known.sweeps.pop(sweep_id, None)

    def end(self) -> None:
        """Commit."""
        self.committing = True
        self.execute("COMMIT")
        self.committing = False


def _over(*_: object) -> Never:
    raise StorageError("this turn is over: it was left, or has been committed to; take another one")

"""What the SQLAlchemy storages do on a connection, whoever opened it and whatever happens to its transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy.exc import IntegrityError

from ..core.decide import Change
from ..core.errors import AlreadyExists, Conflict, SweepNotFound
from ..core.events import Event, RunCreated
from ..core.questions import RunQuery
from ..core.state import RunState, SweepState
from ._rows import decode, decode_metrics, encode, encode_metrics, page_of_events, record_of, watched
from ._sql_database import Outrun
from ._sql_statements import Statements

if TYPE_CHECKING:
    from sqlalchemy import Connection

#: What a BIGINT holds. No sweep has so many runs, but anybody may ask.
_MOST: Final = 2**63 - 1
_SNAPSHOTS: Final = 64


class Known(NamedTuple):
    """A sweep as it was seen last.

    Attributes:
        key: its key.
        state: its snapshot.
        watching: whether silence of any of its runs counted at that version; heartbeats do not change that.
    """

    key: int
    state: SweepState
    watching: bool


class _Snapshots:
    """The snapshots that were seen last, of a few sweeps: whoever polls one need not parse it each time."""

    def __init__(self) -> None:
        self._seen: dict[str, Known] = {}
        self._lock = Lock()

    def get(self, sweep_id: str) -> Known | None:
        return self._seen.get(sweep_id)

    def keep(self, known: Known) -> None:
        with self._lock:
            self._seen.pop(known.state.id, None)
            self._seen[known.state.id] = known
            if len(self._seen) > _SNAPSHOTS:
                del self._seen[next(iter(self._seen))]


class Operations:
    """Every operation of a storage, on a connection that is given."""

    def __init__(self, statements: Statements) -> None:
        self.statements: Final = statements
        self._snapshots = _Snapshots()

    def forget(self) -> None:
        """Forget the snapshots: the database may be another one now. Anew, as a forked child cannot take the lock."""
        self._snapshots = _Snapshots()

    # --- reading ----------------------------------------------------------------------------------

    def sweep(self, connection: Connection, sweep_id: str) -> SweepState:
        """Return a sweep's snapshot; see ``Storage.sweep``."""
        snapshots = self._snapshots
        known = snapshots.get(sweep_id)
        asked = {
            "of_id": sweep_id,
            "known_key": 0 if known is None else known.key,
            "known_version": 0 if known is None else known.state.version,
        }
        row = connection.execute(self.statements.sweep, asked).first()
        if row is None:
            raise SweepNotFound(sweep_id)
        key, _version, body, watching = row
        state = known.state if body is None and known is not None else decode(body, SweepState, f"sweep {sweep_id!r}")
        snapshots.keep(Known(key, state, bool(watching)))
        return state

    def runs(
        self, connection: Connection, sweep_id: str, query: RunQuery, after: int, limit: int
    ) -> Sequence[RunState]:
        """Return runs that a query means; see ``Storage.runs``."""
        statement, values = self.statements.select(query)
        asked = {**values, "of_id": sweep_id, "after": min(max(after, -1), _MOST), "most": min(max(limit, 0), _MOST)}
        rows = connection.execute(statement, asked).all()
        if not rows:
            self._must_exist(connection, sweep_id)
        return [decode(body, RunState, f"run {number} of sweep {sweep_id!r}") for number, body in rows]

    def events(self, connection: Connection, sweep_id: str, after: int, limit: int) -> Sequence[Event]:
        """Return events, ending at a commit boundary; see ``Storage.events``."""

        def read(most: int) -> list[tuple[int, str]]:
            asked = {"of_id": sweep_id, "after": min(max(after, 0), _MOST), "most": min(most, _MOST)}
            return [(row[0], row[1]) for row in connection.execute(self.statements.events, asked)]

        page = page_of_events(read, limit)
        if not page:
            self._must_exist(connection, sweep_id)
        return [decode(body, Event, f"an event of sweep {sweep_id!r}") for _, body in page]

    def last_heard(
        self, connection: Connection, sweep_id: str, leases: Sequence[tuple[int, int]]
    ) -> Sequence[float | None]:
        """Return when each attempt was last heard; see ``Heartbeats.last_heard``."""
        asked = {"of_id": sweep_id, "some": [min(index, _MOST) for index, _ in leases]}
        heard: dict[tuple[int, int], float] = {}
        if leases:
            heard = {(row[0], row[1]): row[2] for row in connection.execute(self.statements.last_heard, asked)}
        if not heard:
            self._must_exist(connection, sweep_id)
        return [heard.get(lease) for lease in leases]

    def last_metrics(self, connection: Connection, sweep_id: str, index: int) -> Mapping[str, float] | None:
        """Return what a run last reported on the way; see ``Heartbeats.last_metrics``."""
        row = connection.execute(self.statements.last_metrics, {"of_id": sweep_id, "after": min(index, _MOST)}).first()
        if row is None:
            raise SweepNotFound(sweep_id)
        return decode_metrics(row[0], f"metrics of run {index} of sweep {sweep_id!r}")

    def sweeps(self, connection: Connection, after: str, limit: int) -> Sequence[SweepState]:
        """Return sweeps by id; see ``Catalog.sweeps``."""
        rows = connection.execute(self.statements.sweeps, {"of_id": after, "most": min(max(limit, 0), _MOST)}).all()
        return [decode(body, SweepState, f"sweep {sweep_id!r}") for sweep_id, body in rows]

    def now(self, connection: Connection) -> float:
        """Return the server's time in POSIX seconds."""
        return float(connection.execute(self.statements.now).scalar_one())

    def lock(self, connection: Connection, sweep_id: str) -> None:
        """Keep everybody else from committing to a sweep until this transaction ends."""
        if connection.execute(self.statements.lock, {"of_id": sweep_id}).first() is None:
            raise SweepNotFound(sweep_id)

    def _must_exist(self, connection: Connection, sweep_id: str) -> None:
        if connection.execute(self.statements.key, {"of_id": sweep_id}).first() is None:
            raise SweepNotFound(sweep_id)

    # --- writing ----------------------------------------------------------------------------------

    def write(self, connection: Connection, change: Change) -> Known:
        """Write a change within a transaction and return what to ``remember`` after its commit.

        Raises:
            Outrun: the sweep is not at the version that the change was decided on.
            AlreadyExists: it is to be created, and the id is taken.
            Conflict: something newer was heard of one of the silences.
        """
        known = self._snapshots.get(change.sweep_id)
        # First, because it locks the sweep's row: whatever follows is done by one writer at a time.
        key = self._create(connection, change) if change.version == 0 else self._advance(connection, change, known)
        if change.silences:
            self._check_silences(connection, key, change)
        statements = self.statements
        # Whether a run may have been watched; where that is not known for this version, one may.
        watching = known is None or known.watching or known.state.version != change.version
        watching = watching and change.version != 0
        if change.runs:
            rows = [{"sweep": key, **record_of(run)._asdict()} for run in change.runs]
            connection.execute(statements.write_run, rows)
            watching = self._watch(connection, key, change, watching=watching)
        events = [
            {"sweep": key, "number": event.number, "version": event.version, "body": encode(event)}
            for event in change.events
        ]
        connection.execute(statements.write_event, events)
        return Known(key, change.sweep, watching)

    def remember(self, known: Known) -> None:
        """Keep what was committed."""
        self._snapshots.keep(known)

    def _create(self, connection: Connection, change: Change) -> int:
        row = {"new_id": change.sweep_id, "new_version": change.sweep.version, "new_body": encode(change.sweep)}
        try:
            made: Any = connection.execute(self.statements.create, row).inserted_primary_key
        except IntegrityError:  # what is inserted is never NULL, and refers to nothing
            raise AlreadyExists(change.sweep_id) from None
        return int(made[0])

    def _advance(self, connection: Connection, change: Change, known: Known | None) -> int:
        if known is None:
            key = connection.execute(self.statements.key, {"of_id": change.sweep_id}).scalar()
        else:
            key = known.key
        asked = {
            "of_key": key,
            "of_id": change.sweep_id,
            "of_version": change.version,
            "next_version": change.sweep.version,
            "next_body": encode(change.sweep),
        }
        if key is None or connection.execute(self.statements.advance, asked).rowcount != 1:
            raise Outrun
        return int(key)

    def _check_silences(self, connection: Connection, key: int, change: Change) -> None:
        """Refuse a change if something newer was heard, and keep heartbeats of these runs waiting until it is done."""
        asked = {"of_key": key, "some": [silence.index for silence in change.silences]}
        heard = {(row[0], row[1]): row[2] for row in connection.execute(self.statements.heard_of, asked)}
        for silence in change.silences:
            at = heard.get((silence.index, silence.attempt))
            if at is not None and at > silence.heard:
                raise Conflict(
                    change.sweep_id, change.version, change.version, f"run {silence.index} was heard meanwhile"
                )

    def _watch(self, connection: Connection, key: int, change: Change, *, watching: bool) -> bool:
        """Begin and end to watch runs for silence, as they are now; return whether any run may be watched then.

        Most commits need not ask for what they end: a run that is new was not watched before, and in a sweep
        without heartbeats none was.
        """
        new = {event.index for event in change.events if isinstance(event, RunCreated)}
        begun: list[dict[str, object]] = []
        ended: list[int] = []
        for run in change.runs:
            watch = watched(run)
            if watch is not None:
                begun.append(
                    {"sweep": key, "run": run.index, "watched": watch[0], "since": watch[1], "heard": watch[1]}
                )
            elif watching and run.index not in new:
                ended.append(run.index)
        if begun:
            connection.execute(self.statements.watch, begun)
        if ended:
            connection.execute(self.statements.unwatch, {"of_key": key, "some": ended})
        return watching or bool(begun)

    def beat(
        self,
        connection: Connection,
        sweep_id: str,
        index: int,
        attempt: int,
        at: float,
        metrics: Mapping[str, float] | None,
    ) -> None:
        """Keep a sign of life; see ``Heartbeats.beat``."""
        asked = {
            "of_id": sweep_id,
            "of_run": min(index, _MOST),
            "its_attempt": min(attempt, _MOST),
            "its_at": at,
            "its_metrics": encode_metrics(metrics),
        }
        if connection.execute(self.statements.beat, asked).rowcount == 0:
            self._must_exist(connection, sweep_id)

    def delete(self, connection: Connection, sweep_id: str) -> None:
        """Delete a sweep within a transaction; see ``Catalog.delete``."""
        asked = {"of_id": sweep_id}
        if connection.execute(self.statements.bury, asked).rowcount != 1:
            raise SweepNotFound(sweep_id)
        for statement in self.statements.clear:
            connection.execute(statement, asked)

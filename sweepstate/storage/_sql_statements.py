"""The statements of a SQLAlchemy storage, built once for its tables and its database's dialect."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Double,
    ScalarSelect,
    Select,
    Table,
    bindparam,
    case,
    delete,
    exists,
    false,
    insert,
    literal_column,
    null,
    or_,
    select,
    type_coerce,
    union_all,
    update,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite

if TYPE_CHECKING:
    from sqlalchemy.sql.base import Executable
    from sqlalchemy.types import TypeEngine

from ..core.questions import ByIndex, Due, InStatus, Leased, Queued, Requested, RunQuery, Silent
from ._rows import branches, digest
from ._sql_tables import MYSQL, Id, Tables

_Column: TypeAlias = ColumnElement[Any]
_TIME: Final[TypeEngine[float]] = Double()

#: What a statement is given. None of these is a column's name: SQLAlchemy keeps those for what is written.
_ID: Final = bindparam("of_id", type_=Id())
_KEY: Final = bindparam("of_key", type_=BigInteger())
_AFTER: Final = bindparam("after", type_=BigInteger())
_LIMIT: Final = bindparam("most", type_=BigInteger())


class Statements:
    """Every statement but those that answer ``RunQuery``, and ``select`` for these.

    What is about a sweep selects it by id within the same statement, so that nothing can come between.
    """

    def __init__(self, tables: Tables, dialect: str) -> None:
        self._tables = tables
        self._ranges: dict[object, Executable] = {}
        sweep, run, event, beat = tables
        there = sweep.c.id == _ID, sweep.c.body.is_not(None)
        self._key = key = select(sweep.c.key).where(*there).scalar_subquery()
        write = _UPSERTS[dialect]

        self.sweep = select(
            sweep.c.key,
            sweep.c.version,
            # A snapshot that was seen before is not sent again. Its key too is compared: the tables may be new ones.
            case(
                (
                    (sweep.c.key == bindparam("known_key", type_=BigInteger()))
                    & (sweep.c.version == bindparam("known_version", type_=BigInteger())),
                    null(),
                ),
                else_=sweep.c.body,
            ).label("body"),
            exists().where(beat.c.sweep == sweep.c.key, beat.c.heard.is_not(None)).label("watching"),
        ).where(*there)
        self.key = select(sweep.c.key).where(*there)
        self.lock = self.key.with_for_update()
        self.sweeps = (
            select(type_coerce(sweep.c.id, Id()), sweep.c.body)
            .where(sweep.c.id > _ID, sweep.c.body.is_not(None))
            .order_by(sweep.c.id)
            .limit(_LIMIT)
        )
        self.create = insert(sweep).values(
            id=bindparam("new_id", type_=Id()), version=bindparam("new_version"), body=bindparam("new_body")
        )
        self.advance = (
            update(sweep)
            .where(sweep.c.key == _KEY, sweep.c.version == bindparam("of_version", type_=BigInteger()), *there)
            .values(version=bindparam("next_version"), body=bindparam("next_body"))
        )
        self.write_run = write(run, ["sweep", "number"], _overwrite)
        self.write_event = insert(event)
        self.events = (
            select(event.c.version, event.c.body)
            .where(event.c.sweep == key, event.c.number > _AFTER)
            .order_by(event.c.number)
            .limit(_LIMIT)
        )
        self.bury = update(sweep).where(*there).values(body=null())
        of_buried = select(sweep.c.key).where(sweep.c.id == _ID).scalar_subquery()
        self.clear = [delete(table).where(table.c.sweep == of_buried) for table in (run, event, beat)]

        some = beat.c.run.in_(bindparam("some", expanding=True))
        self.heard_of = (
            select(beat.c.run, beat.c.attempt, beat.c.at).where(beat.c.sweep == _KEY, some).with_for_update()
        )
        self.last_heard = select(beat.c.run, beat.c.attempt, beat.c.at).where(beat.c.sweep == key, some)
        self.last_metrics = (
            select(beat.c.metrics)
            .select_from(sweep.outerjoin(beat, (beat.c.sweep == sweep.c.key) & (beat.c.run == _AFTER)))
            .where(*there)
        )
        self.watch = write(beat, ["sweep", "run"], _watch)
        self.unwatch = (
            update(beat)
            .where(beat.c.sweep == _KEY, some, beat.c.heard.is_not(None))
            .values(watched=null(), since=null(), heard=null())
        )
        keep_beat = write(beat, ["sweep", "run"], _hear).from_select(
            ["sweep", "run", "attempt", "at", "metrics"],
            select(
                sweep.c.key,
                run.c.number,
                bindparam("its_attempt", type_=BigInteger()),
                bindparam("its_at", type_=_TIME),
                bindparam("its_metrics", type_=beat.c.metrics.type),
            )
            .join_from(sweep, run, run.c.sweep == sweep.c.key)
            .where(*there, run.c.number == bindparam("of_run", type_=BigInteger())),
        )
        # SQLAlchemy forgets how many rows an INSERT has written, unless it is told not to.
        self.beat = keep_beat.execution_options(preserve_rowcount=True)
        self.now = select(literal_column(_NOW[dialect], type_=_TIME))

    def select(self, query: RunQuery) -> tuple[Executable, dict[str, object]]:
        """Return the statement that answers a query, and what it is given besides sweep, ``after`` and ``most``."""
        run = self._tables.run.c
        match query:
            case ByIndex():
                return self._once("", lambda: self._range(run.number)), {}
            case Queued():
                return self._once("queued", lambda: self._range(run.queued)), {}
            case Leased(agent=agent, presumed=presumed):
                columns = (run.leased, run.presumed) if presumed else (run.leased,)
                whose = () if agent is None else (run.agent == bindparam("agent"),)
                found = self._once(
                    ("leased", presumed, agent is None),
                    lambda: self._union([self._range(column, *whose) for column in columns]),
                )
                return found, {} if agent is None else {"agent": digest(agent)}
            case Requested(agent=agent, request_id=request_id):
                found = self._once("request", lambda: self._range(run.number, run.request == bindparam("request")))
                return found, {"request": digest(agent, request_id)}
            case Due(at=at):
                return self._once("due", self._due), {"until": at}
            case Silent(since=since):
                return self._once("silent", self._silent), {"until": since}
            case InStatus():
                return self._in_status(query)

    def _once(self, shape: object, build: Callable[[], Executable]) -> Executable:
        """Return the statement of a shape, built when it is first asked for; there are a few hundred shapes."""
        found = self._ranges.get(shape)
        if found is None:
            found = self._ranges[shape] = build()
        return found

    def _range(self, column: _Column, *conditions: _Column) -> Select[Any, Any]:
        """Return one range of one index: numbers above ``after``, in order."""
        run = self._tables.run.c
        return (
            select(run.number, run.body)
            .where(run.sweep == self._key, *conditions, column > _AFTER)
            .order_by(column)
            .limit(_LIMIT)
        )

    def _union(self, ranges: list[Select[Any, Any]]) -> Executable:
        """Return the first runs of several ranges, in ONE statement: none is missed or doubled because it moved.

        Each range is cut before they are put in order, and the bodies are fetched of those that are left.
        """
        if len(ranges) == 1:
            return ranges[0]
        run = self._tables.run.c
        # Within a derived table, because not every database lets a part of a union have an order of its own.
        parts = [select(part.with_only_columns(run.sweep, run.number).subquery()) for part in ranges]
        every = union_all(*parts).subquery()
        first = select(every.c.sweep, every.c.number).order_by(every.c.number).limit(_LIMIT).subquery()
        return select(first.c.number, self._body(first.c.sweep, first.c.number)).order_by(first.c.number)

    def _body(self, sweep: _Column, number: _Column) -> ScalarSelect[str]:
        """Return the body of a run: not by a join, which a database that misjudges it would begin at its far end."""
        run = self._tables.run.c
        return select(run.body).where(run.sweep == sweep, run.number == number).scalar_subquery()

    def _due(self) -> Executable:
        run = self._tables.run.c
        return (
            select(run.number, run.body)
            .where(run.sweep == self._key, run.due_at <= bindparam("until", type_=_TIME))
            .order_by(run.due_at, run.number)
            .limit(_LIMIT)
        )

    def _silent(self) -> Executable:
        beat = self._tables.beat.c
        return (
            select(beat.run, self._body(beat.sweep, beat.run))
            .where(beat.sweep == self._key, beat.heard <= bindparam("until", type_=_TIME))
            .order_by(beat.heard, beat.run)
            .limit(_LIMIT)
        )

    def _in_status(self, query: InStatus) -> tuple[Executable, dict[str, object]]:
        run = self._tables.run.c
        wanted = branches(query.statuses, withdrawn=query.withdrawn)
        since = query.unchanged_since
        values: dict[str, object] = {} if since is None else {"unchanged_since": since}
        values |= {f"status_{place}": value for place, (_, value) in enumerate(wanted) if value is not None}

        def build() -> Executable:
            unchanged = () if since is None else (run.status_version <= bindparam("unchanged_since"),)
            ranges = [
                self._range(run.withdrawn, *unchanged)
                if value is None
                else self._range(run.number, run.status == bindparam(f"status_{place}"), *unchanged)
                for place, (_, value) in enumerate(wanted)
            ]
            return self._union(ranges) if ranges else select(run.number, run.body).where(false())

        return self._once((tuple(column for column, _ in wanted), since is None), build), values


# --- upserts --------------------------------------------------------------------------------------

#: Given a table and what came in, what a row that was there becomes: in this order, from the row as it was.
_Settle: TypeAlias = Callable[[Table, Any], list[tuple[str, _Column]]]


def _overwrite(table: Table, new: Any) -> list[tuple[str, _Column]]:
    return [(column.name, new[column.name]) for column in table.columns if not column.primary_key]


def _watch(beat: Table, new: Any) -> list[tuple[str, _Column]]:
    """Begin to watch an attempt: what was heard of it before counts, what was heard of another one does not."""
    row = beat.c
    heard = case(((row.attempt == new.watched) & (row.at > new.since), row.at), else_=new.since)
    return [("heard", heard), ("watched", new.watched), ("since", new.since)]


def _hear(beat: Table, new: Any) -> list[tuple[str, _Column]]:
    """Keep a sign of life, unless it is of an older attempt; see ``MemoryStorage`` for the rules."""
    row = beat.c
    same = row.attempt == new.attempt
    at = case((same & (row.at > new.at), row.at), else_=new.at)
    metrics = case((same & new.metrics.is_(None), row.metrics), else_=new.metrics)
    heard = case(
        (row.heard.is_(None), null()),
        (row.watched != new.attempt, row.since),
        (row.since > at, row.since),
        else_=at,
    )
    current = or_(row.attempt.is_(None), row.attempt <= new.attempt)
    changes = [("heard", heard), ("metrics", metrics), ("at", at), ("attempt", new.attempt)]
    return [(name, case((current, value), else_=row[name])) for name, value in changes]


def _standard_upsert(insert: Callable[[Table], Any]) -> Callable[[Table, list[str], _Settle], Any]:
    def upsert(table: Table, primary: list[str], settle: _Settle) -> Any:
        statement = insert(table)
        return statement.on_conflict_do_update(index_elements=primary, set_=dict(settle(table, statement.excluded)))

    return upsert


def _mysql_upsert(table: Table, _primary: list[str], settle: _Settle) -> Any:
    # A list, because there one assignment sees what those before it have set.
    statement = mysql.insert(table)
    return statement.on_duplicate_key_update(settle(table, statement.inserted))


_UPSERTS: Final[dict[str, Callable[[Table, list[str], _Settle], Any]]] = {
    "postgresql": _standard_upsert(postgresql.insert),
    "sqlite": _standard_upsert(sqlite.insert),
    **dict.fromkeys(MYSQL, _mysql_upsert),
}

# --- time -----------------------------------------------------------------------------------------

#: POSIX seconds. MySQL's NOW() is local time, of which one hour a year comes twice.
_NOW: Final = {
    "postgresql": "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)",
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
    **dict.fromkeys(MYSQL, "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) / 1e6"),
}

#: The databases that are known here, by the name of SQLAlchemy's dialect.
DIALECTS: Final = tuple(_UPSERTS)

"""The tables of a SQLite file, as the steps that lead to them, and the closed set of queries as SQL."""

from __future__ import annotations

from collections.abc import Iterator
from sqlite3 import complete_statement
from typing import Final

from ..core.questions import ByIndex, Due, InStatus, Leased, Queued, Requested, RunQuery, Silent
from ._rows import branches, digest

#: Stands in the file's header, so that another application's file is not taken for ours ("swps").
APPLICATION_ID: Final = 0x73777073

#: Step n leads from schema n to schema n + 1. A new file takes them all, an old one those it has not seen; the number
#: of steps taken is the file's ``user_version``. A step that was released never changes.
STEPS: Final = (
    """
    CREATE TABLE sweep (
        key INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        version INTEGER NOT NULL,
        body TEXT                   -- NULL: it was deleted; its id stays taken
    );
    CREATE TABLE run (              -- the columns are explained in _rows.py
        sweep INTEGER NOT NULL,
        number INTEGER NOT NULL,
        status TEXT NOT NULL,
        status_version INTEGER NOT NULL,
        withdrawn INTEGER,
        queued INTEGER,
        leased INTEGER,
        presumed INTEGER,
        agent TEXT,
        request TEXT,
        due_at REAL,
        body TEXT NOT NULL,
        PRIMARY KEY (sweep, number)
    );
    CREATE TABLE event (
        sweep INTEGER NOT NULL,
        number INTEGER NOT NULL,
        version INTEGER NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (sweep, number)
    ) WITHOUT ROWID;                -- its rows are small, and only ever read in this order
    CREATE TABLE beat (
        sweep INTEGER NOT NULL,
        run INTEGER NOT NULL,
        attempt INTEGER,            -- the newest attempt that was heard, when, and what it reported
        at REAL,
        metrics TEXT,
        watched INTEGER,            -- the attempt whose silence counts, and since when
        since REAL,
        heard REAL,                 -- when that was last heard; NULL if no silence counts
        PRIMARY KEY (sweep, run)
    ) WITHOUT ROWID;
    """,
    # Indexes leave out what no query of theirs asks for, so that a run which has ended is in one of them only.
    """
    CREATE INDEX run_queued ON run (sweep, queued) WHERE queued IS NOT NULL;
    CREATE INDEX run_leased ON run (sweep, leased) WHERE leased IS NOT NULL;
    CREATE INDEX run_presumed ON run (sweep, presumed) WHERE presumed IS NOT NULL;
    CREATE INDEX run_agent_leased ON run (sweep, agent, leased) WHERE leased IS NOT NULL;
    CREATE INDEX run_agent_presumed ON run (sweep, agent, presumed) WHERE presumed IS NOT NULL;
    CREATE INDEX run_request ON run (sweep, request, number) WHERE request IS NOT NULL;
    CREATE INDEX run_due ON run (sweep, due_at, number) WHERE due_at IS NOT NULL;
    CREATE INDEX run_status ON run (sweep, status, number, status_version);
    CREATE INDEX run_withdrawn ON run (sweep, withdrawn, status_version) WHERE withdrawn IS NOT NULL;
    CREATE INDEX beat_heard ON beat (sweep, heard, run) WHERE heard IS NOT NULL;
    """,
)

WRITE_RUN: Final = """
    INSERT INTO run (
        number, status, status_version, withdrawn, queued, leased, presumed, agent, request, due_at, body, sweep
    ) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (sweep, number) DO UPDATE SET
        status = excluded.status, status_version = excluded.status_version, withdrawn = excluded.withdrawn,
        queued = excluded.queued, leased = excluded.leased, presumed = excluded.presumed, agent = excluded.agent,
        request = excluded.request, due_at = excluded.due_at, body = excluded.body
"""

WRITE_EVENT: Final = "INSERT INTO event (sweep, number, version, body) VALUES (?, ?, ?, ?)"

#: Sweep, run, the attempt watched, and twice since when.
WATCH: Final = """
    INSERT INTO beat (sweep, run, watched, since, heard) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (sweep, run) DO UPDATE SET
        watched = excluded.watched, since = excluded.since,
        heard = iif(attempt = excluded.watched, max(excluded.since, at), excluded.since)
"""

UNWATCH: Final = """
    UPDATE beat SET watched = NULL, since = NULL, heard = NULL WHERE sweep = ? AND run = ? AND heard IS NOT NULL
"""

#: Sweep, run, attempt, at, metrics, and again sweep and run. What is set is computed from the row as it was.
BEAT: Final = """
    INSERT INTO beat (sweep, run, attempt, at, metrics)
    SELECT ?, ?, ?, ?, ? WHERE EXISTS (SELECT 1 FROM run WHERE sweep = ? AND number = ?)
    ON CONFLICT (sweep, run) DO UPDATE SET
        attempt = excluded.attempt,
        at = iif(attempt = excluded.attempt, max(at, excluded.at), excluded.at),
        metrics = iif(attempt = excluded.attempt, coalesce(excluded.metrics, metrics), excluded.metrics),
        heard = CASE
            WHEN heard IS NULL THEN NULL
            WHEN watched <> excluded.attempt THEN since
            WHEN attempt = excluded.attempt THEN max(since, at, excluded.at)
            ELSE max(since, excluded.at)
        END
    WHERE attempt IS NULL OR excluded.attempt >= attempt
"""


def statements_of(step: str) -> Iterator[str]:
    """Yield the statements of a step, one by one: run as a script, they would end the transaction they are in."""
    statement = ""
    for line in step.splitlines(keepends=True):
        statement += line
        if complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        yield statement


def select(query: RunQuery, key: int, after: int, limit: int) -> tuple[str, list[object]]:
    """Return the statement that answers a query, and its values: one range of one index, or a union of such."""
    match query:
        case ByIndex():
            # The index of the primary key, which has no name of ours; no other one has this order.
            return _range("", "number > ?", "number"), [key, after, limit]
        case Queued():
            return _range("run_queued", "queued > ?", "queued"), [key, after, limit]
        case Leased():
            return _leased(query, key, after, limit)
        case Requested(agent=agent, request_id=request):
            values: list[object] = [key, digest(agent, request), after, limit]
            return _range("run_request", "request = ? AND number > ?", "number"), values
        case Due(at=at):
            return _range("run_due", "due_at <= ?", "due_at, number"), [key, at, limit]
        case Silent(since=since):
            return _SILENT, [key, since, limit]
        case InStatus():
            return _in_status(query, key, after, limit)


def _range(index: str, condition: str, order: str) -> str:
    """Return the statement that reads one range of an index, which is named lest SQLite think that it knows better."""
    table = f"run INDEXED BY {index}" if index else "run"
    return f"SELECT body, number FROM {table} WHERE sweep = ? AND {condition} ORDER BY {order} LIMIT ?"  # noqa: S608 - of our words


def _leased(query: Leased, key: int, after: int, limit: int) -> tuple[str, list[object]]:
    # Those that are CRASHED by silence are apart, so that they can be left out.
    columns = ("leased", "presumed") if query.presumed else ("leased",)
    values: list[object]
    if query.agent is None:
        ranges = [_range(f"run_{column}", f"{column} > ?", column) for column in columns]
        values = [key, after, limit]
    else:
        ranges = [_range(f"run_agent_{column}", f"agent = ? AND {column} > ?", column) for column in columns]
        values = [key, digest(query.agent), after, limit]
    return (ranges[0], values) if len(ranges) == 1 else (_union(ranges), [*values * 2, limit])


def _union(ranges: list[str]) -> str:
    """Return the first rows of several ranges, each of which is cut before they are put in order."""
    parts = " UNION ALL ".join(f"SELECT * FROM ({part})" for part in ranges)  # noqa: S608 - the same
    return f"SELECT body, number FROM ({parts}) ORDER BY number LIMIT ?"  # noqa: S608 - of our words


_SILENT: Final = """
    SELECT run.body, run.number
    FROM beat INDEXED BY beat_heard CROSS JOIN run ON run.sweep = beat.sweep AND run.number = beat.run
    WHERE beat.sweep = ? AND beat.heard <= ? ORDER BY beat.heard, beat.run LIMIT ?
"""


def _in_status(query: InStatus, key: int, after: int, limit: int) -> tuple[str, list[object]]:
    since = query.unchanged_since
    ranges: list[str] = []
    values: list[object] = []
    for column, value in branches(query.statuses, withdrawn=query.withdrawn):
        condition = f"{column} > ?" if value is None else f"{column} = ? AND number > ?"
        order = column if value is None else "number"
        index = f"run_{column}"
        unchanged = "" if since is None else " AND status_version <= ?"
        ranges.append(_range(index, condition + unchanged, order))
        values += [each for each in (key, value, after, since, limit) if each is not None]
    if not ranges:
        return _range("", "FALSE", "number"), [key, limit]
    if len(ranges) == 1:
        return ranges[0], values
    return _union(ranges), [*values, limit]

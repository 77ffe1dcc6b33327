"""Database servers for tests: where they are, tables of a test's own, query plans, and ways to make them fail."""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from itertools import zip_longest
from typing import Final, cast
from uuid import uuid4

import pytest
from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import OperationalError

from sweepstate.core.questions import Due, Leased, Queued, Requested, RunQuery, Silent
from sweepstate.storage._sql_storage import SQLStorage
from sweepstate.storage.sqlalchemy import SQLAlchemyStorage

#: Where the servers are; without one, its tests are skipped, and fail where CI is set.
VARIABLES: Final = {"postgresql": "SWEEPSTATE_POSTGRESQL_URL", "mariadb": "SWEEPSTATE_MARIADB_URL"}
SERVERS: Final = tuple(VARIABLES)


@cache
def _reached(url: str) -> str | None:
    """Return why a server cannot be reached, or None; asked once."""
    with SQLAlchemyStorage(url, server_clock=True) as storage:
        try:
            storage.now()
        except Exception as error:
            return str(error)
    return None


def url_of(server: str) -> str:
    """Return a server's URL; skip the test if there is none, and fail it where CI is set."""
    url = os.environ.get(VARIABLES[server])
    problem = f"set {VARIABLES[server]} to test {server}" if url is None else _reached(url)
    if problem is None:
        return cast(str, url)
    if os.environ.get("CI"):
        pytest.fail(problem, pytrace=False)
    pytest.skip(problem)


def new_prefix() -> str:
    """Return what begins the names of tables that nobody else has."""
    return f"t{uuid4().hex[:12]}_"


@contextmanager
def tables_of_its_own(storage: SQLStorage) -> Generator[None]:
    """Create a storage's tables, and drop them and close it at the end."""
    engine = storage.database.engine
    storage.create_tables()
    try:
        yield
    finally:
        storage.metadata.drop_all(engine)


def empty(storage: SQLStorage) -> None:
    """Delete every row."""
    with storage.database.begin() as connection:
        for table in storage.metadata.sorted_tables:
            connection.execute(table.delete())
        connection.commit()


# --- plans ----------------------------------------------------------------------------------------

_EXPLAIN: Final = {
    "postgresql": "EXPLAIN ",
    "sqlite": "EXPLAIN QUERY PLAN ",
    "mysql": "EXPLAIN ",
    "mariadb": "EXPLAIN ",
}
#: What a step consists of, where that is more than a text.
_STEPS: Final[dict[str, tuple[str, ...]]] = dict.fromkeys(
    ("mysql", "mariadb"),
    ("id", "select", "table", "type", "possible", "key", "key_len", "ref", "rows", "extra"),
)


def plan(storage: SQLStorage, sweep_id: str, query: RunQuery, *, limit: int = 10, force: bool = False) -> list[str]:
    """Return how a database answers a query: one line for each step.

    Args:
        storage: whose tables.
        sweep_id: the sweep that is asked.
        query: what is asked.
        limit: how many runs.
        force: whether PostgreSQL is kept from what it rightly does with few rows: reading them all and sorting them.
    """
    explain = _EXPLAIN[storage.database.dialect]

    def change(one: object, _cursor: object, statement: str, values: object, *_: object) -> tuple[str, object]:
        return explain + statement if one is connection else statement, values

    statement, values = storage._operations.statements.select(query)
    asked = {**values, "of_id": sweep_id, "after": 5, "most": limit}
    with storage.database.begin() as connection:
        if force and storage.database.dialect == "postgresql":
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            connection.exec_driver_sql("SET LOCAL enable_bitmapscan = off")
        event.listen(storage.database.engine, "before_cursor_execute", change, retval=True)
        names = _STEPS.get(storage.database.dialect, ())
        try:
            rows = connection.execute(statement, asked).all()
        finally:
            event.remove(storage.database.engine, "before_cursor_execute", change)
        steps = [" ".join(f"{name}={value}" for name, value in zip_longest(names, row, fillvalue="")) for row in rows]
        return [re.sub("possible=.* key=", "key=", step) for step in steps]


#: The index that a kind of query goes through, where there is one choice.
_INDEX: Final[dict[type, str]] = {
    Queued: "run_queued",
    Leased: "leased",
    Requested: "run_request",
    Due: "run_due",
    Silent: "beat_heard",
}


def bad_steps(storage: SQLStorage, query: RunQuery, steps: list[str]) -> list[str]:
    """Return what in a plan goes through more than ranges of indexes.

    The few numbers that a union has found are in a derived table, which may be read whole and sorted. For a
    status that many runs have, a database may rightly go through the runs by number and leave out the others, and
    for an agent through all leases, where they are few.
    """
    names = [table.name for table in storage.metadata.sorted_tables]
    stored = [step for step in steps if any(name in step for name in names)]
    if storage.database.dialect == "postgresql":
        bad = [step for step in stored if "Seq Scan" in step] + [step for step in steps if "Bitmap" in step]
        bad += [step for step in steps if "Filter: " in step and not _RIGHTLY_FILTERED.search(step)]
    elif storage.database.dialect == "sqlite":
        bad = [step for step in stored if "SCAN" in step]
    else:
        bad = [step for step in stored if "type=ALL" in step or "type=index " in step or "filesort" in step]
    wanted = _INDEX.get(type(query))
    if wanted is not None and not any(wanted in step for step in steps):
        bad.append(f"{wanted} is not used")
    return bad


_RIGHTLY_FILTERED: Final = re.compile(r"\(body IS NOT NULL|\(\((status|agent)\)::text =|\(number > ")


# --- failures -------------------------------------------------------------------------------------


@contextmanager
def failing_write(engine: Engine, n: int) -> Generator[None]:
    """Let the ``n``-th write statement on an engine fail from now on; the end of a transaction counts as one."""
    left = n

    def hit() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise OperationalError("a write", None, Exception("sabotage"))

    def statement(_connection: object, _cursor: object, text: str, *_: object) -> None:
        if text.lstrip().startswith(("INSERT", "UPDATE", "DELETE")):
            hit()

    def commit(_connection: Connection) -> None:
        hit()

    event.listen(engine, "before_cursor_execute", statement)
    event.listen(engine, "commit", commit)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", statement)
        event.remove(engine, "commit", commit)

"""What a server may do to a storage, and what the storage makes of it; plans, tables, engines, forks and passwords."""

from __future__ import annotations

import asyncio
import os
import pickle
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote, quote_plus

import pytest

pytest.importorskip("sqlalchemy")

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from sweepstate import (
    AlreadyExists,
    Conflict,
    GaveWay,
    Grid,
    InvalidValue,
    OutcomeUnknown,
    Random,
    Run,
    RunStatus,
    StorageError,
    Sweep,
    SweepNotFound,
)
from sweepstate.core import decide as core
from sweepstate.core.lifecycle import SweepTrigger
from sweepstate.core.questions import ACTIVE, ENDED, ByIndex, Due, InStatus, Leased, Queued, Requested, RunQuery, Silent
from sweepstate.hooks import (
    AsyncCatalog,
    AsyncHeartbeats,
    AsyncStorage,
    AsyncTimekeeper,
    AsyncTurns,
    Catalog,
    Heartbeats,
    Storage,
    Timekeeper,
    Turns,
)
from sweepstate.storage._sql_operations import _SNAPSHOTS
from sweepstate.storage.sqlalchemy import AsyncSQLAlchemyStorage, SQLAlchemyStorage, tables
from tests.support.databases import (
    SERVERS,
    bad_steps,
    failing_write,
    new_prefix,
    plan,
    tables_of_its_own,
    url_of,
)

#: Signs that mean something in a URL, in SQL or in Python.
PASSWORD = "p@ss:w/o#r%d?'\"\\&="


@pytest.fixture
def prefix() -> str:
    return new_prefix()


@pytest.fixture(params=[*SERVERS, "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of each database."""
    return f"sqlite:///{tmp_path / 'sweeps.db'}" if request.param == "sqlite" else url_of(request.param)


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> str:
    """Give the URL of each server."""
    return url_of(request.param)


@pytest.fixture
def storage(url: str, prefix: str) -> Iterator[SQLAlchemyStorage]:
    """Give a storage on each database."""
    with SQLAlchemyStorage(url, prefix=prefix) as made, tables_of_its_own(made):
        yield made


@pytest.fixture
def served(server: str, prefix: str) -> Iterator[SQLAlchemyStorage]:
    """Give a storage on each server."""
    with SQLAlchemyStorage(server, prefix=prefix) as made, tables_of_its_own(made):
        yield made


def new_sweep(storage: Storage, id: str = "s") -> Sweep:
    return Sweep(Grid({"x": list(range(20))}), id=id, storage=storage)


def take(sweep: Sweep) -> Run:
    run = sweep.next_run("ada")
    assert isinstance(run, Run)
    return run


def change_of(storage: Any, id: str = "s") -> core.Change:
    """Return a change, decided on what is stored now: the sweep is paused, or resumed."""
    sweep = storage.sweep(id)
    trigger = SweepTrigger.PAUSE if sweep.version % 2 else SweepTrigger.RESUME
    change = core.decide(core.move, sweep, lambda _: (), 1e9)(trigger).change
    assert change is not None
    return change


def pid_of(driver_connection: Any) -> int:
    """Return what a server calls a connection."""
    info = getattr(driver_connection, "info", None)
    return int(driver_connection.thread_id() if info is None else info.backend_pid)


def kill(url: URL, *pids: int) -> None:
    """Let a server end connections, as it does when it is restarted."""
    postgresql = url.get_backend_name() == "postgresql"
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for pid in pids:
            with suppress(OperationalError):  # it is gone already
                connection.execute(text(f"SELECT pg_terminate_backend({pid})" if postgresql else f"KILL {pid}"))
    time.sleep(0.05)  # PostgreSQL's are told by a signal


@contextmanager
def watched_connections(engine: Engine) -> Iterator[list[int]]:
    """Give a list of an engine's connections, new ones from now on, which grows when one is made."""
    pids: list[int] = []

    def connected(driver_connection: Any, _record: object) -> None:
        pids.append(pid_of(driver_connection))

    event.listen(engine, "connect", connected)
    engine.dispose()
    yield pids
    event.remove(engine, "connect", connected)


@contextmanager
def killing(engine: Engine, what: str, times: int = 1) -> Iterator[None]:
    """End a connection just before a statement that begins so is sent, or the COMMIT of one that has written."""
    left, wrote = times, False

    def end(connection: Connection) -> None:
        nonlocal left
        if left > 0:
            left -= 1
            kill(engine.url, pid_of(connection.connection.driver_connection))

    def statement(connection: Connection, _cursor: object, sql: str, *_: object) -> None:
        nonlocal wrote
        wrote = wrote or sql.startswith("UPDATE")
        if sql.startswith(what):
            end(connection)

    def commit(connection: Connection) -> None:
        if what == "COMMIT" and wrote:
            end(connection)

    event.listen(engine, "before_cursor_execute", statement)
    event.listen(engine, "commit", commit)
    yield
    event.remove(engine, "before_cursor_execute", statement)
    event.remove(engine, "commit", commit)


# --- protocols ------------------------------------------------------------------------------------


def test_it_keeps_the_protocols(tmp_path: Path) -> None:
    file = tmp_path / "sweeps.db"
    for clock in (False, True):
        storage = SQLAlchemyStorage(f"sqlite:///{file}", server_clock=clock)
        assert all(isinstance(storage, protocol) for protocol in (Heartbeats, Catalog, Turns))
        assert isinstance(storage, Timekeeper) is clock
        storage.close()
        twin = AsyncSQLAlchemyStorage("postgresql+psycopg://nobody@127.0.0.1/nothing", server_clock=clock)
        assert all(isinstance(twin, protocol) for protocol in (AsyncHeartbeats, AsyncCatalog, AsyncTurns))
        assert isinstance(twin, AsyncTimekeeper) is clock
        asyncio.run(twin.close())


# --- tables ---------------------------------------------------------------------------------------


def test_without_tables_the_remedy_is_named(url: str, prefix: str) -> None:
    with SQLAlchemyStorage(url, prefix=prefix) as storage:
        for call in (lambda: storage.sweep("s"), lambda: new_sweep(storage), lambda: storage.delete("s")):
            with pytest.raises(StorageError, match=r"storage\.create_tables\(\)"):
                call()


def test_tables_are_created_once_by_many_at_once(url: str, prefix: str) -> None:
    """Each of them finds all tables afterwards."""
    problems: list[BaseException] = []

    def create() -> None:
        try:
            with SQLAlchemyStorage(url, prefix=prefix) as mine:
                mine.create_tables()
                new_sweep(mine, f"{id(mine)}")
        except BaseException as error:
            problems.append(error)

    with SQLAlchemyStorage(url, prefix=prefix) as storage:
        threads = [Thread(target=create) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with tables_of_its_own(storage):
            assert problems == []
            assert len(storage.sweeps(limit=9)) == 4


def test_what_is_missing_is_created(storage: SQLAlchemyStorage) -> None:
    """An index too, which somebody who was killed has not come to."""
    new_sweep(storage)
    engine = storage.database.engine
    run = next(table for table in storage.metadata.sorted_tables if table.name.endswith("_run"))
    gone = next(index for index in run.indexes if str(index.name).endswith("queued"))
    gone.drop(engine)
    storage.create_tables()
    assert {index["name"] for index in inspect(engine).get_indexes(run.name)} >= {index.name for index in run.indexes}
    assert storage.sweep("s").version == 1


def test_tables_may_be_in_a_schema(prefix: str) -> None:
    url = url_of("postgresql")
    engine = create_engine(url, poolclass=NullPool)
    with SQLAlchemyStorage(url, prefix="x_", schema=prefix) as storage:
        with pytest.raises(StorageError, match="create the schema"):
            storage.create_tables()
        with engine.begin() as connection:
            connection.exec_driver_sql(f"CREATE SCHEMA {prefix}")
        with tables_of_its_own(storage):
            take(new_sweep(storage)).finish(loss=1)
            assert inspect(engine).get_table_names(schema=prefix) != []
    with engine.begin() as connection:
        connection.exec_driver_sql(f"DROP SCHEMA {prefix}")


def test_four_rights_on_the_tables_are_enough(prefix: str) -> None:
    """SELECT, INSERT, UPDATE and DELETE, as the error says that is raised without them."""
    url, role = make_url(url_of("postgresql")), f"{prefix}worker"
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with SQLAlchemyStorage(url, prefix=prefix) as owner, tables_of_its_own(owner), engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN")
        try:
            with SQLAlchemyStorage(url.set(username=role), prefix=prefix) as mine:
                with pytest.raises(StorageError, match="grant this user SELECT, INSERT, UPDATE and DELETE"):
                    new_sweep(mine)
                for table in owner.metadata.sorted_tables:
                    connection.exec_driver_sql(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table.name} TO {role}")
                run = take(new_sweep(mine))
                run.start(heartbeats=True)
                run.heartbeat()
                run.finish(loss=1)
                mine.delete("s")
        finally:
            connection.exec_driver_sql(f"DROP OWNED BY {role}")
            connection.exec_driver_sql(f"DROP ROLE {role}")


def test_alembic_is_given_the_same_tables(storage: SQLAlchemyStorage, prefix: str) -> None:
    assert sorted(tables(prefix).tables) == sorted(storage.metadata.tables)


def test_a_migration_can_name_every_type_of_a_column() -> None:
    """Alembic writes them down as code: SQLAlchemy's own can be imported there, a type of ours could not."""
    columns = [column for table in tables("x_").sorted_tables for column in table.columns]
    for column in columns:
        for kind in (column.type, *column.type._variant_mapping.values()):
            assert type(kind).__module__.startswith("sqlalchemy."), column


@pytest.mark.parametrize("prefix", ["", "1a", "a b", "A", 'a"', "a" * 41])
def test_a_prefix_that_not_every_database_takes_is_refused(prefix: str) -> None:
    with pytest.raises(InvalidValue, match="prefix"):
        tables(prefix)


# --- plans ----------------------------------------------------------------------------------------

QUERIES: list[RunQuery] = [
    ByIndex(),
    Queued(),
    *(Leased(agent, presumed) for agent in (None, "ada") for presumed in (False, True)),
    Requested("ada", "r1"),
    Due(1e9),
    Silent(1e9),
    *(InStatus(frozenset({status})) for status in RunStatus),
    ACTIVE,
    ENDED,
    InStatus(frozenset({RunStatus.FAILED}), withdrawn=True),
    InStatus(frozenset({RunStatus.FAILED, RunStatus.CRASHED}), withdrawn=True, unchanged_since=5),
    InStatus(frozenset(), withdrawn=True, unchanged_since=5),
]


def test_a_large_sweep_is_asked_by_indexes(storage: SQLAlchemyStorage) -> None:
    """20,000 runs, of which most have ended: each query is a range of an index, as the database itself chooses."""
    sweep = new_sweep(storage)
    other = new_sweep(storage, "t")
    take(sweep).finish(loss=1)
    run = take(sweep)
    run.start(heartbeats=True)
    take(other).finish(loss=2)
    run_table, event_table, beat_table = (
        next(table for table in storage.metadata.sorted_tables if table.name.endswith(name))
        for name in ("_run", "_event", "_beat")
    )
    ends = ("FINISHED", "FAILED", "CRASHED", "KILLED")
    with storage.database.begin() as connection:
        rows = connection.execute(run_table.select().order_by(run_table.c.sweep, run_table.c.number))
        ended, running, elsewhere = (dict(row._mapping) for row in rows)
        copies: list[dict[str, object]] = []
        for n in range(2, 20_000):
            if n % 100:
                status = {"status": ends[n % 4], "withdrawn": n if n % 8 == 3 else None}
                copies.append({**ended, "number": n, **status, "due_at": None, "request": None})
            else:
                lease: dict[str, object] = (
                    {"leased": None, "presumed": n} if n % 200 else {"leased": n, "presumed": None}
                )
                lease |= {"due_at": 1e9 + n, "request": f"{n:032}", "queued": n if n % 300 == 0 else None}
                copies.append({**running, "number": n, **lease})
        connection.execute(run_table.insert(), [{**ended, **copy} for copy in copies])
        connection.execute(run_table.insert(), [{**elsewhere, "number": n} for n in range(1, 5_000)])
        heard = [{"run": n, "heard": 1e9 + n if n % 50 == 0 else None} for n in range(2, 20_000)]
        connection.execute(beat_table.insert(), [{"sweep": ended["sweep"], **each} for each in heard])
        events = [{"number": n, "version": n, "body": "{}"} for n in range(100, 20_000)]
        connection.execute(event_table.insert(), [{"sweep": ended["sweep"], **each} for each in events])
        for n in range(500):
            row = {"new_id": f"other {n}", "new_version": 1, "new_body": "{}"}
            connection.execute(storage._operations.statements.create, row)
        connection.commit()
    with storage.database.begin() as connection:
        names = [table.name for table in storage.metadata.sorted_tables]
        word = "ANALYZE TABLE" if storage.database.dialect in ("mysql", "mariadb") else "ANALYZE"
        for name in names:
            connection.exec_driver_sql(f"{word} {name}").close()
        connection.commit()
    for query in QUERIES:
        for limit in (1, 256):
            steps = plan(storage, "s", query, limit=limit)
            assert bad_steps(storage, query, steps) == [], "\n".join([str(query), *steps])


# --- contention -----------------------------------------------------------------------------------


class GiveWay(Exception):
    """What a driver raises: PostgreSQL's by SQLSTATE, MySQL's by number."""

    def __init__(self, *args: object, sqlstate: str | None = None) -> None:
        super().__init__(*args)
        self.sqlstate = sqlstate


GIVING_WAY = [
    GiveWay("could not serialize access", sqlstate="40001"),
    GiveWay("deadlock detected", sqlstate="40P01"),
    GiveWay(1213, "Deadlock found when trying to get lock"),
    GiveWay(1020, "Record has changed since last read"),
]


@pytest.mark.parametrize("cause", GIVING_WAY, ids=str)
@pytest.mark.parametrize("word", ["INSERT", "UPDATE", "DELETE", "SELECT", "commit"])
def test_a_transaction_that_gave_way_is_done_again(tmp_path: Path, cause: GiveWay, word: str) -> None:
    """Whatever it was about, and wherever it was told."""
    with SQLAlchemyStorage(f"sqlite:///{tmp_path / 'sweeps.db'}") as storage:
        storage.create_tables()
        left = 0

        def give_way(*_: object) -> None:
            nonlocal left
            if left:
                left -= 1
                raise OperationalError(word, None, cause)

        def statement(_connection: object, _cursor: object, sql: str, *_: object) -> None:
            if sql.startswith(word):
                give_way()

        engine = storage.database.engine
        listener = ("commit", give_way) if word == "commit" else ("before_cursor_execute", statement)
        event.listen(engine, *listener)
        for work in (
            lambda: new_sweep(storage),
            lambda: storage.commit(change_of(storage)),
            lambda: storage.beat("s", 0, 1, 5.0, None),
            lambda: turned(storage),
            lambda: storage.delete("s"),
        ):
            left = 3
            work()
        with pytest.raises(SweepNotFound):
            storage.sweep("s")


def turned(storage: SQLAlchemyStorage) -> None:
    """Commit in a turn."""
    with storage.turn("s") as turn:
        turn.commit(change_of(turn))


def test_a_turn_that_gave_way_while_it_read_says_so(tmp_path: Path) -> None:
    """Whoever has it has decided nothing yet, and can call again."""
    with SQLAlchemyStorage(f"sqlite:///{tmp_path / 'sweeps.db'}") as storage:
        storage.create_tables()
        new_sweep(storage)

        def give_way(*_: object) -> None:
            raise OperationalError("SELECT", None, GIVING_WAY[0])

        with storage.turn("s") as turn:
            event.listen(storage.database.engine, "before_cursor_execute", give_way)
            with pytest.raises(GaveWay, match=r"sweep 's': SQLite database .* could not serialize access; call again"):
                turn.sweep("s")
            event.remove(storage.database.engine, "before_cursor_execute", give_way)
        storage.commit(change_of(storage))


def test_the_loser_of_a_race_is_told_the_version(storage: SQLAlchemyStorage) -> None:
    new_sweep(storage)
    late = change_of(storage)
    storage.commit(change_of(storage))
    with pytest.raises(Conflict) as caught:
        storage.commit(late)
    assert (caught.value.expected, caught.value.found) == (1, 2)
    storage.delete("s")
    with pytest.raises(SweepNotFound):
        storage.commit(late)
    with pytest.raises(AlreadyExists):
        new_sweep(storage)


def test_waiting_too_long_for_a_lock_says_who_holds_it(server: str, prefix: str) -> None:
    """And nothing is written."""
    postgresql = make_url(server).get_backend_name() == "postgresql"
    options = {"options": "-c lock_timeout=200"} if postgresql else {"init_command": "SET innodb_lock_wait_timeout = 1"}
    engine = create_engine(server, connect_args=options)
    with SQLAlchemyStorage(server, prefix=prefix) as holder, tables_of_its_own(holder):
        new_sweep(holder)
        with SQLAlchemyStorage(engine, prefix=prefix) as storage, holder.turn("s"):
            for call in (lambda: storage.commit(change_of(storage)), lambda: storage.turn("s").__enter__()):
                with pytest.raises(StorageError, match="another transaction holds the sweep"):
                    call()
    engine.dispose()


def test_a_turn_cannot_be_used_after_its_end(storage: SQLAlchemyStorage) -> None:
    new_sweep(storage)
    with storage.turn("s") as turn:
        turn.commit(change_of(turn))
        with pytest.raises(StorageError, match="this turn is over"):
            turn.sweep("s")
    with storage.turn("s") as turn:
        pass
    with pytest.raises(StorageError, match="this turn is over"):
        turn.commit(change_of(storage))
    assert storage.sweep("s").version == 2


# --- connections that are lost --------------------------------------------------------------------


def test_a_restart_between_two_calls_is_not_noticed(served: SQLAlchemyStorage) -> None:
    """By no kind of call."""
    engine = served.database.engine
    with watched_connections(engine) as pids:
        new_sweep(served)
        for work in (
            lambda: served.sweep("s"),
            lambda: served.runs("s", ByIndex(), limit=1),
            lambda: served.beat("s", 0, 1, 1.0, None),
            lambda: served.commit(change_of(served)),
            lambda: turned(served),
            lambda: new_sweep(served, "t"),
            lambda: served.delete("t"),
        ):
            kill(engine.url, *pids)
            pids.clear()
            work()
            assert pids != []


@pytest.mark.parametrize("word", ["UPDATE", "INSERT"])
def test_a_connection_lost_before_the_commit_costs_one_more_try(served: SQLAlchemyStorage, word: str) -> None:
    """Nothing was written, so that nothing is written twice; lost again, it is an error."""
    new_sweep(served)
    change = change_of(served)
    engine = served.database.engine
    with killing(engine, word, times=2), pytest.raises(StorageError, match="Nothing was written") as caught:
        served.commit(change)
    assert not isinstance(caught.value, OutcomeUnknown)
    assert served.sweep("s").version == 1
    with killing(engine, word):
        served.commit(change)
    assert served.sweep("s") == change.sweep
    assert len(served.events("s", limit=9)) == 2


def test_a_connection_lost_with_the_commit_leaves_it_unknown(served: SQLAlchemyStorage) -> None:
    """Nobody can say whether it happened, and the error says what to do."""
    new_sweep(served)
    works: list[Callable[[], None]] = [
        lambda: served.commit(change_of(served)),
        lambda: turned(served),
        lambda: served.delete("s"),
    ]
    for work in works:
        with killing(served.database.engine, "COMMIT"), pytest.raises(OutcomeUnknown, match="read the sweep again"):
            work()
        assert served.sweep("s").version == 1  # the test knows


def test_a_connection_lost_in_a_turn_costs_one_more_try(served: SQLAlchemyStorage) -> None:
    """Whoever reads in it is told to take another; what is committed is compared again, and written."""
    new_sweep(served)
    with served.turn("s") as turn, killing(served.database.engine, "SELECT"), pytest.raises(GaveWay):
        turn.sweep("s")
    with served.turn("s") as turn, killing(served.database.engine, "UPDATE"):
        turn.commit(change_of(turn))
    assert served.sweep("s").version == 2
    assert len(served.events("s", limit=9)) == 2


def test_a_connection_lost_in_a_turn_that_commits_nothing_is_not_noticed(served: SQLAlchemyStorage) -> None:
    """There is nothing to undo; and the pool makes a new one."""
    new_sweep(served)
    for _ in range(2):
        with served.turn("s") as turn:
            held: Any = turn
            kill(served.database.engine.url, pid_of(held._connection.connection.driver_connection))
    pool: Any = served.database.engine.pool
    assert pool.checkedout() == 0
    assert served.sweep("s").version == 1
    turned(served)
    assert served.sweep("s").version == 2


def test_a_failed_commit_is_rolled_back(storage: SQLAlchemyStorage) -> None:
    """SQLAlchemy by itself would give the connection back to its pool with the transaction open."""
    new_sweep(storage)
    for n in range(1, 9):
        with failing_write(storage.database.engine, n):
            try:
                storage.commit(change_of(storage))
            except StorageError:
                assert storage.sweep("s").version == len(storage.events("s", limit=99))
    assert storage.sweep("s").version == len(storage.events("s", limit=99))


def test_an_interrupted_commit_leaves_no_transaction_open(storage: SQLAlchemyStorage) -> None:
    """Ctrl-C just before COMMIT: nothing was written, and nothing is locked."""
    new_sweep(storage)
    engine = storage.database.engine

    def interrupt(_connection: Connection) -> None:
        raise KeyboardInterrupt

    change = change_of(storage)
    event.listen(engine, "commit", interrupt)
    with pytest.raises(KeyboardInterrupt):
        storage.commit(change)
    event.remove(engine, "commit", interrupt)
    assert storage.sweep("s").version == 1
    storage.commit(change)


def test_a_pool_that_is_too_small_says_so(url: str, prefix: str) -> None:
    engine = create_engine(url, pool_size=1, max_overflow=0, pool_timeout=0.1)
    with SQLAlchemyStorage(engine, prefix=prefix) as storage, tables_of_its_own(storage):
        new_sweep(storage)
        with storage.turn("s") as turn:
            with pytest.raises(StorageError, match="a larger pool"):
                storage.sweep("s")
            turn.commit(change_of(turn))
    engine.dispose()


# --- passwords ------------------------------------------------------------------------------------


def said_by(call: Callable[[], object]) -> str:
    """Return all that an error says: its text, its repr, and a traceback as it is logged."""
    with pytest.raises((StorageError, InvalidValue)) as caught:
        call()
    error = caught.value
    return f"{error} {error!r} {error.args} {''.join(traceback.format_exception(error))}"


def assert_hidden(said: str, password: str = PASSWORD) -> None:
    for spelling in (password, repr(password)[1:-1], quote(password, ""), quote_plus(password)):
        assert spelling not in said


@pytest.mark.parametrize("driver", ["postgresql+psycopg", "mysql+pymysql"])
def test_a_wrong_host_is_named_without_the_password(driver: str) -> None:
    for host, port in (("no-such-host.invalid", 5432), ("127.0.0.1", 1)):
        url = URL.create(driver, "ada", PASSWORD, host, port, "sweeps", {"connect_timeout": "2"})
        with SQLAlchemyStorage(url) as storage:
            said = said_by(lambda: storage.sweep("s"))
            assert_hidden(said + repr(storage))
            assert host in said
            assert "is the server up" in said


def test_a_wrong_password_is_not_shown(prefix: str) -> None:
    """And a right one works, whatever its signs are."""
    root = create_engine(url_of("mariadb"), poolclass=NullPool)
    user = prefix[:12]
    with root.begin() as connection:
        connection.execute(text(f"CREATE USER {user}@'%' IDENTIFIED BY :password"), {"password": PASSWORD})
        connection.execute(text(f"GRANT ALL ON {root.url.database}.* TO {user}@'%'"))
    try:
        right = root.url.set(username=user, password=PASSWORD)
        for given in (right, right.render_as_string(hide_password=False)):
            with SQLAlchemyStorage(given, prefix=prefix) as storage, tables_of_its_own(storage):
                new_sweep(storage)
                with pickle.loads(pickle.dumps(storage)) as copy:
                    assert copy.sweep("s").version == 1
                assert_hidden(repr(storage) + str(vars(storage)))
        with SQLAlchemyStorage(right.set(password=PASSWORD + "!"), prefix=prefix) as storage:
            said = said_by(lambda: storage.sweep("s"))
            assert_hidden(said)
            assert "check user and password" in said
    finally:
        with root.begin() as connection:
            connection.execute(text(f"DROP USER {user}@'%'"))


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ada:{PASSWORD}@host/sweeps",
        "postgresql://ada:secret@host:port/sweeps",
        "ada:secret@host",
        "oracle://ada:secret@host/sweeps",
        "postgresql+nothing://ada:secret@host/sweeps",
        "sqlite://",
    ],
)
def test_a_url_that_cannot_be_used_is_refused_unseen(url: str) -> None:
    said = said_by(lambda: SQLAlchemyStorage(url))
    assert_hidden(said)
    assert "secret" not in said.replace(f'"{url}"', "")


def test_a_password_in_a_drivers_words_is_scrubbed(tmp_path: Path) -> None:
    """Whoever wrote it there, and however it was spelt."""
    url = URL.create("postgresql+psycopg", "ada", PASSWORD, "127.0.0.1", 1, "sweeps", {"sslpassword": "hidden"})
    with SQLAlchemyStorage(url) as storage:
        words = OperationalError("?", None, Exception(f"cannot use {PASSWORD} nor {PASSWORD!r} nor hidden"))
        said = str(storage.database._explainer.explain(words).error)
    assert_hidden(said)
    assert "hidden" not in said


# --- engines and processes ------------------------------------------------------------------------


def test_an_engine_of_the_users_is_used_as_it_is(storage: SQLAlchemyStorage, prefix: str) -> None:
    engine = create_engine(storage.database.engine.url)
    with SQLAlchemyStorage(engine, prefix=prefix) as mine:
        new_sweep(mine)
        with pytest.raises(StorageError, match="make it from a URL"):
            pickle.dumps(mine)
    with engine.connect() as connection:  # not disposed of
        assert connection.execute(text("SELECT 1")).scalar() == 1
    engine.dispose()
    with pytest.raises(StorageError, match="closed"):
        mine.sweep("s")
    assert storage.sweep("s").version == 1


def test_an_engine_that_commits_each_statement_is_refused(prefix: str) -> None:
    """A commit of several statements could be torn."""
    url = url_of("mariadb")
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with SQLAlchemyStorage(url, prefix=prefix) as served, tables_of_its_own(served):
        with SQLAlchemyStorage(engine, prefix=prefix) as mine, pytest.raises(StorageError, match="AUTOCOMMIT"):
            new_sweep(mine)
        engine.dispose()
        assert served.sweeps(limit=1) == []


@pytest.mark.parametrize(
    "options", [{"isolation_level": "AUTOCOMMIT"}, {"connect_args": {"autocommit": True}}], ids=str
)
def test_on_postgresql_transactions_are_ours_whatever_the_engine_does(options: dict[str, Any], prefix: str) -> None:
    """Their level is set for each of them, so that no write stays of one that failed."""
    url = url_of("postgresql")
    engine = create_engine(url, **options)
    with SQLAlchemyStorage(url, prefix=prefix) as served, tables_of_its_own(served):
        with SQLAlchemyStorage(engine, prefix=prefix) as mine:
            new_sweep(mine)
            for n in range(1, 4):
                with failing_write(engine, n), pytest.raises(StorageError):
                    mine.commit(change_of(mine))
                assert served.sweep("s").version == 1
            assert len(served.events("s", limit=9)) == 1
        engine.dispose()


def test_engines_of_the_other_kind_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "sweeps.db"
    with pytest.raises(InvalidValue, match="AsyncSQLAlchemyStorage"):
        SQLAlchemyStorage(create_async_engine("postgresql+psycopg://host/sweeps").sync_engine)
    with pytest.raises(InvalidValue, match="create_async_engine"):
        AsyncSQLAlchemyStorage(create_engine(f"sqlite:///{file}"))  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="no driver that is known to be cancelled safely"):
        AsyncSQLAlchemyStorage("mysql+pymysql://host/sweeps")
    other = create_async_engine("postgresql+psycopg://host/sweeps")
    other.sync_engine.dialect.driver = "asyncpg"
    with pytest.raises(InvalidValue, match=r"asyncpg is no driver .* ThreadedStorage\(SQLAlchemyStorage"):
        AsyncSQLAlchemyStorage(other)
    with pytest.raises(InvalidValue, match="a URL or an engine"):
        SQLAlchemyStorage(file)  # type: ignore[arg-type]


def test_an_engine_of_another_database_is_refused(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'sweeps.db'}")
    engine.dialect.name = "oracle"
    with pytest.raises(InvalidValue, match="oracle"):
        SQLAlchemyStorage(engine)


def test_a_driver_that_is_missing_is_named() -> None:
    with pytest.raises(StorageError, match=r"pg8000.*pip install 'sweepstate\[sqlalchemy\]'"):
        SQLAlchemyStorage("postgresql+pg8000://host/sweeps")


def test_without_sqlalchemy_the_extra_is_named() -> None:
    program = "import sys; sys.modules['sqlalchemy'] = None; import sweepstate.storage.sqlalchemy"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "ImportError: this storage needs SQLAlchemy: pip install 'sweepstate[sqlalchemy]'" in done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_leaves_its_parents_connections_alone(storage: SQLAlchemyStorage) -> None:
    """Both go on; nobody reads what the other was answered."""
    new_sweep(storage)
    child = os.fork()
    if child == 0:
        try:
            for _ in range(20):
                assert storage.sweep("s").id == "s"
            new_sweep(storage, "t")
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    for _ in range(20):
        assert storage.sweep("s").id == "s"
    assert os.waitpid(child, 0)[1] == 0
    assert storage.sweep("t").version == 1


def test_the_servers_clock_is_the_sweeps(url: str, prefix: str) -> None:
    """To a second, whatever time zone the server thinks it is in."""
    with SQLAlchemyStorage(url, prefix=prefix, server_clock=True) as storage, tables_of_its_own(storage):
        assert abs(storage.now() - time.time()) < 2
        sweep = Sweep(Grid({"x": [1]}), storage=storage, clock=lambda: 5.0)
        assert abs(sweep.state.created_at - time.time()) < 2


# --- snapshots ------------------------------------------------------------------------------------


def test_a_snapshot_that_was_seen_is_not_parsed_again(storage: SQLAlchemyStorage) -> None:
    """As long as the sweep is at its version; and only so many are kept."""
    new_sweep(storage)
    assert storage.sweep("s") is storage.sweep("s")
    storage.commit(change_of(storage))
    assert storage.sweep("s").version == 2
    for number in range(_SNAPSHOTS + 5):
        new_sweep(storage, f"t{number}")
    assert len(storage._operations._snapshots._seen) == _SNAPSHOTS
    assert storage.sweep("s").version == 2


def test_a_snapshot_of_tables_that_were_made_anew_is_not_used(storage: SQLAlchemyStorage) -> None:
    """A sweep of the same id and version is another one there."""
    new_sweep(storage, "other")
    new_sweep(storage)
    with SQLAlchemyStorage(storage.database.engine, prefix=storage.metadata.sorted_tables[0].name[:14]) as other:
        other.metadata.drop_all(other.database.engine)
        other.create_tables()
        Sweep(Random({"x": [1, 2]}), id="s", storage=other)
        assert storage.sweep("s") == other.sweep("s")
        storage.commit(change_of(storage))
        assert other.sweep("s").version == 2


def statements_of(storage: SQLAlchemyStorage, call: Callable[[], object]) -> list[str]:
    """Return the first word of each statement that a call sends."""
    sent: list[str] = []

    def note(_connection: object, _cursor: object, sql: str, *_: object) -> None:
        sent.append(sql.split(maxsplit=1)[0])

    event.listen(storage.database.engine, "before_cursor_execute", note)
    call()
    event.remove(storage.database.engine, "before_cursor_execute", note)
    return [word for word in sent if word != "BEGIN"]


def test_a_commit_is_three_statements(storage: SQLAlchemyStorage) -> None:
    """Each is a round trip: the sweep, the runs, the events. Heartbeats that were promised cost a fourth."""
    sweep = new_sweep(storage)
    commit, read = ["UPDATE", "INSERT", "INSERT"], ["SELECT", "SELECT"]
    assert statements_of(storage, lambda: take(sweep)) == read + commit
    run = sweep[0]
    run.start()
    assert statements_of(storage, lambda: run.finish(loss=1)) == read + commit
    run = take(sweep)
    assert statements_of(storage, lambda: run.start(heartbeats=True)) == [*read, *commit, "INSERT"]
    assert statements_of(storage, lambda: storage.beat("s", 1, 1, 1e9, None)) == ["INSERT"]
    assert statements_of(storage, lambda: run.finish(loss=1)) == [*read, "UPDATE", "INSERT", "UPDATE", "INSERT"]
    assert storage.runs("s", Silent(1e18), limit=9) == []


def test_what_others_watch_is_known(storage: SQLAlchemyStorage, prefix: str) -> None:
    """Whether a commit may leave heartbeats alone is read together with the version that it is decided on."""
    mine = new_sweep(storage)
    run = take(mine)
    with SQLAlchemyStorage(storage.database.engine, prefix=prefix) as other:
        Sweep.open("s", storage=other)[0].start(heartbeats=True)
        assert [each.index for each in storage.runs("s", Silent(1e18), limit=9)] == [0]
    run.finish(loss=1)
    assert storage.runs("s", Silent(1e18), limit=9) == []


# --- an event loop --------------------------------------------------------------------------------


def test_a_cancelled_call_is_whole_or_did_nothing(prefix: str) -> None:
    """Wherever it is cancelled, and the storage goes on."""
    url = url_of("postgresql")

    async def go(tables: SQLAlchemyStorage) -> None:
        async with AsyncSQLAlchemyStorage(url, prefix=prefix) as storage:
            assert isinstance(storage, AsyncTurns)
            done = 0
            for steps in range(60):
                change = change_of(tables)
                task = asyncio.create_task(storage.commit(change))
                await asyncio.sleep(steps * 0.0003)
                task.cancel()
                try:
                    await task
                    done += 1
                except asyncio.CancelledError:
                    pass
                found = tables.sweep("s")
                assert found.version in (change.version, change.version + 1)
                assert len(tables.events("s", limit=999)) == found.version
            assert 0 < done < 60
            task = asyncio.create_task(hold(storage))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(storage.commit(change_of(tables)), 5)

    async def hold(storage: AsyncStorage) -> None:
        assert isinstance(storage, AsyncTurns)
        async with storage.turn("s"):
            await asyncio.sleep(60)

    with SQLAlchemyStorage(url, prefix=prefix) as tables, tables_of_its_own(tables):
        new_sweep(tables)
        asyncio.run(go(tables))


def test_an_asynchronous_storage_pickles_and_has_a_clock(prefix: str) -> None:
    async def go() -> None:
        async with AsyncSQLAlchemyStorage(url_of("postgresql"), prefix=prefix, server_clock=True) as storage:
            await storage.create_tables()
            async with pickle.loads(pickle.dumps(storage)) as copy:
                assert abs(await copy.now() - time.time()) < 2
                assert await copy.sweeps(limit=1) == []
                assert "PostgreSQL" in repr(copy)

    with SQLAlchemyStorage(url_of("postgresql"), prefix=prefix) as tables, tables_of_its_own(tables):
        asyncio.run(go())

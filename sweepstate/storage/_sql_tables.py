"""The tables of a database server, as SQLAlchemy describes them: for ``create_tables()``, and for Alembic."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Double,
    Identity,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeDecorator, TypeEngine

from ..core.errors import InvalidValue

if TYPE_CHECKING:
    from sqlalchemy.engine import Dialect

#: Together with the longest name below, and a few signs more, what PostgreSQL keeps of a name: 63 bytes.
_LONGEST_PREFIX: Final = 40
#: An id has at most 200 characters, and a character at most four bytes.
_ID_BYTES: Final = 800


class Id(TypeDecorator[str]):
    """What a sweep's id is in Python, where its column has bytes; not in the tables, as no migration could name it."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(mysql.VARBINARY(_ID_BYTES) if dialect.name in MYSQL else Text())

    def process_bind_param(self, value: str | None, dialect: Dialect) -> Any:
        return value.encode() if value is not None and dialect.name in MYSQL else value

    def process_result_value(self, value: Any | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - its protocol
        return value.decode() if isinstance(value, bytes) else value


#: How SQLAlchemy calls the two; they understand the same statements.
MYSQL: Final = ("mysql", "mariadb")

_KEY: Final = BigInteger().with_variant(Integer(), "sqlite")  # only an INTEGER counts by itself there
#: Compared byte by byte and so ordered by code point, whatever the database's collation is. Of MySQL's, none of all
#: versions compares every two characters as different, and trailing blanks.
_ID: Final = Text().with_variant(Text(collation="C"), "postgresql").with_variant(mysql.VARBINARY(_ID_BYTES), *MYSQL)
_ASCII: Final = {"charset": "ascii", "collation": "ascii_bin"}
_WORD: Final = String(32).with_variant(mysql.VARCHAR(32, **_ASCII), *MYSQL)
#: JSON of ASCII signs, which no connection's character set can spoil. TEXT ends at 64 kB on MySQL.
_BODY: Final = Text().with_variant(mysql.LONGTEXT(**_ASCII), *MYSQL)


class Tables(NamedTuple):
    """The four tables; what their columns mean is said in ``_rows.py``.

    Attributes:
        sweep: one row for each sweep. Its body is NULL once it is deleted: the id stays taken.
        run: one row for each run.
        event: one row for each event, its body being the event.
        beat: signs of life. ``attempt``, ``at`` and ``metrics`` are the newest attempt that was heard, when, and
            what it reported; ``watched`` and ``since`` the attempt whose silence counts and since when it does, and
            ``heard`` when that attempt was last heard: NULL if no silence counts.
    """

    sweep: Table
    run: Table
    event: Table
    beat: Table


def tables(prefix: str = "sweepstate_", schema: str | None = None) -> MetaData:
    """Return the tables of a ``SQLAlchemyStorage`` as metadata, for example for Alembic's ``target_metadata``.

    Args:
        prefix: what their names begin with.
        schema: the schema they are in; None is the connection's default.

    Returns:
        Metadata of its own with four tables and their indexes.

    Raises:
        InvalidValue: the prefix cannot begin a name in every database.

    Example:
        >>> sorted(tables().tables)
        ['sweepstate_beat', 'sweepstate_event', 'sweepstate_run', 'sweepstate_sweep']
    """
    return describe(prefix, schema)[0]


def describe(prefix: str, schema: str | None) -> tuple[MetaData, Tables]:
    """Return the metadata, and the tables by their names."""
    if not re.fullmatch(rf"[a-z_][a-z0-9_]{{0,{_LONGEST_PREFIX - 1}}}", prefix):
        raise InvalidValue(
            "prefix",
            f"{prefix!r} cannot begin the names of tables",
            f"use at most {_LONGEST_PREFIX} of a-z, 0-9 and _, no digit first",
        )
    metadata = MetaData(schema=schema)

    def table(name: str, *columns: Column[Any], **options: Any) -> Table:
        return Table(prefix + name, metadata, *columns, mysql_engine="InnoDB", mysql_charset="utf8mb4", **options)

    def index(name: str, *columns: Column[Any], where: Column[Any] | None = None) -> None:
        # An index leaves out what no query of its asks for, so that a run which has ended is in one of them only.
        wanted: ColumnElement[bool] | None = None if where is None else where.is_not(None)
        Index(prefix + name, *columns, postgresql_where=wanted, sqlite_where=wanted)

    sweep = table(
        "sweep",
        Column("key", _KEY, Identity(), primary_key=True),  # unlike that of a SERIAL, its sequence needs no rights
        Column("id", _ID, nullable=False, unique=True),
        Column("version", BigInteger(), nullable=False),
        Column("body", _BODY),
    )
    run = table(
        "run",
        Column("sweep", BigInteger(), primary_key=True, autoincrement=False),
        Column("number", BigInteger(), primary_key=True, autoincrement=False),
        Column("status", _WORD, nullable=False),
        Column("status_version", BigInteger(), nullable=False),
        Column("withdrawn", BigInteger()),
        Column("queued", BigInteger()),
        Column("leased", BigInteger()),
        Column("presumed", BigInteger()),
        Column("agent", _WORD),
        Column("request", _WORD),
        Column("due_at", Double()),
        Column("body", _BODY, nullable=False),
    )
    event = table(
        "event",
        Column("sweep", BigInteger(), primary_key=True, autoincrement=False),
        Column("number", BigInteger(), primary_key=True, autoincrement=False),
        Column("version", BigInteger(), nullable=False),
        Column("body", _BODY, nullable=False),
    )
    beat = table(
        "beat",
        Column("sweep", BigInteger(), primary_key=True, autoincrement=False),
        Column("run", BigInteger(), primary_key=True, autoincrement=False),
        Column("attempt", BigInteger()),
        Column("at", Double()),
        Column("metrics", _BODY),
        Column("watched", BigInteger()),
        Column("since", Double()),
        Column("heard", Double()),
    )
    row = run.c
    index("run_queued", row.sweep, row.queued, where=row.queued)
    index("run_leased", row.sweep, row.leased, where=row.leased)
    index("run_presumed", row.sweep, row.presumed, where=row.presumed)
    index("run_agent_leased", row.sweep, row.agent, row.leased, where=row.leased)
    index("run_agent_presumed", row.sweep, row.agent, row.presumed, where=row.presumed)
    index("run_request", row.sweep, row.request, row.number, where=row.request)
    index("run_due", row.sweep, row.due_at, row.number, where=row.due_at)
    index("run_status", row.sweep, row.status, row.number, row.status_version)
    index("run_withdrawn", row.sweep, row.withdrawn, row.status_version, where=row.withdrawn)
    index("beat_heard", beat.c.sweep, beat.c.heard, beat.c.run, where=beat.c.heard)
    return metadata, Tables(sweep, run, event, beat)

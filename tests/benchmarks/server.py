"""What is measured on a PostgreSQL server, in tables of its own that are dropped afterwards."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Self

import psycopg

from sweepstate import Random, Sweep
from sweepstate.storage.sqlalchemy import SQLAlchemyStorage
from tests.benchmarks.commands import Times, round_of_commands
from tests.benchmarks.common import SPACE, Batch, three_calls
from tests.benchmarks.contention import STUDY, contend, open_server
from tests.benchmarks.large import LARGE, large_on_postgresql

_TABLES = ("sweep", "run", "event", "beat")


class Server:
    """One server.

    Args:
        url: names its database, as SQLAlchemy has it.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._plain = url.replace("+psycopg", "")  # as psycopg has it
        self._prefix = f"bench{os.getpid()}_"
        self._made: list[str] = []
        self._connection = psycopg.connect(self._plain)
        self._storage = self.storage("")

    def storage(self, name: str) -> SQLAlchemyStorage:
        """Return a storage on tables of its own."""
        prefix = f"{self._prefix}{name}"
        storage = SQLAlchemyStorage(self._url, prefix=prefix)
        self._made.append(prefix)
        storage.create_tables()
        return storage

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._connection.close()
        self._storage.close()
        with psycopg.connect(self._plain, autocommit=True) as connection:
            for prefix in self._made:
                for table in (*_TABLES, "bare"):
                    connection.execute(f"DROP TABLE IF EXISTS {prefix}{table}".encode())

    def lives(self) -> dict[str, Batch]:
        """Return lives of runs, and three commits of one row for each."""
        sweep = Sweep(Random(SPACE), id="ours", storage=self._storage)
        return {"sweepstate": three_calls(sweep), "three bare commits": self._bare_commits()}

    def _bare_commits(self) -> Batch:
        connection, table = self._connection, f"{self._prefix}bare"
        connection.execute(f"CREATE TABLE {table} (id integer PRIMARY KEY, number integer)".encode())
        connection.execute(f"INSERT INTO {table} VALUES (1, 0)".encode())
        connection.commit()

        def batch(count: int) -> None:
            for _ in range(3 * count):
                connection.execute(f"UPDATE {table} SET number = number + 1 WHERE id = 1".encode())
                connection.commit()

        return batch

    def contend(self, count: int, seconds: float) -> float:
        """Return the lives a second of so many processes."""
        Sweep(Random(SPACE), id=STUDY, storage=self._storage, exists_ok=True)
        return sum(contend(count, seconds, open_server, self._url, self._prefix)) / seconds

    def commands(self, sizes: tuple[int, int], rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
        """Return the seconds of each command in sweeps of two sizes, in tables of their own."""
        sweeps = []
        for count in sizes:
            storage = self.storage(f"{count}_")
            large_on_postgresql(storage, self._plain, f"{self._prefix}{count}_", count)
            sweeps.append((Sweep.open(LARGE, storage=storage), storage, Times()))
        for number in range(rounds + 2):
            for sweep, storage, times in sweeps:
                round_of_commands(sweep, storage, times)
                if number == 1:
                    times.of.clear()  # so that nobody pays for warming up
        for _, storage, _ in sweeps:
            storage.close()
        small, large = (times.of for _, _, times in sweeps)
        return small, large

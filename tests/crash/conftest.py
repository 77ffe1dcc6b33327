"""Programs in which processes contend and are killed. They live apart: they take real time, and other processes.

Leave them out by ``-m "not crash"``. ``SWEEPSTATE_CRASH_ROUNDS`` multiplies their counts: 0.1 for a quick look, 10
for a long search; ``SWEEPSTATE_CRASH_SEED`` begins the random numbers elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from sweepstate import SQLiteStorage
from tests.support.acknowledged import Opener
from tests.support.counts import Report

#: They fork and kill.
collect_ignore_glob = [] if hasattr(os, "fork") else ["test_*.py"]

_HERE: Final = Path(__file__).parent
_LINES: Final = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "crash: a program in which real processes contend, or are killed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker("crash")


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Report:
    """Give what keeps a line for the end of the session: what was hit shows that something was tried."""
    lines = request.config.stash.setdefault(_LINES, [])
    return lambda line: lines.append(f"{request.node.name}: {line}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash.get(_LINES, [])
    if lines:
        terminalreporter.section("crash and contention programs")
    for line in lines:
        terminalreporter.write_line(line)


def _opener_on(server: str) -> Iterator[Opener]:
    """Give what opens tables of a test's own."""
    pytest.importorskip("sqlalchemy")
    from sweepstate.storage.sqlalchemy import SQLAlchemyStorage  # noqa: PLC0415 - without it, SQLite is tested all the same
    from tests.support.databases import new_prefix, tables_of_its_own, url_of  # noqa: PLC0415

    opener = partial(SQLAlchemyStorage, url_of(server), prefix=new_prefix())
    with opener() as storage, tables_of_its_own(storage):
        yield opener


@pytest.fixture
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Give what opens a place of the test's own, on the database that it is parametrised with."""
    if request.param == "sqlite":
        yield partial(SQLiteStorage, tmp_path / "sweeps.db")
    else:
        yield from _opener_on(request.param)

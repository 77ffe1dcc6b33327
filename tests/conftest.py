"""What holds for every test: hypothesis' budget, replay equals snapshots, and every edge of the tables fires."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Final

import pytest
from hypothesis import HealthCheck, Phase, settings

from sweepstate import Event, MemoryStorage, replay, to_dict
from sweepstate.core.questions import ByIndex
from tests.support import edges

# What a script runs in its background is started with SIGINT ignored, and would hand that on to the programs that tests
# start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# `pytest` takes the same few seconds everywhere and always tries the same examples; a long search by hand:
# SWEEPSTATE_HYPOTHESIS=deep pytest tests/test_machine.py
settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    max_examples=60,
    stateful_step_count=50,
    suppress_health_check=[HealthCheck.too_slow],
    phases=[phase for phase in Phase if phase is not Phase.explain],  # it takes longer than finding the bug
    report_multiple_bugs=False,
)
settings.register_profile(
    "deep",
    parent=settings.get_profile("ci"),
    derandomize=False,
    max_examples=500,
    stateful_step_count=120,
)
settings.load_profile(os.environ.get("SWEEPSTATE_HYPOTHESIS", "ci"))

_PAGE: Final = 1_000
_storages = edges.Storages()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "breaks_storage: the test writes nonsense into a MemoryStorage, so its histories are not replayed"
    )


@pytest.fixture(scope="session", autouse=True)
def _witnesses() -> Iterator[None]:
    """Watch the public methods, and every MemoryStorage that is made."""
    undo = [edges.install(), _storages.install()]
    yield
    for restore in undo:
        restore()


@pytest.fixture(autouse=True)
def _replay_equals_snapshots(_witnesses: None, request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test, each history it left in memory is replayed to the byte, and its edges are counted."""
    _storages.made.clear()
    yield
    broken = request.node.get_closest_marker("breaks_storage") is not None
    for storage in _storages.drain():
        if not broken:
            _check(storage)


def _check(storage: MemoryStorage) -> None:
    # The methods of MemoryStorage itself, because a test's subclass may refuse, count or slip something in.
    for sweep in MemoryStorage.sweeps(storage, limit=_PAGE):
        history = _history(storage, sweep.id)
        edges.walk(history)
        runs = list(MemoryStorage.runs(storage, sweep.id, ByIndex(), limit=10**9))
        snapshots = replay(history)
        assert to_dict(snapshots.sweep) == to_dict(sweep)
        assert snapshots.sweep == sweep
        assert list(snapshots.runs) == [run.index for run in runs]
        for run in runs:
            assert snapshots.runs[run.index] == run


def _history(storage: MemoryStorage, sweep_id: str) -> list[Event]:
    events: list[Event] = []
    while page := MemoryStorage.events(storage, sweep_id, after=len(events), limit=_PAGE):
        events += page
    return events


# --- edge coverage ----------------------------------------------------------------------------------------


def _whole_suite(config: pytest.Config) -> bool:
    """Return whether every test was asked for: no path, no selection, no worker of pytest-xdist."""
    options = config.option
    narrowed = (
        options.keyword
        or options.markexpr
        or getattr(options, "lf", False)
        or getattr(options, "deselect", None)
        or getattr(options, "ignore", None)
        or getattr(options, "collectonly", False)
        or hasattr(config, "workerinput")
    )
    return config.args_source is pytest.Config.ArgsSource.TESTPATHS and not narrowed


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if exitstatus == pytest.ExitCode.OK and _whole_suite(session.config) and edges.report()[1]:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not _whole_suite(config):
        return
    line, missing = edges.report()
    for cell in missing:
        terminalreporter.write_line(f"never fired in a real sweep: {cell}", red=True)
    terminalreporter.write_line(line, green=not missing, red=bool(missing))

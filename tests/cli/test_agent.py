"""``sweepstate agent``: what it makes of its words. Processes are the agent's own business, so it is a fake here."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType

import pytest

from sweepstate import InlineAgent, Limits, Run, SQLiteStorage, StorageError, Sweep
from tests.cli.conftest import Cli
from tests.support.sqlite import new_sweep


class FakeSubprocessAgent(InlineAgent):
    """Takes what the real one takes, and executes its runs in place."""

    made: list[FakeSubprocessAgent]
    raising: BaseException | None = None

    def __init__(self, command: Sequence[str], *, name: str | None = None) -> None:
        self.command = list(command)
        self.begun_early = False
        self.driven: Sweep | None = None
        self.terminated = False
        super().__init__(self.run, name="fake" if name is None else name)
        type(self).made.append(self)

    def run(self, run: Run) -> None:
        self.begun_early = self.begun_early or self.driven is None

    def drive(self, sweep: Sweep) -> None:
        self.driven = sweep
        assert sweep.agent is self
        if self.raising is not None:
            raise self.raising
        while not sweep.refresh().done:
            sweep.tick()

    def terminate(self) -> bool:
        self.terminated = True
        return True


@pytest.fixture(autouse=True)
def _fake_subprocess_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a fake module in the place of the real one."""
    module = ModuleType("sweepstate.agent.subprocess")
    FakeSubprocessAgent.made = []
    monkeypatch.setattr(FakeSubprocessAgent, "raising", None)
    module.__dict__["SubprocessAgent"] = FakeSubprocessAgent
    monkeypatch.setitem(sys.modules, "sweepstate.agent.subprocess", module)


def the_agent() -> FakeSubprocessAgent:
    [made] = FakeSubprocessAgent.made
    return made


def test_it_drives_the_sweep_until_it_is_done(storage: SQLiteStorage, cli: Cli) -> None:
    new_sweep(storage, points=3, max_active=2)
    said = cli("agent", "s", "--", "python", "train.py")
    assert said == (0, "sweep 's' is FINISHED: 3 runs, 3 finished\n", "")
    assert the_agent().command == ["python", "train.py"]


def test_everything_behind_the_first_dashes_is_the_commands(storage: SQLiteStorage, cli: Cli) -> None:
    """Its options and its own dashes too."""
    new_sweep(storage, points=1, max_active=1)
    words = ["env", "--storage", "x", "--name=y", "-h", "--", "--max-active", "3"]
    assert cli("agent", "s", "--name", "gpu-7", "--", *words).code == 0
    assert the_agent().command == words
    assert the_agent().name == "gpu-7"


def test_the_name_is_the_agents_own_if_none_is_given(storage: SQLiteStorage, cli: Cli) -> None:
    """So that the command line and a program find each other's runs."""
    new_sweep(storage, points=1, max_active=1)
    assert cli("agent", "s", "--", "true").code == 0
    assert the_agent().name == "fake"


@pytest.mark.parametrize("words", [["s"], ["s", "--"], ["--", "true"], ["s", "true"], ["s", "--count", "--", "true"]])
def test_a_command_and_an_id_are_needed(storage: SQLiteStorage, cli: Cli, words: list[str]) -> None:
    new_sweep(storage, max_active=1)
    said = cli("agent", *words)
    assert (said.code, said.out) == (2, "")
    assert "ID -- COMMAND" in said.err
    assert FakeSubprocessAgent.made == []


def test_a_sweep_that_bounds_nothing_is_refused(storage: SQLiteStorage, cli: Cli) -> None:
    """How many may execute at once, nobody can guess."""
    new_sweep(storage)
    said = cli("agent", "s", "--", "true")
    assert said.code == 2
    assert "give --max-active N" in said.err
    assert FakeSubprocessAgent.made == []


def test_max_active_is_set_on_the_sweep_and_kept(storage: SQLiteStorage, cli: Cli) -> None:
    """And nothing begins before it is driven."""
    sweep = new_sweep(storage, points=3)
    assert cli("agent", "s", "--max-active", "2", "--", "true").code == 0
    assert sweep.refresh().limits == Limits(max_active=2)
    assert the_agent().begun_early is False


@pytest.mark.parametrize("most", ["0", "-1", "many"])
def test_what_is_no_bound_is_a_usage_error(storage: SQLiteStorage, cli: Cli, most: str) -> None:
    new_sweep(storage)
    assert cli("agent", "s", f"--max-active={most}", "--", "true").code == 2


def test_a_sweep_that_is_not_there_is_an_error(storage: SQLiteStorage, cli: Cli) -> None:
    assert storage.sweeps(limit=1) == []
    said = cli("agent", "s", "--", "true")
    assert said.code == 1
    assert "there is no sweep 's'" in said.err


def test_an_agent_that_goes_before_the_sweep_is_done_was_interrupted(
    storage: SQLiteStorage, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first Ctrl-C it takes no more runs, and returns when those that execute have ended."""
    new_sweep(storage, max_active=1)
    monkeypatch.setattr(FakeSubprocessAgent, "drive", lambda self, sweep: None)
    assert cli("agent", "s", "--", "true") == (130, "sweep 's' is RUNNING: 0 runs\n", "")


@pytest.mark.parametrize("error", [StorageError("the server is away"), RuntimeError("nobody foresaw this")])
def test_whatever_ends_the_drive_leaves_nothing_that_executes(
    storage: SQLiteStorage, cli: Cli, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Nobody would look after it: what the library foresaw is said and exits 1, the rest is a traceback."""
    new_sweep(storage, max_active=1)
    monkeypatch.setattr(FakeSubprocessAgent, "raising", error)
    if isinstance(error, StorageError):
        assert cli("agent", "s", "--", "true") == (1, "", "sweepstate: the server is away\n")
    else:
        with pytest.raises(RuntimeError, match="nobody foresaw"):
            cli("agent", "s", "--", "true")
    assert the_agent().terminated


def test_a_sweep_that_is_done_ends_with_nothing_to_end(storage: SQLiteStorage, cli: Cli) -> None:
    new_sweep(storage, points=1, max_active=1)
    assert cli("agent", "s", "--", "true").code == 0
    assert not the_agent().terminated


def test_an_interrupt_that_leaves_the_drive_exits_130(
    storage: SQLiteStorage, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_sweep(storage, max_active=1)
    monkeypatch.setattr(FakeSubprocessAgent, "raising", KeyboardInterrupt())
    assert cli("agent", "s", "--", "true") == (130, "", "")

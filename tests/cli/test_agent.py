"""``sweepstate agent``: what it makes of its words. Processes are the agent's own business, so it is a fake here."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

from sweepstate import InlineAgent, Limits, Run, Slots, SQLiteStorage, StorageError, Sweep
from tests.cli.conftest import Cli
from tests.support.sqlite import new_sweep


class FakeSubprocessAgent(InlineAgent):
    """Takes what the real one takes, and executes its runs in place."""

    made: list[FakeSubprocessAgent]
    raising: BaseException | None = None

    def __init__(self, command: Sequence[str], *, name: str | None, workdir: Path, slots: Slots | None) -> None:
        self.command = list(command)
        self.workdir = workdir
        self.slots = slots
        self.count: int | None = None
        self.begun = 0
        self.begun_early = False
        self.driven: Sweep | None = None
        self.terminated = False
        self.preempted = False
        super().__init__(self.run, name="fake" if name is None else name)
        type(self).made.append(self)

    @property
    def accepting(self) -> bool:
        return self.count is None or self.begun < self.count

    def run(self, run: Run) -> None:
        self.begun_early = self.begun_early or self.driven is None
        self.begun += 1

    def drive(self, sweep: Sweep, *, count: int | None = None) -> None:
        self.driven = sweep
        self.count = count
        assert sweep.agent is self
        if self.raising is not None:
            raise self.raising
        while self.accepting and not sweep.refresh().done:
            sweep.tick()

    def preempt(self) -> None:
        self.preempted = True

    def terminate(self) -> bool:
        self.terminated = True
        return True


@pytest.fixture(autouse=True)
def _fake_subprocess_module(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Put a fake module in the place of the real one, and be where directories may be made."""
    monkeypatch.chdir(tmp_path)
    module = ModuleType("sweepstate.agent.subprocess")
    FakeSubprocessAgent.made = []
    monkeypatch.setattr(FakeSubprocessAgent, "raising", None)
    module.__dict__["SubprocessAgent"] = FakeSubprocessAgent
    monkeypatch.setitem(sys.modules, "sweepstate.agent.subprocess", module)
    monkeypatch.setattr(shutil, "which", lambda program: None if program == "no-such-program" else program)


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


@pytest.mark.parametrize("words", [["s"], ["s", "--"], ["--", "true"], ["s", "true"], ["s", "--name", "--", "true"]])
def test_a_command_and_an_id_are_needed(storage: SQLiteStorage, cli: Cli, words: list[str]) -> None:
    new_sweep(storage, max_active=1)
    said = cli("agent", *words)
    assert (said.code, said.out) == (2, "")
    assert "ID -- COMMAND" in said.err
    assert FakeSubprocessAgent.made == []


@pytest.mark.parametrize(
    "words", [["s", "python", "train.py", "--lr", "1"], ["s", "--max-active", "2", "python", "train.py", "--", "x"]]
)
def test_a_command_that_is_not_behind_the_dashes_is_told_where_to_stand(
    storage: SQLiteStorage, cli: Cli, words: list[str]
) -> None:
    """As in many other programs it would."""
    new_sweep(storage)
    said = cli("agent", *words)
    assert said.code == 2
    assert "behind --: sweepstate agent s -- python train.py" in said.err


def test_a_program_that_is_not_there_is_a_usage_error_and_fails_no_run(storage: SQLiteStorage, cli: Cli) -> None:
    """The agent would say of each run that it could not be launched, until the whole sweep has failed."""
    sweep = new_sweep(storage, max_active=1)
    said = cli("agent", "s", "--", "no-such-program", "--help")
    assert (said.code, said.out) == (2, "")
    assert "there is no program 'no-such-program' that can be executed" in said.err
    assert FakeSubprocessAgent.made == []
    assert sweep.refresh().state.created == 0


def test_a_program_that_a_macro_names_is_left_to_the_agent(storage: SQLiteStorage, cli: Cli) -> None:
    new_sweep(storage, points=1, max_active=1)
    assert cli("agent", "s", "--", "${interpreter}", "train.py").code == 0
    assert the_agent().command == ["${interpreter}", "train.py"]


def test_an_option_that_is_none_is_no_command(storage: SQLiteStorage, cli: Cli) -> None:
    new_sweep(storage)
    assert "unrecognized arguments: --max-activ" in cli("agent", "s", "--max-activ", "2", "--", "true").err


def test_it_leaves_after_so_many_runs(storage: SQLiteStorage, cli: Cli) -> None:
    """Which is no interrupt; the sweep goes on."""
    new_sweep(storage, points=5, max_active=1)
    assert cli("agent", "s", "--count", "2", "--", "true") == (0, "sweep 's' is RUNNING: 2 runs, 2 finished\n", "")
    assert the_agent().count == 2


def test_who_goes_before_so_many_runs_was_interrupted(
    storage: SQLiteStorage, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_sweep(storage, max_active=1)
    monkeypatch.setattr(FakeSubprocessAgent, "drive", lambda self, sweep, count: None)
    assert cli("agent", "s", "--count", "2", "--", "true").code == 130


def test_who_is_terminated_says_so_and_leaves(
    storage: SQLiteStorage, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As shells say it; and the handler of this process is its own again."""
    new_sweep(storage, max_active=1)
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(FakeSubprocessAgent, "drive", lambda self, sweep, count: signal.raise_signal(signal.SIGTERM))
    said = cli("agent", "s", "--count", "2", "--", "true")
    assert (said.code, said.out.startswith("sweep 's' is RUNNING"), the_agent().preempted) == (143, True, True)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_directory_is_made_for_what_programs_leave(storage: SQLiteStorage, cli: Cli, tmp_path: Path) -> None:
    new_sweep(storage, points=1, max_active=1)
    assert cli("agent", "s", "--workdir", "some/where", "--", "true").code == 0
    assert the_agent().workdir == Path("some/where")
    assert (tmp_path / "some/where").is_dir()


@pytest.mark.parametrize("place", ["file", "file/runs"])
def test_a_directory_that_cannot_be_made_is_a_usage_error(
    storage: SQLiteStorage, cli: Cli, tmp_path: Path, place: str
) -> None:
    """Before any run fails for it."""
    (tmp_path / "file").touch()
    new_sweep(storage, max_active=1)
    said = cli("agent", "s", "--workdir", place, "--", "true")
    assert said.code == 2
    assert "--workdir" in said.err
    assert FakeSubprocessAgent.made == []


def test_slots_are_handed_out_and_bound_how_many_execute(storage: SQLiteStorage, cli: Cli) -> None:
    """So the sweep need not say it."""
    new_sweep(storage, points=1)
    assert cli("agent", "s", "--slots", "0,1, 2,3", "--slots-per-run", "2", "--", "true").code == 0
    slots = the_agent().slots
    assert slots is not None
    assert (slots.take(), slots.take(), slots.free) == (("0", "1"), ("2", "3"), 0)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--slots", "0,0"], "--slots: has one twice"),
        (["--slots", ""], "--slots: '' cannot name a slot"),
        (["--slots", "0,1", "--slots-per-run", "3"], "--slots-per-run: is 3, and there are 2 slots"),
        (["--slots-per-run", "2"], "--slots-per-run goes with --slots"),
        (["--slots", "0", "--slots-per-run", "0"], "--slots-per-run"),
        (["--count", "0"], "--count"),
        (["--count", "all"], "--count: 'all' is no whole number"),
        (["--name", ""], "--name: is empty"),
        (["--workdir", ""], "--workdir: is empty"),
    ],
)
def test_what_cannot_be_used_is_a_usage_error(storage: SQLiteStorage, cli: Cli, words: list[str], says: str) -> None:
    new_sweep(storage, max_active=1)
    said = cli("agent", "s", *words, "--", "true")
    assert (said.code, said.out) == (2, "")
    assert says in said.err
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
    monkeypatch.setattr(FakeSubprocessAgent, "drive", lambda self, sweep, count: None)
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

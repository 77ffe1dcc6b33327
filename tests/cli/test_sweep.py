"""``sweepstate sweep``: exactly one command, its answer on one line, and its refusal without a traceback."""

from __future__ import annotations

from typing import Any

import pytest

from sweepstate import Grid, RunStatus, SQLiteStorage, Sweep, SweepStatus
from sweepstate.core.events import RunEnded, SweepStatusChanged
from tests.cli.conftest import Cli
from tests.support.sqlite import new_sweep, take

VERBS = ["--pause", "--resume", "--stop", "--cancel", "--reopen"]


def test_every_command_does_what_its_method_does(storage: SQLiteStorage, cli: Cli) -> None:
    sweep = new_sweep(storage)
    for verb, status, line in (
        ("--pause", "PAUSED", "sweep 's' is PAUSED"),
        ("--resume", "RUNNING", "sweep 's' is RUNNING"),
        ("--stop", "STOPPED", "sweep 's' is STOPPED"),
        ("--cancel", "CANCELLED", "sweep 's' is CANCELLED"),
        ("--reopen", "RUNNING", "sweep 's' is RUNNING; to be taken up again: withdrawn runs"),
    ):
        assert cli("sweep", verb, "s") == (0, line + "\n", "")
        assert sweep.refresh().status == status


def test_the_flag_may_stand_behind_the_id(storage: SQLiteStorage, cli: Cli) -> None:
    new_sweep(storage)
    assert cli("sweep", "s", "--pause").code == 0
    assert storage.sweep("s").status is SweepStatus.PAUSED


def test_what_changes_nothing_is_accepted_and_says_so(storage: SQLiteStorage, cli: Cli) -> None:
    sweep = new_sweep(storage)
    sweep.pause()
    version = sweep.state.version
    assert cli("sweep", "--pause", "s") == (0, "nothing changed: sweep 's' is PAUSED already\n", "")
    assert sweep.refresh().state.version == version


def test_the_answer_tells_what_became_of_the_runs(storage: SQLiteStorage, cli: Cli) -> None:
    sweep = new_sweep(storage)
    take(sweep).start()
    take(sweep)
    assert cli("sweep", "--stop", "s").out == "sweep 's' is STOPPED; 1 run killed; agents hold 2 runs\n"
    assert cli("sweep", "--cancel", "s").out == "sweep 's' is CANCELLED; 1 run killed; agents hold 2 runs\n"


def test_what_follows_in_the_same_commit_is_told_with_its_reason(storage: SQLiteStorage, cli: Cli) -> None:
    """An exhausted search stays complete, so what is reopened with nothing to take up is finished at once."""
    new_sweep(storage, points=1).execute(lambda run: None)
    said = cli("sweep", "--reopen", "s")
    assert said.out.startswith("sweep 's' is RUNNING, then FINISHED (the search is complete and every run has ended)")
    assert said.out.count("\n") == 1


def test_reason_and_actor_are_kept_in_the_history(storage: SQLiteStorage, cli: Cli) -> None:
    sweep = new_sweep(storage)
    assert cli("sweep", "--pause", "s", "--reason", "bad data", "--actor", "ada").code == 0
    *_, last = sweep.history()
    assert isinstance(last, SweepStatusChanged)
    assert (last.reason, last.actor) == ("bad data", "ada")


@pytest.mark.parametrize("words", ["FAILED", "error,killed", "failed,CANCELED"])
def test_reopen_takes_statuses_in_any_spelling(storage: SQLiteStorage, cli: Cli, words: str) -> None:
    sweep = new_sweep(storage, points=2)
    run = take(sweep)
    run.start()
    run.fail("boom")
    sweep.stop()
    said = cli("sweep", "--reopen", "s", "--retry", words)
    assert said.code == 0
    assert "to be taken up again: FAILED, " in said.out
    taken = take(sweep.refresh())
    assert (taken.index, taken.attempt) == (0, 2)


@pytest.mark.parametrize("words", ["", "FAILED,", "broken", "FAILED;KILLED"])
def test_a_word_that_names_no_status_is_a_usage_error_that_lists_them(
    storage: SQLiteStorage, cli: Cli, words: str
) -> None:
    new_sweep(storage).stop()
    said = cli("sweep", "--reopen", "s", "--retry", words)
    assert (said.code, said.out) == (2, "")
    assert "use one of canceled, cancelled, crashed" in said.err


def test_a_status_that_is_never_retried_is_a_usage_error(storage: SQLiteStorage, cli: Cli) -> None:
    new_sweep(storage).stop()
    said = cli("sweep", "--reopen", "s", "--retry", "FINISHED")
    assert (said.code, said.out) == (2, "")
    assert "Traceback" not in said.err
    assert storage.sweep("s").status is SweepStatus.STOPPED


@pytest.mark.parametrize("verb", VERBS[:-1])
def test_retry_goes_with_reopen_only(storage: SQLiteStorage, cli: Cli, verb: str) -> None:
    new_sweep(storage)
    said = cli("sweep", verb, "s", "--retry", "FAILED")
    assert said.code == 2
    assert "--retry goes with --reopen" in said.err
    assert storage.sweep("s").version == 1


def test_a_refused_command_exits_1_with_the_librarys_message(storage: SQLiteStorage, cli: Cli) -> None:
    sweep = new_sweep(storage)
    sweep.cancel()
    with pytest.raises(Exception, match="cannot resume") as refused:
        sweep.resume()
    before = sweep.refresh().state
    assert cli("sweep", "--resume", "s") == (1, "", f"sweepstate: {refused.value}\n")
    assert sweep.refresh().state == before


@pytest.mark.parametrize(
    "words",
    [
        ["s"],
        ["--pause"],
        ["--pause", "--stop", "s"],
        ["--pause", "--pause=1", "s"],
        ["--pau", "s"],
        ["--pause", "s", "t"],
    ],
)
def test_exactly_one_command_and_one_id(storage: SQLiteStorage, cli: Cli, words: list[str]) -> None:
    """Nor is an abbreviation guessed at: a command line that somebody keeps must not change its meaning."""
    new_sweep(storage)
    said = cli("sweep", *words)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("usage: sweepstate sweep ")
    assert storage.sweep("s").version == 1


def test_a_sweep_whose_search_is_not_stored_can_be_steered(storage: SQLiteStorage, cli: Cli) -> None:
    class Own:
        size = None

        def propose(self, index: int, history: Any) -> dict[str, int]:
            return {"x": index}

    sweep = Sweep(Own(), id="own", storage=storage)
    assert sweep.state.search is None
    assert cli("sweep", "--cancel", "own").code == 0


def test_a_cancel_kills_what_executes(storage: SQLiteStorage, cli: Cli) -> None:
    sweep = Sweep(Grid({"x": [1, 2, 3]}), id="s", storage=storage)
    for _ in range(3):
        take(sweep).start()
    assert cli("sweep", "--cancel", "s", "--reason", "why").code == 0
    assert sweep.refresh().counts[RunStatus.KILLED] == 3
    assert sum(isinstance(event, RunEnded) for event in sweep.history()) == 3

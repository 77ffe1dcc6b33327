"""SubprocessAgent before anything is started: what it is given, and what it says of itself."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from sweepstate import Grid, InvalidValue, Limits, Run, RunStatus, Slots, SubprocessAgent, Sweep
from sweepstate.hooks import Start


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"command": "python train.py"}, "command"),
        ({"command": ["train", "${envvar:SWEEPSTATE_NO_SUCH}"]}, "command[1]"),
        ({"program": 3}, "program"),
        ({"name": 3}, "name"),
        ({"slots": [0, 1]}, "slots"),
        ({"env": ["A=1"]}, "env"),
        ({"env": {"": "x"}}, "env"),
        ({"env": {"A=B": "x"}}, "env"),
        ({"env": {"A": 1}}, "env.A"),
        ({"env": {"A": "a\0b"}}, "env.A"),
        ({"forward": signal.SIGUSR1}, "forward"),
        ({"forward": [12345]}, "forward"),
        ({"forward": ["SIGUSR1"]}, "forward"),
        ({"forward": [signal.SIGINT]}, "forward"),
        ({"forward": [signal.SIGKILL]}, "forward"),
        ({"poll": 0}, "poll"),
        ({"patience": -1}, "patience"),
    ],
)
def test_what_cannot_be_used_is_refused_when_it_is_given(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        SubprocessAgent(**{"command": ["train"], **arguments})
    assert caught.value.field == field


@pytest.mark.parametrize("count", [0, -1, 1.5, "all"])
def test_what_is_no_count_is_refused(count: Any) -> None:
    agent = SubprocessAgent(["train"])
    with pytest.raises(InvalidValue) as caught:
        agent.drive(Sweep(Grid({"x": [1]}), agent=agent), count=count)
    assert caught.value.field == "count"


def test_it_makes_nothing_before_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No directory, and no name that changes."""
    monkeypatch.chdir(tmp_path)
    first, second = SubprocessAgent(["train"]), SubprocessAgent(["train"])
    assert first.name == second.name == f"subprocess@{socket.gethostname()}"
    assert list(tmp_path.iterdir()) == []
    assert first.can_kill
    assert first.accepting


def test_a_macro_may_name_what_only_its_programs_have() -> None:
    """The slots, the token, and what the agent adds."""
    command = ["train", "--gpu=${envvar:GPU}", "--run=${envvar:SWEEPSTATE_RUN}", "${envvar:MINE}"]
    SubprocessAgent(command, slots=Slots([0], variable="GPU"), env={"MINE": "x"})
    with pytest.raises(InvalidValue, match="GPU"):
        SubprocessAgent(command, env={"MINE": "x"})


def test_it_wants_no_more_runs_than_its_slots_serve() -> None:
    slots = Slots([0])
    agent = SubprocessAgent(["train"], slots=slots)
    taken = slots.take()
    assert taken is not None
    assert not agent.accepting
    slots.give_back(taken)
    assert agent.accepting


def test_a_run_whose_slot_another_agent_took_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It wanted the run when there was a slot; that there is none now is no failed launch."""
    slots = Slots([0])
    agent = SubprocessAgent(["true"], slots=slots, workdir=tmp_path)
    sweep = Sweep(Grid({"x": [1]}), limits=Limits(launch_attempts=1))
    run = sweep.next_run(agent.name)
    assert isinstance(run, Run)
    slots.take()
    with monkeypatch.context() as patch:
        patch.setattr(agent, "_has_room", lambda: True)
        agent.start(Start(run))
    assert (sweep[0].status, sweep[0].attempt, sweep[0].state.held) == (RunStatus.PENDING, 2, False)


def test_what_cannot_be_prepared_keeps_no_slot(tmp_path: Path) -> None:
    """However often it is tried."""
    slots = Slots([0, 1])
    agent = SubprocessAgent(["no-such-program-anywhere"], slots=slots, workdir=tmp_path)
    sweep = Sweep(Grid({"x": [1]}))
    run = sweep.next_run(agent.name)
    assert isinstance(run, Run)
    for _ in range(3):
        with pytest.raises(FileNotFoundError, match="no-such-program-anywhere"):
            agent.start(Start(run))
    assert slots.free == 2


def test_a_run_that_somebody_else_has_begun_keeps_no_slot(tmp_path: Path) -> None:
    """Nothing is started, and nothing of theirs is touched."""
    slots = Slots([0])
    agent = SubprocessAgent(["true"], slots=slots, workdir=tmp_path)
    sweep = Sweep(Grid({"x": [1]}))
    run = sweep.next_run(agent.name)
    assert isinstance(run, Run)
    run.start("somebody else")
    agent.start(Start(sweep[0]))
    assert slots.free == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []

"""Refused means: nothing has changed, to the byte; for every command and report, from everywhere."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest

from sweepstate import (
    AlreadyExists,
    Conflict,
    IllegalTransition,
    InvalidValue,
    Limits,
    Run,
    RunNotFound,
    RunStatus,
    Sweep,
    SweepNotFound,
    SweepstateError,
)
from tests.support import tables
from tests.support.world import Crew, Points, World, everything, make, reach

Call = Callable[[World, Run], object]


def on_sweep(name: str) -> Call:
    return lambda world, _: getattr(world.sweep, name)()


def on_run(name: str) -> Call:
    return lambda _, run: getattr(run, name)()


SWEEP_CALLS = ["pause", "resume", "stop", "cancel", "fail", "crash", "reopen", "complete", "tick"]
RUN_CALLS = [
    "stop",
    "kill",
    "retry",
    "start",
    "heartbeat",
    "report",
    "finish",
    "fail",
    "crash",
    "interrupt",
    "gone",
    "release",
    "mark_preempting",
    "__enter__",
]

#: Every command, report and question there is, by name.
CALLS: dict[str, Call] = {
    **{f"sweep.{name}": on_sweep(name) for name in SWEEP_CALLS},
    "sweep.reopen(retry)": lambda world, _: world.sweep.reopen(retry={RunStatus.FAILED}),
    "sweep.retry": lambda world, _: world.sweep.retry({RunStatus.FAILED, RunStatus.KILLED}),
    "sweep.set_limits": lambda world, _: world.sweep.set_limits(max_active=7),
    "sweep.next_run": lambda world, _: world.sweep.next_run("ada", "r"),
    "sweep.execute": lambda world, _: world.sweep.set_limits(run_cap=9) and world.sweep.execute(lambda _run: None),
    **{f"run.{name}": on_run(name) for name in RUN_CALLS},
    "run.exited": lambda _, run: run.exited(1),
    "run.start(execution)": lambda _, run: run.start("host-2", heartbeats=True),
}


# Entering a run that may not begin any more reports that nothing of it executes; see test_handles.
@pytest.mark.parametrize("call", [call for call in CALLS if call != "run.__enter__"])
@pytest.mark.parametrize("status", tables.SWEEP_STATUSES)
def test_refused_or_nothing_to_do_changes_nothing(status: str, call: str) -> None:
    """From every situation, by the current handle, an older one and a wrong execution."""
    for row in tables.REACHABLE[status]:
        for kind in ("current", "older", "stranger"):
            world, runs = reach(status, row)
            run = _handle(world, runs[row], kind)
            if run is None:
                continue
            before, sweep = everything(world.sweep), world.sweep.refresh().state
            answer: object = ()
            refused: SweepstateError | None = None
            try:
                answer = CALLS[call](world, run)
            except SweepstateError as error:
                refused = error
            if refused is not None:
                assert world.sweep.state == sweep
                _check_error(refused)
            if answer == ():
                assert everything(world.sweep) == before, (row, kind, refused)


def _handle(world: World, run: Run, kind: str) -> Run | None:
    if kind == "older":
        return Run(world.sweep._shell, run.state, run.attempt - 1) if run.attempt > 1 else None
    if kind == "stranger":
        lease = run.state.lease
        if run.state.row != "RUNNING" or lease is None:
            return None
        return Run(world.sweep._shell, run.state, run.attempt, "stranger")
    return run


def _check_error(error: SweepstateError) -> None:
    """It says what was asked, of what, and what to do; and it pickles."""
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert not isinstance(error, Conflict)
    if isinstance(error, IllegalTransition):
        assert error.id.startswith("s")
        assert error.status
        assert error.asked
        assert error.asked in str(error)
        assert error.status in str(error)
        assert error.remedy in str(error)
        assert error.remedy


# --- aimed at a status that has changed -------------------------------------------------------------


SWEEP_COMMANDS: dict[str, Callable[[Sweep, int], object]] = {
    "pause": lambda sweep, version: sweep.pause(if_version=version),
    "resume": lambda sweep, version: sweep.resume(if_version=version),
    "stop": lambda sweep, version: sweep.stop(if_version=version),
    "cancel": lambda sweep, version: sweep.cancel(if_version=version),
    "fail": lambda sweep, version: sweep.fail(if_version=version),
    "crash": lambda sweep, version: sweep.crash(if_version=version),
    "reopen": lambda sweep, version: sweep.reopen(if_version=version),
    "retry": lambda sweep, version: sweep.retry({RunStatus.FAILED}, if_version=version),
    "complete": lambda sweep, version: sweep.complete(if_version=version),
    "set_limits": lambda sweep, version: sweep.set_limits(if_version=version, run_cap=9),
}


@pytest.mark.parametrize("name", SWEEP_COMMANDS)
def test_a_delayed_command_cannot_hit_a_sweep_that_was_reopened(name: str) -> None:
    """if_version: a Conflict if the sweep's status has changed since, whatever it would have done."""
    world = make()
    seen = world.sweep.state.version
    world.sweep.stop()
    world.sweep.reopen()
    before = everything(world.sweep)
    with pytest.raises(Conflict) as caught:
        SWEEP_COMMANDS[name](world.sweep, seen)
    assert (caught.value.sweep_id, caught.value.expected) == ("s", seen)
    assert everything(world.sweep) == before


@pytest.mark.parametrize("name", SWEEP_COMMANDS)
def test_if_version_asks_for_the_status_only(name: str) -> None:
    """Other commits since do not matter; a version that does not exist yet is an InvalidValue."""
    world = make()
    seen = world.sweep.state.version
    world.begin().fail()
    before = everything(world.sweep)
    with pytest.raises(InvalidValue) as caught:
        SWEEP_COMMANDS[name](world.sweep, world.sweep.refresh().state.version + 1)
    assert caught.value.field == "if_version"
    assert everything(world.sweep) == before
    SWEEP_COMMANDS[name](world.sweep, seen)


@pytest.mark.parametrize("name", ["stop", "kill", "retry"])
def test_on_a_runs_command_if_version_means_the_runs_status(name: str) -> None:
    """A run that ended meanwhile is not retried by a command that was aimed at it before."""
    world = make()
    run = world.begin()
    seen = world.sweep.refresh().state.version
    run.kill()
    world.sweep.pause()
    before = everything(world.sweep)
    with pytest.raises(Conflict):
        getattr(run, name)(if_version=seen)
    assert everything(world.sweep) == before
    getattr(run, name)(if_version=seen + 1)


@pytest.mark.parametrize("version", [0, -1, 1.5, True, "1"])
def test_an_if_version_that_is_none_is_refused(version: Any) -> None:
    """Versions are 1, 2, 3, ..."""
    world = make()
    run = world.begin()
    before = everything(world.sweep)
    for command in (world.sweep.stop, run.kill):
        with pytest.raises(InvalidValue) as caught:
            command(if_version=version)
        assert caught.value.field == "if_version"
    assert everything(world.sweep) == before


# --- arguments that cannot be used ---------------------------------------------------------------------


BAD: dict[str, tuple[str, Callable[[Any, Any], object]]] = {
    "metrics that are no numbers": ("metrics.loss", lambda _, run: run.finish(loss="low")),
    "metrics that are bools": ("metrics.loss", lambda _, run: run.finish(loss=True)),
    "metrics that are lists": ("metrics.loss", lambda _, run: run.report(loss=[1.0])),
    "metrics of an exit": ("metrics", lambda _, run: run.exited(0, metrics=[1])),
    "an exit code that is none": ("exit_code", lambda _, run: run.fail("x", exit_code="one")),
    "a return code that is none": ("returncode", lambda _, run: run.exited(None)),
    "a return code that is a bool": ("returncode", lambda _, run: run.exited(returncode=True)),
    "a signal that is none": ("signal", lambda _, run: run.crash("x", signal="KILL")),
    "an execution that is no text": ("execution", lambda _, run: run.start(17)),
    "an execution that is too long": ("execution", lambda _, run: run.start("x" * 1_001)),
    "a reason that is no text": ("reason", lambda _, run: run.kill(3)),
    "a reason that is too long": ("reason", lambda world, _: world.sweep.stop("x" * 10_001)),
    "a reason that is not Unicode": ("reason", lambda world, _: world.sweep.stop("\ud800")),
    "an actor that is no text": ("actor", lambda world, _: world.sweep.cancel(actor=object())),
    "a status for a set": ("statuses", lambda world, _: world.sweep.retry("FAILED")),
    "a status that is none": ("statuses", lambda world, _: world.sweep.retry({"DONE"})),
    "no statuses": ("statuses", lambda world, _: world.sweep.retry(set())),
    "an agent's name": ("agent", lambda world, _: world.sweep.next_run(None)),
    "a limit's value": ("limits.max_active", lambda world, _: world.sweep.set_limits(max_active="many")),
    "a token of nothing": ("token", lambda world, _: world.sweep.run_of("nonsense")),
    "a token of another sweep": ("token", lambda world, _: world.sweep.run_of(make(limits=None).take().token + "x")),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_argument_is_named_and_changes_nothing(what: str) -> None:
    """InvalidValue, with the field."""
    field, call = BAD[what]
    world = make()
    run = world.begin()
    before = everything(world.sweep)
    with pytest.raises(InvalidValue) as caught:
        call(world, run)
    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert everything(world.sweep) == before


@pytest.mark.parametrize("index", [-1, 1, 10**12])
def test_a_run_that_is_not_there(index: int) -> None:
    """RunNotFound says how many there are."""
    world = make()
    world.take()
    before = everything(world.sweep)
    with pytest.raises(RunNotFound) as caught:
        world.sweep[index]
    assert (caught.value.sweep_id, caught.value.index, caught.value.created) == ("s", index, 1)
    assert everything(world.sweep) == before


def test_a_sweep_that_is_there_already() -> None:
    """AlreadyExists; the one that is there is untouched. Ids are never reused, also not after deletion."""
    world = make(Limits(run_cap=3))
    before = everything(world.sweep)
    with pytest.raises(AlreadyExists):
        Sweep(Points(), id="s", storage=world.storage, clock=world.clock)
    assert everything(world.sweep) == before
    again = Sweep(Points(), id="s", storage=world.storage, clock=world.clock, exists_ok=True, limits=Limits())
    assert again.limits.run_cap == 3, "its limits stay as they are"
    world.storage.delete("s")
    for exists_ok in (False, True):
        with pytest.raises(AlreadyExists):
            Sweep(Points(), id="s", storage=world.storage, clock=world.clock, exists_ok=exists_ok)


@pytest.mark.parametrize("call", [call for call in CALLS if call != "run.__enter__"])  # it has begun already
def test_a_sweep_that_was_deleted(call: str) -> None:
    """Everything says SweepNotFound, and an exception of another kind never comes out."""
    world = make()
    run = world.begin()
    world.storage.delete("s")
    with pytest.raises(SweepNotFound):
        CALLS[call](world, run)


def test_an_attached_agent_changes_nothing_about_refusals() -> None:
    """A refused command delivers nothing and hands nothing out."""
    crew = Crew()
    world = make(Limits(max_active=2), agent=crew)
    world.sweep.tick()
    world.sweep.stop()
    log = list(crew.log)
    before = everything(world.sweep)
    for command in (world.sweep.pause, world.sweep.resume, world.sweep.crash, world.sweep.fail):
        with pytest.raises(IllegalTransition):
            command()
    assert crew.log == log
    assert everything(world.sweep) == before

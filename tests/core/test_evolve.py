"""From events to snapshots: replay, one step of it, and histories that are none."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweepstate import (
    Event,
    FailureRule,
    IllegalTransition,
    InvalidValue,
    Limits,
    Objective,
    Run,
    RunState,
    RunStatus,
    SweepState,
    from_dict,
    replay,
    to_dict,
)
from sweepstate.core.events import EVENTS, RunCreated, RunEvent, RunStarted, SweepCreated
from sweepstate.core.evolve import evolve
from tests.support.world import Crew, World, make


def eventful() -> World:
    """Return a world in whose history every kind of event stands."""
    crew = Crew()
    limits = Limits(max_active=8, stop_grace=50.0, retries={RunStatus.FAILED: 1}, failure=FailureRule(streak=9))
    world = make(limits, agent=crew, objective=Objective("loss", target=0.001))
    crew.broken = True
    world.sweep.pause()
    world.sweep.resume()  # hands out to the crew, which fails to start
    crew.broken = False
    runs = [run for run in world.sweep.runs() if run.status == "PENDING"]
    lost, asked, heard, preempted, failing, finishing, killed, promising = runs
    for run in (lost, heard):
        run.start("host", heartbeats=True)
    for run in (asked, preempted, failing, killed, promising):
        run.start()
    finishing.start("host", heartbeats=True)
    world.sweep.set_limits(max_active=None)
    promising.heartbeat()
    asked.stop()
    world.sweep.set_limits(stop_grace=60.0)
    preempted.mark_preempting()
    preempted.crash(signal=15)
    failing.fail("boom", exit_code=3)
    killed.kill("it diverged", actor="ada")
    killed.heartbeat()
    world.clock.advance(300.0)
    killed.heartbeat()
    world.sweep.tick()
    heard.heartbeat()
    finishing.heartbeat()
    world.clock.advance(60.0)
    world.sweep.tick()
    asked.finish()
    finishing.finish(loss=0.5, accuracy=float("nan"))
    world.sweep.retry({RunStatus.CRASHED, RunStatus.KILLED})
    world.sweep.retry({RunStatus.FAILED})
    for _ in range(6):
        world.sweep.next_run("bob", "r")
        world.sweep.next_run("bob")
    killed.gone()
    world.sweep.complete()
    world.sweep.cancel()
    return world


def test_every_kind_of_event_is_in_the_story() -> None:
    """So what is tested with it is tested for all of them."""
    kinds = {type(event).__name__ for event in eventful().sweep.history()}
    assert set(EVENTS) - kinds == set()


def test_replay_gives_the_snapshots_to_the_byte() -> None:
    """All that a decision used stands in its events."""
    world = eventful()
    snapshots = replay(world.sweep.history())
    assert json.dumps(to_dict(snapshots.sweep)) == json.dumps(to_dict(world.sweep.refresh().state))
    stored = [to_dict(run.state) for run in world.sweep.runs()]
    assert json.dumps([to_dict(run) for run in snapshots.runs.values()]) == json.dumps(stored)


def test_replay_of_events_that_went_through_json() -> None:
    """A history that was written down and read again is the same history."""
    world = eventful()
    history = list(world.sweep.history())
    texts = [json.dumps(to_dict(event)) for event in history]
    again = [from_dict(json.loads(text), Event) for text in texts]
    assert [json.dumps(to_dict(event)) for event in again] == texts
    assert json.dumps(to_dict(replay(again).sweep)) == json.dumps(to_dict(replay(history).sweep))


def test_each_version_is_what_replaying_up_to_it_gives() -> None:
    """Every commit was whole: its events lead from one version to the next."""
    world = make(Limits(retries=1))
    seen: dict[int, SweepState] = {}

    def note(event: Event) -> None:
        seen[event.version] = world.sweep.state

    world.sweep._shell.listeners.append(note)
    for end in (Run.fail, Run.finish, Run.crash, Run.kill):
        run = world.begin()
        end(run)
    world.sweep.cancel()
    history = list(world.sweep.history())
    for version, state in seen.items():
        assert replay(event for event in history if event.version <= version).sweep == state


def test_evolve_is_one_step_of_replay_and_leaves_what_it_was_given() -> None:
    """evolve(sweep, run, event): the next snapshots; those given are values, and stay."""
    world = eventful()
    first, *rest = world.sweep.history()
    snapshots = replay([first])
    sweep: SweepState = snapshots.sweep
    runs: dict[int, RunState] = {}
    for event in rest:
        run = runs.get(event.index) if isinstance(event, RunEvent) else None
        before = (to_dict(sweep), None if run is None else to_dict(run))
        after = evolve(sweep, run, event)
        assert (to_dict(sweep), None if run is None else to_dict(run)) == before
        assert after.sweep is not sweep
        sweep = after.sweep
        runs.update(after.runs)
    whole = replay([first, *rest])
    assert sweep == whole.sweep
    assert runs == whole.runs


def _damage(history: list[Event], how: str) -> list[Event]:
    match how:
        case "empty":
            return []
        case "without its beginning":
            return history[1:]
        case "with a gap":
            return history[:5] + history[6:]
        case "with an event twice":
            return history[:5] + history[4:]
        case "out of order":
            return [*history[:4], history[5], history[4], *history[6:]]
        case "begun twice":
            return [history[0], attrs.evolve(history[0], number=2)]
        case "skipping a version":
            return [*history[:5], *(attrs.evolve(event, version=event.version + 1) for event in history[5:])]
        case "about a run that is not there":
            return [attrs.evolve(event, index=99) if isinstance(event, RunStarted) else event for event in history]
        case "creating runs out of order":
            return [
                attrs.evolve(event, index=event.index + 1) if isinstance(event, RunCreated) else event
                for event in history
            ]
        case _:
            raise AssertionError(how)


@pytest.mark.parametrize(
    "how",
    [
        "empty",
        "without its beginning",
        "with a gap",
        "with an event twice",
        "out of order",
        "begun twice",
        "skipping a version",
        "about a run that is not there",
        "creating runs out of order",
    ],
)
def test_what_is_no_history_is_refused(how: str) -> None:
    """InvalidValue names the event; never a KeyError."""
    with pytest.raises(InvalidValue) as caught:
        replay(_damage(list(eventful().sweep.history()), how))
    assert caught.value.field.startswith("events")


def test_the_first_event_makes_the_sweep() -> None:
    """RUNNING, version 1, with what it was created with."""
    world = make(Limits(run_cap=3), size=7, objective=Objective("loss"), reason="why", actor="ada")
    (event,) = world.sweep.history()
    assert isinstance(event, SweepCreated)
    assert (event.number, event.version, event.at, event.reason, event.actor) == (1, 1, world.clock.now, "why", "ada")
    state = replay([event]).sweep
    assert state == world.sweep.state
    assert (state.status, state.version, state.size, state.limits.run_cap) == ("RUNNING", 1, 7, 3)


SCRIPT = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "ask",
                "ask",
                "start",
                "beat",
                "finish",
                "fail",
                "crash",
                "kill",
                "stop",
                "gone",
                "retry",
                "mark",
                "release",
                "pause",
                "resume",
                "sweep.stop",
                "cancel",
                "reopen",
                "sweep.retry",
                "complete",
                "tick",
                "wait",
            ]
        ),
        st.integers(0, 3),
    ),
    max_size=40,
)


def act(world: World, runs: list[Run], what: str, which: int) -> None:
    """Do something; that it is refused is none of this test's business."""
    sweep: Any = world.sweep
    if what == "wait":
        world.clock.advance([1.0, 50.0, 300.0, 1000.0][which])
    elif what == "ask":
        answer = sweep.next_run(f"agent {which}")
        if isinstance(answer, Run):
            runs.append(answer)
    elif what == "sweep.retry":
        sweep.retry({RunStatus.FAILED, RunStatus.KILLED})
    elif what in ("pause", "resume", "cancel", "reopen", "complete", "tick", "sweep.stop"):
        getattr(sweep, what.removeprefix("sweep."))()
    elif runs:
        run = runs[-1 - which % len(runs)]
        names = {"beat": "heartbeat", "mark": "mark_preempting"}
        getattr(run, names.get(what, what))()


@given(script=SCRIPT, retries=st.integers(0, 1), slots=st.none() | st.integers(1, 3))
def test_after_any_story_counts_are_a_recount_and_replay_is_exact(
    script: list[tuple[str, int]], retries: int, slots: int | None
) -> None:
    """Laws 2 and 6, on stories of any kind."""
    world = make(Limits(retries=retries, max_active=slots, run_cap=6))
    runs: list[Run] = []
    for what, which in script:
        with suppress(IllegalTransition):
            act(world, runs, what, which)
    state = world.sweep.refresh().state
    stored = [run.state for run in world.sweep.runs()]
    for status, count in state.counts.items():
        assert count == sum(run.status is status for run in stored)
    assert state.leased == sum(run.lease is not None and not run.lease.lost for run in stored)
    assert state.created == len(stored)
    snapshots = replay(world.sweep.history())
    assert snapshots.sweep == state
    assert list(snapshots.runs.values()) == stored

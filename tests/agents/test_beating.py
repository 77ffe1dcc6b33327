"""``Pulse``: what is done beside a function that computes. In one thread, without time."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from sweepstate import Limits, MemoryStorage, Run, RunStatus, StorageError, Sweep, SweepStatus
from sweepstate.agent._beating import BETWEEN_TICKS, Pulse
from sweepstate.agent._interrupts import Notice
from sweepstate.core import events as ev
from tests.agents.fakes import Shaky, World
from tests.fakes import take


def begun(sweep: Sweep, agent: str = "w") -> Run:
    run = take(sweep, agent, start=False)
    run.start(f"execution-{run.index}", heartbeats=True)
    return run


def pulse_of(world: World, sweep: Sweep) -> Pulse:
    return Pulse(sweep, "w", world.monotonic, lambda: 0.5)


def heard(sweep: Sweep, run: Run) -> float | None:
    storage: Any = sweep.storage
    times = storage.last_heard(sweep.id, [(run.index, run.attempt)])
    value: float | None = times[0]
    return value


def live(world: World, pulse: Pulse, seconds: float) -> int:
    """Let the pulse act when it wants to, for a while; return how often it did."""
    until, rounds = world.now + seconds, 0
    while world.now < until:
        wait = pulse.act()
        rounds += 1
        assert rounds < 10_000, "it does not let time pass"
        world.wait(min(wait, until - world.now))
    return rounds


@pytest.mark.parametrize(
    ("timeout", "interval"), [(300.0, 30.0), (1_000.0, 30.0), (60.0, 12.0), (1.0, 0.2), (0.0, 0.05)]
)
def test_it_beats_in_a_fraction_of_the_time_that_silence_is_allowed(
    world: World, timeout: float, interval: float
) -> None:
    """Five times in it, at least every 30 s, and never without a pause."""
    sweep = world.sweep(1, limits=Limits(heartbeat_timeout=timeout))
    run = begun(sweep)
    pulse = pulse_of(world, sweep)
    pulse.watch(copy.copy(run))
    assert pulse.act() == pytest.approx(min(interval, BETWEEN_TICKS))
    assert heard(sweep, run) in (None, 1_000.0)
    world.wait(interval)
    pulse.act()
    assert heard(sweep, run) == pytest.approx(1_000.0 + interval)


def test_a_function_that_computes_for_hours_is_never_suspected(world: World) -> None:
    sweep = world.sweep(1)
    run = begun(sweep)
    pulse = pulse_of(world, sweep)
    pulse.watch(copy.copy(run))
    live(world, pulse, 10_000)
    assert not any(isinstance(event, ev.RunSuspected) for event in sweep.history())
    assert sweep[0].status is RunStatus.RUNNING


def test_new_limits_hold_from_the_next_beat(world: World) -> None:
    """``set_limits`` may be called at any time, by anybody."""
    sweep = world.sweep(1)
    run = begun(sweep)
    pulse = pulse_of(world, sweep)
    pulse.watch(copy.copy(run))
    Sweep.open("s", storage=sweep.storage, clock=world.clock).set_limits(heartbeat_timeout=10)
    live(world, pulse, 31)
    assert pulse.act() <= 2.0


def test_without_a_run_nothing_is_asked_of_the_storage(world: World) -> None:
    """A worker that waits costs what its asking costs, and nothing beside."""
    storage = Shaky()
    sweep = world.sweep(1, storage=storage)
    pulse = pulse_of(world, sweep)
    asked: list[str] = []
    storage.trouble = lambda method, what: asked.append(method)
    assert live(world, pulse, 3_000) <= 101
    assert asked == []


def test_an_outage_is_survived_and_said_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A beat is tried again soon, and after the outage silence has no consequence."""
    storage = Shaky()
    sweep = world.sweep(1, storage=storage)
    run = begun(sweep)
    pulse = pulse_of(world, sweep)
    pulse.watch(copy.copy(run))
    storage.trouble = lambda method, what: StorageError("away")
    world.wait(30)
    waits = []
    for _ in range(8):
        waits.append(pulse.act())
        world.wait(waits[-1])
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    storage.trouble = lambda method, what: None
    pulse.act()
    assert heard(sweep, run) == world.clock.now
    assert caplog.text.count("a sign of life of s[0] failed") == 1
    assert caplog.text.count("arrive again") == 1


def test_whatever_else_is_raised_is_logged_and_never_ends_it(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A clock that is not right, say: with its traceback, as nobody else will see it."""
    storage = Shaky()
    sweep = world.sweep(1, storage=storage)
    pulse = pulse_of(world, sweep)
    pulse.watch(copy.copy(begun(sweep)))
    storage.trouble = lambda method, what: ZeroDivisionError("not right")
    world.wait(30)
    for _ in range(3):
        assert pulse.act() > 0
    storage.trouble = lambda method, what: None
    assert caplog.text.count("Traceback") == 1


@pytest.mark.parametrize(("command", "said"), [("kill", "counts for nothing"), ("stop", "was asked to stop")])
def test_what_is_wanted_of_a_run_is_said_once(
    world: World, caplog: pytest.LogCaptureFixture, command: str, said: str
) -> None:
    """And the beats go on: it is still executing, and holds its slot."""
    caplog.set_level("INFO")
    sweep = world.sweep(1)
    run = begun(sweep)
    pulse = pulse_of(world, sweep)
    pulse.watch(copy.copy(run))
    getattr(sweep[0], command)()
    for _ in range(3):
        world.wait(30)
        pulse.act()
    assert caplog.text.count(said) == 1
    assert heard(sweep, run) == world.clock.now


@pytest.mark.parametrize("workers", [1, 8])
def test_all_workers_of_a_sweep_together_tick_about_every_thirty_seconds(world: World, workers: int) -> None:
    """However many there are: each the less often, the more executions the sweep has."""
    sweep = world.sweep(workers, limits=Limits(time_limit=10_000_000.0))
    ticks: list[float] = []
    pulses = []
    for _ in range(workers):
        handle = Sweep.open("s", storage=sweep.storage, clock=world.clock)
        run = begun(handle)
        pulse = pulse_of(world, handle)
        tick = handle.tick

        def counted(tick: Any = tick) -> Any:
            ticks.append(world.now)
            return tick()

        handle.tick = counted  # type: ignore[method-assign]
        pulse.watch(copy.copy(run))
        pulses.append(pulse)
    for _ in range(3_000):
        for pulse in pulses:
            pulse.act()
        world.wait(1.0)
    assert 50 <= len(ticks) <= 130


def test_time_passes_while_all_workers_compute(world: World) -> None:
    """A run whose process died, and a time limit, are seen with nobody else there."""
    sweep = world.sweep(2, limits=Limits(time_limit=1_000.0))
    dead, alive = begun(sweep, "dead"), begun(sweep)
    pulse = pulse_of(world, sweep)
    pulse.watch(copy.copy(alive))
    live(world, pulse, 600)
    assert sweep[dead.index].status is RunStatus.CRASHED
    live(world, pulse, 600)
    assert sweep.refresh().status is SweepStatus.STOPPED
    assert sweep[alive.index].status is RunStatus.RUNNING


@pytest.mark.parametrize(("notice", "event"), [(Notice.STOP, ev.StopRequested), (Notice.PREEMPT, ev.RunPreempting)])
def test_what_a_signal_means_reaches_the_storage_when_that_is_back(
    world: World, notice: Notice, event: type[Any]
) -> None:
    """And once."""
    storage = Shaky()
    sweep = world.sweep(1, storage=storage)
    pulse = pulse_of(world, sweep)
    pulse.watch(copy.copy(begun(sweep)))
    storage.trouble = lambda method, what: StorageError("away")
    pulse.hear(notice)
    for _ in range(3):
        pulse.act()
    storage.trouble = lambda method, what: None
    for _ in range(3):
        pulse.act()
    assert sum(isinstance(each, event) for each in sweep.history()) == 1
    assert pulse.in_hand is not None
    assert (pulse.in_hand.stop, pulse.in_hand.preempt) == (False, False)  # it is not said again in each round


def test_notices_without_a_run_are_said_and_nothing_else(world: World, caplog: pytest.LogCaptureFixture) -> None:
    sweep = world.sweep(1)
    pulse = pulse_of(world, sweep)
    for notice in Notice:
        pulse.hear(notice)
        pulse.act()
    assert len(caplog.records) == len(Notice)
    assert len(list(sweep.history())) == 1


def test_a_deleted_sweep_is_beaten_for_no_more(world: World, caplog: pytest.LogCaptureFixture) -> None:
    storage = MemoryStorage()
    sweep = world.sweep(1, storage=storage)
    pulse = pulse_of(world, sweep)
    pulse.watch(copy.copy(begun(sweep)))
    storage.delete("s")
    world.wait(30)
    pulse.act()
    assert pulse.in_hand is None
    assert caplog.text == ""

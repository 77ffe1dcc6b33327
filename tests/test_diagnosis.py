"""Health: a diagnosis from counts and a bounded piece of history, with evidence."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from math import isclose

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweepstate import (
    Cause,
    Choice,
    Grid,
    InvalidValue,
    Limits,
    Random,
    Run,
    RunStatus,
    Sweep,
    SweepNotFound,
    SweepStatus,
    Uniform,
    health,
)
from sweepstate.diagnosis import _weigh, diagnose


def play(
    sweep: Sweep, fails: Callable[[Run], bool], agents: tuple[str, ...] = ("a", "b", "c"), most: int = 300
) -> Sweep:
    """Execute runs by several agents in turn, of which some fail."""
    for n in range(most):
        run = sweep.next_run(agents[n % len(agents)])
        if not isinstance(run, Run):
            break
        run.start()
        if fails(run):
            run.fail("out of memory")
        else:
            run.finish()
    return sweep


def test_a_bad_machine_is_seen() -> None:
    """Its failures are unlikely by chance; those of the others are not."""
    agents = tuple("abcdefgh")
    found = health(play(Sweep(Random({"x": Uniform(0.0, 1.0)})), lambda run: run.state.lease.agent == "c", agents))  # type: ignore[union-attr]
    assert [(each.agent, each.suspect) for each in found.agents] == [("c", True)]
    assert (found.agents[0].evidence.failed, found.agents[0].evidence.of) == (38, 38)
    assert found.agents[0].evidence.others_failed == 0
    assert "agent c: 38 of 38 failed, of the others 0 of 262" in str(found)
    assert "look at its machine" in str(found)


def test_failures_that_hit_everybody_make_nobody_suspect() -> None:
    """Nor any parameter."""
    found = health(
        play(Sweep(Random({"x": Uniform(0.0, 1.0), "y": Choice(["p", "q"])})), lambda run: run.index % 4 == 0)
    )
    assert not any(each.suspect for each in found.agents)
    assert found.suspects == ()
    assert found.failure_rate == 0.25


def test_a_value_that_goes_together_with_failure_is_named_with_its_evidence() -> None:
    """Also a nested one; and no other value."""
    search = Grid({"model": {"layers": [1, 2, 3, 4]}, "lr": [0.1, 0.2, 0.3], "seed": range(8)})
    found = health(play(Sweep(search), lambda run: run.config["model"]["layers"] == 4))
    assert [(each.parameter, each.value) for each in found.suspects] == [("model.layers", "4")]
    evidence = found.suspects[0].evidence
    assert (evidence.failed, evidence.of, evidence.others_failed, evidence.others) == (24, 24, 0, 72)
    assert evidence.chance < 1e-10
    assert "model.layers = 4: 24 of 24 failed, of the others 0 of 72" in str(found)


def test_numbers_that_are_all_different_are_looked_at_in_ranges() -> None:
    """Large learning rates diverge."""
    found = health(play(Sweep(Random({"lr": Uniform(0.0, 1.0)}, seed=1)), lambda run: run.config["lr"] > 0.8))
    (suspect,) = found.suspects
    assert suspect.parameter == "lr"
    low, _, high = suspect.value.partition(" to ")
    assert 0.6 < float(low) < 0.85 < float(high)


def test_causes_are_grouped_with_what_was_said_most_often() -> None:
    """And some of the runs, newest first."""
    sweep = Sweep(Grid({"x": range(9)}))
    for n in range(9):
        run = sweep.next_run()
        assert isinstance(run, Run)
        run.start()
        if n % 3 == 0:
            run.exited(-9, "killed by the kernel" if n else "")
        elif n == 4:
            run.kill()
        else:
            run.finish()
    found = health(sweep)
    groups = {(each.status, each.cause): each for each in found.causes}
    crashed = groups[RunStatus.CRASHED, Cause.SIGNAL]
    assert (crashed.count, crashed.message, crashed.runs) == (3, "killed by the kernel", (6, 3, 0))
    assert [each.count for each in found.causes] == sorted((each.count for each in found.causes), reverse=True)
    assert found.failure_rate == 3 / 8, "who was killed says nothing about failure"
    assert found.counts[RunStatus.KILLED] == 1


def test_an_attempt_that_was_retried_counts_for_its_agent() -> None:
    """A bad machine burns attempts, whatever becomes of the run afterwards (wandb#5088)."""
    sweep = Sweep(Grid({"x": [1]}), limits=Limits(retries={RunStatus.FAILED: 1}))
    for agent, fails in (("bad", True), ("good", False)):
        run = sweep.next_run(agent)
        assert isinstance(run, Run)
        run.start()
        if fails:
            run.fail()
        else:
            run.finish()
    found = health(sweep)
    assert [(each.agent, each.evidence.failed, each.evidence.of) for each in found.agents] == [("bad", 1, 1)]
    assert found.failure_rate == 0.0


def test_only_so_many_events_are_read() -> None:
    """What was handed out before them is not held against anybody."""
    sweep = play(Sweep(Grid({"x": range(100)})), lambda _: True)
    found = health(sweep, last=10)
    assert found.seen <= 4
    assert found.counts[RunStatus.FAILED] == 100
    with pytest.raises(InvalidValue, match="last"):
        health(sweep, last=0)


def test_a_sweep_without_runs_is_healthy() -> None:
    """There is nothing to say."""
    found = health(Sweep(Grid({"x": [1]}), id="s"))
    assert (found.status, found.failure_rate, found.causes, found.suspects) == (SweepStatus.RUNNING, None, (), ())
    assert str(found) == "Sweep s is RUNNING: no runs"


def test_it_can_be_made_from_a_history_that_was_kept() -> None:
    """Without any storage."""
    sweep = play(Sweep(Grid({"x": range(20)})), lambda run: run.index % 2 == 0)
    assert diagnose(sweep.state, list(sweep.history())) == health(sweep)


def test_a_sweep_that_was_deleted_is_not_found() -> None:
    sweep = Sweep(Grid({"x": [1]}), id="s")
    sweep.storage.delete("s")  # type: ignore[attr-defined]
    with pytest.raises(SweepNotFound):
        health(sweep)


@given(st.integers(1, 9), st.data())
def test_the_chance_is_counted_right(total: int, data: st.DataObject) -> None:
    """By looking at every way in which the failures may fall."""
    of = data.draw(st.integers(1, total))
    all_failed = data.draw(st.integers(0, total))
    failed = data.draw(st.integers(max(0, all_failed - (total - of)), min(of, all_failed)))
    ways = list(combinations(range(total), all_failed))
    as_many = sum(sum(one < of for one in way) >= failed for way in ways)
    assert isclose(_weigh(failed, of, all_failed, total).chance, as_many / len(ways), rel_tol=1e-9)


@given(
    st.lists(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.just(10**400)),
        min_size=1,
        max_size=40,
        unique_by=lambda value: (type(value), repr(value)),
    )
)
def test_no_configuration_is_too_odd(values: list[object]) -> None:
    """NaN, infinities, and values of several types in one parameter."""
    sweep = Sweep(Grid({"x": values}))
    found = health(play(sweep, lambda run: run.index % 2 == 0))
    assert found.seen == len(values)

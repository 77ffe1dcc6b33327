"""The explorer: it sees everything, merges only what has the same future, and finds what is broken.

The figures are exact: a change of the core that adds, removes or redirects one single move shows here.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweepstate import FailureRule, Limits, Objective, RunStatus, SweepStatus
from sweepstate.core import decide, evolve
from sweepstate.core.decide import Draft, report, settle
from sweepstate.core.decide import time as decide_time
from sweepstate.core.errors import IllegalTransition
from sweepstate.core.events import BacklogAdded, LateReport
from sweepstate.core.lifecycle import RETRYABLE, SweepTrigger
from sweepstate.core.state import SweepState
from sweepstate.core.values import EMPTY
from sweepstate.testing import CoreError, Exploration, LawViolation, explore
from sweepstate.testing.explorer import Cell, all_cells, search
from sweepstate.testing.explorer.__main__ import main
from sweepstate.testing.explorer.graph import Graph
from sweepstate.testing.explorer.search import Explorer, Refused
from sweepstate.testing.explorer.world import World

FAILED, CRASHED, KILLED = RunStatus.FAILED, RunStatus.CRASHED, RunStatus.KILLED
UNIT: Final = "a unit of time passes"
LOSS: Final = Objective("loss", "minimize", 0.5)
#: What nobody can ask for: only silence loses a run, which only a RUNNING one can keep, and only the last
#: end of a RUNNING sweep finishes it.
UNASKED: Final[frozenset[Cell]] = frozenset(
    {
        ("RUN", "PENDING, queued", "lose"),
        ("RUN", "PENDING, held", "lose"),
        ("RUN", "FINISHED", "lose"),
        ("RUN", "FAILED", "lose"),
        ("RUN", "CRASHED", "lose"),
        ("RUN", "CRASHED, lost", "lose"),
        ("RUN", "KILLED", "lose"),
        ("SWEEP", "PAUSED", "finish"),
        ("SWEEP", "STOPPED", "finish"),
        ("SWEEP", "CANCELLED", "finish"),
        ("SWEEP", "FINISHED", "finish"),
        ("SWEEP", "FAILED", "finish"),
        ("SWEEP", "CRASHED", "finish"),
    }
)
#: Executions do not say who they are, and only workers ask.
SMALL: Final[dict[str, Any]] = {"executions": False, "attached": False}
#: And runs are retried one by one only.
BRIEF: Final[dict[str, Any]] = {**SMALL, "retries": ()}

# One run, everything that can happen to it: limits, what else is given, states, transitions.
ONE_RUN: Final[dict[str, tuple[Limits, dict[str, Any], int, int]]] = {
    "one slot": (Limits(max_active=1, max_preemptions=1, launch_attempts=1), {}, 3218, 51517),
    "run cap": (Limits(run_cap=1, max_preemptions=0, launch_attempts=1), {"size": 1}, 1128, 16138),
    "retries": (Limits(max_preemptions=0, launch_attempts=1, retries={CRASHED: 1}), SMALL, 1925, 28155),
    "early failures": (
        Limits(max_preemptions=0, launch_attempts=1, failure=FailureRule(rate=(0.5, 1), within=(1, 60.0))),
        BRIEF,
        2728,
        37084,
    ),
    "time limit": (Limits(max_preemptions=0, launch_attempts=1, time_limit=3600.0), BRIEF, 2640, 36482),
    "target": (Limits(max_preemptions=0, launch_attempts=2), {**BRIEF, "objective": LOSS}, 1215, 16791),
    "limits that change": (
        Limits(max_preemptions=0, launch_attempts=1),
        {**BRIEF, "changes": [{"failure": FailureRule(streak=1)}]},
        3569,
        51619,
    ),
    "retried by status": (
        Limits(max_active=1, max_preemptions=0, launch_attempts=1),
        {**SMALL, "retries": [{FAILED}, {KILLED}]},
        4091,
        68235,
    ),
}


@pytest.mark.parametrize("name", ONE_RUN)
def test_one_run_with_any_number_of_attempts_is_seen_in_full(name: str) -> None:
    limits, options, states, transitions = ONE_RUN[name]
    seen = explore(limits, runs=1, **options)
    assert (seen.complete, seen.pruned) == (True, 0)
    assert (seen.states, seen.transitions) == (states, transitions)
    assert_ends(seen)
    assert seen.cells == all_cells() - UNASKED


def assert_ends(seen: Exploration) -> None:
    """Both halves of law 11 are certain for every state."""
    assert seen.ends_by_facts[0] == seen.ends_by_facts[1] > 0
    assert seen.can_end == seen.states


def test_one_run_with_three_attempts_is_seen_in_full() -> None:
    seen = explore(Limits(max_active=1, max_preemptions=1, launch_attempts=1), runs=1, attempts=3, **SMALL)
    assert (seen.complete, seen.states, seen.transitions) == (True, 4573, 74646)
    assert seen.pruned > 0
    assert seen.cells == all_cells() - UNASKED
    # What is behind a fourth attempt was not looked at, and the figures say so.
    assert 0 < seen.ends_by_facts[0] < seen.ends_by_facts[1]


def test_two_runs_with_any_number_of_attempts_are_seen_in_full_or_as_deep_as_the_time_allows() -> None:
    """One slot, workers that do not say who they are, retries of single runs; more is for the command line."""
    limits = Limits(max_active=1, max_preemptions=0, launch_attempts=1)
    seen = explore(limits, runs=2, retries=(), max_seconds=15.0, **SMALL)
    assert seen.depth >= 5
    if seen.complete:
        assert (seen.states, seen.transitions) == (13683, 275602)
        assert_ends(seen)
        assert seen.cells == all_cells() - UNASKED


def test_two_runs_with_two_attempts_and_all_that_may_be_said_are_seen_to_depth_four() -> None:
    limits = Limits(max_preemptions=1, retries=1, failure=FailureRule(streak=2), time_limit=60.0)
    seen = explore(limits, runs=2, attempts=2, objective=LOSS, max_states=3_000)
    assert (seen.complete, seen.depth) == (False, 4)
    assert "in full to depth 4" in str(seen)


def test_time_can_bound_an_exploration_too() -> None:
    seen = explore(runs=2, max_seconds=0.0)
    assert (seen.complete, seen.depth, seen.states) == (False, 0, 1)


# --- what is merged has the same future ----------------------------------------------------------


class Pairing(Explorer):
    """Keeps pairs of different worlds with one key."""

    def __init__(self, limits: Limits, **options: Any) -> None:
        given: dict[str, Any] = {
            "runs": 2,
            "attempts": None,
            "size": None,
            "objective": None,
            "retries": [RETRYABLE, {FAILED}],
            "changes": (),
            "executions": True,
            "attached": True,
            "symmetric": False,
        }
        super().__init__(limits, **{**given, **options})
        self.worlds: list[World] = []
        self.pairs: list[tuple[int, World]] = []
        self._random = random.Random(1)

    def _number(self, world: World, parent: int, by: int) -> tuple[int, bool]:
        number, new = super()._number(world, parent, by)
        if new:
            self.worlds.append(world)
        elif self._random.random() < 0.02 and self.worlds[number] != world:
            self.pairs.append((number, world))
        return number, new


def futures(explorer: Explorer, world: World, *, renamed: bool) -> dict[object, set[int]]:
    """Return the key that each move leads to; a refused one stays where it is."""
    here = explorer.key(world)
    found: dict[object, set[int]] = {}
    for each, move in explorer.options(world):
        try:
            change, value = explorer.decide(each, move)
            key = explorer.key(explorer.after(each, move, change, value))
        except Refused:
            key = here
        name, index, role = move.label
        label = (name, index is None, role) if renamed else (name, index, role)
        found.setdefault(label, {here} if renamed else set()).add(key)
    return found


PAIRED: Final[dict[str, Callable[[], Pairing]]] = {
    "one slot": lambda: Pairing(Limits(max_active=1, max_preemptions=1)),
    "tallies": lambda: Pairing(Limits(retries=1, failure=FailureRule(streak=2, rate=(0.5, 2), within=(1, 3.0)))),
    "one run": lambda: Pairing(Limits(max_preemptions=1, retries=1, time_limit=3.0, launch_attempts=2), runs=1),
    "limits that change": lambda: Pairing(
        Limits(max_preemptions=0, run_cap=1), objective=LOSS, changes=({"run_cap": 2}, {"max_preemptions": 1})
    ),
    "three, renamed": lambda: Pairing(Limits(max_preemptions=0, max_active=1), runs=3, symmetric=True),
}
_paired: dict[str, Pairing] = {}


def paired(name: str) -> Pairing:
    """Return a short exploration, made once."""
    if name not in _paired:
        _paired[name] = PAIRED[name]()
        _paired[name].explore(max_states=1_500)
    return _paired[name]


@given(st.sampled_from(sorted(PAIRED)), st.integers(min_value=0))
@settings(max_examples=150)
def test_two_worlds_of_one_key_have_the_same_future(name: str, choice: int) -> None:
    explorer = paired(name)
    number, other = explorer.pairs[choice % len(explorer.pairs)]
    world = explorer.worlds[number]
    assert world != other
    assert_same_future(explorer, world, other, renamed="renamed" in name)


@given(
    st.sampled_from(["one slot", "one run"]), st.lists(st.integers(min_value=0), min_size=5, max_size=40), st.randoms()
)
@settings(max_examples=30)
def test_walks_from_two_worlds_of_one_key_agree_at_every_step(
    name: str, steps: list[int], chance: random.Random
) -> None:
    explorer = paired(name)
    number, other = chance.choice(explorer.pairs)
    one = explorer.worlds[number]
    for step in steps:
        moves = {move.label: move for _, move in explorer.options(one)}
        others = {move.label: move for _, move in explorer.options(other)}
        label = sorted(moves.keys() & others.keys(), key=str)[step % len(moves.keys() & others.keys())]
        one, other = walked(explorer, one, moves[label]), walked(explorer, other, others[label])
        assert explorer.key(one) == explorer.key(other)


def walked(explorer: Explorer, world: World, move: Any) -> World:
    try:
        change, value = explorer.decide(world, move)
    except Refused:
        return world
    return explorer.after(world, move, change, value)


def assert_same_future(explorer: Explorer, world: World, other: World, *, renamed: bool) -> None:
    here = {explorer.key(world)}
    one, two = futures(explorer, world, renamed=renamed), futures(explorer, other, renamed=renamed)
    for label in one.keys() | two.keys():
        # A move that only one has (a report of an attempt older than all that matters) changes nothing.
        assert one.get(label, here) == two.get(label, here), label


def test_merging_symmetric_states_neither_misses_a_state_nor_invents_one() -> None:
    limits = Limits(max_active=1, max_preemptions=0, launch_attempts=1)
    given: dict[str, Any] = {**SMALL, "attempts": 1, "retries": ()}
    whole, merged = Pairing(limits, **given), Pairing(limits, symmetric=True, **given)
    assert whole.explore().complete
    assert merged.explore().complete
    seen = {merged.key(world) for world in whole.worlds}
    assert seen == {merged.key(world) for world in merged.worlds}
    assert len(seen) < len(whole.worlds)


# --- what is broken is found, with a shortest way there ------------------------------------------


BROKEN: Final = Limits(max_active=1, max_preemptions=0, launch_attempts=1)


def caught(**options: Any) -> LawViolation:
    with pytest.raises(LawViolation) as found:
        explore(BROKEN, **{"runs": 1, **SMALL, **options})
    return found.value


def test_a_sweep_that_never_finishes_is_a_trap(monkeypatch: pytest.MonkeyPatch) -> None:
    end_by_itself = settle._end_by_itself

    def forgetful(draft: Draft, trigger: SweepTrigger, why: str) -> Iterator[Any]:
        if trigger is not SweepTrigger.FINISH:
            yield from end_by_itself(draft, trigger, why)

    monkeypatch.setattr(settle, "_end_by_itself", forgetful)
    violation = caught()
    assert (violation.law, violation.evidence) == (11, "facts alone do not lead from here to done")
    assert violation.trace == ()  # already the new sweep can never end by itself


def test_a_state_that_nothing_leads_out_of_is_a_trap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SweepState, "done", property(lambda _: False))
    violation = caught()
    assert (violation.law, violation.evidence) == (11, "no commands and facts lead from here to done")


def test_creating_in_a_paused_sweep_is_law_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decide, "next_run", careless)
    violation = caught()
    assert violation.law == 1
    assert violation.trace[0] == "pause  [PAUSED]"
    assert violation.trace[1].startswith("a worker asks")
    assert len(violation.trace) == 2
    assert "\n    2. a worker asks" in str(violation)


def careless(draft: Draft, agent: str, request_id: str | None = None, **_options: bool) -> Iterator[Any]:
    """Hand out a new run whatever the sweep's status, and at most one."""
    yield from ()
    if not draft.sweep.created:
        draft.create(EMPTY, agent, request_id, attached=False)


def test_a_refusal_that_changes_its_input_is_law_7(monkeypatch: pytest.MonkeyPatch) -> None:
    def dirty(draft: Draft, index: int, *_more: object, **_options: object) -> Iterator[Any]:
        yield from ()
        draft.base.__dict__["leased"] += 1
        raise IllegalTransition("run", f"s[{index}]", "PENDING", "mark_preempting")

    monkeypatch.setattr(decide, "mark_preempting", dirty)
    violation = caught()
    assert violation.law == 7
    assert [step.split(":")[0] for step in violation.trace] == [
        "a worker asks  [RUNNING; PENDING, held]",
        "run 0, attempt 1",
    ]
    assert "mark_preempting" in violation.trace[1]


def test_a_decision_that_differs_from_itself_is_law_12(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(0)

    def fickle(draft: Draft, *_args: object) -> Iterator[Any]:
        yield from ()
        draft.reason = str(chance.random())
        draft.note(BacklogAdded, (), False)

    monkeypatch.setattr(decide, "complete", fickle)
    monkeypatch.setattr(search, "TWICE", 1)
    assert caught().law == 12


def test_acting_on_a_silence_that_is_none_is_law_10(monkeypatch: pytest.MonkeyPatch) -> None:
    rely = Draft.rely_on_silence
    explorer = Pairing(BROKEN, runs=1, **SMALL)
    world = explorer.start
    for name in ("a worker asks, to begin at once", "heartbeat", UNIT, "heartbeat", UNIT):
        world = walked(explorer, world, named(explorer, world, name))
    assert explorer.decide(world, named(explorer, world, "tick"))[0] is not None
    monkeypatch.setattr(
        Draft, "rely_on_silence", lambda self, run, attempt, heard: rely(self, run, attempt, heard - 9.0)
    )
    with pytest.raises(LawViolation) as found:
        explorer.decide(world, named(explorer, world, "tick"))
    assert found.value.law == 10


def named(explorer: Explorer, world: World, name: str) -> Any:
    return next(move for _, move in explorer.options(world) if move.name == name)


def test_a_core_that_loses_a_run_of_a_cancelled_sweep_is_law_5(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle, "KILLS", {status: {} for status in SweepStatus})
    violation = caught()
    assert (violation.law, len(violation.trace)) == (5, 2)


def test_evidence_that_is_kept_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    keep = evolve._OF_RUN[LateReport]

    def forgetful(sweep: dict[str, Any], run: dict[str, Any], event: LateReport) -> None:
        late = run["late"]
        keep(sweep, run, event)
        run["late"] = late

    monkeypatch.setitem(evolve._OF_RUN, LateReport, forgetful)
    with pytest.raises(CoreError, match="second time") as found:
        explore(BROKEN, runs=1, **SMALL)
    assert found.value.trace


def test_what_is_no_error_of_the_library_is_reported_with_the_way_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def faulty(*_args: object) -> None:
        raise ZeroDivisionError("nobody expected that")

    monkeypatch.setattr(report, "preempt", faulty)
    monkeypatch.setattr(decide_time, "preempt", faulty)
    with pytest.raises(CoreError, match="a decision raised ZeroDivisionError: nobody expected that") as found:
        explore(BROKEN, runs=1, **SMALL)
    assert [step.split("  [")[0] for step in found.value.trace[:2]] == [
        "a worker asks",
        "run 0, attempt 1: mark_preempting",
    ]
    assert found.value.trace[2] == "run 0, attempt 1: it fails: ZeroDivisionError: nobody expected that"


def test_a_graph_tells_what_facts_alone_lead_to() -> None:
    """0 -fact-> 1 -command-> 2, and 3 was found and not looked at."""
    graph = Graph()
    graph.add([(1, True), (3, True)])
    graph.add([(2, False)])
    graph.add([])
    goals = bytearray([0, 0, 1, 0])
    assert list(graph.leading_to(goals, facts=False)) == [1, 1, 1, 0]
    assert list(graph.leading_to(goals, facts=True)) == [0, 0, 1, 0]
    assert list(graph.reached_from([0], facts=True)) == [1, 1, 0, 1]


# --- from a shell --------------------------------------------------------------------------------


def test_the_command_line_prints_the_figures(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (
        "--runs 1 --max-active 1 --max-preemptions 0 --no-executions --no-attached --streak 1 --within 1 --cells"
    )
    assert main([*arguments.split(), "--retry", "FAILED,killed", "--target", "--max-states", "100"]) == 0
    printed = capsys.readouterr().out
    assert "states" in printed
    assert "in full to depth" in printed
    assert "not asked for: " in printed


def test_the_figures_are_printed_with_what_was_not_followed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--runs=1", "--attempts=1", "--max-preemptions=0", "--no-executions", "--no-attached"]) == 0
    assert "moves beyond the bound of attempts" in capsys.readouterr().out

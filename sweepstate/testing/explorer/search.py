"""Breadth first through everything that can happen, with the laws checked at each state and move."""

from __future__ import annotations

import gc
import time
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import permutations
from typing import Any, Final, TypeAlias

import attrs

from ...core.decide import Change, Draft, create, drive
from ...core.errors import SweepstateError
from ...core.events import LateReport
from ...core.evolve import Snapshots
from ...core.lifecycle import RETRYABLE
from ...core.limits import Limits, Objective
from ...core.state import Lease, RunState, SweepState
from ...core.status import RunStatus, SweepStatus
from ..laws import LawViolation, check_commit, check_state
from .graph import Graph
from .moves import Cell, Move, Moves, asked, fired, kept
from .world import UNIT, Abstraction, Answers, World, as_mapping, quantised, renamed

#: One decision in so many is made twice (law 12).
TWICE: Final = 32


@attrs.define(slots=False, auto_exc=True)
class CoreError(AssertionError):
    """A decision did what no law speaks of, and is wrong all the same: it raised what is no error of this library.

    Attributes:
        problem: what it raised, or did.
        trace: the moves that led there; the last one is to blame.
    """

    problem: str
    trace: tuple[str, ...] = ()

    def __str__(self) -> str:
        steps = "".join(f"\n  {number:>3}. {step}" for number, step in enumerate(self.trace, 1))
        return self.problem + (steps and f"\n  after:{steps}")


@attrs.frozen
class Exploration:
    """What an exploration saw.

    Attributes:
        states: how many states there are, up to renaming what no decision looks at.
        transitions: how many moves committed something.
        moves: how many moves were tried.
        refused: how many of them were refused.
        pruned: how many were not followed, because they raise an attempt beyond the bound.
        depth: every state that at most so many moves lead to was found.
        complete: whether nothing was left: every state was seen, with all its moves that are not pruned.
        cells: the cells of the tables that were asked for.
        refusals: how many moves each kind of error refused.
        ends_by_facts: from how many of the states that facts lead to from a RUNNING sweep it is certain
            that facts alone lead on to done (law 11, first half), and how many such states there are.
        can_end: from how many of the states it is certain that some moves lead to done (law 11, second half).
        seconds: how long it took.
    """

    states: int
    transitions: int
    moves: int
    refused: int
    pruned: int
    depth: int
    complete: bool
    cells: frozenset[Cell]
    refusals: Mapping[str, int]
    ends_by_facts: tuple[int, int]
    can_end: int
    seconds: float

    def __str__(self) -> str:
        seen = "all of it" if self.complete else f"in full to depth {self.depth}"
        if self.complete and self.pruned:
            seen += f", but for {self.pruned:,} moves beyond the bound of attempts"
        facts, running = self.ends_by_facts
        return (
            f"{self.states:,} states, {self.transitions:,} transitions ({seen}; depth {self.depth})\n"
            f"{self.moves:,} moves tried, {self.refused:,} refused; {len(self.cells)} cells of the tables\n"
            f"done is certain by facts alone from {facts:,} of {running:,} states behind a RUNNING sweep,"
            f" and can be reached from {self.can_end:,} of {self.states:,}\n"
            f"{self.seconds:.1f} s"
        )


def explore(
    limits: Limits | None = None,
    *,
    runs: int = 2,
    attempts: int | None = None,
    size: int | None = None,
    objective: Objective | None = None,
    retries: Collection[Collection[RunStatus]] = (RETRYABLE,),
    changes: Sequence[Mapping[str, Any]] = (),
    executions: bool = True,
    attached: bool = True,
    symmetric: bool = False,
    max_states: int | None = None,
    max_seconds: float | None = None,
) -> Exploration:
    """Enumerate everything that can happen to a small sweep, and check the laws at every step.

    Every command, fact and report is tried in every state: also those that come too late, from an older
    attempt, from a stranger, or for an order that cannot be delivered. It drives the core itself, with
    no storage. Durations are one unit each, whatever ``limits`` says (the time limit is two), and time
    passes by units, so any two deadlines that were set at different times can be due in any order.

    Args:
        limits: what bounds the sweep.
        runs: how many runs its search has.
        attempts: follow no more attempts of each run than so many; None abstracts from their number,
            so that every number of attempts is covered.
        size: how many runs the search says that it has; None: it does not know.
        objective: what the sweep is after.
        retries: the sets of statuses that ``retry`` and ``reopen`` are tried with.
        changes: what ``set_limits`` is tried with.
        executions: whether executions say who they are, and are started twice.
        attached: whether an attached agent asks for runs beside a worker.
        symmetric: take states that differ only in the order of their runs as one. What depends on the
            order is then tried in every order, so no state is missed; but law 11 is shown up to renaming.
        max_states: stop when so many were found.
        max_seconds: stop after so much time.

    Returns:
        The figures. If it was stopped, ``complete`` is False, and ``depth`` says how far it saw all.

    Raises:
        LawViolation: a law is broken; ``trace`` is a shortest way there.
        CoreError: a decision raised what is no error of this library; ``trace`` is a shortest way there.

    Example:
        >>> limits = Limits(run_cap=1, max_preemptions=0, launch_attempts=1)
        >>> exploration = explore(limits, runs=1, retries=(), executions=False, attached=False)
        >>> exploration.complete, exploration.states
        (True, 563)
    """
    explorer = Explorer(
        limits or Limits(),
        runs=runs,
        attempts=attempts,
        size=size,
        objective=objective,
        retries=retries,
        changes=changes,
        executions=executions,
        attached=attached,
        symmetric=symmetric,
    )
    collecting = gc.isenabled()
    # Millions of small values that live until the end: looking for cycles among them takes a fifth of the time.
    gc.disable()
    try:
        return explorer.explore(max_states=max_states, max_seconds=max_seconds)
    finally:
        if collecting:
            gc.enable()


class Refused(Exception):
    """A move was refused; the cause says why."""


class Explorer:
    """One exploration: its states, by key, and the moves between them. See ``explore`` for the arguments."""

    def __init__(
        self,
        limits: Limits,
        *,
        runs: int,
        attempts: int | None,
        size: int | None,
        objective: Objective | None,
        retries: Collection[Collection[RunStatus]],
        changes: Sequence[Mapping[str, Any]],
        executions: bool,
        attached: bool,
        symmetric: bool,
    ) -> None:
        limits = quantised(limits)
        varied = [quantised(limits.replace(change)) for change in changes]
        self._changes = [
            {name: getattr(each, name) for name in change} for each, change in zip(varied, changes, strict=True)
        ]
        self._runs = runs
        self._attempts = attempts
        self._symmetric = symmetric
        sets = {frozenset(each) for each in retries}
        self._abstraction = Abstraction(
            [limits, *varied], attempts=attempts is not None, symmetric=symmetric, wishes=len(sets)
        )
        self._moves = Moves(
            runs=runs,
            objective=objective,
            retries=[frozenset(each) for each in retries],
            changes=self._changes,
            executions=executions,
            attached=attached,
            every_attempt=attempts is not None,
        )
        self.start: World = World(_create(limits, size, objective), (), (), 0.0)
        self.graph: Graph = Graph()
        self.done: bytearray = bytearray()
        self.running: bytearray = bytearray()
        # Where a state was first reached from, and by which of that state's moves.
        self._parents = array("i")
        self._by = array("i")
        self._numbers: dict[int, int] = {}
        self._cells: set[Cell] = set()
        self._refusals: dict[str, int] = {}
        self._tried = self._transitions = self._pruned = 0
        #: States of which a move was pruned: nobody knows what is behind it.
        self._bounded: set[int] = set()

    # --- one move --------------------------------------------------------------------------------

    def key(self, world: World) -> int:
        """Return the key of a world."""
        return self._abstraction.key(world)

    def options(self, world: World) -> Iterator[tuple[World, Move]]:
        """Yield all moves of a world, with the world that they are made in: itself, or a renamed one."""
        worlds = [world]
        if self._symmetric and len(world.runs) > 1:
            orders = list(permutations(range(len(world.runs))))[1:]
            worlds += [other for order in orders if (other := renamed(world, order)) is not None]
        for place, each in enumerate(worlds):
            for move in self._moves.of(each.sweep, each.runs):
                if place == 0 or move.ordered or (each.sweep.backlog and move.index is None):
                    yield each, move

    def decide(self, world: World, move: Move) -> tuple[Change | None, object]:
        """Make the decision that a move asks for.

        Raises:
            Refused: it is refused.
            LawViolation: what it decided can never be committed.
        """
        if move.decide is None:
            return None, None
        draft = Draft(world.sweep, world.now)
        args: tuple[Any, ...] = (*move.args, f"r{world.sweep.version}") if move.fresh else move.args
        answers = Answers(world, self._runs, move.proposal, move.index if move.alone else None)
        try:
            value = drive(move.decide(draft, *args, **move.options), answers)
        except SweepstateError as error:
            raise Refused from error
        change = draft.change()
        if change is not None and change.silences:
            _check_silences(world, change)
        return change, value

    def after(self, world: World, move: Move, change: Change | None, value: object) -> World:
        """Return the world that a move leads to."""
        if move.decide is None:
            return world._replace(now=world.now + UNIT)
        sweep, runs, beats, now = world
        if change is not None:
            sweep = change.sweep
            changed = list(runs)
            for run in change.runs:
                changed[run.index : run.index + 1] = [run]
            runs = tuple(changed)
            beats += (None,) * (len(runs) - len(beats))
        if kept(value) and move.index is not None and move.attempt is not None:
            beats = (*beats[: move.index], (move.attempt, now), *beats[move.index + 1 :])
        return World(sweep, runs, beats, now)

    # --- all of them -----------------------------------------------------------------------------

    def explore(self, *, max_states: int | None = None, max_seconds: float | None = None) -> Exploration:
        """Go through everything, breadth first. See the function ``explore``."""
        began = time.perf_counter()
        level = [self.start]
        check_state(self.start.sweep, self.start.runs)
        self._number(self.start, -1, -1)
        depth, number, complete = 0, 0, True
        while level and complete:
            following: list[World] = []
            for place, world in enumerate(level):
                # A level that cannot be finished is left; the depth tells.
                if (max_states is not None and len(self._numbers) > max_states) or (
                    max_seconds is not None and place % 16 == 0 and time.perf_counter() - began > max_seconds
                ):
                    complete = False
                    break
                self._expand(number, world, following)
                number += 1
            else:
                depth += bool(following)
            level = following
        facts, running, able = self._law_11()
        return Exploration(
            states=len(self._numbers),
            transitions=self._transitions,
            moves=self._tried,
            refused=sum(self._refusals.values()),
            pruned=self._pruned,
            depth=depth,
            complete=complete,
            cells=frozenset(self._cells),
            refusals=dict(sorted(self._refusals.items())),
            ends_by_facts=(facts, running),
            can_end=able,
            seconds=time.perf_counter() - began,
        )

    def _number(self, world: World, parent: int, by: int) -> tuple[int, bool]:
        """Return the number of a world's state, and whether it is new."""
        key = self._abstraction.key(world)
        number = self._numbers.get(key)
        if number is not None:
            return number, False
        number = self._numbers[key] = len(self._numbers)
        self._parents.append(parent)
        self._by.append(by)
        self.done.append(world.sweep.done)
        self.running.append(world.sweep.status is SweepStatus.RUNNING)
        return number, True

    def _expand(self, number: int, world: World, following: list[World]) -> None:
        """Try every move of a state."""
        place = -1
        reached: dict[int, bool] = {}
        within = world
        kept_as, before = _copied(world), Snapshots(world.sweep, as_mapping(world))
        try:
            for place, (each, move) in enumerate(self.options(world)):
                if each is not within:
                    _check_unchanged(kept_as)
                    within, kept_as, before = each, _copied(each), Snapshots(each.sweep, as_mapping(each))
                target = self._try(number, place, each, move, before, following)
                if target is not None:
                    reached[target] = reached.get(target, False) or not move.command
            _check_unchanged(kept_as)
        except Exception as error:
            raise self._told(error, number, place, within, kept_as) from error
        self.graph.add(reached.items())

    def _told(self, error: Exception, number: int, place: int, within: World, kept_as: list[_Copy]) -> AssertionError:
        """Return what was found at a state's move, with the way there."""
        if _differing(kept_as):
            # An input that was changed spoils the moves after it too: the first one to do so is to blame.
            _restore(kept_as)
            for number_of_move, (each, move) in enumerate(self.options(within)):
                if each is within:
                    with suppress(Exception):
                        self.decide(each, move)
                if changes := _differing(kept_as):
                    _restore(kept_as)
                    return LawViolation(7, changes, self.trace(number, number_of_move))
        if isinstance(error, LawViolation):
            return LawViolation(error.law, error.evidence, self.trace(number, place))
        problem = (
            error.problem if isinstance(error, CoreError) else f"a decision raised {type(error).__name__}: {error}"
        )
        return CoreError(problem, self.trace(number, place))

    def _try(
        self, number: int, place: int, world: World, move: Move, before: Snapshots, following: list[World]
    ) -> int | None:
        """Try one move; return the state that it leads to, unless that is the same one."""
        self._tried += 1
        change: Change | None = None
        try:
            change, value = self.decide(world, move)
        except Refused as refusal:
            name = type(refusal.__cause__).__name__
            self._refusals[name] = self._refusals.get(name, 0) + 1
            self._cells.update(asked(move, world.sweep, world.runs, None))
            return None
        self._cells.update(asked(move, world.sweep, world.runs, change))
        if self._tried % TWICE == 0:
            _check_twice(self.decide(world, move), (change, value), move)
        if change is not None:
            self._transitions += 1
            check_commit(before, change)
            self._cells.update(fired(world.sweep, world.runs, change))
            if self._attempts is not None and any(run.attempt > self._attempts for run in change.runs):
                self._pruned += 1
                self._bounded.add(number)
                return None
        elif move.decide is not None and not kept(value):
            return None
        after = self.after(world, move, change, value)
        target, new = self._number(after, number, place)
        if new:
            check_state(after.sweep, after.runs)
            following.append(after)
        elif change is not None and target == number:
            self._again(after, move)
        return None if target == number else target

    def _again(self, world: World, move: Move) -> None:
        """Send a report again that led back to the same state: its evidence is kept once for each attempt."""
        try:
            change, _ = self.decide(world, move)
        except Refused:
            return
        if change is not None:
            check_commit(Snapshots(world.sweep, as_mapping(world)), change)
            if any(isinstance(event, LateReport) for event in change.events):
                raise CoreError(f"the same late report is recorded a second time: {change.events}")

    def trace(self, number: int, place: int | None = None) -> tuple[str, ...]:
        """Return a shortest way to a state, move by move, and one move more if that is given."""
        way: list[int] = [] if place is None else [place]
        while self._parents[number] >= 0:
            way.append(self._by[number])
            number = self._parents[number]
        told: list[str] = []
        world = self.start
        for step in reversed(way):
            if step < 0:
                break
            each, move = next(option for place, option in enumerate(self.options(world)) if place == step)
            try:
                change, value = self.decide(each, move)
                world = self.after(each, move, change, value)
            except Refused as refusal:
                told.append(f"{move}: refused, {refusal.__cause__}")
            except Exception as error:
                told.append(f"{move}: {type(error).__name__}: {error}")
            else:
                told.append(f"{move}  [{_told(world)}]")
        return tuple(told)

    # --- law 11 ----------------------------------------------------------------------------------

    def _law_11(self) -> tuple[int, int, int]:
        """Check both halves of law 11, as far as the recorded graph can tell; return the figures of ``Exploration``."""
        count = len(self._numbers)
        unknown = bytearray(count)
        for number in range(len(self.graph), count):
            unknown[number] = 1
        for number in self._bounded:
            unknown[number] = 1
        behind = self.graph.reached_from((n for n in range(count) if self.running[n]), facts=True)
        behind.extend(bytes(count - len(behind)))
        able = self._must_end(unknown, range(count), "no commands and facts lead", facts=False)
        facts = self._must_end(unknown, (n for n in range(count) if behind[n]), "facts alone do not lead", facts=True)
        return facts, sum(behind), able

    def _must_end(
        self, unknown: bytearray, states: Collection[int] | Iterator[int], problem: str, *, facts: bool
    ) -> int:
        """Raise if from one of the states there is no way to done; return from how many there certainly is one."""
        states = list(states)
        perhaps = self.graph.leading_to(_either(self.done, unknown), facts=facts)
        for number in states:
            if not perhaps[number]:
                raise LawViolation(11, f"{problem} from here to done", self.trace(number))
        certain = self.graph.leading_to(self.done, facts=facts) if any(unknown) else perhaps
        return sum(certain[number] for number in states)


def _create(limits: Limits, size: int | None, objective: Objective | None) -> SweepState:
    change = create("explored", 0.0, search=None, size=size, limits=limits, objective=objective)
    check_commit(None, change)
    return change.sweep


def _either(one: bytearray, other: bytearray) -> bytearray:
    return bytearray(a | b for a, b in zip(one, other, strict=True))


#: A snapshot, with a copy of its fields.
_Copy: TypeAlias = tuple[SweepState | RunState | Lease, dict[str, Any]]


def _copied(world: World) -> list[_Copy]:
    """Return each snapshot of a world with a copy of its fields."""
    parts: list[SweepState | RunState | Lease] = [world.sweep, *world.runs]
    parts += [run.lease for run in world.runs if run.lease is not None]
    return [(part, dict(vars(part))) for part in parts]


def _differing(copies: list[_Copy]) -> str:
    """Return which snapshots differ from their copies; an empty string if none does."""
    return "; ".join(f"{fields} became {vars(part)}" for part, fields in copies if vars(part) != fields)


def _restore(copies: list[_Copy]) -> None:
    for part, fields in copies:
        vars(part).clear()
        vars(part).update(fields)


def _check_unchanged(copies: list[_Copy]) -> None:
    """Law 7, and more: no move, refused or not, changes the snapshots that it was decided on."""
    if changes := _differing(copies):
        raise LawViolation(7, changes)


def _check_twice(again: tuple[Change | None, object], first: tuple[Change | None, object], move: Move) -> None:
    """Law 12: the same decision on the same snapshots gives the same change."""
    if again != first:
        raise LawViolation(12, f"{move} gave {first}, and then {again}")


def _check_silences(world: World, change: Change) -> None:
    """A change must not act on a silence that is none: its commit would be a Conflict again and again."""
    for silence in change.silences:
        beat = world.beats[silence.index]
        if beat is not None and beat[0] == silence.attempt and beat[1] > silence.heard:
            raise LawViolation(10, f"{silence} was broken at {beat[1]} already: the change can never be committed")


def _told(world: World) -> str:
    """Return how a world stands, in a line."""
    runs = [f"{run.row}" + (f" #{run.attempt}" if run.attempt > 1 else "") for run in world.runs]
    return "; ".join([world.sweep.status.value, *runs])


__all__ = ["CoreError", "Exploration", "Explorer", "Refused", "explore"]

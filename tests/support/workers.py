"""Workers that execute every point of one grid, each point to its end once, whatever is done to the sweep meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from random import uniform
from typing import Any, Final, TypeVar

from sweepstate import (
    Grid,
    Idle,
    IdleReason,
    IllegalTransition,
    Objective,
    OutcomeUnknown,
    Run,
    RunStatus,
    StorageError,
    Sweep,
    SweepStatus,
)
from sweepstate.testing.contract.world import all_runs
from tests.support.acknowledged import Book, Opener, Witness, opened
from tests.support.conductor import Part, Voice

_T = TypeVar("_T")

#: Who has nothing to do looks again after up to so many seconds.
_LOOK_AGAIN: Final = 0.03


def create(storage: Any, sweep_id: str, points: int) -> Sweep:
    """Create a sweep over so many points."""
    return Sweep(Grid({"x": list(range(points))}), id=sweep_id, storage=storage, objective=Objective("loss"))


def loss_of(x: int) -> float:
    return (x * 37 % 1009) / 8


def work(voice: Voice, opener: Opener, sweep_id: str) -> None:
    """Execute runs until the sweep is FINISHED: some of the workers ask, and the others iterate."""
    with opened(opener) as storage:
        witness = Witness(voice, storage, lambda noting: Sweep.open(sweep_id, storage=noting))
        claims = _iterated if voice.number % 4 else _asked
        while witness.sweep.refresh().status is not SweepStatus.FINISHED:
            for run in claims(witness):
                _execute(witness, run)
            voice.rest(uniform(0.0, _LOOK_AGAIN))  # paused, stopped, or the last ones are executing


def _asked(witness: Witness) -> Iterator[Run]:
    while isinstance(run := witness.claim(f"w{witness.voice.number}"), Run):
        yield run


def _iterated(witness: Witness) -> Iterator[Run]:
    runs = iter(witness.sweep)
    while True:
        with witness.call():
            run = next(runs, None)
        if run is None:
            return
        yield run


def _execute(witness: Witness, run: Run) -> None:
    try:
        with witness.call():
            run.__enter__()
    except IllegalTransition:
        return  # it was withdrawn by a stop, or killed by a cancel, before it began
    witness.voice.say("executes", run.index, run.attempt, run.config["x"])
    if run.index % 4 == 0:
        with witness.call():
            run.report(step=1.0)
    with witness.call():
        run.finish(loss=loss_of(run.config["x"]))


# --- when the server goes away ----------------------------------------------------------------------


def work_through_outages(voice: Voice, opener: Opener, sweep_id: str) -> None:
    """Execute runs until the sweep is FINISHED, on a server that is restarted now and then.

    What failed did not happen, and is tried again; of what may have happened, the storage is asked: a claim by
    its request, a start by its execution, an end by looking at the run.
    """
    with opened(opener) as storage:
        witness = _come_to_work(voice, storage, sweep_id)
        stubborn = _Stubborn(witness)
        number = 0
        while True:
            number += 1
            name = f"w{voice.number} {number}"
            run = stubborn.claim(name)
            if run is not None:
                stubborn.execute(run, name)
            elif stubborn.call(lambda: witness.sweep.refresh().status) is SweepStatus.FINISHED:
                return


def _come_to_work(voice: Voice, storage: Any, sweep_id: str) -> Witness:
    while True:
        try:
            return Witness(voice, storage, lambda noting: Sweep.open(sweep_id, storage=noting))
        except StorageError as error:
            voice.say("outage", str(error))
        voice.rest(uniform(0.0, _LOOK_AGAIN))


class _Stubborn:
    """Calls until it is answered."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self._sweep = witness.sweep
        #: Whether something may have happened since the last answer.
        self._unknown = False

    def call(self, function: Callable[[], _T]) -> _T:
        """Call something that may be called again, until it is answered."""
        self._unknown = False
        while True:
            try:
                with self._witness.call():
                    return function()
            except OutcomeUnknown as error:
                self._unknown = True
                self._witness.voice.say("unknown", str(error))
            except StorageError as error:
                self._witness.voice.say("outage", str(error))
            self._witness.voice.rest(uniform(0.0, _LOOK_AGAIN))

    def claim(self, request_id: str) -> Run | None:
        run = self.call(lambda: self._sweep.next_run(f"w{self._witness.voice.number}", request_id))
        if isinstance(run, Idle):
            assert run.reason in {IdleReason.DRAINING, IdleReason.ENDED}, run
            self._witness.voice.rest(uniform(0.0, _LOOK_AGAIN))
            return None
        return run

    def execute(self, run: Run, execution: str) -> None:
        began = self.call(lambda: run.start(execution))
        assert began or self._unknown, f"{run} had begun already"
        self._witness.voice.say("executes", run.index, run.attempt, run.config["x"])
        self.call(lambda: run.report(step=1.0))
        self.call(lambda: self._finish(run))

    def _finish(self, run: Run) -> None:
        # Not blindly again, or the history would tell of a late report.
        if not self._unknown or not run.refresh().ended:
            run.finish(loss=loss_of(run.config["x"]))


# --- what must have come of it ----------------------------------------------------------------------


def check(opener: Opener, sweep_id: str, points: int, parts: Iterable[Part], told: Book) -> list[int]:
    """Assert that every point was executed to its end, once, and that all that was acknowledged is there.

    Args:
        opener: opens where the sweep lives.
        sweep_id: the sweep.
        points: how many points its grid has.
        parts: what came of the workers.
        told: what others were told.

    Returns:
        The versions that are there and were told to nobody.
    """
    executed: set[tuple[int, int]] = set()
    for part in parts:
        told.add(part.said)
        for index, attempt, x in (words[1:] for words in part.said if words[0] == "executes"):
            assert (index, attempt) not in executed, f"attempt {attempt} of run {index} was executed twice"
            assert x == index, f"run {index} was executed with point {x}"
            executed.add((index, attempt))
    with opened(opener) as storage:
        unknown = told.check(storage, sweep_id)
        sweep, runs = storage.sweep(sweep_id), all_runs(storage, sweep_id)
    assert sweep.status is SweepStatus.FINISHED
    assert [run.index for run in runs] == list(range(points))
    assert sorted(run.config["x"] for run in runs) == list(range(points))
    assert {run.status for run in runs} == {RunStatus.FINISHED}
    assert all(run.metrics["loss"] == loss_of(run.config["x"]) for run in runs)
    missing = {(run.index, run.attempt) for run in runs} - executed
    assert not missing, f"nobody has executed {missing}"
    return unknown


@contextmanager
def told_to(book: Book, storage: Any, sweep_id: str) -> Iterator[Sweep]:
    """Give a handle of a sweep, and write down what it was told."""
    told: list[Any] = []
    try:
        yield Sweep.open(sweep_id, storage=storage, listeners=[told.append])
    finally:
        book.add_events(told)

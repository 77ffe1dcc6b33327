"""Writers that do anything to one sweep, for ever, in an order that random numbers decide; they are to be killed."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from random import Random
from typing import Final

from sweepstate import Conflict, Grid, IllegalTransition, Limits, Objective, Run, RunStatus, Sweep, SweepStatus
from sweepstate.core.lifecycle import SWEEP_ENDED
from tests.support.acknowledged import Noting, Opener, Witness, opened
from tests.support.conductor import Voice

#: Silence, a late start and an ignored stop are noticed within a round or two, so that time commits something too.
LIMITS: Final = Limits(
    heartbeat_timeout=0.2, suspicion=0.1, start_timeout=0.3, stop_grace=0.1, max_active=40, retries=1, max_preemptions=1
)
_RETRYABLE: Final = (RunStatus.FAILED, RunStatus.CRASHED, RunStatus.KILLED)
_OF_RUN: Final = (RunStatus.PENDING, RunStatus.RUNNING)


def create(storage: Noting, sweep_id: str, *, exists_ok: bool = False) -> Sweep:
    """Create a sweep without an end in sight."""
    search = Grid({"x": list(range(1_000)), "y": list(range(1_000))})
    return Sweep(search, id=sweep_id, storage=storage, limits=LIMITS, objective=Objective("loss"), exists_ok=exists_ok)


def write(voice: Voice, opener: Opener, sweep_id: str, seed: int) -> None:
    """Do anything to a sweep that is there, for ever."""
    with opened(opener) as storage:
        witness = Witness(voice, storage, lambda noting: Sweep.open(sweep_id, storage=noting))
        writer = _Writer(witness, f"w{voice.number}", Random(seed))
        voice.say("ready")
        while True:
            writer.move()


def write_anew(voice: Voice, opener: Opener, sweep_id: str, seed: int) -> None:
    """Open a place that may not be there, and a sweep that may not be there, and do anything to it, for ever."""
    with opened(opener) as storage:
        witness = Witness(voice, storage, partial(create, sweep_id=sweep_id, exists_ok=True))
        writer = _Writer(witness, f"w{voice.number}", Random(seed))
        while True:
            writer.move()


class _Writer:
    """One of them; it goes on with the runs that the one of its name before it has left behind."""

    def __init__(self, witness: Witness, name: str, random: Random) -> None:
        self._witness = witness
        self._sweep = witness.sweep
        self._name = name
        self._random = random
        self._steps = 0
        runs = list(self._sweep.runs(_OF_RUN))
        self._mine = [run for run in runs if run.state.lease is not None and run.state.lease.agent == name][-10:]

    def move(self) -> None:
        """Do one thing, unless it is refused."""
        (move,) = self._random.choices(list(_MOVES), list(_MOVES.values()))
        with suppress(IllegalTransition, Conflict), self._witness.call():
            move(self)

    def ask(self) -> None:
        request = self._random.choice([None, f"{self._name} {self._random.randrange(50)}"])
        run = self._sweep.next_run(self._name, request)
        if isinstance(run, Run):
            self._mine.append(run)

    def begin_at_once(self) -> None:
        for run in self._sweep:
            self._mine.append(run)
            run.entered = True  # so that it is not given back
            break

    def of_mine(self, act: Callable[[Run], object], *, last: bool = False) -> None:
        if not self._mine:
            return
        run = self._random.choice(self._mine)
        try:
            act(run)
        finally:
            if last and self._random.random() < 0.9:  # else it is reported about again, too late
                self._mine.remove(run)

    def of_any(self, act: Callable[[Run], object]) -> None:
        created = self._sweep.state.created
        if created:
            act(self._sweep[created - 1 - int(self._random.random() ** 2 * created)])

    def start(self) -> None:
        self.of_mine(lambda run: run.start(self._random.choice([None, "here"]), heartbeats=self._random.random() < 0.7))

    def sign(self) -> None:
        if self._random.random() < 0.3:
            self.of_mine(lambda run: run.heartbeat())
        else:
            self.of_mine(self._report)

    def _report(self, run: Run) -> None:
        # Larger than whatever this run has reported before, also through somebody who was killed.
        run.report(step=time.time())

    def end(self) -> None:
        loss = self._random.random()
        how: Callable[[Run], object] = self._random.choice(
            [
                lambda run: run.finish(loss=loss),
                lambda run: run.finish(loss=loss),
                lambda run: run.fail("boom", exit_code=3),
                lambda run: run.crash("gone", signal=9),
                lambda run: run.interrupt(),
            ]
        )
        self.of_mine(how, last=True)

    def give_back(self) -> None:
        self.of_mine(lambda run: self._random.choice([run.release, run.gone])(), last=True)

    def steer(self) -> None:
        """Pause, stop or cancel the sweep."""
        (command,) = self._random.choices([self._sweep.pause, self._sweep.stop, self._sweep.cancel], [3, 2, 1])
        command("for now", actor=self._name)

    def mend(self) -> None:
        """Let it go on, if it does not."""
        status = self._sweep.refresh().status
        if status is SweepStatus.PAUSED:
            self._sweep.resume(actor=self._name)
        elif status in SWEEP_ENDED:
            self._sweep.reopen(retry={each for each in _RETRYABLE if self._random.random() < 0.5}, actor=self._name)

    def set_limits(self) -> None:
        self._sweep.set_limits(max_active=self._random.choice([20, 40]))


_MOVES: Final[dict[Callable[[_Writer], object], int]] = {
    _Writer.ask: 9,
    _Writer.begin_at_once: 3,
    _Writer.start: 8,
    _Writer.sign: 8,
    _Writer.end: 7,
    _Writer.give_back: 1,
    lambda writer: writer.of_mine(lambda run: run.mark_preempting()): 1,
    lambda writer: writer.of_any(lambda run: run.stop()): 1,
    lambda writer: writer.of_any(lambda run: run.kill()): 1,
    lambda writer: writer.of_any(lambda run: run.retry()): 2,
    lambda writer: writer._sweep.tick(): 2,
    _Writer.steer: 1,
    _Writer.mend: 5,
    _Writer.set_limits: 1,
}

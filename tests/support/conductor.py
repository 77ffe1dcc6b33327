"""Processes that may be killed at any moment: forked from a small one, begun at once, listened to until they end.

Starting Python takes far longer than a round of killing, and forking the tests'
own process is not safe, since it has threads. So one small process without
threads is started for many rounds. It forks the actors of each round, which open
connections of their own, listens to what they say, kills those that are to die,
and waits for all of them.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import IntEnum
from mmap import mmap
from random import Random
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self

import attrs

from sweepstate.testing.contract.together import Child

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

#: Seconds after which actors of whom nothing was heard are taken to be stuck; far more than they ever need.
PATIENCE: Final = 300.0
#: So often, in seconds, whoever waits is told that the actors are listened to: ``Child.hear`` knows less patience.
_STILL: Final = 10.0
#: For so many seconds, at most, death waits until its victim is in the middle of something.
_LURK: Final = 0.05


class Doing(IntEnum):
    """What an actor is doing, as it notes down before it does it."""

    NOTHING = 0
    CALLING = 1
    COMMITTING = 2


class Voice:
    """What an actor has of the world.

    Args:
        pipe: where it says something.
        states: where it notes down what it does; a byte for each actor, in shared memory, so that it outlives it.
        number: which actor it is.
    """

    def __init__(self, pipe: int, states: mmap, number: int) -> None:
        self._pipe = pipe
        self._states = states
        self._parent = os.getppid()
        self.number: Final = number

    def say(self, *words: Any) -> None:
        """Say something that JSON can express. Whoever is killed meanwhile has not said it."""
        left = json.dumps(words).encode() + b"\n"
        while left:
            left = left[os.write(self._pipe, left) :]

    def note(self, doing: Doing) -> None:
        """Note down what is done from now on."""
        self._states[self.number] = doing

    def rest(self, seconds: float) -> None:
        """Sleep; end, if nobody listens any more."""
        if os.getppid() != self._parent:
            sys.exit("nobody listens any more")
        time.sleep(seconds)


#: What actors do: called with a voice and the arguments; of a module, so that it is found in another process.
Act = Callable[..., None]


@attrs.frozen
class Death:
    """When an actor is killed, by SIGKILL.

    Attributes:
        after: so many seconds after the beginning; see ``Conductor.begin``.
        aim: if given, then not before it is in the middle of a commit, and so many seconds into that.
    """

    after: float
    aim: float | None = None


@attrs.frozen
class Part:
    """What came of one actor.

    Attributes:
        said: everything that it said, in order.
        doing: what it was doing when it ended.
        status: what it exited with; negative for the signal that ended it.
    """

    said: list[list[Any]]
    doing: Doing
    status: int


class Conductor:
    """A small process that lets others act; a context manager.

    Args:
        prepare: called once in that process, so that what it imports and builds is there for every actor.
    """

    def __init__(self, prepare: Callable[[], None]) -> None:
        self._child = Child(_conduct, prepare)
        self._parts: list[Part] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._child.say(None)  # also in the middle of something: then the actors are killed
        self._child.close()

    def begin(
        self,
        act: Act,
        arguments: Sequence[tuple[Any, ...]],
        deaths: Sequence[Death | None] = (),
        *,
        unborn: bool = False,
    ) -> None:
        """Let so many actors begin; each is given a voice and its arguments.

        Args:
            act: what they do.
            arguments: for each of them.
            deaths: when each is killed; the others end by themselves.
            unborn: whether deaths are counted from the fork; else from when every actor has said something.
        """
        self._parts = None
        self._child.say((act, arguments, deaths, unborn))

    @property
    def over(self) -> bool:
        """Whether all of them have ended."""
        while self._parts is None and self._child.line.poll():
            self._hear()
        return self._parts is not None

    def parts(self) -> list[Part]:
        """Wait until all have ended, and return what came of them.

        Raises:
            AssertionError: one of them ended by an exception, or is stuck.
        """
        while self._parts is None:
            self._hear()
        for part in self._parts:
            if part.status not in {0, -signal.SIGKILL}:
                raise AssertionError(f"an actor ended with status {part.status}; it said {part.said[-1:]}")
        return self._parts

    def _hear(self) -> None:
        said = self._child.hear()
        if said != "still":
            self._parts = said

    def play(
        self,
        act: Act,
        arguments: Sequence[tuple[Any, ...]],
        deaths: Sequence[Death | None] = (),
        *,
        unborn: bool = False,
    ) -> list[Part]:
        """Let actors begin, and wait until all have ended."""
        self.begin(act, arguments, deaths, unborn=unborn)
        return self.parts()


# --- in the small process -------------------------------------------------------------------------


def _conduct(line: Connection, prepare: Callable[[], None]) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the actors do not outlive it
    prepare()
    while True:
        task = line.recv()
        if task is None:
            return
        act, arguments, deaths, unborn = task
        stage = _Stage(line, act, arguments)
        try:
            line.send(stage.listen(deaths, unborn=unborn))
        finally:
            stage.clear()


class _Stage:
    """The actors of one round."""

    def __init__(self, line: Connection, act: Act, arguments: Sequence[tuple[Any, ...]]) -> None:
        self._line = line
        self._until = time.monotonic() + PATIENCE
        self._tell_at = time.monotonic() + _STILL
        self._states = mmap(-1, len(arguments))
        self._heard: dict[int, bytes] = {}  # by pipe
        self._pipes: list[int] = []
        self._open: set[int] = set()
        self._pids: list[int] = []
        self._statuses: dict[int, int] = {}  # by number
        for number, each in enumerate(arguments):
            self._fork(act, number, each)

    def _fork(self, act: Act, number: int, arguments: tuple[Any, ...]) -> None:
        ear, mouth = os.pipe()
        pid = os.fork()
        if pid == 0:
            for pipe in (ear, *self._open):
                os.close(pipe)
            self._line.close()
            _act(act, Voice(mouth, self._states, number), arguments)
        os.close(mouth)
        self._pids.append(pid)
        self._pipes.append(ear)
        self._open.add(ear)
        self._heard[ear] = b""

    def listen(self, deaths: Sequence[Death | None], *, unborn: bool) -> list[Part]:
        """Listen to all until they have ended, and kill those whose time has come."""
        due = sorted((death.after, number, death.aim) for number, death in enumerate(deaths) if death is not None)
        while not unborn and any(not self._heard[pipe] for pipe in self._open):
            self._hear(self._until)
        born = time.monotonic()
        for after, number, aim in due:
            while self._open and time.monotonic() < born + after:
                self._hear(born + after)
            self._kill(number, aim)
        while self._open:
            self._hear(self._until)
        self._wait()
        return [self._part(number) for number in range(len(self._pids))]

    def _hear(self, until: float) -> None:
        """Hear what is said next, if that is before some time."""
        wait = max(until - time.monotonic(), 0.0)
        ears: list[Any] = [*self._open, self._line]
        ready = select.select(ears, [], [], min(wait, _STILL))[0]
        if time.monotonic() > self._tell_at:
            self._tell_at = time.monotonic() + _STILL
            self._line.send("still")
        for pipe in ready:
            if pipe is self._line:  # whoever wanted this does not want it any more
                sys.exit(0)
            said = os.read(pipe, 1 << 20)
            self._until = time.monotonic() + PATIENCE
            self._heard[pipe] += said
            if not said:
                self._open.discard(pipe)
                os.close(pipe)
                self._check_last_words(self._heard[pipe])
        if time.monotonic() > self._until:
            raise AssertionError(f"{len(self._open)} actors are stuck: nothing was heard of them for {PATIENCE:g} s")

    def _check_last_words(self, heard: bytes) -> None:
        """Raise what an actor has raised: the others might wait for it for ever."""
        _, _, words = heard[:-1].rpartition(b"\n")
        if words.startswith(b'["raised"') and heard.endswith(b"\n"):
            raise AssertionError(f"an actor raised\n{json.loads(words)[1]}")

    def _kill(self, number: int, aim: float | None) -> None:
        if aim is not None:
            until = time.monotonic() + _LURK
            while self._states[number] != Doing.COMMITTING and time.monotonic() < until:
                pass
            until = time.monotonic() + aim
            while time.monotonic() < until:  # shorter than any sleep
                pass
        os.kill(self._pids[number], signal.SIGKILL)  # it has not been waited for, so the number is still its own

    def _wait(self) -> None:
        for number, pid in enumerate(self._pids):
            if number not in self._statuses:
                self._statuses[number] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def _part(self, number: int) -> Part:
        *whole, _torn = self._heard[self._pipes[number]].split(b"\n")
        said = [json.loads(words) for words in whole]
        return Part(said, Doing(self._states[number]), self._statuses[number])

    def clear(self) -> None:
        """Leave nobody behind."""
        for number, pid in enumerate(self._pids):
            if number not in self._statuses:
                os.kill(pid, signal.SIGKILL)
        self._wait()
        for pipe in self._open:
            os.close(pipe)
        self._states.close()


def _act(act: Act, voice: Voice, arguments: tuple[Any, ...]) -> NoReturn:
    """Act, in the actor, and never come back."""
    status = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        act(voice, *arguments)
        status = 0
    except BaseException:  # such as an interrupt: this process is not the one that forked
        with suppress(OSError):
            voice.say("raised", traceback.format_exc())
    finally:
        os._exit(status)


def moments(random: Random, count: int, longest: float) -> list[Death]:
    """Return so many deaths at random: at any moment, half of them in the middle of a commit."""
    return [
        Death(random.uniform(0.0, longest), random.choice([None, random.uniform(0.0, 0.003)])) for _ in range(count)
    ]

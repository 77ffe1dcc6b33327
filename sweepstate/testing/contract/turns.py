# ruff: noqa: S101 - a contract is made of assertions
"""Turns: who has one decides and commits, and nobody else commits meanwhile."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from threading import Event as Flag
from threading import Thread

from ...core import decide as core
from ...core.errors import Conflict, StorageError, SweepNotFound
from ...core.lifecycle import SweepTrigger
from ...core.state import RunState
from ...hooks import Heartbeats, Storage
from ..laws import check_laws
from .base import Capabilities
from .commits import refuses
from .together import PATIENCE, in_threads
from .world import DAWN, World, all_runs, everything

#: Seconds that somebody who must wait is given to show that he does not; no correct storage needs them.
_TEMPTATION = 0.3


class HurtError(Exception):
    """Raised by a test within a turn."""


class TurnsTaken(Capabilities):
    """The part of the contract about ``Turns``; skipped where a storage has none."""

    def test_what_is_read_in_a_turn_is_current(self, storage: Storage) -> None:
        """Snapshot, runs, events and heartbeats; and what is committed in it is seen by all afterwards."""
        turns = self.turns(storage)
        World(storage).take("ada", "r1")
        before = everything(storage, "s")
        with turns.turn("s") as inside:
            assert isinstance(inside, Heartbeats) is isinstance(storage, Heartbeats)
            assert everything(inside, "s") == before
            change = _of(inside).change(core.next_run, "bob")
            inside.commit(change)
        assert storage.sweep("s") == change.sweep
        assert all_runs(storage, "s")[1:] == list(change.runs)
        check_laws(storage, "s")
        _assert_usable(storage)

    def test_a_turn_without_a_commit_writes_nothing(self, storage: Storage) -> None:
        """However much was read in it."""
        turns = self.turns(storage)
        World(storage).take()
        before = everything(storage, "s")
        with turns.turn("s") as inside:
            _of(inside).change(core.next_run, "bob")
        with turns.turn("s"):
            pass
        assert everything(storage, "s") == before
        _assert_usable(storage)

    def test_an_exception_in_a_turn_leaves_nothing(self, storage: Storage) -> None:
        """It reaches the caller as it is, and the storage goes on."""
        turns = self.turns(storage)
        World(storage).take()
        before = everything(storage, "s")

        def hurt() -> None:
            with turns.turn("s") as inside:
                _of(inside).change(core.next_run, "bob")
                raise HurtError

        refuses(HurtError, hurt, "an exception in a turn")
        assert everything(storage, "s") == before
        _assert_usable(storage)

    def test_an_exception_after_the_commit_leaves_it_whole_or_absent(self, storage: Storage) -> None:
        """Half of it never."""
        turns = self.turns(storage)
        world = World(storage)

        def hurt() -> None:
            with turns.turn("s") as inside:
                _of(inside).take("bob", begin=True)
                raise HurtError

        refuses(HurtError, hurt, "an exception after a commit in a turn")
        assert (world.sweep.version, len(all_runs(storage, "s"))) in {(1, 0), (2, 1)}
        check_laws(storage, "s")
        _assert_usable(storage)

    def test_the_version_is_compared_in_a_turn_too(self, storage: Storage) -> None:
        """No promise rests on the turn alone; and a Conflict in it writes nothing."""
        turns = self.turns(storage)
        world = World(storage)
        late = world.change(core.next_run, "ada")
        world.take("bob")
        before = everything(storage, "s")

        def commit_late() -> None:
            with turns.turn("s") as inside:
                inside.commit(late)

        refuses(Conflict, commit_late, "a commit on an old version, in a turn")
        assert everything(storage, "s") == before
        with turns.turn("s") as inside:
            refuses(Conflict, lambda: inside.commit(late), "a commit on an old version, in a turn")
        assert everything(storage, "s") == before
        _assert_usable(storage)

    def test_silence_is_compared_in_a_turn_too(self, storage: Storage) -> None:
        """A heartbeat that came before the turn breaks a silence that was decided on before it."""
        turns, beating = self.turns(storage), self.beating(storage)
        world = World(storage)
        world.promise()
        world.clock.advance(300)
        change = world.change(core.elapse)
        beating.beat("s", 0, 1, DAWN + 200, None)

        def commit() -> None:
            with turns.turn("s") as inside:
                inside.commit(change)

        refuses(Conflict, commit, "a commit on a broken silence, in a turn")
        _assert_usable(storage)

    def test_a_first_heartbeat_during_a_turn_breaks_a_silence(self, storage: Storage) -> None:
        """Of a run that was killed, and never heard before; unless the heartbeat has to wait for the turn to end."""
        turns, beating = self.turns(storage), self.beating(storage)
        world = World(storage)
        world.take(begin=True)
        world.do(core.kill_run, 0)
        world.clock.advance(400)
        heard = Flag()

        def beat() -> None:
            beating.beat("s", 0, 1, DAWN + 399, None)
            heard.set()

        thread = Thread(target=beat, daemon=True)
        with turns.turn("s") as inside:
            change = World(inside, clock=world.clock, create=False).change(core.elapse)
            assert change.silences, "the lease was to be lost to silence"
            thread.start()
            before = heard.wait(_TEMPTATION)
            if before:
                refuses(
                    Conflict, lambda: inside.commit(change), "a commit on a silence that was broken during the turn"
                )
            else:
                with suppress(Conflict):  # if it has come by now
                    inside.commit(change)
        thread.join(PATIENCE)
        assert heard.is_set(), "a heartbeat waits for a turn that is over"
        assert list(beating.last_heard("s", [(0, 1)])) == [DAWN + 399]
        check_laws(storage, "s")

    def test_a_turn_of_a_sweep_that_is_not_there_finds_nothing(self, storage: Storage) -> None:
        """Whether it is refused at once or when something is read."""
        turns = self.turns(storage)

        def look() -> None:
            with turns.turn("s") as inside:
                inside.sweep("s")

        refuses(SweepNotFound, look, "looking at an unknown sweep in a turn")
        World(storage)
        _assert_usable(storage)

    def test_nobody_else_commits_during_a_turn(self, storage: Storage) -> None:
        """A commit from elsewhere waits, or is refused; who has the turn is never outrun."""
        turns = self.turns(storage)
        world = World(storage)
        for _ in range(2):
            foreign = world.change(core.move, SweepTrigger.PAUSE)
            open_, done = Flag(), Flag()

            def inside_one(open_: Flag = open_, done: Flag = done) -> str:
                with turns.turn("s") as inside:
                    change = _of(inside).change(core.next_run, "ada")
                    open_.set()
                    done.wait(_TEMPTATION)
                    assert inside.sweep("s").version == change.version, "somebody committed during a turn"
                    inside.commit(change)
                return "committed"

            def outside(open_: Flag = open_, done: Flag = done) -> str:
                assert open_.wait(PATIENCE), "the turn did not begin"
                try:
                    storage.commit(foreign)  # noqa: B023 - called in this round only
                except (Conflict, StorageError) as error:
                    return type(error).__name__
                finally:
                    done.set()
                return "committed"

            inner, outer = in_threads(inside_one, outside)
            assert inner == "committed"
            assert outer != "committed", "two commits on one version were accepted"
        assert world.sweep.created == 2
        check_laws(storage, "s")
        _assert_usable(storage)

    def test_who_takes_turns_is_never_outrun(self, storage: Storage) -> None:
        """Threads that decide and commit in turns meet no Conflict, and each commit is on the one before."""
        turns = self.turns(storage)
        World(storage)

        def claim(name: str) -> list[int]:
            claimed: list[int] = []
            for _ in range(5):
                with turns.turn("s") as inside:
                    run = _of(inside).do(core.next_run, name)
                    assert isinstance(run, RunState)
                    claimed.append(run.index)
            return claimed

        claimed = in_threads(*[partial(claim, f"worker {n}") for n in range(4)])
        assert sorted(index for each in claimed for index in each) == list(range(20))
        check_laws(storage, "s")


def _of(storage: Storage) -> World:
    return World(storage, create=False)


def _assert_usable(storage: Storage) -> None:
    """Assert that the next command finds nothing locked, also in another thread."""
    version = storage.sweep("s").version
    _of(storage).take("afterwards")
    in_threads(lambda: _of(storage).take("elsewhere"))
    assert storage.sweep("s").version == version + 2

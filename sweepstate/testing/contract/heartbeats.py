# ruff: noqa: S101 - a contract is made of assertions
"""Heartbeats: signs of life, which are no commits and undo none; and commits that act on silence."""

from __future__ import annotations

from functools import partial

from ...core import decide as core
from ...core.decide import Change
from ...core.errors import Conflict
from ...core.events import RunSuspected
from ...core.questions import Silent
from ...core.status import RunStatus
from ...hooks import Storage
from ..laws import check_laws
from .base import Capabilities
from .commits import refuses
from .together import in_threads
from .world import DAWN, Beating, World, all_events, all_runs, heard_of, select, text


class Beats(Capabilities):
    """The part of the contract about ``Heartbeats``; skipped where a storage has none."""

    def test_a_heartbeat_is_kept(self, storage: Storage) -> None:
        """Its time and its metrics, to the last digit."""
        beating = self.beating(storage)
        world = World(beating)
        world.promise()
        assert list(beating.last_heard("s", [(0, 1)])) == [None]
        assert beating.last_metrics("s", 0) is None
        at = DAWN + 0.1 + 0.2
        metrics = {"loss": 0.1 + 0.2, "whole": 3, "big": 2**70, "-0": -0.0, "inf": float("inf"), "ß/\0": 1e-300}
        beating.beat("s", 0, 1, at, metrics)
        assert list(beating.last_heard("s", [(0, 1)])) == [at]
        found = beating.last_metrics("s", 0)
        assert found is not None
        assert repr(sorted(found.items())) == repr(sorted(metrics.items()))
        beating.beat("s", 0, 1, at + 1, {"loss": float("nan")})
        assert repr(beating.last_metrics("s", 0)) == "{'loss': nan}", "newer metrics replace the older ones, whole"

    def test_signs_come_in_the_order_in_which_they_were_asked_for(self, storage: Storage) -> None:
        """One answer for each pair, None where nothing was heard; also for pairs given twice, and for none."""
        beating = self.beating(storage)
        world = World(beating)
        world.take_many(4)
        for index in (0, 2, 3):
            beating.beat("s", index, 1, DAWN + index, None)
        leases = [(3, 1), (1, 1), (0, 1), (3, 1), (0, 2), (99, 1), (2, 1)]
        assert list(beating.last_heard("s", leases)) == [DAWN + 3, None, DAWN, DAWN + 3, None, None, DAWN + 2]
        assert list(beating.last_heard("s", [])) == []
        many = [(index % 5, 1) for index in range(1_500)]  # more than a database takes parameters of
        assert list(beating.last_heard("s", many)) == [*beating.last_heard("s", many[:5])] * 300

    def test_a_heartbeat_is_no_commit(self, storage: Storage) -> None:
        """It has no version and no event, and moves neither status nor lease."""
        beating = self.beating(storage)
        world = World(beating)
        world.promise()
        sweep, run = text(world.sweep), text([world.run(0)])
        kept = world.change(core.stop_run, 0)
        beating.beat("s", 0, 1, DAWN + 5, {"loss": 1.0})
        assert text(world.sweep) == sweep
        assert text([world.run(0)]) == run
        assert len(all_events(storage, "s")) == world.sweep.events
        storage.commit(kept)  # was decided before the heartbeat, and is no Conflict
        assert list(beating.last_heard("s", [(0, 1)])) == [DAWN + 5], "a commit undid a heartbeat"
        world.finish(0)
        beating.beat("s", 0, 1, DAWN + 9, None)
        assert world.run(0).status is RunStatus.FINISHED, "a late heartbeat undid a verdict"
        assert world.run(0).lease is None
        check_laws(storage, "s")

    def test_an_older_heartbeat_moves_no_time(self, storage: Storage) -> None:
        """Signs overtake each other on the way, and clocks are set back; the time only ever rises."""
        beating = self.beating(storage)
        World(beating).promise()
        for at, kept in ((10, 10), (5, 10), (10, 10), (12, 12), (0, 12), (11.999, 12)):
            beating.beat("s", 0, 1, DAWN + at, None)
            assert list(beating.last_heard("s", [(0, 1)])) == [DAWN + kept]
            assert _silent(beating, DAWN + 1_000) == [0]
            assert _silent(beating, DAWN + kept) == [0]
            assert _silent(beating, DAWN + kept - 0.01) == []
        # Else what a run reports could not be watched for as long as its clock is behind itself.
        beating.beat("s", 0, 1, DAWN + 3, {"loss": 0.5})
        assert list(beating.last_heard("s", [(0, 1)])) == [DAWN + 12]
        assert beating.last_metrics("s", 0) == {"loss": 0.5}

    def test_metrics_are_kept_until_newer_ones_come(self, storage: Storage) -> None:
        """A heartbeat without metrics leaves those that are there."""
        beating = self.beating(storage)
        World(beating).promise()
        beating.beat("s", 0, 1, DAWN + 1, {"loss": 0.5, "epoch": 1})
        beating.beat("s", 0, 1, DAWN + 2, None)
        assert beating.last_metrics("s", 0) == {"loss": 0.5, "epoch": 1}
        beating.beat("s", 0, 1, DAWN + 3, {"loss": 0.25})
        assert beating.last_metrics("s", 0) == {"loss": 0.25}
        beating.beat("s", 0, 1, DAWN + 4, {})
        assert beating.last_metrics("s", 0) == {}, "no metrics are metrics too; None is not"

    def test_heartbeats_are_of_one_attempt(self, storage: Storage) -> None:
        """A newer attempt's replace an older one's, with its metrics; an older one's change nothing (airflow#39717)."""
        beating = self.beating(storage)
        world = World(beating)
        world.promise()
        beating.beat("s", 0, 1, DAWN + 50, {"loss": 0.5})
        world.fail(0)
        world.do(core.retry_run, 0)
        world.promise()
        assert world.run(0).attempt == 2
        assert list(beating.last_heard("s", [(0, 2)])) == [None]
        beating.beat("s", 0, 2, DAWN + 20, None)
        assert list(beating.last_heard("s", [(0, 2)])) == [DAWN + 20], (
            "the new attempt's own time, though it is earlier"
        )
        assert beating.last_metrics("s", 0) is None, "metrics of an older attempt are not the newest attempt's"
        beating.beat("s", 0, 1, DAWN + 90, {"loss": 9.0})
        assert list(beating.last_heard("s", [(0, 2)])) == [DAWN + 20], "a heartbeat of an old attempt counted"
        assert beating.last_metrics("s", 0) is None
        assert _silent(beating, DAWN + 20) == [0]

    def test_a_heartbeat_of_nothing_changes_nothing(self, storage: Storage) -> None:
        """There is no such run: nothing is kept for the one that gets its index later."""
        beating = self.beating(storage)
        world = World(beating)
        beating.beat("s", 0, 1, DAWN + 900, {"loss": 9.0})
        beating.beat("s", 5, 1, DAWN + 900, {"loss": 9.0})
        assert list(beating.last_heard("s", [(0, 1), (5, 1)])) == [None, None]
        assert beating.last_metrics("s", 5) is None
        world.promise()
        assert list(beating.last_heard("s", [(0, 1)])) == [None]
        assert beating.last_metrics("s", 0) is None
        assert _silent(beating, DAWN) == [0]

    def test_silent_runs_come_by_last_sign_and_then_by_index(self, storage: Storage) -> None:
        """Only those that are RUNNING, promised heartbeats, and are not suspected already (wandb#6779)."""
        beating = self.beating(storage)
        world = World(beating)
        for _ in range(5):
            world.promise()
        world.take(begin=True)  # run 5 promised nothing
        world.take()  # run 6 has not begun
        for index, at in ((0, 30), (1, 10), (2, 30), (4, 20)):
            beating.beat("s", index, 1, DAWN + at, None)
        assert _silent(beating, DAWN + 100) == [3, 1, 4, 0, 2]
        assert [run.index for run in beating.runs("s", Silent(DAWN + 100), limit=2)] == [3, 1]
        assert _silent(beating, DAWN + 20) == [3, 1, 4]
        assert _silent(beating, DAWN - 1) == []
        beating.beat("s", 3, 1, DAWN + 40, None)
        assert _silent(beating, DAWN + 100) == [1, 4, 0, 2, 3], "a heartbeat makes a silent run the last of all"
        world.finish(4)
        world.do(core.kill_run, 0)
        assert _silent(beating, DAWN + 100) == [1, 2, 3]
        world.elapse(320)
        assert [run.index for run in all_runs(storage, "s") if run.lease and run.lease.suspected_at] == [1]
        assert _silent(beating, DAWN + 1_000) == [2, 3], "who is suspected already is not silent once more"
        beating.beat("s", 1, 1, DAWN + 320, None)
        world.elapse(60)
        assert _silent(beating, DAWN + 1_000)[-1] == 1, "whose suspicion was lifted is watched again"

    def test_a_heartbeat_before_the_promise_counts(self, storage: Storage) -> None:
        """A sign of an attempt that promises later is the attempt's all the same."""
        beating = self.beating(storage)
        world = World(beating)
        world.take(begin=True)
        beating.beat("s", 0, 1, DAWN + 70, {"loss": 1.0})
        assert _silent(beating, DAWN + 100) == []
        world.do(core.heartbeat, 0, 1, None, promise=True)
        assert _silent(beating, DAWN + 69) == []
        assert _silent(beating, DAWN + 70) == [0]

    # --- commits that act on silence -------------------------------------------------------------

    def test_a_commit_on_a_silence_that_was_broken_is_a_conflict(self, storage: Storage) -> None:
        """A suspicion, a loss, and an execution given up: each is void if anything newer was heard (wandb#1526)."""
        beating = self.beating(storage)
        world = World(beating)
        world.promise()
        world.promise()

        world.clock.advance(300)
        suspicion = world.change(core.elapse)
        assert {type(event) for event in suspicion.events} == {RunSuspected}
        _assert_broken(world, suspicion, 1, DAWN + 0.001)  # newer than its start, by very little
        world.do(core.elapse)
        assert [bool(run.lease and run.lease.suspected_at) for run in all_runs(storage, "s")] == [True, False]

        world.clock.advance(60)
        loss = world.change(core.elapse)
        assert loss.runs[0].status is RunStatus.CRASHED
        _assert_broken(world, loss, 0, DAWN + 1)
        world.do(core.elapse)
        assert world.run(0).status is RunStatus.RUNNING, "the suspicion was to be lifted"

        world.do(core.kill_run, 0)
        world.clock.advance(300)
        given_up = world.change(core.elapse)
        assert (0, 1) in [(silence.index, silence.attempt) for silence in given_up.silences]
        _assert_broken(world, given_up, 0, world.clock() - 1)
        check_laws(storage, "s")

    def test_a_commit_on_a_silence_that_held_is_accepted(self, storage: Storage) -> None:
        """Also if a sign came that is as old as the newest one the decision knows of, or older."""
        beating = self.beating(storage)
        world = World(beating)
        world.promise()
        beating.beat("s", 0, 1, DAWN + 7.25, None)
        world.clock.advance(400)
        suspicion = world.change(core.elapse)
        assert suspicion.silences[0].heard == DAWN + 7.25
        for at in (DAWN + 7.25, DAWN + 3, DAWN):
            beating.beat("s", 0, 1, at, {"loss": 1.0})
        storage.commit(suspicion)
        world.clock.advance(100)
        loss = world.change(core.elapse)
        beating.beat("s", 0, 1, DAWN + 7.25, None)
        storage.commit(loss)
        assert world.run(0).status is RunStatus.CRASHED
        assert world.run(0).lease is not None

    def test_one_broken_silence_of_many_is_enough(self, storage: Storage) -> None:
        """Whichever it is: the commit is whole or not at all; a sign of somebody else does not matter."""
        beating = self.beating(storage)
        world = World(beating)
        for _ in range(4):
            world.promise()
        world.take()
        world.clock.advance(300)
        beating.beat("s", 2, 1, world.clock(), None)
        change = world.change(core.elapse)
        assert [silence.index for silence in change.silences] == [0, 1, 3]
        _assert_broken(world, change, 3, DAWN + 2)
        change = world.change(core.elapse)
        beating.beat("s", 2, 1, world.clock() + 1, None)
        beating.beat("s", 4, 1, world.clock() + 1, None)
        beating.beat("s", 3, 1, world.clock() + 1, None)
        storage.commit(change)

    # --- at once ---------------------------------------------------------------------------------

    def test_heartbeats_and_commits_at_once_lose_nothing(self, storage: Storage) -> None:
        """Neither undoes what the other wrote, and silence is answered from both."""
        beating = self.beating(storage)
        world = World(beating)
        for index in range(6):
            world.take("ada", begin=True)
            change = world.change(core.heartbeat, index, 1, None, promise=True)

            def beat(index: int = index) -> None:
                for at in range(1, 6):
                    beating.beat("s", index, 1, DAWN + at, {"loss": float(at)})

            in_threads(beat, partial(beating.commit, change), partial(beating.beat, "s", 0, 1, DAWN, None))
            assert world.sweep == change.sweep
            assert world.run(index) == change.runs[0]
            assert list(beating.last_heard("s", [(index, 1)])) == [DAWN + 5]
            assert beating.last_metrics("s", index) == {"loss": 5.0}
            runs = all_runs(beating, "s")
            for since in (DAWN, DAWN + 4.5, DAWN + 5):
                assert _silent(beating, since) == select(Silent(since), runs, heard_of(beating, "s", runs))
        check_laws(storage, "s")

    def test_a_heartbeat_that_races_with_a_suspicion_breaks_it_or_comes_after_it(self, storage: Storage) -> None:
        """And is there in either case; nothing in between exists."""
        beating = self.beating(storage)
        world = World(beating)
        world.promise()
        for _ in range(8):
            world.clock.advance(300)
            change = world.change(core.elapse)
            now = world.clock()

            def suspects(change: Change = change) -> bool:
                try:
                    beating.commit(change)
                except Conflict:
                    return False
                return True

            done = in_threads(suspects, partial(beating.beat, "s", 0, 1, now, None))[0] is True
            assert list(beating.last_heard("s", [(0, 1)])) == [now]
            lease = world.run(0).lease
            assert lease is not None
            assert (lease.suspected_at is not None) is done
            assert world.sweep.version == change.version + done
            assert world.run(0).status is RunStatus.RUNNING
            world.elapse(60)
            lease = world.run(0).lease
            assert lease is not None
            assert lease.suspected_at is None, "a second look hears the sign, whichever came first"
            beating.beat("s", 0, 1, world.clock(), None)
        check_laws(storage, "s")

    def test_heartbeats_of_many_threads_keep_the_newest(self, storage: Storage) -> None:
        """Each run's time is the latest that anybody sent."""
        beating = self.beating(storage)
        World(beating).promise()

        def send(first: int) -> None:
            for at in range(first, 40, 4):
                beating.beat("s", 0, 1, DAWN + at, None)
                found = beating.last_heard("s", [(0, 1)])[0]
                assert found is not None
                assert found >= DAWN + at, "a sign that was sent before was lost"

        in_threads(*[partial(send, first) for first in range(4)])
        assert list(beating.last_heard("s", [(0, 1)])) == [DAWN + 39]


def _silent(storage: Beating, since: float) -> list[int]:
    return [run.index for run in storage.runs("s", Silent(since), limit=99)]


def _assert_broken(world: World, change: Change, index: int, at: float) -> None:
    """Assert that a commit is refused once its silence was broken, and that nothing of it is there."""
    storage = world.storage
    assert world.heartbeats is not None
    world.heartbeats.beat(world.id, index, 1, at, None)
    sweep, runs, events = world.sweep, all_runs(storage, world.id), len(all_events(storage, world.id))
    refuses(Conflict, lambda: storage.commit(change), f"a commit on run {index}'s silence, which was broken at {at}")
    assert world.sweep == sweep
    assert all_runs(storage, world.id) == runs
    assert len(all_events(storage, world.id)) == events

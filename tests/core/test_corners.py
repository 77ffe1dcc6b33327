"""What is rarely met: each of these is asked of the core alone, without handles."""

from __future__ import annotations

import copy
from typing import Any

import attrs
import pytest

from sweepstate import AlreadyStarted, Cause, Grid, Limits, Run, RunStatus, Sweep, to_dict
from sweepstate.core import decide as core
from sweepstate.core.decide import Answer, End, decide
from sweepstate.core.errors import InvalidValue, RunNotFound
from sweepstate.core.events import LateReport, LeaseEnded, OrderKind
from sweepstate.core.lifecycle import Exit
from sweepstate.core.questions import ByIndex, Due, InStatus, Leased, Proposal, Question
from sweepstate.core.state import Backlog, Lease, RunState, SweepState
from sweepstate.core.values import EMPTY, FrozenDict, check_flag, freeze
from sweepstate.testing import ManualClock


def held(**lease: Any) -> RunState:
    return RunState(index=0, config=EMPTY, lease=Lease(attempt=1, agent="ada", **lease))


def test_a_command_on_a_run_that_is_not_there() -> None:
    """The core itself says so; a storage may answer with another run, or with none."""
    sweep = SweepState(id="s", version=1, events=1)
    rows: list[RunState] = []
    for row in (None, held()):
        rows[:] = [] if row is None else [row]
        with pytest.raises(RunNotFound):
            decide(core.stop_run, sweep, lambda _question: rows, 0.0)(3)


def test_a_cancel_reads_page_by_page() -> None:
    """More runs are active than one page holds, and every one of them is killed, once."""
    sweep = Sweep(Grid({"x": range(600)}))
    for _ in range(600):
        sweep.next_run()
    events = sweep.cancel()
    assert len(events) == 601
    assert sweep.counts[RunStatus.KILLED] == 600


def test_asking_again_for_a_held_run_may_begin_it() -> None:
    """The same request, now by one who executes at once."""
    sweep = SweepState(id="s", version=2, events=2, pending=1, leased=1)
    decided = decide(core.next_run, sweep, lambda _question: (held(request_id="r"),), 0.0)("ada", "r", begin=True)
    assert isinstance(decided.value, RunState)
    assert decided.value.status is RunStatus.RUNNING


def test_a_plain_proposal_is_frozen() -> None:
    """Who embeds the core answers with a dictionary."""
    config = {"lr": [0.1]}

    def answer(question: Question) -> object:
        assert isinstance(question, Proposal)
        return config

    decided = decide(core.next_run, SweepState(id="s", version=1, events=1), answer, 0.0)("ada")
    assert isinstance(decided.value, RunState)
    config["lr"].append(1.0)
    assert decided.value.config == {"lr": (0.1,)}


def test_a_run_that_nobody_has_is_owed_no_order() -> None:
    """Orders are for leases."""
    assert core.order_for(SweepState(id="s"), RunState(index=0, config=EMPTY)) is None


def test_a_strangers_late_report_does_not_keep_the_lease() -> None:
    """The evidence is kept once an attempt; that the true execution is gone is known all the same."""
    sweep = Sweep(Grid({"x": [1]}))
    run = sweep.next_run()
    assert isinstance(run, Run)
    run.start("true")
    run.kill()
    sweep._shell.commit(None, None, core.end, 0, 1, "stranger", End(Exit.ERROR))
    assert run.refresh().state.late == (1,)
    assert [type(event) for event in run.fail("late")] == [LeaseEnded]
    assert sum(isinstance(event, LateReport) for event in sweep.history()) == 1


def test_giving_back_a_run_that_was_asked_to_stop_kills_it() -> None:
    """What somebody asked for is not undone by a loop that is left."""
    sweep = Sweep(Grid({"x": [1, 2]}))
    for run in sweep:
        sweep[run.index].stop()
        break
    assert sweep[0].status is RunStatus.KILLED
    assert sweep.refresh().state.leased == 0


def test_a_failed_order_of_a_lease_that_is_over_is_nobodys() -> None:
    """The report of a hook's error may come after the end of what it was about."""
    sweep = Sweep(Grid({"x": [1]}))
    run = sweep.next_run()
    assert isinstance(run, Run)
    run.gone()
    _, change = sweep._shell.commit(None, None, core.order_failed, 0, 1, OrderKind.START, "no")
    assert change is None


def test_an_attempt_that_never_was_is_named() -> None:
    """Only attempts that were counted can report."""
    sweep = Sweep(Grid({"x": [1]}))
    sweep.next_run()
    with pytest.raises(InvalidValue, match="no attempt 2"):
        sweep._shell.commit(None, None, core.end, 0, 2, None, End(Exit.SUCCESS))


def test_an_interrupt_of_a_run_that_nobody_has_is_refused() -> None:
    """Nothing of it executes, so nothing of it can have been interrupted."""
    sweep = Sweep(Grid({"x": [1]}))
    run = sweep.next_run()
    assert isinstance(run, Run)
    run.release()
    with pytest.raises(Exception, match="nobody has it"):
        sweep[0].interrupt()


def test_who_began_is_told_to_who_came_second() -> None:
    """If either said who it is."""
    error = AlreadyStarted("run", "s[0]", "RUNNING", "start", (), "", "two", "one")
    assert str(error).endswith("(asked by execution 'two', begun by 'one')")
    assert "execution" not in str(AlreadyStarted("run", "s[0]", "RUNNING", "start"))


def test_queries_tell_what_belongs_to_them() -> None:
    """For storages that filter."""
    run = held()
    assert ByIndex().matches(run)
    assert Leased("ada").matches(run)
    assert not Leased("bob").matches(run)
    assert not Due(9.0).matches(run)
    ended = RunState(index=1, config=EMPTY, status=RunStatus.FAILED, status_version=5, cause=Cause.ERROR)
    failed = InStatus(frozenset({RunStatus.FAILED}))
    assert failed.matches(ended)
    assert not failed.matches(run)
    assert attrs.evolve(failed, unchanged_since=5).matches(ended)
    assert not attrs.evolve(failed, unchanged_since=4).matches(ended)
    withdrawn = attrs.evolve(ended, status=RunStatus.KILLED, cause=Cause.WITHDRAWN)
    assert not failed.matches(withdrawn)
    assert attrs.evolve(failed, withdrawn=True).matches(withdrawn)


def test_active_runs_are_those_without_an_end() -> None:
    """Of those that were created."""
    state = SweepState(id="s", version=1, events=1, pending=2, running=3, finished=5, failed=7, crashed=11, killed=13)
    assert (state.active, state.created) == (5, 41)


def test_a_wish_tells_which_runs_it_wants() -> None:
    """Those that ended so, or were withdrawn, before it was said, and that it has not come to yet."""
    wish = Backlog(statuses=(RunStatus.FAILED,), withdrawn=True, version=5, cursor=1)
    failed = RunState(index=2, config=EMPTY, status=RunStatus.FAILED, status_version=5, cause=Cause.ERROR)
    withdrawn = attrs.evolve(failed, status=RunStatus.KILLED, cause=Cause.WITHDRAWN)
    assert wish.wants(failed)
    assert wish.wants(withdrawn)
    assert not attrs.evolve(wish, withdrawn=False).wants(withdrawn)
    assert not wish.wants(attrs.evolve(failed, status=RunStatus.CRASHED, cause=Cause.SIGNAL))
    assert not wish.wants(attrs.evolve(failed, status_version=6))
    assert not attrs.evolve(wish, cursor=2).wants(failed)


def test_how_long_a_sweep_was_running() -> None:
    """A pause stops the clock."""
    clock = ManualClock(0.0)
    sweep = Sweep(Grid({"x": [1]}), clock=clock, limits=Limits(time_limit=9.0))
    clock.advance(2.0)
    assert sweep.state.running_time(2.0) == 2.0
    sweep.pause()
    assert sweep.state.running_time(5.0) == 2.0
    assert sweep.state.time_limit_at is None


def test_a_frozen_mapping_stays_itself() -> None:
    """A copy of what cannot change is itself; changing it is refused."""
    frozen = freeze({"a": {"b": 1}}, "config")
    assert isinstance(frozen, FrozenDict)
    assert copy.copy(frozen) is copy.deepcopy(frozen) is frozen
    assert hash(frozen) == hash(freeze({"a": {"b": 1}}, "config"))
    with pytest.raises(TypeError, match="part of a snapshot"):
        frozen["a"] = 2


def test_subclasses_of_plain_types_are_stored_as_what_they_are() -> None:
    """A float of another library is a float; so is a scalar array what its item is."""

    class Double(float):
        """As numpy's."""

    class Scalar:
        """As a tensor of no dimensions."""

        shape = ()

        def item(self) -> float:
            return 0.5

    assert type(freeze(Double(0.5), "x")) is float
    assert freeze(Scalar(), "x") == 0.5


def test_a_flag_is_true_or_false() -> None:
    """Nothing else is, however true."""
    assert check_flag(True, "x")
    with pytest.raises(InvalidValue):
        check_flag(1, "x")


def test_handles_have_no_plain_form() -> None:
    """Their snapshots have."""
    with pytest.raises(InvalidValue, match=r"sweep\.state"):
        to_dict(Sweep(Grid({"x": [1]})))  # type: ignore[arg-type]


def test_a_heartbeat_of_a_queued_attempt_is_no_sign() -> None:
    """Nobody has it, so whoever beats is a stranger."""
    sweep = SweepState(id="s", version=2, events=2, pending=1)
    queued = RunState(index=0, config=EMPTY)
    decided = decide(core.heartbeat, sweep, lambda _question: (queued,), 0.0)(0, 1, None, promise=True)
    assert (decided.value.answer, decided.value.keep) == (Answer.KILL, False)

"""Bugs of the field about words: spellings, sets written by hand, and changes that nobody has made."""

from __future__ import annotations

from typing import Any

import pytest

from sweepstate import RunStatus, SweepStatus, SweepTrigger, UnknownStatus
from sweepstate.core import lifecycle
from tests.fakes import sweep_of, take


@pytest.mark.parametrize("word", ["CANCELED", "CANCELLED", "canceled", " Cancelled "])
def test_14_one_word_in_every_spelling(word: str) -> None:
    """W&B launch scheduler: CANCELED and CANCELLED were compared as different words."""
    # given a word of W&B's; when it is parsed, then it is the one status
    assert SweepStatus.parse(word) is SweepStatus.CANCELLED
    assert RunStatus.parse(word) is RunStatus.KILLED


def test_14_an_unknown_word_is_refused_with_those_that_are_known() -> None:
    """As above: and never taken for some other status."""
    with pytest.raises(UnknownStatus, match="'cancelt'") as refused:
        SweepStatus.parse("cancelt")
    assert {"cancelled", "canceled", "paused"} <= set(refused.value.known)


def test_35_sets_of_statuses_follow_from_the_tables() -> None:
    """Determined PR#9605, reverted by #10207: a new stopping state was missing from queries written by hand."""
    # given the tables; when the sets are worked out from single steps, then they are those that the code uses
    assert {
        status for status in SweepStatus if not lifecycle.allowed(status) & {SweepTrigger.PAUSE}
    } == lifecycle.SWEEP_ENDED
    assert {status for status in SweepStatus if SweepTrigger.RESUME in lifecycle.allowed(status)} == lifecycle.REVIVABLE
    assert {
        status
        for status in RunStatus
        if lifecycle.check(status, lifecycle.RunTrigger.KILL) is lifecycle.Verdict.CHANGES
    } == lifecycle.RUN_ACTIVE
    assert set(RunStatus) == lifecycle.RUN_ACTIVE | lifecycle.RUN_ENDED
    # and who asks for a set has every status in it: what a sweep counts is what its queries find
    sweep, _ = sweep_of(9)
    for end in ("finish", "fail", "crash", "kill"):
        getattr(take(sweep), end)()
    take(sweep)
    take(sweep, start=False)
    for status in RunStatus:
        assert [run.status for run in sweep.runs(status=status)] == [status]
    assert len(list(sweep.runs(status=lifecycle.RUN_ENDED))) == 4


def test_40_every_command_says_who_and_why() -> None:
    """microsoft/nni#205: nobody could tell who stopped a trial."""
    # given commands on a sweep and on runs, each with a reason and an actor
    sweep, _ = sweep_of(9, reason="try it", actor="ada")
    take(sweep).fail()
    sweep[0].retry(reason="again", actor="bob")
    take(sweep)
    sweep[0].stop(reason="too slow", actor="cleo")
    sweep[0].kill(reason="still too slow", actor="dora")
    said: dict[str, Any] = {"reason": "because", "actor": "eve"}
    sweep.set_limits(run_cap=5, **said)
    sweep.retry({RunStatus.KILLED}, **said)
    for word in ("pause", "resume", "crash", "resume", "complete", "stop", "cancel", "reopen"):
        getattr(sweep, word)(**said)
    # when somebody reads the history, then everything that was commanded is signed
    told = [(type(event).__name__, event.reason, event.actor) for event in sweep.history() if event.actor]
    assert ("SweepCreated", "try it", "ada") in told
    assert ("RunRequeued", "again", "bob") in told
    assert ("StopRequested", "too slow", "cleo") in told
    assert ("RunEnded", "still too slow", "dora") in told
    assert [name for name, reason, actor in told if (reason, actor) == ("because", "eve")][:7] == [
        "LimitsChanged",
        "BacklogAdded",
        "SweepStatusChanged",
        "SweepStatusChanged",
        "SweepStatusChanged",
        "SweepStatusChanged",
        "SearchCompleted",
    ]
    # and a run's story names them
    assert "because still too slow (by dora)" in sweep.explain(0)

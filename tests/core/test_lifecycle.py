"""The tables, as full products: what the page says, what the core says, and what a real sweep does."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import pytest

from sweepstate import (
    IllegalTransition,
    InvalidValue,
    Limits,
    Run,
    RunStatus,
    RunTrigger,
    Sweep,
    SweepStatus,
    SweepTrigger,
)
from sweepstate.core import lifecycle
from sweepstate.core.events import LateReport, RunEnded, SweepStatusChanged
from sweepstate.core.lifecycle import Verdict
from tests.support import tables
from tests.support.world import SITUATIONS, World, ask, everything, reach

VERDICTS = {"=": Verdict.NOTHING, ".": Verdict.RECORDED, "-": Verdict.REFUSED}

SWEEP_CELLS = [(row, trigger, cell) for row, cells in tables.SWEEP.items() for trigger, cell in cells.items()]
RUN_CELLS = [(row, trigger, cell) for row, cells in tables.RUN.items() for trigger, cell in cells.items()]
COMMANDS = [trigger for trigger in tables.SWEEP_TRIGGERS if trigger != "finish"]  # nobody can declare that


def guards(row: str) -> dict[str, bool]:
    """Return the guards of a run's situation."""
    return {"held": row != "PENDING, queued", "lost": row == "CRASHED, lost"}


def leads_somewhere(cells: dict[str, str]) -> set[str]:
    """Return what a refusal offers instead: what changes something, or is =; a late report does neither."""
    return {trigger for trigger, cell in cells.items() if cell not in ("-", ".")}


def status_of(row: str) -> RunStatus:
    return RunStatus(row.partition(",")[0])


# --- the core's tables -----------------------------------------------------------------------------


def test_the_literals_are_whole() -> None:
    """The page's tables have every status, every trigger and every way to end."""
    assert set(tables.SWEEP) == set(SweepStatus)
    assert set(tables.RUN) == set(lifecycle.RunRow)
    assert set(tables.SWEEP_TRIGGERS) == set(SweepTrigger)
    assert set(tables.RUN_TRIGGERS) == set(RunTrigger)
    assert len(SWEEP_CELLS) == 56
    assert len(RUN_CELLS) == 56
    assert sum(len(cells) for cells in tables.ENDING.values()) == 15
    assert set(tables.KILLS) == set(SweepStatus) - {SweepStatus.RUNNING}
    assert set(tables.CHANCES) == set(SweepStatus)


@pytest.mark.parametrize(("status", "trigger", "cell"), SWEEP_CELLS)
def test_sweep_cell(status: str, trigger: str, cell: str) -> None:
    """Each cell of A1 stands in SWEEP, and step, check and allowed say the same."""
    here, what = SweepStatus(status), SweepTrigger(trigger)
    assert lifecycle.SWEEP[here][what] == cell
    assert lifecycle.check(here, what) is VERDICTS.get(cell, Verdict.CHANGES)
    assert (what in lifecycle.allowed(here)) is (cell != "-")
    if cell == "-":
        with pytest.raises(IllegalTransition) as caught:
            lifecycle.step(here, what)
        assert (caught.value.subject, caught.value.status, caught.value.asked) == ("sweep", status, trigger)
        assert set(caught.value.allowed) == leads_somewhere(tables.SWEEP[status])
    else:
        after = lifecycle.step(here, what)
        assert type(after) is SweepStatus
        assert after == (here if cell == "=" else cell)


@pytest.mark.parametrize(("row", "trigger", "cell"), RUN_CELLS)
def test_run_cell(row: str, trigger: str, cell: str) -> None:
    """Each cell of A2 stands in RUN, and step, check and allowed say the same."""
    what = RunTrigger(trigger)
    here = status_of(row)
    found = lifecycle.RUN[lifecycle.RunRow(row)][what]
    assert found == ("PENDING" if cell == "PENDING, queued" else cell)
    assert lifecycle.check(here, what, **guards(row)) is VERDICTS.get(cell, Verdict.CHANGES)
    assert (what in lifecycle.allowed(here, **guards(row))) is (cell != "-")
    if cell == "-":
        with pytest.raises(IllegalTransition) as caught:
            lifecycle.step(here, what, **guards(row))
        assert (caught.value.subject, caught.value.status, caught.value.asked) == ("run", row, trigger)
        assert set(caught.value.allowed) == leads_somewhere(tables.RUN[row])
    else:
        after = lifecycle.step(here, what, **guards(row))
        assert type(after) is RunStatus
        assert after == (here if cell in "=." else status_of(cell))


def test_guards_are_ignored_where_they_mean_nothing() -> None:
    """Whether a RUNNING run is held, or a FAILED one was lost, changes no answer."""
    for status, trigger in product(RunStatus, RunTrigger):
        answers = {
            (held, lost): lifecycle.check(status, trigger, held=held, lost=lost)
            for held in (False, True)
            for lost in (False, True)
        }
        if status is not RunStatus.PENDING:
            assert answers[False, False] is answers[True, False]
            assert answers[False, True] is answers[True, True]
        if status is not RunStatus.CRASHED:
            assert answers[False, False] is answers[False, True]
            assert answers[True, False] is answers[True, True]


def test_plain_strings_serve_as_statuses() -> None:
    """step and check take the stored word for the status, and answer with the enum."""
    assert lifecycle.step("RUNNING", SweepTrigger.PAUSE) is SweepStatus.PAUSED  # type: ignore[call-overload]
    assert lifecycle.step("PENDING", RunTrigger.START, held=True) is RunStatus.RUNNING  # type: ignore[call-overload]
    same = lifecycle.step("PAUSED", SweepTrigger.PAUSE)  # type: ignore[call-overload]
    assert type(same) is SweepStatus


@pytest.mark.parametrize(
    ("status", "trigger"),
    [
        ("NOWHERE", SweepTrigger.PAUSE),
        ("PENDING", SweepTrigger.PAUSE),
        ("PAUSED", RunTrigger.START),
        ("RUNNING", "pause"),
    ],
)
def test_what_is_no_status_or_no_trigger_is_refused(status: str, trigger: str) -> None:
    """A word that names nothing, or belongs to the other machine, is an InvalidValue and no refusal."""
    with pytest.raises(InvalidValue):
        lifecycle.step(status, trigger)  # type: ignore[call-overload]
    with pytest.raises(InvalidValue):
        lifecycle.check(status, trigger)  # type: ignore[arg-type]


def test_allowed_refuses_what_is_no_status() -> None:
    """A bare string is ambiguous (both machines have a RUNNING), so allowed wants an enum."""
    with pytest.raises(InvalidValue):
        lifecycle.allowed("RUNNING")  # type: ignore[call-overload]


@pytest.mark.parametrize(("status", "row"), list(product(tables.SWEEP_STATUSES, tables.ACTIVE)))
def test_kills_cell(status: str, row: str) -> None:
    """Each cell of A3 stands in KILLS; becoming RUNNING kills nothing."""
    cause = lifecycle.KILLS[SweepStatus(status)].get(lifecycle.RunRow(row), "")
    assert cause == tables.KILLS.get(status, {}).get(row, "")


@pytest.mark.parametrize(("how", "manner"), list(product(tables.EXITS, tables.MANNERS)))
def test_ending_cell(how: Any, manner: Any) -> None:
    """Each cell of A4 stands in ENDING."""
    exits = dict(zip(tables.EXITS, lifecycle.Exit, strict=True))
    manners = dict(zip(tables.MANNERS, lifecycle.Manner, strict=True))
    assert lifecycle.ENDING[exits[how]][manners[manner]] == tables.ENDING[how][manner]


def test_the_derived_sets() -> None:
    """What ended, active, retryable and revivable mean, by the page's words."""
    assert frozenset({"RUNNING"}) == lifecycle.CREATING
    assert frozenset({"STOPPED", "CANCELLED", "FINISHED", "FAILED", "CRASHED"}) == lifecycle.SWEEP_ENDED
    assert frozenset({"RUNNING", "PAUSED", "CRASHED"}) == lifecycle.REVIVABLE
    assert frozenset({"PENDING", "RUNNING"}) == lifecycle.RUN_ACTIVE
    assert frozenset({"FINISHED", "FAILED", "CRASHED", "KILLED"}) == lifecycle.RUN_ENDED
    assert frozenset({"FAILED", "CRASHED", "KILLED"}) == lifecycle.RETRYABLE
    assert frozenset({"FAILED", "CRASHED"}) == lifecycle.FAILURES


def test_table_is_the_whole_specification_as_plain_data() -> None:
    """table() survives JSON, has every cell of the page, and changing what it returns changes nothing."""
    table = lifecycle.table()
    assert json.loads(json.dumps(table)) == table
    assert table["sweep"] == tables.SWEEP
    assert table["run"] == {
        row: {trigger: cell.removesuffix(", queued") for trigger, cell in cells.items()}
        for row, cells in tables.RUN.items()
    }
    assert table["kills"] == {
        "RUNNING": {},
        **{status: {row: cause for row, cause in rows.items() if cause} for status, rows in tables.KILLS.items()},
    }
    assert [list(cells.values()) for cells in table["ending"].values()] == [
        list(cells.values()) for cells in tables.ENDING.values()
    ]
    assert isinstance(table["version"], int)
    table["sweep"]["RUNNING"]["pause"] = "nonsense"
    assert lifecycle.table()["sweep"]["RUNNING"]["pause"] == "PAUSED"


def test_the_tables_cannot_be_changed() -> None:
    """SWEEP, RUN, KILLS and ENDING are read-only at their first level."""
    for table in (lifecycle.SWEEP, lifecycle.RUN, lifecycle.KILLS, lifecycle.ENDING):
        with pytest.raises(TypeError):
            table["x"] = {}  # type: ignore[index]


# --- a real sweep: every status, every command --------------------------------------------------------


def command(sweep: Sweep, trigger: str) -> tuple[object, ...]:
    """Give one of the sweep's commands, or report one of its facts."""
    events: tuple[object, ...] = getattr(sweep, trigger)(f"because of {trigger}", actor="ada")
    return events


@pytest.mark.parametrize(("status", "trigger"), list(product(tables.SWEEP_STATUSES, COMMANDS)))
def test_a_sweep_does_what_its_cell_says(status: str, trigger: str) -> None:
    """With a run in every situation: refused and = change nothing to the byte; else A1 and A3 happen in one commit."""
    rows = tables.REACHABLE[status]
    world, runs = reach(status, *rows)
    sweep, cell = world.sweep, tables.SWEEP[status][trigger]
    before, version = everything(sweep), sweep.state.version
    causes = {row: world.state(run.index).cause for row, run in runs.items()}
    assert sweep.check(SweepTrigger(trigger)) is VERDICTS.get(cell, Verdict.CHANGES)
    assert sweep.can(SweepTrigger(trigger)) is (cell != "-")
    if cell == "-":
        with pytest.raises(IllegalTransition) as caught:
            command(sweep, trigger)
        assert (caught.value.id, caught.value.status, caught.value.asked) == ("s", status, trigger)
        assert set(caught.value.allowed) == leads_somewhere(tables.SWEEP[status])
        assert caught.value.remedy
        assert everything(sweep) == before
        return
    events = command(sweep, trigger)
    if cell == "=":
        assert events == ()
        assert everything(sweep) == before
        return
    first = events[0]
    assert isinstance(first, SweepStatusChanged)
    assert (first.trigger, first.status, first.reason, first.actor) == (trigger, cell, f"because of {trigger}", "ada")
    assert (sweep.status, sweep.state.version) == (cell, version + 1)
    kills = tables.KILLS.get(cell, {})
    for row, run in runs.items():
        state = world.state(run.index)
        cause = kills.get(row, "")
        assert state.status == ("KILLED" if cause else status_of(row)), (row, state)
        assert state.cause == (cause or causes[row]), (row, state)
    ended = [event.index for event in events if isinstance(event, RunEnded)]
    assert sorted(ended) == sorted(run.index for row, run in runs.items() if kills.get(row))


@pytest.mark.parametrize("status", tables.SWEEP_STATUSES)
def test_what_is_asked_twice_does_no_harm(status: str) -> None:
    """A command sent again after a lost reply is =: no event, no version."""
    world, _ = reach(status)
    for trigger in COMMANDS:
        if tables.SWEEP[status][trigger] in ("-", "="):
            continue
        again, _ = reach(status)
        command(again.sweep, trigger)
        before = everything(again.sweep)
        assert command(again.sweep, trigger) == ()
        assert everything(again.sweep) == before
    assert world.sweep.status == status


# --- a real sweep: every situation of a run, every trigger, in every status of the sweep ---------------


def expected(status: str, row: str, trigger: str) -> str:
    """Return what the page says: A2, with ``lost?`` (A2), and with who requeues a run (table F)."""
    if row == "CRASHED, lost" and status == "CANCELLED":
        row = "CRASHED"
    cell = tables.RUN[row][trigger]
    if trigger == "requeue" and cell != "-":
        chances = tables.CHANCES[status]
        if row == "RUNNING":
            return "KILLED" if "KILLED" in chances["preempted"] else cell
        if row not in tables.ACTIVE and chances["retry"] != "yes":
            return "-"
    return cell


@pytest.mark.parametrize(
    ("status", "row", "trigger"),
    [
        (status, row, trigger)
        for status in tables.SWEEP_STATUSES
        for row in tables.REACHABLE[status]
        for trigger in tables.RUN_TRIGGERS
        if trigger != "lose"
    ],
)
def test_a_run_does_what_its_cell_says(status: str, row: str, trigger: str) -> None:
    """In a sweep of every status: refused changes nothing to the byte, = no status, . keeps the evidence."""
    world, runs = reach(status, row)
    sweep, run = world.sweep, runs[row]
    cell = expected(status, row, trigger)
    before, earlier, attempt = everything(sweep), run.state, run.attempt
    if cell == "-":
        with pytest.raises(IllegalTransition) as caught:
            ask(run, trigger)
        assert caught.value.allowed
        assert caught.value.remedy
        assert everything(sweep) == before
        return
    events = ask(run, trigger)
    assert isinstance(events, tuple)
    state = run.refresh().state
    late = [event for event in events if isinstance(event, LateReport)]
    if cell == ".":
        assert [(event.index, event.attempt, event.trigger) for event in late] == [(run.index, attempt, trigger)]
        assert (state.status, state.cause, state.attempt) == (earlier.status, earlier.cause, attempt)
        assert state.late == (attempt,)
    elif cell == "=":
        assert late == []
        assert (state.status, state.cause, state.attempt) == (earlier.status, earlier.cause, attempt)
        if earlier.lease is None or row in tables.ACTIVE or trigger == "kill":
            assert events == ()
            assert everything(sweep) == before
    elif cell == "PENDING, queued":
        assert (state.row, state.attempt, state.config) == (cell, attempt + 1, earlier.config)
    else:
        assert late == []
        assert (state.row, state.attempt) == (cell, attempt)
        assert state.cause is None or state.status != "RUNNING"


@pytest.mark.parametrize(
    ("status", "row"),
    [(status, row) for status in tables.SWEEP_STATUSES for row in tables.REACHABLE[status]],
)
def test_silence_ends_only_what_runs(status: str, row: str) -> None:
    """``lose`` cannot be asked: hours of silence move a RUNNING run that promised heartbeats, and no other."""
    limits = Limits(start_timeout=1e9)
    world, runs = reach(status, row, limits=limits)
    run = runs[row]
    if row == "RUNNING":
        run.start(heartbeats=True)
    for _ in range(4):
        world.pass_by(3600.0)
    assert tables.RUN[row]["lose"] == ("CRASHED" if row == "RUNNING" else "-")
    assert world.state(run.index).row == ("CRASHED, lost" if row == "RUNNING" else row)


# --- how a run ends ----------------------------------------------------------------------------------


def _silence(world: World, run: Run) -> None:
    world.lose(run)


ENDS = {
    "exit 0": lambda _world, run: run.exited(0),
    "error": lambda _world, run: run.exited(3, "traceback"),
    "interrupt": lambda _world, run: run.exited(-2),
    "signal": lambda _world, run: run.exited(-9),
    "silence": _silence,
}
OTHER_WORDS = {
    "exit 0": [lambda run: run.finish()],
    "error": [lambda run: run.fail(), lambda run: run.exited(130)],
    "interrupt": [lambda run: run.interrupt("KeyboardInterrupt")],
    "signal": [lambda run: run.crash(signal=6), lambda run: run.gone()],
    "silence": [],
}
MANNERS = {
    "plain": lambda _run: (),
    "preempting": Run.mark_preempting,
    "asked": Run.stop,
}
VERDICT = {
    "finish": ("FINISHED", "success"),
    "fail": ("FAILED", "error"),
    "crash": ("CRASHED", "signal"),
    "lose": ("CRASHED, lost", "lost"),
    "requeue": ("PENDING, queued", None),
}


@pytest.mark.parametrize(("how", "manner"), list(product(tables.EXITS, tables.MANNERS)))
def test_a_running_run_ends_as_its_cell_says(how: str, manner: str) -> None:
    """Each cell of A4, through a real run; asking it to stop wins over preempting."""
    trigger = tables.ENDING[how][manner]
    killed = ("KILLED", "stopped" if manner == "asked" else "killed")
    for asked_too in (False, True) if manner == "asked" else (False,):
        world, runs = reach("RUNNING", limits=Limits(stop_grace=1e6))
        assert runs == {}
        run = world.begin(heartbeats=True)
        if asked_too:
            run.mark_preempting()
        MANNERS[manner](run)
        ENDS[how](world, run)
        state = run.refresh().state
        assert (state.row, state.cause) == VERDICT.get(trigger, killed), (how, manner)


@pytest.mark.parametrize(
    ("how", "word", "manner"),
    [(how, n, manner) for how in tables.EXITS for n in range(len(OTHER_WORDS[how])) for manner in tables.MANNERS],
)
def test_every_word_for_an_end_means_the_same(how: str, word: int, manner: str) -> None:
    """finish, fail, crash, interrupt and gone are the words for what exited(returncode) says with a number."""
    world, _ = reach("RUNNING")
    run = world.begin()
    MANNERS[manner](run)
    OTHER_WORDS[how][word](run)
    trigger = tables.ENDING[how][manner]
    killed = ("KILLED", "stopped" if manner == "asked" else "killed")
    assert (run.refresh().state.row, run.state.cause) == VERDICT.get(trigger, killed)
    assert run.state.lease is None


@pytest.mark.parametrize("how", [how for how in tables.EXITS if how != "silence"])
def test_an_end_of_a_held_run_is_read_in_the_plain_column(how: str) -> None:
    """The start was lost: the end report implies it, and marks and requests are of RUNNING runs only."""
    world, runs = reach("RUNNING", "PENDING, held")
    run = runs["PENDING, held"]
    ENDS[how](world, run)
    trigger = tables.ENDING[how]["plain"]
    assert (run.refresh().state.row, run.state.cause) == VERDICT.get(trigger, ("KILLED", "killed"))


def test_gone_of_a_held_run_is_a_release() -> None:
    """An agent that says that a run it never began is gone gives it back: queued, the next attempt."""
    world, runs = reach("RUNNING", "PENDING, held")
    run = runs["PENDING, held"]
    run.gone()
    assert (run.state.row, run.state.attempt, run.state.preemptions) == ("PENDING, queued", 2, 0)
    assert world.take("other").index == run.index


def test_every_situation_can_be_reached() -> None:
    """The worlds of these tests can bring a run into each situation of the table."""
    assert set(SITUATIONS) == set(tables.RUN_ROWS)

"""``sweepstate list`` and ``sweepstate status``: what they show, what they read, and when they end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import attrs
import pytest

from sweepstate import (
    FailureRule,
    Grid,
    Limits,
    MemoryStorage,
    Objective,
    RunState,
    SQLiteStorage,
    Sweep,
    SweepState,
)
from sweepstate.cli import commands, tables
from sweepstate.cli.look import Look, look_at
from sweepstate.core.questions import InStatus, RunQuery, Silent
from sweepstate.core.values import FrozenDict
from sweepstate.testing import ManualClock
from tests.cli.conftest import Cli
from tests.support.sqlite import new_sweep, take


def rows_of(table: str) -> list[list[str]]:
    return [line.split() for line in table.splitlines()]


# --- list -----------------------------------------------------------------------------------------


def test_list_shows_id_status_counts_and_creation(storage: SQLiteStorage, cli: Cli) -> None:
    sweep = Sweep(Grid({"x": [1, 2, 3]}), id="first", storage=storage, clock=lambda: 0.0)
    take(sweep).start()
    run = take(sweep)
    run.start()
    run.fail("boom")
    sweep.pause()
    new_sweep(storage, id="second")
    said = cli("list")
    heading, first, second = rows_of(said.out)
    assert " ".join(heading) == "ID STATUS RUNS PENDING RUNNING FINISHED FAILED CRASHED KILLED CREATED"
    assert " ".join(first) == "first PAUSED 2 0 1 0 1 0 0 1970-01-01 00:00:00Z"
    assert second[:3] == ["second", "RUNNING", "0"]
    assert (said.code, said.err) == (0, "")


def test_an_empty_storage_is_an_empty_list(storage: SQLiteStorage, cli: Cli) -> None:
    assert storage.sweeps(limit=1) == []
    assert len(rows_of(cli("list").out)) == 1
    assert cli("list", "--json") == (0, "", "")


def test_list_pages_through_the_whole_catalog(
    storage: SQLiteStorage, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweepstate.cli.look._PAGE", 3)
    ids = [f"s{number:02}" for number in range(7)]
    for each in ids:
        new_sweep(storage, id=each)
    assert [row[0] for row in rows_of(cli("list").out)[1:]] == ids
    assert [json.loads(line)["id"] for line in cli("list", "--json").out.splitlines()] == ids


def test_ids_are_never_cut(storage: SQLiteStorage, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    long = "/".join(["resnet"] * 28)
    new_sweep(storage, id=long)
    assert rows_of(cli("list").out)[1][0] == long
    assert cli("status", long).out.splitlines()[0] == f"sweep {long}  RUNNING"


def test_a_date_that_no_calendar_has_is_shown_as_a_number(storage: SQLiteStorage, cli: Cli) -> None:
    Sweep(Grid({"x": [1]}), id="s", storage=storage, clock=lambda: 1e15)
    assert rows_of(cli("list").out)[1][-1] == "1e+15"


# --- status ---------------------------------------------------------------------------------------


@pytest.fixture
def busy(storage: SQLiteStorage) -> Sweep:
    """Give a sweep in which everything happens that is shown."""
    limits = Limits(run_cap=30, max_active=8, failure=FailureRule(streak=9))
    search = Grid({"lr": [0.1, 0.01], "layers": list(range(50))})
    sweep = Sweep(search, id="busy", storage=storage, limits=limits, objective=Objective("loss", "minimize"))
    for loss in (0.5, 0.25):
        run = take(sweep, "gpu-7")
        run.start()
        run.finish(loss=loss)
    run = take(sweep, "gpu-7")
    run.start()
    run.fail("boom")
    for agent in ("gpu-1", "gpu-2", "gpu-3"):
        take(sweep, agent).start()
    sweep[4].stop()
    take(sweep, "gpu-4")
    return sweep


@pytest.mark.usefixtures("busy")
def test_status_shows_counts_active_runs_and_health(cli: Cli) -> None:
    said = cli("status", "busy")
    assert (said.code, said.err) == (0, "")
    title, about, _, heading, counts, _, active, names, *rest = said.out.splitlines()
    assert title == "sweep busy  RUNNING"
    assert "search grid of 100 points; best run 1: loss = 0.25" in about
    assert heading.split() == ["RUNS", "PENDING", "RUNNING", "FINISHED", "FAILED", "CRASHED", "KILLED"]
    assert counts.split() == ["7", "1", "3", "2", "1", "0", "0"]
    assert active == "active runs"
    assert names.split() == ["RUN", "STATUS", "ATTEMPT", "AGENT", "LAST", "HEARD", "CONFIG"]
    first, second, third, fourth, blank, health, *facts = rest
    assert first.split()[:4] == ["3", "RUNNING", "1", "gpu-1"]
    assert first.endswith("s ago     {'lr': 0.1, 'layers': 3}")
    assert "RUNNING, asked to stop" in second
    assert "gpu-3" in third
    assert fourth.split()[:5] == ["6", "PENDING,", "held", "1", "gpu-4"]
    assert (blank, health) == ("", "health")
    assert [" ".join(fact.split()) for fact in facts] == [
        "failures 1 of 3 ended runs (33.3%), 1 in a row",
        "run_cap 7 of 30",
        "max_active 4 of 8",
        "silent runs none",
        "2 FINISHED success, runs 1, 0",
        "1 FAILED error, runs 2: 'boom'",
        "agent gpu-7 1 of 3 failed (chance 1)",
    ]


@pytest.mark.usefixtures("busy")
def test_status_as_json_has_the_same(cli: Cli) -> None:
    said = cli("status", "busy", "--json")
    assert said.out.count("\n") == 1
    seen = json.loads(said.out)
    assert (seen["id"], seen["status"], seen["done"], seen["size"], seen["search"]) == (
        "busy",
        "RUNNING",
        False,
        100,
        "grid",
    )
    assert seen["runs"] == {
        "created": 7,
        "pending": 1,
        "running": 3,
        "finished": 2,
        "failed": 1,
        "crashed": 0,
        "killed": 0,
    }
    assert seen["best"] == {"run": 1, "metric": "loss", "value": 0.25}
    assert [(run["run"], run["agent"], run["stop_requested"]) for run in seen["active"]] == [
        (3, "gpu-1", False),
        (4, "gpu-2", True),
        (5, "gpu-3", False),
        (6, "gpu-4", False),
    ]
    assert seen["active"][0]["config"] == {"lr": 0.1, "layers": 3}
    assert seen["active"][3]["started_at"] is None
    assert seen["active_more"] == 0
    assert seen["health"] == {
        "ended": 3,
        "failed": 1,
        "failure_rate": 1 / 3,
        "streak": 1,
        "failure_rule": None,
        "limits": [
            {"name": "run_cap", "limit": 30, "used": 7, "reached": False},
            {"name": "max_active", "limit": 8, "used": 4, "reached": False},
        ],
        "silent": [],
        "causes": [
            {"status": "FINISHED", "cause": "success", "count": 2, "message": None, "runs": [1, 0]},
            {"status": "FAILED", "cause": "error", "count": 1, "message": "boom", "runs": [2]},
        ],
        "agents": [
            {
                "agent": "gpu-7",
                "suspect": False,
                "failed": 1,
                "of": 3,
                "others_failed": 0,
                "others": 0,
                "chance": pytest.approx(1.0),
            }
        ],
        "suspects": [],
    }


@pytest.mark.usefixtures("busy")
def test_list_as_json_is_a_part_of_status_as_json(cli: Cli) -> None:
    listed, seen = json.loads(cli("list", "--json").out), json.loads(cli("status", "busy", "--json").out)
    assert listed == {key: value for key, value in seen.items() if key in listed}
    assert set(seen) - set(listed) == {"seen_at", "active", "active_more", "health"}


@pytest.mark.usefixtures("busy")
def test_no_more_active_runs_are_shown_than_asked_for_and_those_that_execute_come_first(cli: Cli) -> None:
    said = cli("status", "busy", "--rows", "3")
    assert "and 1 more\n" in said.out
    assert "gpu-4" not in said.out
    seen = json.loads(cli("status", "busy", "--rows", "0", "--json").out)
    assert (seen["active"], seen["active_more"]) == ([], 4)


def test_a_queued_run_has_no_agent(storage: SQLiteStorage, cli: Cli) -> None:
    sweep = new_sweep(storage)
    run = take(sweep, "gpu-7")
    run.start()
    run.fail("boom")
    sweep[0].retry()
    row = cli("status", "s").out.splitlines()[8]
    assert row.split()[:6] == ["0", "PENDING,", "queued", "2", "-", "-"]
    [seen] = json.loads(cli("status", "s", "--json").out)["active"]
    assert (seen["attempt"], seen["agent"], seen["last_heard"]) == (2, None, None)


def test_a_sweep_that_ended_but_is_not_done_says_why(storage: SQLiteStorage, cli: Cli) -> None:
    sweep = new_sweep(storage)
    take(sweep).start()
    sweep.cancel()
    assert cli("status", "s").out.splitlines()[0] == "sweep s  CANCELLED  (not done yet: agents hold 1)"


def test_json_has_no_numbers_that_json_lacks(storage: SQLiteStorage, cli: Cli) -> None:
    sweep = Sweep(Grid({"x": [float("nan"), float("inf")]}), id="s", storage=storage)
    for _ in range(2):
        take(sweep)

    def refuse(word: str) -> Any:
        raise AssertionError(word)

    seen = json.loads(cli("status", "s", "--json").out, parse_constant=refuse)
    assert [run["config"]["x"] for run in seen["active"]] == ["nan", "inf"]


# --- health ---------------------------------------------------------------------------------------


def test_silent_runs_are_those_that_promised_heartbeats_and_were_not_heard() -> None:
    """Also after they were suspected; and last heard is the last heartbeat."""
    clock = ManualClock()
    storage = MemoryStorage(clock=clock)
    sweep = Sweep(Grid({"x": [1, 2, 3]}), id="s", storage=storage)
    quiet, beating, plain = take(sweep), take(sweep), take(sweep)
    quiet.start(heartbeats=True)
    beating.start(heartbeats=True)
    plain.start()
    clock.advance(200)
    beating.heartbeat()
    clock.advance(101)

    def looked() -> Look:
        return look_at(storage, "s", 20)

    assert [looked().now - each.heard for each in looked().active if each.heard is not None] == [301, 101, 301]
    assert looked().health.silent == (0,)
    sweep.tick()
    lease = sweep[0].state.lease
    assert lease is not None
    assert lease.suspected_at is not None
    assert looked().health.silent == (0,)
    quiet.heartbeat()
    assert looked().health.silent == ()


def test_a_storage_without_heartbeats_knows_of_no_silence() -> None:
    class Mute:
        def __init__(self) -> None:
            self.inner = MemoryStorage(clock=lambda: 0.0)
            self.sweep = self.inner.sweep
            self.commit = self.inner.commit
            self.events = self.inner.events

        def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
            assert not isinstance(query, Silent)
            return self.inner.runs(sweep_id, query, after=after, limit=limit)

    storage = Mute()
    run = take(Sweep(Grid({"x": [1]}), id="s", storage=storage, clock=lambda: 5.0))
    run.start(heartbeats=True)
    seen = look_at(storage, "s", 20)
    assert seen.health.silent == ()
    assert [each.heard for each in seen.active] == [5.0]


def test_limits_that_are_reached_say_so(storage: SQLiteStorage, cli: Cli) -> None:
    now = [0.0]
    limits = Limits(run_cap=2, max_active=2, time_limit=60)
    sweep = Sweep(Grid({"x": [1, 2, 3]}), id="s", storage=storage, limits=limits, clock=lambda: now[0])
    for _ in range(2):
        take(sweep)
    facts = [" ".join(line.split()) for line in cli("status", "s").out.splitlines()]
    assert "run_cap 2 of 2, reached" in facts
    assert "max_active 2 of 2, reached" in facts
    assert any(fact.startswith("time_limit ") and fact.endswith(" of 60 s, reached") for fact in facts)


def test_a_failure_rule_that_trips_says_why(storage: SQLiteStorage, cli: Cli) -> None:
    sweep = new_sweep(storage, failure=FailureRule(streak=2))
    for _ in range(2):
        run = take(sweep)
        run.start()
        run.fail("boom")
    assert "failure rule  trips: 2 runs in a row failed\n" in cli("status", "s").out
    assert json.loads(cli("status", "s", "--json").out)["health"]["failure_rule"] == "2 runs in a row failed"


# --- what it costs --------------------------------------------------------------------------------


class Watched(MemoryStorage):
    """A storage that notes what is read, and refuses what would grow with the runs of a sweep."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, int]] | None = None
        self.read = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        if self.asked is not None:
            assert isinstance(query, InStatus | Silent)
            self.asked.append((type(query).__name__, limit))
        return super().runs(sweep_id, query, after=after, limit=limit)

    def events(self, sweep_id: str, *, after: int = 0, limit: int) -> Any:
        found = super().events(sweep_id, after=after, limit=limit)
        self.read += len(found)
        return found


@pytest.mark.parametrize("runs", [30, 3_000])
def test_what_is_read_does_not_grow_with_the_runs(cli: Cli, monkeypatch: pytest.MonkeyPatch, runs: int) -> None:
    storage = Watched()
    sweep = Sweep(Grid({"x": list(range(runs))}), id="s", storage=storage)
    for n in range(runs):
        run = take(sweep)
        run.start()
        if n % 3:
            run.finish()
    storage.asked, storage.read = [], 0
    monkeypatch.setattr(commands, "open_storage", lambda place: storage)
    seen = json.loads(cli("status", "s", "--json", "--rows", "5").out)
    assert len(seen["active"]) == 5
    assert seen["active_more"] == runs // 3 - 5
    assert storage.asked == [("InStatus", 5), ("Silent", 5)]
    assert storage.read <= 2_000
    assert cli("list").code == 0
    assert len(storage.asked) == 2
    storage.asked = None


# --- watching -------------------------------------------------------------------------------------


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], object]], list[float]]:
    """Give a function that lets something happen instead of each wait, and returns the waits."""

    def install(happen: Callable[[int], object]) -> list[float]:
        seconds: list[float] = []

        def wait(time: float) -> None:
            seconds.append(time)
            happen(len(seconds))

        monkeypatch.setattr(commands, "sleep", wait)
        return seconds

    return install


def test_watch_looks_again_until_the_sweep_is_done(storage: SQLiteStorage, cli: Cli, waits: Any) -> None:
    sweep = new_sweep(storage, points=3)
    seconds = waits(lambda n: take(sweep).finish())
    said = cli("status", "s", "--watch", "7.5", "--json")
    looks = [json.loads(line) for line in said.out.splitlines()]
    assert [look["runs"]["finished"] for look in looks] == [0, 1, 2, 3]
    assert [look["done"] for look in looks] == [False, False, False, True]
    assert seconds == [7.5] * 3
    assert (said.code, said.err) == (0, "")


def test_watch_prints_one_block_after_another_where_there_is_no_terminal(
    storage: SQLiteStorage, cli: Cli, waits: Any
) -> None:
    sweep = new_sweep(storage, points=1)
    seconds = waits(lambda n: take(sweep).finish())
    said = cli("status", "s", "--watch")
    assert said.out.count("sweep s  ") == 2
    assert said.out.count("sweep s  FINISHED") == 1
    assert seconds == [2.0]
    assert "\x1b" not in said.out


def test_an_interrupted_watch_exits_130(storage: SQLiteStorage, cli: Cli, waits: Any) -> None:
    new_sweep(storage)

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    waits(interrupt)
    said = cli("status", "s", "--watch")
    assert (said.code, said.err) == (130, "")
    assert said.out.startswith("sweep s  RUNNING\n")


def test_a_sweep_that_is_deleted_while_it_is_watched_is_an_error(storage: SQLiteStorage, cli: Cli, waits: Any) -> None:
    new_sweep(storage)
    waits(lambda n: storage.delete("s"))
    said = cli("status", "s", "--watch")
    assert said.code == 1
    assert said.err.startswith("sweepstate: there is no sweep 's'")


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "soon", "s"])
def test_what_is_no_time_to_wait_is_a_usage_error(storage: SQLiteStorage, cli: Cli, seconds: str) -> None:
    """Also the id, which argparse takes for the seconds if it stands behind them."""
    new_sweep(storage)
    said = cli("status", f"--watch={seconds}", "s")
    assert said.code == 2
    assert "the sweep's id stands before --watch" in said.err


@pytest.mark.parametrize("rows", ["-1", "10001", "all", "1.5"])
def test_what_is_no_number_of_rows_is_a_usage_error(storage: SQLiteStorage, cli: Cli, rows: str) -> None:
    new_sweep(storage)
    assert cli("status", "s", f"--rows={rows}").code == 2


# --- what is stored by strangers ------------------------------------------------------------------


def test_nothing_that_is_stored_reaches_the_terminal_raw(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of agents and metrics are free texts, and a storage of somebody else's may have any id."""
    storage = Watched()
    sweep = Sweep(Grid({"\x1b[2J": ["a\nb"]}), id="s", storage=storage, objective=Objective("lo\x1bss"))
    run = take(sweep, "gpu\x1b]0;x\x07\n7")
    run.start()
    monkeypatch.setattr(commands, "open_storage", lambda place: storage)

    def renamed(*, after: str = "", limit: int) -> list[SweepState]:
        return [] if after else [attrs.evolve(storage.sweep("s"), id="s\x1b[31m\u202e")]

    monkeypatch.setattr(storage, "sweeps", renamed)
    shown = cli("list").out + cli("list", "--json").out + cli("status", "s").out + cli("status", "s", "--json").out
    assert "\\x1b" in shown
    assert "\\u202e" in shown
    assert all(sign.isprintable() for line in shown.split("\n") for sign in line)


def test_nor_does_an_id_that_no_sweep_of_this_library_has(capsys: pytest.CaptureFixture[str]) -> None:
    storage = MemoryStorage()
    new_sweep(storage)
    look = look_at(storage, "s", 20)
    strange = attrs.evolve(look, sweep=attrs.evolve(look.sweep, id="s\x1b[2J\n", search=FrozenDict(name="\x07")))
    tables.write(tables.console(), tables.status_view(strange))
    shown = capsys.readouterr().out
    assert shown.startswith("sweep s\\x1b[2J\\n  RUNNING\n")
    assert "search \\x07 of 20 points" in shown


def test_a_sign_that_the_output_lacks_is_escaped(tmp_path: Path) -> None:
    """Instead of an error."""
    path = tmp_path / "sweeps.db"
    with SQLiteStorage(path, synchronous="NORMAL") as storage:
        new_sweep(storage, id="söl☃")
    done = subprocess.run(
        [sys.executable, "-m", "sweepstate", "list", "--storage", str(path)],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout.splitlines()[1].startswith("s\\xf6l\\u2603"), done.stderr

"""A second, plain reading of lifecycle.md: lists, ifs and the page's own tables, nothing of ``sweepstate``.

It is slow and scans everything, on purpose: it is the specification said once more, so that the state
machine of ``tests/test_machine.py`` has something to disagree with. Every public method is one commit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from math import isnan
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast

import attrs

from tests.support.tables import CHANCES, ENDING, KILLS, RUN, SWEEP

_P = ParamSpec("_P")
_T = TypeVar("_T")

MAX_DELIVERED: Final = 64


class RefusedError(Exception):
    """The page refuses it; the name of the error that says so."""


@attrs.define
class Lease:
    attempt: int
    agent: str
    request: str | None
    attached: bool
    since: float
    began: bool = False
    beats: bool = False
    execution: str | None = None
    stop_at: float | None = None
    preempting: bool = False
    suspected_at: float | None = None
    known: float = 0.0
    failures: int = 0
    revoked_at: float | None = None
    lost: bool = False


@attrs.define
class Row:
    index: int
    changed: int
    status: str = "PENDING"
    attempt: int = 1
    lease: Lease | None = None
    cause: str | None = None
    preempted: int = 0
    retried: dict[str, int] = attrs.field(factory=lambda: {"FAILED": 0, "CRASHED": 0})
    counted: int = -1
    late: set[int] = attrs.field(factory=set)
    signs: dict[int, float] = attrs.field(factory=dict)

    @property
    def held(self) -> bool:
        return self.lease is not None and self.lease.attempt == self.attempt

    @property
    def blocked(self) -> bool:
        """Whether an execution may still be there."""
        return self.lease is not None and not self.lease.lost

    def heard(self) -> float:
        assert self.lease is not None
        return max(self.lease.since, self.signs.get(self.lease.attempt, 0.0))


@attrs.define
class Wish:
    statuses: set[str]
    withdrawn: bool
    version: int
    cursor: int = -1

    def wants(self, run: Row) -> bool:
        fits = run.status in self.statuses or (self.withdrawn and run.cause == "withdrawn")
        return fits and run.index > self.cursor and run.changed <= self.version


def commit(
    method: Callable[Concatenate[Model, _P], _T],
) -> Callable[Concatenate[Model, _P], _T]:
    """One commit: if anything changed there is a new version, and then an attached agent is told."""

    @functools.wraps(method)
    def call(self: Model, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        self.now = max(self.at, self.clock())
        self.dirty, self.ended, self.touched = False, 0, {}
        answer = method(self, *args, **kwargs)
        if self.dirty:
            self.version, self.at = self.version + 1, self.now
            if self.crew is not None:
                self.told(self.crew)
        return answer

    return cast("Callable[Concatenate[Model, _P], _T]", call)


@attrs.define
class Crew:
    """An attached agent, as the model sees it."""

    name: str
    broken: bool = False
    log: list[tuple[str, int, int]] = attrs.field(factory=list)
    failures: int = 0
    concerned: list[int] = attrs.field(factory=list)
    delivered: dict[int, tuple[int, str]] = attrs.field(factory=dict)
    budget: int = 0
    busy: bool = False


@attrs.define
class Model:
    clock: Callable[[], float]
    limits: dict[str, Any]
    size: int | None = None
    target: float | None = None
    waiting: bool = False  # what the search says
    exhausting: bool = False
    crew: Crew | None = None
    status: str = "RUNNING"
    version: int = 1
    changed: int = 1
    runs: list[Row] = attrs.field(factory=list)
    backlog: list[Wish] = attrs.field(factory=list)
    exhausted: bool = False
    completed: str | None = None
    reopened: int = 0
    best: tuple[int, float] | None = None
    spent: float = 0.0
    first_start: float | None = None
    seen: dict[str, int] = attrs.field(factory=lambda: {"ended": 0, "failed": 0, "streak": 0, "early": 0})
    at: float = 0.0
    since: float = 0.0
    now: float = 0.0
    dirty: bool = False
    ended: int = 0
    touched: dict[int, None] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.at = self.since = self.now = self.clock()
        if self.size == 0:
            self.status = "FINISHED"

    # --- what follows from the state -----------------------------------------------------------------

    def row(self, run: Row) -> str:
        if run.status == "PENDING":
            return "PENDING, held" if run.held else "PENDING, queued"
        if run.status == "CRASHED" and run.held and run.lease is not None and run.lease.lost:
            return "CRASHED" if self.status == "CANCELLED" else "CRASHED, lost"
        return run.status

    @property
    def active(self) -> int:
        return sum(run.status in ("PENDING", "RUNNING") for run in self.runs)

    @property
    def slots(self) -> int:
        return sum(run.blocked for run in self.runs)

    @property
    def complete(self) -> bool:
        ends = [end for end in (self.limits["run_cap"], self.size) if end is not None]
        return self.exhausted or self.completed is not None or any(len(self.runs) >= end for end in ends)

    @property
    def requeues(self) -> bool:
        return CHANCES[self.status]["limit"] == "queued" and self.completed is None

    def order(self, run: Row) -> str | None:
        lease = run.lease
        if lease is None:
            return None
        cancelled = run.status == "CRASHED" and self.status == "CANCELLED"
        if lease.attempt < run.attempt or run.status == "KILLED" or cancelled:
            return "kill"
        if run.status == "PENDING":
            return "start"
        return "stop" if run.status == "RUNNING" and lease.stop_at is not None else None

    def orders(self, agent: str) -> list[tuple[str, int, int]]:
        mine = [(run, run.lease) for run in self.runs if run.lease is not None and run.lease.agent == agent]
        listed = [(self.order(run), run.index, lease.attempt) for run, lease in mine]
        return [(kind, index, attempt) for kind, index, attempt in listed if kind is not None]

    def due_at(self, run: Row) -> float | None:
        """Return when time acts on a run, silence of a RUNNING one aside."""
        lease, limits = run.lease, self.limits
        if lease is None or lease.lost:
            return None
        if lease.revoked_at is not None:
            return float(lease.revoked_at + limits["heartbeat_timeout"])
        if not lease.began:
            return None if lease.attached else float(lease.since + limits["start_timeout"])
        dates = [lease.stop_at + limits["stop_grace"]] if lease.stop_at is not None else []
        dates += [lease.suspected_at + limits["suspicion"]] if lease.suspected_at is not None else []
        return min(dates, default=None)

    def watched(self) -> Iterator[Row]:
        """Yield the runs whose silence counts and is not noted yet."""
        for run in self.runs:
            if run.status == "RUNNING" and run.lease is not None and run.lease.beats and run.lease.suspected_at is None:
                yield run

    def next_at(self) -> float | None:
        """Return when time acts next, as ``tick`` tells it."""
        dates = [due for run in self.runs if (due := self.due_at(run)) is not None]
        dates += [run.heard() + self.limits["heartbeat_timeout"] for run in self.watched()]
        if self.status == "RUNNING" and self.limits["time_limit"] is not None:
            dates.append(self.since + self.limits["time_limit"] - self.spent)
        return min(dates, default=None)

    # --- writing -------------------------------------------------------------------------------------

    def note(self, run: Row) -> None:
        self.dirty = True
        self.touched[run.index] = None

    def move(self, run: Row, status: str) -> None:
        self.note(run)
        if run.status != status:
            run.status, run.changed = status, self.version + 1

    def fate(self, run: Row, fate: str) -> None:
        """Say what becomes of a run's lease: gone, lost, or kept until that is known."""
        lease = run.lease
        if lease is None or fate == "gone":
            run.lease = None
            return
        if fate == "kept" and not lease.lost and lease.revoked_at is None:
            lease.revoked_at = self.now
        if fate == "lost":
            lease.lost, lease.revoked_at = True, None
        lease.stop_at, lease.preempting, lease.suspected_at = None, False, None

    def begin(self, run: Row, execution: str | None, *, heartbeats: bool) -> None:
        assert run.lease is not None
        self.first_start = self.now if self.first_start is None else self.first_start
        self.move(run, "RUNNING")
        run.lease.began, run.lease.since = True, self.now
        run.lease.execution, run.lease.beats = execution, heartbeats

    def end(
        self,
        run: Row,
        status: str,
        cause: str,
        fate: str,
        metrics: Mapping[str, float] | None = None,
        *,
        counts: bool = False,
    ) -> None:
        before, self.ended = run.status, self.ended + 1
        if before == "PENDING" and cause in ("success", "error", "signal") and self.first_start is None:
            self.first_start = self.now
        self.move(run, status)
        run.cause = cause
        self.fate(run, fate)
        failed = status in ("FAILED", "CRASHED")
        if counts:
            run.counted = self.reopened
            self.seen["ended"] += 1
            if failed:
                self.seen["failed"] += 1
                self.seen["streak"] += 1
                within = self.limits["within"]
                if within and (self.first_start is None or self.now - self.first_start <= within[1]):
                    self.seen["early"] += 1
        if status == "FINISHED":
            if before != "CRASHED":
                self.seen["streak"] = 0
            loss = (metrics or {}).get("loss")
            if loss is not None and not isnan(loss) and (self.best is None or loss < self.best[1]):
                self.best = (run.index, loss)

    def kill(self, run: Row, cause: str, fate: str = "kept") -> None:
        self.end(run, "KILLED", cause, fate)

    def requeue(self, run: Row, fate: str) -> None:
        run.attempt, run.cause = run.attempt + 1, None
        self.move(run, "PENDING")
        self.fate(run, fate)

    def afresh(self, run: Row) -> None:
        """Queue a run again because a person wants it."""
        run.preempted, run.retried = 0, {"FAILED": 0, "CRASHED": 0}
        self.requeue(run, "kept")

    def give_back(self, run: Row, fate: str) -> None:
        if self.requeues:
            self.requeue(run, fate)
        else:
            self.kill(run, "withdrawn", fate)

    def verdict(self, run: Row, status: str, cause: str, fate: str, metrics: Mapping[str, float] | None = None) -> None:
        corrects = run.status == "CRASHED"
        left = status in run.retried and run.retried[status] < self.limits["retries"].get(status, 0)
        again = left and self.requeues and not corrects
        counts = not again and not corrects and status != "KILLED" and run.counted != self.reopened
        self.end(run, status, cause, fate, metrics, counts=counts)
        loss = (metrics or {}).get("loss")
        if again:
            run.retried[status] += 1
            self.requeue(run, "kept")
        elif status == "FINISHED" and self.requeues and None not in (self.target, loss) and loss <= self.target:  # type: ignore[operator]
            self.complete_by("target")

    def complete_by(self, who: str) -> None:
        self.completed, self.backlog, self.dirty = who, [], True
        for run in self.runs:
            if self.row(run) == "PENDING, queued":
                self.kill(run, "withdrawn")

    def become(self, status: str, trigger: str) -> None:
        if self.status == "RUNNING":
            self.spent += self.now - self.since
        self.status, self.changed, self.since, self.dirty = status, self.version + 1, self.now, True
        if trigger == "reopen":
            self.reopened, self.completed, self.spent, self.first_start = self.reopened + 1, None, 0.0, None
            self.seen = dict.fromkeys(self.seen, 0)
        if status in ("STOPPED", "FAILED", "CANCELLED"):
            self.backlog = []
        for run in self.runs:
            cause = KILLS.get(status, {}).get(self.row(run), "")
            if cause:
                self.kill(run, cause)

    def tripped(self) -> bool:
        limits, seen = self.limits, self.seen
        streak, within, rate = limits["streak"], limits["within"], limits["rate"]
        return bool(
            (streak and seen["streak"] >= streak)
            or (within and seen["early"] >= within[0])
            or (rate and seen["ended"] >= rate[1] and seen["failed"] > rate[0] * seen["ended"])
        )

    def settle(self) -> None:
        """FAILED before FINISHED before STOPPED, and only a RUNNING sweep."""
        if self.status != "RUNNING":
            return
        if self.tripped():
            self.become("FAILED", "fail")
            return
        if self.complete and not self.active and self.from_backlog() is None and not self.active:
            self.become("FINISHED", "finish")
            return
        limit = self.limits["time_limit"]
        if limit is not None and self.spent + self.now - self.since >= limit:
            self.become("STOPPED", "stop")

    def from_backlog(self) -> Row | None:
        """Return the backlog's first run that can be handed out; queue those that still have an execution."""
        while self.backlog:
            wish = self.backlog[0]
            run = next((run for run in self.runs if wish.wants(run)), None)
            if run is None:
                self.backlog.pop(0)
                self.dirty = True
            elif run.blocked:
                wish.cursor = run.index
                self.afresh(run)
            else:
                return run
        return None

    def expect(self, if_version: int | None, changed: int) -> None:
        if if_version is not None and changed > if_version:
            raise RefusedError("Conflict")

    # --- commands ------------------------------------------------------------------------------------

    @commit
    def command(self, trigger: str, if_version: int | None = None) -> None:
        self.expect(if_version, self.changed)
        cell = SWEEP[self.status][trigger]
        if cell == "-":
            raise RefusedError("IllegalTransition")
        if cell != "=":
            self.become(cell, trigger)
            self.settle()

    @commit
    def reopen(self, statuses: set[str], if_version: int | None = None) -> None:
        self.expect(if_version, self.changed)
        cell = SWEEP[self.status]["reopen"]
        if cell == "-" or (cell == "=" and statuses):
            raise RefusedError("IllegalTransition")
        if cell != "=":
            self.become(cell, "reopen")
            self.backlog = [Wish(statuses, withdrawn=True, version=self.version + 1)]
            self.settle()

    @commit
    def retry_all(self, statuses: set[str], if_version: int | None = None) -> None:
        self.expect(if_version, self.changed)
        if not self.requeues:
            raise RefusedError("IllegalTransition")
        # The same wish again, of which nothing was taken up, is brought up to date where it stands.
        wish = Wish(statuses, withdrawn=False, version=self.version + 1)
        known = [old for old in self.backlog if attrs.evolve(old, version=wish.version) == wish]
        for old in known:
            old.version = wish.version
        if not known:
            self.backlog.append(wish)
        self.dirty = True
        self.settle()

    @commit
    def declare_complete(self, if_version: int | None = None) -> None:
        self.expect(if_version, self.changed)
        if self.completed is not None or self.status == "FINISHED":
            return
        if self.status not in ("RUNNING", "PAUSED", "CRASHED"):
            raise RefusedError("IllegalTransition")
        self.complete_by("declared")
        self.settle()

    @commit
    def set_limits(self, changes: dict[str, Any]) -> None:
        if any(self.limits[name] != value for name, value in changes.items()):
            before = {run.index: self.due_at(run) for run in self.runs}
            self.limits = {**self.limits, **changes}
            for run in self.runs:
                if self.due_at(run) != before[run.index]:
                    self.note(run)
            self.dirty = True
            self.settle()

    @commit
    def stop_run(self, index: int, if_version: int | None = None) -> None:
        run = self.runs[index]
        self.expect(if_version, run.changed)
        if run.status == "PENDING":
            self.kill(run, "stopped")
        elif run.status == "RUNNING" and run.lease is not None and run.lease.stop_at is None:
            run.lease.stop_at = self.now
            self.note(run)
        if self.dirty:
            self.settle()

    @commit
    def kill_run(self, index: int, if_version: int | None = None) -> None:
        run = self.runs[index]
        self.expect(if_version, run.changed)
        if run.status in ("PENDING", "RUNNING"):
            self.kill(run, "killed")
            self.settle()

    @commit
    def retry_run(self, index: int, if_version: int | None = None) -> None:
        run = self.runs[index]
        self.expect(if_version, run.changed)
        if self.row(run) == "PENDING, queued":
            return
        if run.status not in ("FAILED", "CRASHED", "KILLED") or not self.requeues:
            raise RefusedError("IllegalTransition")
        self.afresh(run)
        self.settle()

    # --- reports -------------------------------------------------------------------------------------

    def speaks(self, run: Row, attempt: int, execution: str | None) -> bool:
        lease = run.lease
        if lease is None or lease.attempt != attempt:
            return True
        return execution is None or lease.execution is None or lease.execution == execution

    @commit
    def start(self, index: int, attempt: int, execution: str | None, *, heartbeats: bool) -> None:
        run = self.runs[index]
        row = self.row(run)
        if attempt < run.attempt:
            raise RefusedError("StaleAttempt")
        if RUN[row]["start"] == "-":
            raise RefusedError("IllegalTransition")
        assert run.lease is not None
        if row == "PENDING, held":
            self.begin(run, execution, heartbeats=heartbeats)
        elif run.lease.execution != execution:
            raise RefusedError("AlreadyStarted")
        elif heartbeats:
            self.promise(run)
        if self.dirty:
            self.settle()

    def promise(self, run: Row) -> None:
        if run.lease is not None and not run.lease.beats:
            run.lease.beats, run.lease.since = True, self.now
            self.note(run)

    @commit
    def report(self, index: int, attempt: int, execution: str | None, how: str, metrics: Mapping[str, float]) -> None:
        run = self.runs[index]
        if attempt < run.attempt or not self.speaks(run, attempt, execution):
            self.too_late(run, attempt, execution)
        else:
            self.end_current(run, execution, how, metrics)
        if self.dirty:
            self.settle()

    def end_current(self, run: Row, execution: str | None, how: str, metrics: Mapping[str, float]) -> None:
        row, lease = self.row(run), run.lease
        running = row == "RUNNING" and lease is not None
        asked = running and lease is not None and lease.stop_at is not None
        manner = "asked" if asked else "preempting" if running and lease is not None and lease.preempting else "plain"
        trigger = ENDING[how][manner]
        cell = "-" if row == "PENDING, queued" else RUN[row][trigger]  # nobody has it, so nothing of it can end
        if cell == "-":
            raise RefusedError("IllegalTransition")
        if cell == ".":
            self.too_late(run, run.attempt, execution)
        elif cell == "=":
            if run.held:
                run.lease = None
                self.note(run)
        elif cell == "PENDING, queued":
            self.preempt(run, "gone")
        else:
            killed = "stopped" if asked else "killed"
            cause = {"finish": "success", "fail": "error", "crash": "signal", "kill": killed}[trigger]
            self.verdict(run, cell, cause, "gone", metrics)

    def preempt(self, run: Row, fate: str) -> None:
        if self.requeues and run.preempted >= self.limits["max_preemptions"]:
            self.verdict(run, "CRASHED", "preempted too often", fate)
        else:
            run.preempted += self.requeues
            self.give_back(run, fate)

    def too_late(self, run: Row, attempt: int, execution: str | None) -> None:
        lease = run.lease
        gone = lease is not None and lease.attempt == attempt and self.speaks(run, attempt, execution)
        if gone:
            run.lease = None
        if gone or attempt not in run.late:
            self.note(run)
        run.late.add(attempt)

    @commit
    def gone(self, index: int, attempt: int, *, release: bool = False) -> None:
        run = self.runs[index]
        if run.lease is None or run.lease.attempt != attempt:
            return
        row = self.row(run)
        if row == "RUNNING" and release:
            raise RefusedError("IllegalTransition")
        if row == "PENDING, held":
            self.give_back(run, "gone")
        elif row == "RUNNING":
            self.end_current(run, None, "signal", {})
        else:
            run.lease = None
            self.note(run)
        self.settle()

    @commit
    def mark(self, index: int, attempt: int, execution: str | None) -> None:
        run = self.runs[index]
        row = self.row(run)
        if attempt < run.attempt or not self.speaks(run, attempt, execution):
            return
        if row == "PENDING, queued":
            raise RefusedError("IllegalTransition")
        if row == "PENDING, held":
            self.begin(run, execution, heartbeats=False)
        if run.status == "RUNNING" and run.lease is not None and not run.lease.preempting:
            run.lease.preempting = True
            self.note(run)
            self.settle()

    def heartbeat(self, index: int, attempt: int, execution: str | None, *, promise: bool) -> str:
        answer = self._heartbeat(index, attempt, execution, promise=promise)
        run = self.runs[index]
        if answer != "not kept" and run.lease is not None:
            run.signs[attempt] = max(run.signs.get(attempt, 0.0), self.clock())
            return answer
        stranger = run.lease is not None and run.lease.attempt == attempt
        ended = attempt == run.attempt and run.status != "PENDING" and not stranger
        return "stop" if ended else "kill"

    @commit
    def _heartbeat(self, index: int, attempt: int, execution: str | None, *, promise: bool) -> str:
        run = self.runs[index]
        if run.lease is None or run.lease.attempt != attempt or not self.speaks(run, attempt, execution):
            return "not kept"
        if self.row(run) == "PENDING, held":
            self.begin(run, execution, heartbeats=promise)
        elif run.status == "RUNNING" and promise:
            self.promise(run)
        if self.dirty:
            self.settle()
        return self.order(run) or "continue"

    # --- handing out ---------------------------------------------------------------------------------

    def next_run(self, agent: str, request: str | None) -> int | str:
        crew, self.crew = self.crew, None  # "no filling, no delivery"
        self.elapse()
        self.crew = crew
        return self.hand_out(agent, request)

    def requested(self, agent: str, request: str | None) -> Row | None:
        """Return the active run whose current lease answers this request."""
        for run in self.runs:
            lease = run.lease
            if lease is None or request is None or not run.held or run.status not in ("PENDING", "RUNNING"):
                continue
            if (lease.agent, lease.request) == (agent, request):
                return run
        return None

    @commit
    def hand_out(  # noqa: C901 - the steps of layer B, in their order
        self, agent: str, request: str | None = None, *, attached: bool = False
    ) -> int | str:
        """Return the index of the run that is handed out, or the reason why there is none."""
        same = self.requested(agent, request)
        if same is not None:
            return same.index
        if self.limits["time_limit"] is not None:
            self.settle()
        if self.status != "RUNNING":
            return {"PAUSED": "paused", "CRASHED": "interrupted"}.get(self.status, "ended")
        full = self.limits["max_active"] is not None and self.slots >= self.limits["max_active"]
        if full and not self.complete:
            return "at capacity"
        queued = [run for run in self.runs if self.row(run) == "PENDING, queued" and not run.blocked]
        chosen = queued[0] if queued else self.from_backlog()
        if chosen is None and self.complete:
            return self.nothing_more()
        if full:
            return "at capacity"
        if chosen is None and self.exhausting:
            self.exhausted = self.dirty = True
            return self.nothing_more()
        if chosen is None and self.waiting:
            return "waiting" if self.active else "stalled"
        if chosen is None:
            chosen = Row(len(self.runs), self.version + 1)
            self.runs.append(chosen)
        elif chosen.status != "PENDING":
            self.backlog[0].cursor = chosen.index
            self.afresh(chosen)
        self.note(chosen)
        chosen.lease = Lease(chosen.attempt, agent, request, attached, self.now)
        return chosen.index

    def nothing_more(self) -> str:
        self.settle()
        return "draining" if self.status in ("RUNNING", "PAUSED") else "ended"

    # --- time ----------------------------------------------------------------------------------------

    @commit
    def elapse(self) -> None:
        """One slice: by deadline and then index, one thing for each run; then the newly silent; then the limits."""
        due = [(date, run.index) for run in self.runs if (date := self.due_at(run)) is not None and date <= self.now]
        for _, index in sorted(due):
            run = self.runs[index]
            lease = run.lease
            assert lease is not None
            if lease.revoked_at is not None:
                if run.signs.get(lease.attempt, 0.0) > lease.revoked_at:
                    lease.revoked_at = run.signs[lease.attempt]
                else:
                    self.fate(run, "lost")
                self.note(run)
            elif not lease.began:
                self.give_back(run, "gone")
            elif lease.suspected_at is not None and lease.suspected_at + self.limits["suspicion"] <= self.now:
                self.second_look(run, lease)
            else:
                self.kill(run, "stopped")
        for run in list(self.watched()):
            if run.index not in self.touched and run.heard() + self.limits["heartbeat_timeout"] <= self.now:
                assert run.lease is not None
                run.lease.suspected_at, run.lease.known = self.now, run.heard()
                self.note(run)
        self.settle()

    def second_look(self, run: Row, lease: Lease) -> None:
        if run.heard() > lease.known:
            lease.suspected_at = None
            self.note(run)
        elif lease.stop_at is not None:
            self.kill(run, "stopped", "lost")
        elif lease.preempting:
            self.preempt(run, "lost")
        else:
            self.verdict(run, "CRASHED", "lost", "lost")

    def tick(self) -> None:
        crew = self.crew
        if crew is None:
            self.elapse()
            return
        crew.delivered.clear()
        crew.busy = True
        self.elapse()
        crew.busy = False
        crew.failures = 0
        crew.concerned += [index for _, index, _ in self.orders(crew.name)]
        crew.budget = max(crew.budget, MAX_DELIVERED)
        self.work(crew)
        if crew.failures:
            raise RefusedError("AgentError")

    # --- an attached agent -----------------------------------------------------------------------------

    def told(self, crew: Crew) -> None:
        """After each commit it gets its orders, and a run for each free slot, or else for each that ended."""
        crew.concerned += self.touched
        if self.limits["max_active"] is not None and not crew.busy:
            crew.budget = max(crew.budget, MAX_DELIVERED)
        else:
            crew.budget += self.ended
        self.work(crew)

    def work(self, crew: Crew) -> None:
        if crew.busy:
            return
        crew.busy = True
        while crew.concerned or crew.budget > 0:
            if crew.concerned:
                self.deliver(crew, crew.concerned.pop(0))
            else:
                budget, crew.budget = crew.budget - 1, 0
                if self.status == "RUNNING" and isinstance(self.hand_out(crew.name, attached=True), int):
                    crew.budget += budget
        crew.busy = False

    def deliver(self, crew: Crew, index: int) -> None:
        run = self.runs[index]
        lease, kind = run.lease, self.order(run)
        if lease is None or kind is None or lease.agent != crew.name:
            crew.delivered.pop(index, None)
        elif crew.delivered.get(index) != (lease.attempt, kind):
            crew.delivered[index] = (lease.attempt, kind)
            crew.log.append((kind, index, lease.attempt))
            if crew.broken:
                crew.failures += 1
                self.order_failed(index, kind)

    @commit
    def order_failed(self, index: int, kind: str) -> None:
        run = self.runs[index]
        if run.lease is None:
            return
        self.note(run)
        if kind == "start" and run.status == "PENDING":
            run.lease.failures += 1
            if run.lease.failures >= self.limits["launch_attempts"]:
                self.verdict(run, "FAILED", "not launched", "gone")
        self.settle()

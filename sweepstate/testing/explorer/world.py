"""Worlds: a small sweep with all there is to know about it, and when two of them are the same.

A ``World`` is what a storage, its heartbeats and a clock hold together, as plain
tuples. An ``Abstraction`` gives each world a key, so that endlessly many worlds
become finitely many states. Two worlds of one key have the same future: every
move leads both to worlds of one key again (and leaves both where they are, if it
is refused). The argument, field by field, is that whatever the key leaves out is
either derived from what it has, or never read by a decision again:

- *Numbers.* The number of the last event and the versions are only counted on.
  A version is compared with another in one place, where a wish of the backlog
  asks whether a run's status changed since; the key has the answer (is the run
  wanted?), which can only turn from yes to no, and does so with the status.
  A wish that wants no run any more is left out: it is taken off before anything
  depends on it. But if it was not begun, the same wish said again takes its place
  in the order, so it stays where there are several that can be said. (Those of
  ``reopen`` cannot: it always finds an empty backlog.) ``if_version`` is not
  explored.
- *Attempts* are compared with the run's current one and with the leased one,
  so the key has whether the lease is the current attempt's, and no number. All
  attempts older than the leased one are alike: their reports only leave evidence.
- *Times* are differences from now, cut off at the longest time that any limit
  gives them; beyond it nothing can tell them apart. A time that no deadline
  hangs on (created, started, ended) is left out. A heartbeat counts where it is
  newer than what the suspicion or the revocation knows.
- *Leases.* What a lease says of a RUNNING or PENDING attempt ends with the
  verdict: after it, only whose it is, whether it began and named its execution,
  whether it is lost, and when it was last heard are asked for. Before the start, an
  attached agent's lease has no deadline. An attempt that was asked to stop ends
  FINISHED or KILLED, so whether it is preempting, and how often it was, matters
  no more. Names: every hand-out is asked for with a new request id, and agents
  differ in nothing but their names.
- *Counts.* Statuses and slots are counted from the runs (law 2 is checked at
  every state). Retries and preemptions are asked for while a run is active;
  once it has ended, whoever queues it again starts them afresh. The failure
  rule's tallies are kept if there is a rule; a run adds to them once for each
  reopening, so they are bounded by the runs. The number of reopenings is only
  compared with the one in which a run was counted.
- *Deliberate ends.* Only ``reopen`` leads out of them, and it clears what a
  person or a target decided, the tallies and the time that was used; the
  backlog was dropped when they began. So they have none of these.
- *Evidence.* Configurations, messages, metrics, causes (but for *withdrawn*,
  which reopening asks for), the best run, and which attempts reported too late
  are written and never read by a decision. That evidence is kept once for each
  attempt is checked by sending every report twice.

A test takes pairs of different worlds with one key and compares all their moves.

What this does not give: laws are checked on the world that reached a state
first. A mistake in what the key leaves out, and that no decision reads again
(a message, the best run), is seen only if that world shows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import attrs

from ...core.lifecycle import REVIVABLE
from ...core.limits import Limits
from ...core.questions import Due, Exhausted, LastHeard, Question, Runs, Silent, Wait
from ...core.state import Backlog, Lease, RunState, SweepState, changed
from ...core.status import Cause, RunStatus
from ...core.values import EMPTY, FrozenDict

#: Every duration of the limits, and each step of the clock.
UNIT: Final = 1.0
#: The time limit: longer than one step, so that some of it can be used up.
TIME_LIMIT: Final = 2.0

_DURATIONS: Final = ("heartbeat_timeout", "suspicion", "start_timeout", "stop_grace")
_BITS: Final = 24


class World(NamedTuple):
    """A small sweep, and all there is to know about it.

    Attributes:
        sweep: its snapshot.
        runs: those of its runs, by index.
        beats: the newest attempt that was heard of each run, and when; None if none was.
        now: POSIX seconds.
    """

    sweep: SweepState
    runs: tuple[RunState, ...]
    beats: tuple[tuple[int, float] | None, ...]
    now: float


class Answers:
    """Answers the questions of decisions from a world.

    Attributes:
        proposal: what the search answers, up to its last run; behind that it is exhausted.
        only: the run that time acts on; None for all.
    """

    __slots__ = ("_bound", "_world", "only", "proposal")

    def __init__(
        self, world: World, bound: int, proposal: FrozenDict | Wait | Exhausted = EMPTY, only: int | None = None
    ) -> None:
        self._world = world
        self._bound = bound
        self.proposal: FrozenDict | Wait | Exhausted = proposal
        self.only: int | None = only

    def __call__(self, question: Question) -> object:
        """Return the answer that a storage or a search would give."""
        if isinstance(question, Runs):
            return self._runs(question)
        if isinstance(question, LastHeard):
            return [last_heard(self._world, index, attempt) for index, attempt in question.leases]
        if question.index >= self._bound and isinstance(self.proposal, FrozenDict):
            return Exhausted()
        return self.proposal

    def _runs(self, question: Runs) -> list[RunState]:
        query, runs = question.query, self._world.runs
        if isinstance(query, (Due, Silent)):
            concerned = runs if self.only is None else (runs[self.only],)
            timed = [(at, run.index) for run in concerned if (at := self._time_of(run, query)) is not None]
            return [runs[index] for _, index in sorted(timed)[: question.limit]]
        after = question.after
        return [run for run in runs if run.index > after and query.matches(run)][: question.limit]

    def _time_of(self, run: RunState, query: Due | Silent) -> float | None:
        """Return the time that a run comes by in the answer; None if it is not in it."""
        if isinstance(query, Due):
            return run.due_at if run.due_at is not None and run.due_at <= query.at else None
        if run.lease is None or not query.watches(run):
            return None
        heard = self._heard(run, run.lease)
        return heard if heard <= query.since else None

    def _heard(self, run: RunState, lease: Lease) -> float:
        heard = last_heard(self._world, run.index, lease.attempt)
        return lease.since if heard is None else max(heard, lease.since)


def last_heard(world: World, index: int, attempt: int) -> float | None:
    """Return when an attempt last sent a heartbeat."""
    beat = world.beats[index]
    return beat[1] if beat is not None and beat[0] == attempt else None


def quantised(limits: Limits) -> Limits:
    """Return limits whose durations are one unit, 0 where they were 0; the time limit is two."""
    changes: dict[str, Any] = {name: UNIT for name in _DURATIONS if getattr(limits, name)}
    if limits.time_limit is not None:
        changes["time_limit"] = TIME_LIMIT
    rule = limits.failure
    if rule is not None and rule.within is not None:
        changes["failure"] = attrs.evolve(rule, within=(rule.within[0], UNIT))
    return attrs.evolve(limits, **changes)


class Abstraction:
    """Gives each world its key; see the module for why it may leave out what it leaves out.

    Args:
        limits: all limits that may hold, quantised.
        attempts: whether the number of an attempt is part of the key; needed where it is bounded.
        symmetric: whether worlds that differ in the order of their runs have one key.
        wishes: how many sets of statuses are retried.
    """

    def __init__(self, limits: Sequence[Limits], *, attempts: bool, symmetric: bool, wishes: int) -> None:
        self._ordered = wishes > 1
        rules = [each.failure for each in limits if each.failure is not None]
        self._numbered = attempts
        self._symmetric = symmetric
        self._counted = bool(rules)
        self._streak = any(rule.streak is not None for rule in rules)
        self._rate = any(rule.rate is not None for rule in rules)
        self._early = max((rule.within[1] for rule in rules if rule.within is not None), default=None)
        self._time_limit = max((each.time_limit for each in limits if each.time_limit is not None), default=None)
        self._several = len(limits) > 1
        self._longest = max(max(getattr(each, name) for name in _DURATIONS) for each in limits)
        self._names: dict[object, int] = {}

    def key(self, world: World) -> int:
        """Return the key of a world: equal for worlds that have the same future."""
        sweep, now = world.sweep, world.now
        runs = world.runs
        wishes = [wish for wish in sweep.backlog if self._placed(wish) or any(wish.wants(run) for run in runs)]
        reopened = sweep.reopened if self._counted and sweep.status in REVIVABLE else -2
        parts: list[int] = []
        name = self._names
        for run, beat in zip(runs, world.beats, strict=True):
            wanted = tuple(wish.wants(run) for wish in wishes) if wishes else ()
            part = self.run(run, beat, now, reopened, wanted)
            parts.append(name.setdefault(part, len(name) + 1))
        if self._symmetric:
            parts.sort()
        whole = self.sweep(world, tuple((wish.statuses, wish.withdrawn, wish.cursor >= 0) for wish in wishes))
        key = name.setdefault(whole, len(name) + 1)
        for part_name in parts:
            key = key << _BITS | part_name
        return key

    def _placed(self, wish: Backlog) -> bool:
        """Return whether a wish has a place in the order even if it wants no run: whether it can be said again."""
        return self._ordered and wish.cursor < 0 and not wish.withdrawn

    def sweep(self, world: World, wishes: tuple[object, ...]) -> tuple[object, ...]:
        """Return what the key has of the sweep itself."""
        sweep, now = world.sweep, world.now
        if sweep.status not in REVIVABLE:
            return (sweep.status, sweep.exhausted, sweep.limits if self._several else None)
        limit = self._time_limit
        return (
            sweep.status,
            sweep.exhausted,
            sweep.completed,
            wishes,
            None if limit is None else min(sweep.running_time(now), limit),
            self._first_start(sweep, now),
            (sweep.rule_ended, sweep.rule_failed) if self._rate else None,
            sweep.rule_streak if self._streak else None,
            sweep.rule_early if self._early is not None else None,
            sweep.limits if self._several else None,
        )

    def _first_start(self, sweep: SweepState, now: float) -> float | None:
        """Return how long ago the first run started; one step more than the rule's seconds is for ever."""
        first = sweep.first_start_at
        return None if self._early is None or first is None else min(now - first, self._early + UNIT)

    def run(
        self, run: RunState, beat: tuple[int, float] | None, now: float, reopened: int, wanted: tuple[bool, ...]
    ) -> tuple[object, ...]:
        """Return what the key has of one run."""
        status, lease = run.status, run.lease
        if status is RunStatus.FINISHED and lease is None:
            return (status,)
        heard = beat[1] if beat is not None and lease is not None and beat[0] == lease.attempt else None
        active = status is RunStatus.PENDING or status is RunStatus.RUNNING
        asked = lease is not None and lease.stop_at is not None
        return (
            status,
            run.attempt if self._numbered else None,
            (run.preemptions, run.failed_retries, run.crashed_retries) if active and not asked else None,
            run.counted_in == reopened,
            run.cause is Cause.WITHDRAWN,
            wanted,
            None if lease is None else self._lease(run, lease, heard, now),
        )

    def _lease(self, run: RunState, lease: Lease, heard: float | None, now: float) -> tuple[object, ...]:
        whose = run.attempt - lease.attempt if self._numbered else run.attempt == lease.attempt
        named = lease.execution is not None
        if lease.lost:
            return ("lost", whose, named)
        if lease.revoked_at is not None:
            newer = heard if heard is not None and heard > lease.revoked_at else None
            return ("revoked", whose, lease.began, named, self._since(lease.revoked_at, now), self._since(newer, now))
        if not lease.began:
            return ("held", None if lease.attached else self._since(lease.since, now), lease.launch_failures)
        silent: float | None = None
        suspected: tuple[object, ...] = ()
        if lease.beats:
            last = lease.since if heard is None else max(lease.since, heard)
            silent = self._since(last, now)
            if lease.suspected_at is not None:
                known = lease.since if lease.heard is None else lease.heard
                newer_heard = heard is not None and heard > known
                suspected = (self._since(lease.suspected_at, now), newer_heard)
                if not newer_heard:
                    silent = None  # asked again only after something newer was heard
        stop = self._since(lease.stop_at, now)
        return ("begun", named, lease.beats, silent, suspected, stop, lease.preempting if stop is None else None)

    def _since(self, at: float | None, now: float) -> float | None:
        return None if at is None else min(now - at, self._longest)


def renamed(world: World, order: Sequence[int]) -> World | None:
    """Return a world with its runs in another order, as if they had been created so; None if that could not be.

    Args:
        world: the world.
        order: ``order[i]`` is the old index of the run that gets the index ``i``.
    """
    sweep = world.sweep
    runs = [changed(world.runs[old], index=new) for new, old in enumerate(order)]
    backlog = list(sweep.backlog)
    if backlog and backlog[0].cursor >= 0:
        # Up to the cursor of a wish nothing is wanted, so the cursor moves to below the first that is.
        wish = backlog[0]
        wanted = [wish.wants(world.runs[old]) for old in order]
        cursor = wanted.index(True) - 1 if True in wanted else len(order) - 1
        if cursor < 0:
            return None
        backlog[0] = changed(wish, cursor=cursor)
        for new in range(cursor + 1, len(order)):
            if not wanted[new] and backlog[0].wants(runs[new]):
                runs[new] = changed(runs[new], status_version=wish.version + 1)
    best = sweep.best_index
    sweep = changed(sweep, backlog=tuple(backlog), best_index=None if best is None else list(order).index(best))
    return World(sweep, tuple(runs), tuple(world.beats[old] for old in order), world.now)


def as_mapping(world: World) -> Mapping[int, RunState]:
    """Return the runs of a world by index."""
    return dict(enumerate(world.runs))

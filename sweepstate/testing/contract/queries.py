# ruff: noqa: S101, S311 - a contract is made of assertions; its random numbers are to be the same each time
"""Queries: each of the closed set, against an oracle that looks at every run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from random import Random
from typing import Final

from ...core import decide as core
from ...core.lifecycle import SweepTrigger
from ...core.questions import ACTIVE, ENDED, ByIndex, Due, InStatus, Leased, Queued, Requested, RunQuery, Silent
from ...core.state import RunState
from ...core.status import RunStatus
from ...hooks import Heartbeats, Storage
from .base import Capabilities
from .world import AGENTS, DAWN, STATUSES, World, all_runs, heard_of, select, wander

#: Names that a database, or a careless comparison, takes for one another.
LOOKALIKES: Final = (
    ("ada", "Ada", "ADA", "ada ", " ada", "ada\t", "ada\n", "ada\u00a0"),
    ("é", "e\u0301", "e", "É"),
    ("straße", "strasse", "STRASSE", "stra\u017fse"),
    ("\ufb01", "fi", "\u0131", "i", "\u0130", "i\u0307", "I"),
    ("Å", "\u212b", "A\u030a"),
    ("a", "a\0", "a\0b", "\0", ""),
    ("\U0001f600", "\U0001f601", "?", "\ufffd", "\U0001d49c", "\U0001d49c\ufe00"),
    ("%", "_", "a%", "a_", "'", '"', "\\", "\\\\", "null", "None"),
    ("x" * 1_000, "x" * 999, "x" * 999 + "y", "X" * 1_000),
    ("\U0001f600" * 1_000, "\U0001f600" * 999 + "\U0001f601"),
    ("1", "01", "1.0", "1 ", "+1", "\uff11"),
)


class Queries(Capabilities):
    """The part of the contract about ``runs``."""

    def test_every_query_is_answered_as_by_looking_at_every_run(self, storage: Storage) -> None:
        """With any limit and from any place, after every few of some hundred random moves."""
        world = World(storage, size=60)
        random = Random(3)
        for _ in range(8):
            wander(world, random, 30)
            _check_queries(world, random)

    def test_a_limit_is_kept_exactly(self, storage: Storage) -> None:
        """Fewer only where there are no more, and none behind the end."""
        world = World(storage)
        world.take_many(7, "ada")
        for index in range(7):
            world.do(core.start, index, 1, None, heartbeats=True)
        queries: list[RunQuery] = [ByIndex(), Leased(), Leased("ada"), InStatus(frozenset({RunStatus.RUNNING})), ACTIVE]
        for query in queries:
            for after in range(-1, 9):
                for limit in (1, 2, 6, 7, 8, 1_000):
                    found = [run.index for run in storage.runs("s", query, after=after, limit=limit)]
                    assert found == list(range(7))[after + 1 : after + 1 + limit], f"{query} after {after}, {limit=}"
        for index in range(7):
            world.do(core.stop_run, index)
        queries = [Due(DAWN + 1_000)]
        if isinstance(storage, Heartbeats):
            queries.append(Silent(DAWN + 1_000))
        for query in queries:
            for limit in (1, 2, 6, 7, 8, 1_000):
                found = [run.index for run in storage.runs("s", query, limit=limit)]
                assert found == list(range(7))[:limit], f"{query}, {limit=}"

    def test_a_negative_or_distant_cursor_is_no_special_case(self, storage: Storage) -> None:
        """After -1 comes run 0; after the last one comes nothing."""
        world = World(storage)
        world.take_many(3)
        assert [run.index for run in storage.runs("s", ByIndex(), limit=9)] == [0, 1, 2]
        for after in (2, 3, 10**6, 2**53):
            assert list(storage.runs("s", ByIndex(), after=after, limit=9)) == []
            assert list(storage.runs("s", ACTIVE, after=after, limit=9)) == []

    def test_queued_runs_come_by_index(self, storage: Storage) -> None:
        """In whatever order they were queued, and not while an older attempt may still be executing."""
        world = World(storage)
        world.take_many(6)
        for index in (4, 1, 5, 0):
            world.do(core.release, index, 1)
        assert [run.index for run in storage.runs("s", Queued(), limit=9)] == [0, 1, 4, 5]
        assert [run.index for run in storage.runs("s", Queued(), after=1, limit=1)] == [4]
        world.do(core.start, 2, 1)
        world.do(core.kill_run, 2)
        world.do(core.retry_run, 2)  # queued, but its killed execution is not known to be gone
        assert world.run(2).status is RunStatus.PENDING
        assert [run.index for run in storage.runs("s", Queued(), limit=9)] == [0, 1, 4, 5]
        world.do(core.gone, 2, 1)
        assert [run.index for run in storage.runs("s", Queued(), limit=9)] == [0, 1, 2, 4, 5]
        assert world.take().index == 0
        assert [run.index for run in storage.runs("s", Queued(), limit=9)] == [1, 2, 4, 5]

    def test_a_lost_lease_is_listed_as_leased_and_never_as_queued(self, storage: Storage) -> None:
        """Unless its run is queued again: then it holds nothing up, and is still listed (wandb#1526)."""
        beating = self.beating(storage)
        world = World(beating)
        world.promise("ada")
        world.elapse(300)
        world.elapse(60)
        assert world.run(0).status is RunStatus.CRASHED
        assert list(storage.runs("s", Queued(), limit=9)) == []
        for query, found in (
            (Leased(), [0]),
            (Leased("ada"), [0]),
            (Leased(presumed=False), []),
            (Leased("ada", presumed=False), []),
        ):
            assert [run.index for run in storage.runs("s", query, limit=9)] == found, str(query)
        world.do(core.retry_run, 0)
        assert [run.index for run in storage.runs("s", Queued(), limit=9)] == [0]
        assert [run.index for run in storage.runs("s", Leased(presumed=False), limit=9)] == [0]

    def test_due_runs_come_by_time_and_then_by_index(self, storage: Storage) -> None:
        """And a run whose time has moved or is over is where it now belongs."""
        world = World(storage)
        world.take_many(6)
        for index in (5, 2, 0, 3):
            world.do(core.start, index, 1)
        for wait, index in ((0, 3), (0, 0), (10, 5), (10, 2)):
            world.clock.advance(wait)
            world.do(core.stop_run, index)
        start = DAWN
        # Runs 1 and 4 were held at the beginning, and have to begin within 250 s; a stop is overdue after 30 s.
        assert _indexes(storage, Due(start + 1_000)) == [0, 3, 5, 2, 1, 4]
        times = [run.due_at for run in storage.runs("s", Due(start + 1_000), limit=9)]
        assert times == sorted(time for time in times if time is not None)
        first = times[0]
        assert first is not None
        assert _indexes(storage, Due(first)) == [0, 3], "due is what is due at this very moment"
        assert _indexes(storage, Due(first - 0.001)) == []
        assert _indexes(storage, Due(0.0)) == []
        world.finish(3)
        assert _indexes(storage, Due(start + 1_000)) == [0, 5, 2, 1, 4]
        world.do(core.set_limits, {"stop_grace": 500.0})
        assert _indexes(storage, Due(start + 2_000)) == [1, 4, 0, 5, 2]

    def test_requests_are_answered_while_their_lease_lasts(self, storage: Storage) -> None:
        """Asking again finds the run; not after its end, not once it was handed on, and not for another agent."""
        world = World(storage)
        world.take("ada", "r1")
        world.take("bob", "r1")
        world.take("ada", "r2")
        for agent, request, found in (("ada", "r1", [0]), ("bob", "r1", [1]), ("ada", "r2", [2]), ("bob", "r2", [])):
            assert _indexes(storage, Requested(agent, request)) == found, f"{agent}, {request}"
        world.do(core.start, 0, 1)
        assert _indexes(storage, Requested("ada", "r1")) == [0]
        world.finish(0)
        assert _indexes(storage, Requested("ada", "r1")) == [], "the run has ended"
        world.do(core.release, 1, 1)
        assert _indexes(storage, Requested("bob", "r1")) == [], "it was given back"
        world.do(core.kill_run, 2)
        assert _indexes(storage, Requested("ada", "r2")) == [], "it was killed, though its lease lasts"
        assert world.take("ada", "r1").index == 1
        assert _indexes(storage, Requested("ada", "r1")) == [1], "a request id may be used again"

    def test_runs_unchanged_since_a_version_are_found(self, storage: Storage) -> None:
        """Of some statuses, and withdrawn ones if asked: what a wish to retry is made of (wandb#1879)."""
        world = World(storage)
        world.take_many(5)
        world.do(core.release, 1, 1)  # queued, so a stop withdraws it; as it does run 4, which has not begun
        world.do(core.start, 0, 1)
        world.fail(0)
        before = world.version
        world.do(core.start, 2, 1)
        world.fail(2)
        world.do(core.kill_run, 3)
        world.do(core.move, SweepTrigger.STOP)
        failed, killed = RunStatus.FAILED, RunStatus.KILLED
        expected: list[tuple[InStatus, list[int]]] = [
            (InStatus(frozenset({failed})), [0, 2]),
            (InStatus(frozenset({failed}), unchanged_since=before), [0]),
            (InStatus(frozenset({failed}), unchanged_since=before - 1), []),
            (InStatus(frozenset({failed}), unchanged_since=world.version), [0, 2]),
            (InStatus(frozenset({failed}), withdrawn=True), [0, 1, 2, 4]),
            (InStatus(frozenset({failed}), withdrawn=True, unchanged_since=before), [0]),
            (InStatus(frozenset(), withdrawn=True), [1, 4]),
            (InStatus(frozenset(), withdrawn=True, unchanged_since=world.version - 1), []),
            (InStatus(frozenset({killed}), withdrawn=True), [1, 3, 4]),
            (InStatus(frozenset({failed, killed})), [0, 1, 2, 3, 4]),
            (InStatus(frozenset({failed, killed}), withdrawn=True, unchanged_since=world.version - 1), [0, 2, 3]),
            (InStatus(frozenset({killed})), [1, 3, 4]),
        ]
        for query, found in expected:
            assert _indexes(storage, query) == found, str(query)
            for after in range(-1, 5):
                page = [run.index for run in storage.runs("s", query, after=after, limit=2)]
                assert page == [index for index in found if index > after][:2], f"{query} after {after}"

    def test_names_are_compared_to_the_byte(self, storage: Storage) -> None:
        """Agents and requests that differ only by case, blanks, accents, a NUL, or at their far end."""
        for number, names in enumerate(LOOKALIKES):
            world = World(storage, f"s{number}")
            runs = {name: world.take(name, name).index for name in names}
            for name, index in runs.items():
                assert [run.index for run in storage.runs(world.id, Leased(name), limit=99)] == [index], f"{name!r:.60}"
                found = storage.runs(world.id, Requested(name, name), limit=99)
                assert [run.index for run in found] == [index], f"{name!r:.60}"
                assert world.do(core.next_run, name, name) == world.run(index), "asking again gives the same run"
            stranger = storage.runs(world.id, Requested(names[0], names[1]), limit=99)
            assert list(stranger) == [], f"{names[0]!r:.60} asked as {names[1]!r:.60}"

    def test_agent_and_request_are_kept_apart(self, storage: Storage) -> None:
        """Two pairs whose texts are one when written side by side are two."""
        world = World(storage)
        pairs = [("a", "bc"), ("ab", "c"), ("abc", ""), ("", "abc"), ("a", "b:c"), ("a:b", "c"), ("a\0b", "c")]
        for number, (agent, request) in enumerate(pairs):
            assert world.take(agent, request).index == number
        for number, (agent, request) in enumerate(pairs):
            assert _indexes(storage, Requested(agent, request)) == [number], f"{agent!r}, {request!r}"

    def test_paging_finds_each_run_once_while_others_write(self, storage: Storage) -> None:
        """Runs that were there when it began are all found, in order, and none twice."""
        world = World(storage)
        world.take_many(10)
        found: list[int] = []
        while page := storage.runs("s", ByIndex(), after=found[-1] if found else -1, limit=3):
            found += [run.index for run in page]
            if len(found) < 9:
                world.do(core.kill_run, len(found) - 1)
                world.do(core.release, 9 - len(found), 1)
                world.take()
        assert found == list(range(len(found)))
        assert len(found) == world.sweep.created

    def test_every_query_is_answered_by_an_index(self, storage: Storage) -> None:
        """So that a sweep of a million runs costs what one of ten does (optuna#763, #5948)."""
        world = World(storage, "s")
        world.take_many(300, "ada")
        try:
            self.scanned(storage, "s", ByIndex())
        except NotImplementedError:
            self.skip("how queries are answered is not known: override `scanned`")
        one, many = frozenset({RunStatus.FAILED}), frozenset({RunStatus.FAILED, RunStatus.CRASHED, RunStatus.KILLED})
        queries: list[RunQuery] = [
            ByIndex(),
            Queued(),
            Leased(),
            Leased(presumed=False),
            Leased("ada"),
            Leased("ada", presumed=False),
            Requested("ada", "r1"),
            Due(DAWN),
            *(InStatus(frozenset({status})) for status in RunStatus),
            ACTIVE,
            ENDED,
            *(InStatus(*each) for each in product((one, many), (False, True), (None, 5))),
            InStatus(frozenset(), withdrawn=True, unchanged_since=5),
        ]
        if isinstance(storage, Heartbeats):
            queries.append(Silent(DAWN))
        for query in queries:
            plan = self.scanned(storage, "s", query)
            assert plan is None, f"{query} is not answered by an index, but so: {plan}"


def _indexes(storage: Storage, query: RunQuery) -> list[int]:
    return [run.index for run in storage.runs("s", query, limit=99)]


def _all_queries(world: World, runs: Sequence[RunState], random: Random) -> list[RunQuery]:
    """Return queries of every kind, with arguments that mean something to these runs."""
    version = world.sweep.version
    since = [None, version, version - 10, random.randrange(version + 1)]
    queries: list[RunQuery] = [ByIndex(), Queued(), Leased(), Leased(presumed=False), ACTIVE, ENDED]
    queries += [Leased(agent, presumed) for agent in (*AGENTS, "nobody") for presumed in (True, False)]
    queries += [Requested(agent, request) for agent in AGENTS for request in ("r1", "R1", "r2")]
    queries += [InStatus(statuses, random.random() < 0.5, random.choice(since)) for statuses in STATUSES]
    queries += [InStatus(frozenset(), True, each) for each in since]
    times = sorted({run.due_at for run in runs if run.due_at is not None})
    queries += [Due(time) for time in (0.0, *times[:3], *times[-1:], world.clock(), world.clock() + 10_000)]
    if isinstance(world.storage, Heartbeats):
        signs = sorted(set(heard_of(world.storage, world.id, runs).values()))
        queries += [Silent(time) for time in (0.0, *signs[:3], *signs[-1:], world.clock())]
    return queries


def _check_queries(world: World, random: Random) -> None:
    """Compare every kind of query with the oracle."""
    storage = world.storage
    runs = all_runs(storage, world.id)
    heard = heard_of(storage, world.id, runs)
    assert len(runs) == world.sweep.created
    for query in _all_queries(world, runs, random):
        expected = select(query, runs, heard)
        for limit in (1, 3, 1_000):
            found = storage.runs(world.id, query, limit=limit)
            assert [run.index for run in found] == expected[:limit], f"{query}, {limit=}"
            assert list(found) == [runs[index] for index in expected[:limit]], f"{query}, {limit=}"
        if not isinstance(query, (Due, Silent)):
            after = random.randrange(-1, len(runs) + 1)
            found = storage.runs(world.id, query, after=after, limit=2)
            assert [run.index for run in found] == [index for index in expected if index > after][:2], (
                f"{query} {after=}"
            )

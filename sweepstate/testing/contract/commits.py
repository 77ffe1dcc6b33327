# ruff: noqa: S101 - a contract is made of assertions
"""Commits: on one version, all or nothing, and what was committed is there, to the byte."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count
from random import Random
from threading import Barrier
from typing import Any, Final, TypeVar

import attrs

from ...core import decide as core
from ...core.decide import Change, End
from ...core.errors import (
    AlreadyExists,
    Conflict,
    NotFound,
    OutcomeUnknown,
    SearchError,
    StorageError,
    SweepNotFound,
)
from ...core.lifecycle import Exit, SweepTrigger
from ...core.limits import Objective
from ...core.questions import ByIndex, InStatus, Leased, Queued
from ...core.state import RunState
from ...core.status import RunStatus
from ...core.values import MAX_BITS, MAX_DEPTH, FrozenDict
from ...hooks import Catalog, Heartbeats, Storage
from ...sweep import Sweep
from ..laws import check_laws
from .base import Capabilities
from .together import PATIENCE, in_threads
from .world import World, all_events, all_runs, everything, text, wander

_Error = TypeVar("_Error", bound=BaseException)

#: No change has so many write statements; if the sabotage still hits after as many, it does not count them.
_MOST_WRITES: Final = 500


def refuses(error: type[_Error], action: Callable[[], object], what: str) -> _Error:
    """Assert that an action raises an error of this class, and return the error."""
    try:
        found = action()
    except error as raised:
        return raised
    raise AssertionError(f"{what} was to raise {error.__name__}, and returned {found!r}")


class Commits(Capabilities):
    """The part of the contract about ``commit``, and about reading back what was committed."""

    # --- what is there and what is not -----------------------------------------------------------

    def test_what_was_committed_is_there(self, storage: Storage) -> None:
        """Snapshot, runs and events, each as it was given, and at once."""
        world = World(storage)
        report = End(Exit.SUCCESS, "done", 0, None, FrozenDict(loss=0.25))
        steps: list[Callable[[], Change]] = [
            lambda: world.change(core.next_run, "ada", "r1"),
            lambda: world.change(core.start, 0, 1, "host", heartbeats=True),
            lambda: world.change(core.end, 0, 1, "host", report),
        ]
        for step in steps:
            change = step()
            storage.commit(change)
            assert storage.sweep("s") == change.sweep
            assert list(storage.runs("s", ByIndex(), limit=10)) == list(change.runs)
            assert tuple(storage.events("s", after=change.version, limit=10)) == change.events
        assert [event.number for event in all_events(storage, "s")] == [1, 2, 3, 4]

    def test_a_sweep_that_is_unknown_is_not_found(self, storage: Storage) -> None:
        """By any method: an empty answer would look like a sweep without runs."""
        World(storage, "other").take()
        assert_not_found(storage, "s")

    def test_the_version_is_compared(self, storage: Storage) -> None:
        """A commit that was decided on an older version is a Conflict, and writes nothing; so is one on a newer one."""
        world = World(storage)
        late = world.change(core.next_run, "ada")
        world.take("bob")
        before = everything(storage, "s")
        refuses(Conflict, lambda: storage.commit(late), "a commit on an old version")
        for version in (3, 100):  # forged: nobody can have seen them
            forged = attrs.evolve(world.change(core.next_run, "ada"), version=version)
            refuses(Conflict, partial(storage.commit, forged), "a commit on a version to come")
        assert everything(storage, "s") == before
        assert world.take("ada").index == 1, "after a Conflict, deciding again succeeds"

    def test_a_conflict_says_what_was_expected(self, storage: Storage) -> None:
        """Its fields name the sweep, the version of the change, and the one that was found, if that is known."""
        world = World(storage)
        late = world.change(core.next_run, "ada")
        world.take("bob")
        conflict = refuses(Conflict, lambda: storage.commit(late), "a commit on an old version")
        assert (conflict.sweep_id, conflict.expected) == ("s", 1)
        assert conflict.found in {2, -1}

    def test_creating_a_sweep_that_is_there_is_refused(self, storage: Storage) -> None:
        """Also by what is the very same change, and nothing of the first one changes."""
        world = World(storage)
        world.take()
        before = everything(storage, "s")
        refuses(AlreadyExists, lambda: World(storage), "creating a sweep again")
        refuses(AlreadyExists, lambda: World(storage, size=0), "creating another sweep of that id")
        assert everything(storage, "s") == before

    def test_a_run_that_is_unknown_is_not_found(self, storage: Storage) -> None:
        """Reading behind the last run answers nothing, and the handles say that it is not there."""
        world = World(storage)
        world.take()
        assert list(storage.runs("s", ByIndex(), after=0, limit=5)) == []
        assert list(storage.runs("s", ByIndex(), after=10**9, limit=5)) == []
        refuses(NotFound, lambda: Sweep.open("s", storage=storage)[1], "looking up a run that is not there")

    # --- contention ------------------------------------------------------------------------------

    def test_threads_that_commit_on_one_version_have_one_winner(self, storage: Storage) -> None:
        """All the others meet a Conflict, and nothing of theirs is there."""
        world = World(storage)
        for turn in range(12):
            changes = [world.change(core.next_run, f"agent {n}", f"request {turn}") for n in range(4)]

            def tries(change: Change) -> bool:
                try:
                    storage.commit(change)
                except Conflict:
                    return False
                return True

            won = in_threads(*[partial(tries, change) for change in changes])
            assert won.count(True) == 1, f"{won.count(True)} commits on version {turn + 1} were accepted"
            winner = changes[won.index(True)]
            assert storage.sweep("s") == winner.sweep
            assert world.run(turn) == winner.runs[0]
        check_laws(storage, "s")

    def test_threads_claim_every_point_once(self, storage: Storage) -> None:
        """However many ask at once: none twice, none left out (wandb#8549, optuna#4002)."""
        points = 24
        World(storage, size=points)

        def worker(name: str) -> list[int]:
            world = World(storage, create=False, size=points)
            claimed: list[int] = []
            while len(claimed) <= points:  # more than there are is wrong enough
                with suppress(Conflict):
                    run = world.do(core.next_run, name)
                    if not isinstance(run, RunState):
                        break
                    claimed.append(run.index)
            return claimed

        claimed = in_threads(*[partial(worker, f"worker {n}") for n in range(4)])
        assert sorted(index for each in claimed for index in each) == list(range(points))
        owners = {run.index: run.lease.agent for run in all_runs(storage, "s") if run.lease is not None}
        assert owners == {index: f"worker {n}" for n, each in enumerate(claimed) for index in each}
        check_laws(storage, "s")

    def test_threads_claim_queued_runs_once(self, storage: Storage) -> None:
        """What waits to be handed out again goes to one of those who ask, also where handles are used (ray#12347)."""
        world = World(storage, size=12)
        world.take_many(12)
        for index in range(12):
            world.do(core.release, index, 1)

        def worker(name: str) -> list[int]:
            sweep = Sweep.open("s", storage=storage)
            claimed: list[int] = []
            while len(claimed) <= 12 and (run := sweep.next_run(name)):
                claimed.append(run.index)
            return claimed

        claimed = in_threads(*[partial(worker, f"worker {n}") for n in range(3)])
        assert sorted(index for each in claimed for index in each) == list(range(12))
        assert {run.attempt for run in all_runs(storage, "s")} == {2}

    def test_what_is_read_never_goes_back(self, storage: Storage) -> None:
        """While somebody commits, whoever saw a version finds the runs and events of that version, or newer ones."""
        world = World(storage)
        last = 40

        def write() -> None:
            for _ in range(last - 1):
                world.take()

        def read() -> None:
            seen = 0
            while seen < last:
                sweep = storage.sweep("s")
                assert sweep.version >= seen, f"version {sweep.version} was read after version {seen}"
                seen = sweep.version
                runs = storage.runs("s", InStatus(frozenset({RunStatus.PENDING})), after=seen - 10, limit=100)
                assert runs or seen == 1, f"runs of version {seen} are missing"
                assert not runs or runs[-1].index >= sweep.created - 1, f"runs are older than version {seen}"
                assert world.run(sweep.created - 1).index == sweep.created - 1 if sweep.created else True
                assert storage.events("s", after=seen - 1, limit=5), f"events of version {seen} are missing"

        in_threads(write, read, read)

    def test_a_commit_is_seen_by_every_thread_at_once(self, storage: Storage) -> None:
        """Two threads take turns to commit, and each finds what the other has just written."""
        world = World(storage)
        gate = Barrier(2)

        def play(place: int) -> None:
            try:
                for turn in range(8):
                    if turn % 2 == place:
                        world.take(f"thread {place}")
                    gate.wait(PATIENCE)
                    assert storage.sweep("s").version == turn + 2, "a thread sees an older version"
                    for query in (ByIndex(), Leased()):
                        assert len(storage.runs("s", query, limit=99)) == turn + 1, "a thread sees older runs"
                    assert len(storage.events("s", limit=99)) == turn + 2, "a thread sees an older history"
                    gate.wait(PATIENCE)
            except BaseException:
                gate.abort()  # so that the other one does not wait
                raise

        in_threads(lambda: play(0), lambda: play(1))

    # --- all or nothing --------------------------------------------------------------------------

    def test_a_commit_is_whole_or_absent_whichever_write_fails(self, storage: Storage) -> None:
        """Every write of every kind of change is made to fail once (optuna#5138)."""
        self.needs_sabotage(storage)
        again: list[Storage] = [self.reopen(storage)] if self.durable else []
        world = World(storage, "made before")
        changes: list[Callable[[], Change]] = [
            lambda: core.create(
                "s", world.clock(), search=FrozenDict(name="x"), size=None, limits=world.sweep.limits, objective=None
            ),
            lambda: _of(storage, "s").change(core.next_run, "ada", "r1"),
            lambda: _of(storage, "s").change(core.next_run, "bob", begin=True),
            lambda: _of(storage, "s").change(core.start, 0, 1, "host", heartbeats=True),
            lambda: _of(storage, "s").change(core.end, 1, 1, None, End(Exit.ERROR, "boom")),
            lambda: _of(storage, "s").change(core.move, SweepTrigger.CANCEL),
            lambda: _of(storage, "s").change(core.reopen, {RunStatus.KILLED}),
        ]
        for make in changes:
            change = make()
            writes = self._try_every_write(storage, again, change)
            assert writes > 0, "the sabotage did not make any write fail"
            assert storage.sweep("s") == change.sweep
        check_laws(storage, "s")
        world.take()  # the other sweep was left alone, and works

    def _try_every_write(self, storage: Storage, again: list[Storage], change: Change) -> int:
        """Commit a change until no write fails any more; return how many failed."""
        before = everything(storage, "s")
        for n in count(1):
            unknown = False
            try:
                with self.sabotage(storage, n):
                    storage.commit(change)
            except OutcomeUnknown:
                unknown = True
            except (Conflict, AlreadyExists) as error:
                raise AssertionError(f"write {n} failed, and was taken for {error!r}") from error
            except StorageError:
                unknown = False
            except Exception as error:
                raise AssertionError(f"write {n} failed, and what came out is no StorageError: {error!r}") from error
            else:
                return n - 1
            for each in (storage, *again):
                after = everything(each, "s")
                if unknown and after != before:
                    assert each.sweep("s") == change.sweep, f"half of a change is there, as write {n} failed"
                    check_laws(each, "s")
                else:
                    assert after == before, f"something of a change is there, although write {n} of it failed"
            if unknown and everything(storage, "s") != before:
                return n
            assert n < _MOST_WRITES, f"a commit of {len(change.runs)} run(s) fails even at write {n}"
        raise AssertionError("unreachable")

    def test_a_conflict_leaves_no_trace(self, storage: Storage) -> None:
        """No run, no event, no sign of life, no request: nothing of a change that lost is found by any query."""
        world = World(storage)
        late = world.change(core.next_run, "ada", "r1", begin=True)
        world.do(core.move, SweepTrigger.PAUSE)
        before = everything(storage, "s")
        refuses(Conflict, lambda: storage.commit(late), "a commit on an old version")
        assert everything(storage, "s") == before
        assert [*storage.runs("s", ByIndex(), limit=5), *storage.runs("s", Leased(), limit=5)] == []
        assert len(storage.events("s", limit=10)) == 2

    def test_a_commit_of_many_runs_is_one_commit(self, storage: Storage) -> None:
        """As many rows as a sweep has active runs: 2,000 are created at once, and cancelled at once."""
        world = World(storage)
        world.take_many(2_000)
        assert storage.sweep("s").pending == 2_000
        cancel = world.change(core.move, SweepTrigger.CANCEL)
        assert len(cancel.runs) == 2_000
        storage.commit(cancel)
        assert storage.sweep("s") == cancel.sweep
        assert storage.sweep("s").version == 3
        assert all_runs(storage, "s") == sorted(cancel.runs, key=lambda run: run.index)
        assert list(storage.runs("s", Queued(), limit=10)) == []
        assert len(storage.runs("s", Leased(), limit=5_000)) == 2_000

    # --- values ----------------------------------------------------------------------------------

    def test_reads_are_values(self, storage: Storage) -> None:
        """Whatever is done to what was returned or handed in, what is stored stays as it is."""
        world = World(storage, propose=lambda _index: {"layers": [1, 2], "more": {"depth": 3}})
        world.take("ada", "r1", begin=True)
        world.finish(0, loss=0.5)
        world.take("ada")
        if isinstance(storage, Heartbeats):
            mine: dict[str, float] = {"loss": 0.5}
            storage.beat("s", 1, 1, world.clock(), mine)
            mine["loss"] = 2.0
            assert storage.last_metrics("s", 1) == {"loss": 0.5}, "metrics that were handed in are kept as they are"
        before = everything(storage, "s")
        reads: dict[str, Callable[[], object]] = {
            "runs": lambda: storage.runs("s", ByIndex(), limit=10),
            "runs (leased)": lambda: storage.runs("s", Leased(), limit=10),
            "events": lambda: storage.events("s", limit=10),
            "a configuration": lambda: world.run(0).config,
            "a mapping in a configuration": lambda: world.run(0).config["more"],
            "a list in a configuration": lambda: world.run(0).config["layers"],
            "metrics": lambda: world.run(0).metrics,
        }
        if isinstance(storage, Heartbeats):
            reads["last_heard"] = lambda: storage.last_heard("s", [(0, 1), (1, 1)])
            reads["last_metrics"] = lambda: storage.last_metrics("s", 1)
        if isinstance(storage, Catalog):
            reads["sweeps"] = lambda: storage.sweeps(limit=10)
        for _ in range(2):  # once for what is stored, once for what may be kept ready for the next reader
            for name, read in reads.items():
                _spoil(read())
                assert everything(storage, "s") == before, f"changing what was returned ({name}) changed what is stored"

    def test_values_come_back_as_they_were(self, storage: Storage) -> None:
        """Configurations of every kind of value, to the byte, in the snapshot and in the event."""
        world = World(storage, propose=lambda index: ODD_VALUES[index], size=len(ODD_VALUES))
        for config in ODD_VALUES:
            change = world.change(core.next_run, "worker")
            storage.commit(change)
            index = change.runs[0].index
            found = world.run(index)
            assert text([found]) == text(change.runs), f"configuration {index} is not what it was"
            assert list(found.config) == list(config), "the order of its names is part of a configuration"
            page = storage.events("s", after=change.sweep.events - 1, limit=1)
            assert text(page) == text(change.events)

    def test_metrics_come_back_as_they_were(self, storage: Storage) -> None:
        """NaN, infinities, the sign of zero, all 17 digits, and whole numbers that no float holds."""
        world = World(storage, objective=Objective("loss"))
        for metrics in ODD_METRICS:
            index = world.take(begin=True).index
            change = world.change(core.end, index, 1, None, End(Exit.SUCCESS, metrics=FrozenDict(metrics)))
            storage.commit(change)
            assert text([world.run(index)]) == text(change.runs)
            assert text(storage.events("s", after=change.sweep.events - 1, limit=1)) == text(change.events)
            assert text(storage.sweep("s")) == text(change.sweep)

    def test_texts_come_back_as_they_were(self, storage: Storage) -> None:
        """Messages, reasons and actors, whatever is in them."""
        world = World(storage)
        for said in ODD_TEXTS:
            index = world.take(begin=True).index
            make = core.decide(core.end, storage.sweep("s"), world.answer, world.clock(), said, said[:1_000])
            change = make(index, 1, None, End(Exit.ERROR, said)).change
            assert change is not None
            storage.commit(change)
            assert text([world.run(index)]) == text(change.runs)
            assert text(storage.events("s", after=change.sweep.events - 1, limit=1)) == text(change.events)

    def test_what_cannot_be_stored_is_refused_before(self, storage: Storage) -> None:
        """Bytes, sets and integers beyond all bounds never reach the storage; the error names them."""
        for number, value in enumerate((b"bytes", {1, 2}, 2 ** (MAX_BITS + 1), "\ud800", object())):
            sweep = Sweep(_Proposing(value), id=f"s{number}", storage=storage)
            before = everything(storage, sweep.id)
            refuses(SearchError, sweep.next_run, f"handing out a run with {value!r:.40}")
            assert everything(storage, sweep.id) == before

    # --- more than one sweep, and all that can happen to one -------------------------------------

    def test_sweeps_side_by_side_do_not_mix(self, storage: Storage) -> None:
        """Runs of equal index, equal requests, equal versions: each sweep has its own."""
        worlds = [World(storage, sweep_id) for sweep_id in ("s", "s2", "S")]
        for turn in range(3):
            for number, world in enumerate(worlds):
                world.propose = numbered(number)
                run = world.take("ada", f"r{turn}", begin=number == 1)
                assert (run.index, run.config) == (turn, {"of": number, "x": turn})
        if isinstance(storage, Heartbeats):
            storage.beat("s2", 0, 1, worlds[0].clock() + 1, {"loss": 1.0})
            assert [list(storage.last_heard(world.id, [(0, 1)])) for world in worlds] == [
                [None],
                [worlds[0].clock() + 1],
                [None],
            ]
            assert storage.last_metrics("s", 0) is None
        worlds[0].do(core.move, SweepTrigger.CANCEL)
        assert [world.sweep.version for world in worlds] == [5, 4, 4]
        for number, world in enumerate(worlds):
            assert {run.config["of"] for run in all_runs(storage, world.id)} == {number}
            check_laws(storage, world.id)

    def test_the_laws_hold_after_anything(self, storage: Storage) -> None:
        """Counts are recounted and snapshots replayed, after a few hundred commands, reports and deadlines."""
        world = World(storage, size=30)
        wander(world, Random(1), 250)  # noqa: S311 - drawn to be the same each time
        assert world.version > 60, "this was to be a long history"
        check_laws(storage, "s")


def _of(storage: Storage, sweep_id: str) -> World:
    """Return a world of a sweep that is there."""
    return World(storage, sweep_id, create=False)


def assert_not_found(storage: Storage, sweep_id: str) -> None:
    """Assert that no method knows a sweep."""
    elsewhere = World(storage, "elsewhere" + sweep_id[:10])
    change = attrs.evolve(elsewhere.change(core.next_run, "ada"), sweep_id=sweep_id)
    calls: dict[str, Callable[[], object]] = {
        "sweep": lambda: storage.sweep(sweep_id),
        "runs": lambda: storage.runs(sweep_id, ByIndex(), limit=1),
        "runs (queued)": lambda: storage.runs(sweep_id, Queued(), limit=1),
        "events": lambda: storage.events(sweep_id, limit=1),
        "commit": lambda: storage.commit(change),
    }
    if isinstance(storage, Heartbeats):
        calls["beat"] = lambda: storage.beat(sweep_id, 0, 1, 1.0, {"loss": 1.0})
        calls["last_heard"] = lambda: storage.last_heard(sweep_id, [(0, 1)])
        calls["last_metrics"] = lambda: storage.last_metrics(sweep_id, 0)
    if isinstance(storage, Catalog):
        calls["delete"] = lambda: storage.delete(sweep_id)
    for name, call in calls.items():
        refuses(SweepNotFound, call, f"{name} of a sweep that is not there")
    if isinstance(storage, Catalog):
        assert sweep_id not in [sweep.id for sweep in storage.sweeps(limit=1_000)]


def _spoil(value: Any) -> None:
    """Change a list or a mapping that was returned, if it lets itself be changed."""
    for method in ("pop", "popitem", "reverse"):
        with suppress(TypeError, AttributeError, LookupError):
            getattr(value, method)()


def numbered(number: int) -> Callable[[int], dict[str, int]]:
    """Return what proposes configurations that tell whose they are."""
    return lambda index: {"of": number, "x": index}


class _Proposing:
    """A search that proposes one value."""

    size: int | None = None

    def __init__(self, value: object) -> None:
        self._value = value

    def propose(self, index: int, _history: object) -> dict[str, Any]:
        return {"x": self._value, "index": index}


def _nested() -> Any:
    """Return something nested as deep as a configuration may be, if it stands under one name."""
    value: Any = "deep"
    for level in range(MAX_DEPTH - 1):
        value = {"level": value} if level % 2 else [value]
    return value


ODD_TEXTS: Final = (
    "",
    " ",
    "a ",
    "zwei\nZeilen\r\n\tund ein Tabulator",
    "\0",
    "before\0after",
    "é",
    "e\u0301",
    "\U0001f600 \U0001d49c",
    "\u2028\u2029\ufeff\uffff",
    "'; DROP TABLE run; --",
    '"quoted" \\ %s %(name)s {0} :name ? $1',
    "null",
    "x" * 10_000,
    "\U0001f600" * 10_000,
)
ODD_VALUES: Final[tuple[dict[str, Any], ...]] = (
    {},
    *({"text": value, value: "as a name"} for value in ODD_TEXTS),
    {"none": None, "true": True, "false": False, "one": 1, "one.": 1.0, "zero": 0, "zero.": 0.0, "-0.": -0.0},
    {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")},
    {"digits": 0.1 + 0.2, "tiny": 5e-324, "huge": 1.7976931348623157e308, "third": 1 / 3, "lr": 1e-05},
    {"2^31": 2**31, "2^53+1": 2**53 + 1, "2^63": 2**63, "2^64": 2**64, "-2^63-1": -(2**63) - 1},
    {"big": 2**4_000 - 1, "-big": -(2**MAX_BITS) + 1},
    {"list": [], "lists": [[], [1, [2.0, None, "x"]]], "dict": {}, "dicts": {"a": {"b": {}}}},
    {"deep": _nested()},
    {"z": 1, "a": 2, "Z": 3, "": 4, "format": 5, "kind": "SweepState"},
    {"long": "x" * 2**20, "wide": "\U0001f600é" * 2**15},
)
ODD_METRICS: Final[tuple[dict[str, float], ...]] = (
    {"loss": float("nan"), "inf": float("inf"), "-inf": float("-inf")},
    {"loss": 0.1 + 0.2, "third": 1 / 3, "zero": -0.0, "tiny": 5e-324, "huge": 1.7976931348623157e308},
    {"loss": -0.0},
    {"loss": -(2**4_000), "whole": 3, "2^63": 2**63},
    {"loss": float("-inf"), "val/accuracy": 0.5, "": 1.0, "\U0001f600": 2.0},
)

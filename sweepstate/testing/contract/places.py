# ruff: noqa: S101, S311 - a contract is made of assertions; its random numbers are to be the same each time
"""Places that more than one handle reaches: reopened, shared by processes, left behind by one that was killed."""

from __future__ import annotations

from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING

from ...core import decide as core
from ...core.errors import Conflict
from ...core.state import RunState
from ...hooks import Heartbeats, Storage
from ...search.grid import Grid
from ...sweep import Sweep
from ..laws import check_laws
from .base import Capabilities
from .commits import refuses
from .together import Child, in_processes
from .world import DAWN, World, all_runs, assert_whole, everything, wander

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


class Places(Capabilities):
    """The part of the contract for storages that are durable or shared; what they are is declared."""

    def test_a_second_handle_sees_each_commit_at_once(self, storage: Storage) -> None:
        """And the first one sees those of the second."""
        other = self.again(storage)
        here = World(storage)
        there = World(other, create=False)
        for turn in range(4):
            writer = (here, there)[turn % 2]
            writer.take("ada", f"r{turn}", begin=True)
            if isinstance(writer.storage, Heartbeats):
                writer.storage.beat("s", turn, 1, DAWN + turn, {"loss": float(turn)})
            assert everything(storage, "s") == everything(other, "s")
            assert here.sweep.version == turn + 2

    def test_a_second_handle_compares_the_version_too(self, storage: Storage) -> None:
        """What was decided through one handle is refused if the other has committed since."""
        other = self.again(storage)
        here, there = World(storage), World(other, create=False)
        late = here.change(core.next_run, "ada")
        there.take("bob")
        refuses(Conflict, lambda: storage.commit(late), "a commit on an old version")
        late = there.change(core.next_run, "ada")
        here.take("bob")
        refuses(Conflict, lambda: other.commit(late), "a commit on an old version")

    def test_everything_is_there_after_reopening(self, storage: Storage) -> None:
        """To the byte, and goes on from there."""
        self.needs_durability()
        world = World(storage, size=20)
        wander(world, Random(4), 80)
        before = everything(storage, "s")
        for _ in range(2):
            again = self.reopen(storage)
            assert everything(again, "s") == before
            check_laws(again, "s")
            World(again, f"more {_}").take()

    # --- processes -------------------------------------------------------------------------------

    def test_processes_claim_every_point_once(self, storage: Storage) -> None:
        """Through handles, as workers do (wandb#8549, optuna#4627)."""
        self.needs_processes()
        points = 30
        Sweep(Grid({"x": list(range(points))}), id="s", storage=storage)
        claimed = in_processes(claim_all, (storage, "one"), (storage, "two"), (storage, "three"))
        assert sorted(index for each in claimed for index in each) == list(range(points))
        assert [run.config["x"] for run in all_runs(storage, "s")] == list(range(points))
        check_laws(storage, "s")

    def test_processes_that_commit_on_one_version_have_one_winner(self, storage: Storage) -> None:
        """Each accepted commit is one version, so none was written over another."""
        self.needs_processes()
        World(storage)
        accepted = in_processes(commit_often, (storage, "one"), (storage, "two"), (storage, "three"))
        assert storage.sweep("s").version == 1 + sum(accepted)
        assert len(all_runs(storage, "s")) == sum(accepted)
        assert sum(accepted) > 0, "nobody ever won"
        check_laws(storage, "s")

    def test_what_was_acknowledged_survives_a_killed_process(self, storage: Storage) -> None:
        """Killed while it commits: each commit is whole or absent, and no lock is left behind (optuna#5138)."""
        self.needs_processes()
        self.needs_durability()
        for number, commits in enumerate((3, 17, 30)):
            sweep_id = f"s{number}"
            World(storage, sweep_id)
            child = Child(commit_for_ever, storage, sweep_id)
            acknowledged = 1
            try:
                while acknowledged < commits:
                    acknowledged = child.hear()
                child.kill()
                with suppress(EOFError):  # what it said before it learnt nothing
                    while True:
                        acknowledged = child.hear()
            finally:
                child.close()
            again = self.reopen(storage)
            for each in (again, storage):
                found = each.sweep(sweep_id).version
                # One commit may have been made, and its acknowledgement not sent any more.
                assert found in {acknowledged, acknowledged + 1}, f"{acknowledged} were acknowledged, {found} are there"
                assert_whole(each, sweep_id)
            World(again, sweep_id, create=False).take_many(1)
            World(storage, sweep_id, create=False).take_many(1)


# What the other processes do; functions of a module, so that they are found there.


def claim_all(line: Connection, storage: Storage, name: str) -> None:
    """Claim runs until there are none."""
    sweep = Sweep.open("s", storage=storage)
    line.send("ready")
    line.recv()
    claimed: list[int] = []
    while len(claimed) < 100 and (run := sweep.next_run(name)):
        claimed.append(run.index)
    line.send(claimed)


def commit_often(line: Connection, storage: Storage, name: str) -> None:
    """Try to commit, without deciding again; say how often it was accepted."""
    world = World(storage, create=False)
    line.send("ready")
    line.recv()
    accepted = 0
    for _ in range(15):
        with suppress(Conflict):
            assert isinstance(world.do(core.next_run, name), RunState)
            accepted += 1
    line.send(accepted)


def commit_for_ever(line: Connection, storage: Storage, sweep_id: str) -> None:
    """Commit changes of all sizes, and say each version that is committed."""
    world = World(storage, sweep_id, create=False)
    while True:
        world.take_many(12)
        line.send(world.version)
        first = world.sweep.created - 12
        for index in range(first, first + 3):
            world.do(core.start, index, 1)
            line.send(world.version)
            world.finish(index, loss=0.5)
            line.send(world.version)

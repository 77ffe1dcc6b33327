# ruff: noqa: S101 - a contract is made of assertions
"""Ids, the catalog of sweeps, and deletion."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Final

from ...core import decide as core
from ...core.errors import AlreadyExists, Conflict, StorageError, SweepNotFound
from ...core.lifecycle import SweepTrigger
from ...core.questions import ByIndex
from ...hooks import Heartbeats, Storage
from ...sweep import Sweep
from ..laws import check_laws
from .base import Capabilities
from .commits import assert_not_found, numbered, refuses
from .together import in_threads
from .world import DAWN, World, everything

#: Ids that a database, or a careless comparison, takes for one another, or sorts in another order.
ODD_IDS: Final = (
    *("resnet", "Resnet", "RESNET", "resnet ", " resnet", "resnet  "),
    *("é", "e\u0301", "e", "É", "f"),
    *("straße", "strasse", "\ufb01", "fi", "\u0131", "i", "\u0130"),
    *("\uff41", "\U0001d49c", "\U0001f600", "\ufffd", "zz"),  # UTF-16 has the astral ones before U+FF41
    *("a.b", "a/b", "..", "a%b", "a_b", "a'b", 'a"b', "a\\b", "*", ":", "null", "0", "00", "~"),
    *("x" * 200, "x" * 199, "x" * 199 + "y", "\U0001f600" * 200, "\U0001f600" * 199 + "é"),
)


class Catalogs(Capabilities):
    """The part of the contract about ids and ``Catalog``."""

    def test_ids_are_compared_to_the_byte(self, storage: Storage) -> None:
        """Ids that differ only by case, blanks, accents or at their far end are of different sweeps."""
        for number, sweep_id in enumerate(ODD_IDS):
            for earlier in ODD_IDS[:number][-8:]:
                assert storage.sweep(earlier).id == earlier
            refuses(SweepNotFound, partial(storage.sweep, sweep_id), f"{sweep_id!r:.60}, not created")
            world = World(storage, sweep_id)
            world.propose = numbered(number)
            world.take("ada", "r1")
        for number, sweep_id in enumerate(ODD_IDS):
            assert storage.sweep(sweep_id).id == sweep_id
            assert [run.config["of"] for run in storage.runs(sweep_id, ByIndex(), limit=9)] == [number]
        handle = Sweep.open("resnet ", storage=storage)
        assert (handle.id, handle[0].config["of"]) == ("resnet ", 3)

    def test_sweeps_are_listed_by_id(self, storage: Storage) -> None:
        """In the order of Python's strings, by code point, in pages of any size, as they now are."""
        catalog = self.catalog(storage)
        assert list(catalog.sweeps(limit=10)) == []
        for sweep_id in ODD_IDS:
            World(storage, sweep_id)
        World(storage, "resnet", create=False).do(core.move, SweepTrigger.PAUSE)
        ids = sorted(ODD_IDS)
        for limit in (1, 7, len(ids), len(ids) + 1, 1_000):
            found: list[str] = []
            while page := catalog.sweeps(after=found[-1] if found else "", limit=limit):
                assert len(page) <= limit
                assert list(page) == [storage.sweep(sweep.id) for sweep in page]
                found += [sweep.id for sweep in page]
            assert found == ids, f"{limit=}"
        for after in ("", "a", "resnet", "resnet!", "x" * 199, "\uff41", "\U0001f600", "\U0010ffff"):
            assert [sweep.id for sweep in catalog.sweeps(after=after, limit=3)] == [
                sweep_id for sweep_id in ids if sweep_id > after
            ][:3], f"after {after!r:.60}"

    def test_listing_while_others_create_and_delete_repeats_nothing(self, storage: Storage) -> None:
        """What was there all the time is found once."""
        catalog = self.catalog(storage)
        for number in range(0, 20, 2):
            World(storage, f"s{number:02}")
        found: list[str] = []
        while page := catalog.sweeps(after=found[-1] if found else "", limit=3):
            found += [sweep.id for sweep in page]
            World(storage, f"s{2 * len(found) - 5:02}")
            if len(found) == 6:
                catalog.delete("s00")
        assert found == sorted(set(found))
        assert {f"s{number:02}" for number in range(0, 20, 2)} <= set(found)

    def test_a_deleted_sweep_is_not_found(self, storage: Storage) -> None:
        """By any method, and a second deletion neither."""
        catalog = self.catalog(storage)
        world = World(storage)
        world.take("ada", "r1", begin=True)
        late = world.change(core.kill_run, 0)
        if isinstance(storage, Heartbeats):
            storage.beat("s", 0, 1, DAWN + 1, {"loss": 1.0})
        catalog.delete("s")
        refuses(SweepNotFound, lambda: storage.commit(late), "a commit to a sweep that was deleted")
        assert_not_found(storage, "s")
        refuses(SweepNotFound, lambda: catalog.delete("never was"), "deleting a sweep that never was")

    def test_a_second_handle_sees_a_deletion_at_once(self, storage: Storage) -> None:
        """Also one that has read the sweep just before, and keeps what it has read."""
        catalog = self.catalog(storage)
        other = self.again(storage)
        World(storage).take("ada", "r1", begin=True)
        everything(other, "s")
        late = World(other, create=False).change(core.kill_run, 0)
        catalog.delete("s")
        assert_not_found(other, "s")
        refuses(SweepNotFound, lambda: other.commit(late), "a commit to a sweep that was deleted by another handle")
        refuses(AlreadyExists, lambda: World(other), "creating a sweep with the id of one that was deleted")

    def test_the_id_of_a_deleted_sweep_stays_taken(self, storage: Storage) -> None:
        """Else a worker that was away would report to a stranger's sweep."""
        catalog = self.catalog(storage)
        World(storage).take()
        catalog.delete("s")
        refuses(AlreadyExists, lambda: World(storage), "creating a sweep with the id of one that was deleted")
        refuses(AlreadyExists, lambda: World(storage, size=0), "creating one once more")
        assert_not_found(storage, "s")
        if self.durable:
            refuses(AlreadyExists, lambda: World(self.reopen(storage)), "creating one after reopening the storage")
        World(storage, "S").take()

    def test_deleting_leaves_other_sweeps_alone(self, storage: Storage) -> None:
        """To the byte: their runs, histories, requests and signs of life; and nothing of the deleted one comes back."""
        catalog = self.catalog(storage)
        worlds = [World(storage, sweep_id) for sweep_id in ("s", "s1", "S", "s ", "t")]
        for world in worlds:
            world.take("ada", "r1", begin=True)
            if isinstance(storage, Heartbeats):
                storage.beat(world.id, 0, 1, DAWN + 3, {"loss": 1.0})
        others = worlds[1:]
        before = [everything(storage, world.id) for world in others]
        catalog.delete("s")
        assert [everything(storage, world.id) for world in others] == before
        assert [sweep.id for sweep in catalog.sweeps(limit=9)] == sorted(world.id for world in others)
        for world in others:
            world.finish(0)
            assert world.take("ada", "r1").index == 1
            check_laws(storage, world.id)

    def test_a_sweep_that_is_deleted_while_others_commit_stays_deleted(self, storage: Storage) -> None:
        """A commit comes before the deletion, or finds nothing; it never brings anything back."""
        catalog = self.catalog(storage)
        for number in range(5):
            sweep_id = f"s{number}"
            world = World(storage, sweep_id)

            def commit(world: World = world) -> None:
                with suppress(SweepNotFound):
                    for _ in range(200):
                        with suppress(Conflict):
                            world.take("ada")

            def delete(sweep_id: str = sweep_id) -> None:
                while storage.sweep(sweep_id).created < 3:
                    pass
                catalog.delete(sweep_id)

            in_threads(commit, delete)
            assert_not_found(storage, sweep_id)
            refuses(AlreadyExists, partial(World, storage, sweep_id), "creating it once more")

    def test_creating_and_deleting_at_once_has_one_winner(self, storage: Storage) -> None:
        """Of many who create a sweep, one does; of many who delete it, one does."""
        catalog = self.catalog(storage)

        def create() -> bool:
            try:
                World(storage)
            except AlreadyExists:
                return False
            return True

        def delete() -> bool:
            try:
                catalog.delete("s")
            except (SweepNotFound, Conflict):
                return False
            return True

        assert in_threads(create, create, create, create).count(True) == 1
        assert len(storage.events("s", limit=9)) == 1
        assert in_threads(delete, delete, delete).count(True) == 1
        assert_not_found(storage, "s")

    def test_a_deletion_is_whole_or_absent_whichever_write_fails(self, storage: Storage) -> None:
        """A sweep that is half deleted would be worse than either."""
        catalog = self.catalog(storage)
        self.needs_sabotage(storage)
        world = World(storage)
        world.take("ada", "r1", begin=True)
        if isinstance(storage, Heartbeats):
            storage.beat("s", 0, 1, DAWN + 1, {"loss": 1.0})
        before = everything(storage, "s")
        for n in range(1, 100):
            try:
                with self.sabotage(storage, n):
                    catalog.delete("s")
            except StorageError:
                assert everything(storage, "s") == before, f"something is gone, although write {n} failed"
                continue
            break
        assert_not_found(storage, "s")

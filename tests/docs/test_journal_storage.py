"""The example of a storage of one's own keeps the contract, is as short as the page says, and stands on it."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sweepstate import Grid, OutcomeUnknown, StorageError, Sweep, SweepTrigger
from sweepstate.core.decide import decide, move
from sweepstate.hooks import Catalog, Heartbeats, Timekeeper, Turns
from sweepstate.testing import AsyncStorageContract, StorageContract, check_laws
from tests.docs.test_docs import blocks_of

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "write-a-storage.md").read_text(encoding="utf-8")
EXAMPLE = DOCS / "examples" / "journal_storage.py"
sys.path.insert(0, str(EXAMPLE.parent))  # examples are scripts; a process that is spawned gets this path too

from journal_storage import JournalStorage  # noqa: E402


@contextmanager
def full_disk(path: Path, room: int) -> Iterator[None]:
    """Let the system take so many further bytes of a file, and no more: the write that wants more is torn."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


#: What the page proves it by, as it stands there: on a file, from several threads and processes, on a full disk, and on
#: an event loop.
NAMES: dict[str, Any] = {"__name__": __name__, "JournalStorage": JournalStorage}
for block in blocks_of(PAGE):
    if "StorageContract)" in block.code or "(TestJournalStorage)" in block.code:
        exec(compile(block.code, "write-a-storage.md", "exec", dont_inherit=True), NAMES)
# It is the first class, and on a full disk.
TestJournalStorage: type[StorageContract] = NAMES["TestJournalStorageOnAFullDisk"]
TestThreadedJournal: type[AsyncStorageContract] = NAMES["TestThreadedJournal"]


# --- the page -------------------------------------------------------------------------------------


def test_it_is_as_short_as_the_page_says_and_stands_on_it() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 120
    assert f"```python\n{text}```\n" in PAGE, "docs/write-a-storage.md shows another text than the example has"


def test_it_can_do_what_the_page_says(tmp_path: Path) -> None:
    storage = JournalStorage(tmp_path / "sweeps.journal")
    assert isinstance(storage, Heartbeats)
    assert isinstance(storage, Catalog)
    assert not isinstance(storage, Turns)
    assert not isinstance(storage, Timekeeper)


# --- what a file of lines is in danger of ---------------------------------------------------------


def journal_of(tmp_path: Path) -> tuple[JournalStorage, Sweep]:
    storage = JournalStorage(tmp_path / "sweeps.journal")
    return storage, Sweep(Grid({"x": list(range(9))}), id="s", storage=storage)


@pytest.mark.parametrize("kept", [1, 50, -1])
def test_a_line_that_was_never_finished_is_absent(tmp_path: Path, kept: int) -> None:
    """However much of it is there; what comes next takes its place."""
    storage, sweep = journal_of(tmp_path)
    before = storage.path.read_bytes()
    sweep.next_run()
    line = storage.path.read_bytes()[len(before) :]
    storage.path.write_bytes(before + line[:kept])  # as if its writer had been killed

    again = JournalStorage(storage.path)
    assert again.sweep("s").version == 1
    assert storage.path.read_bytes() == before
    assert Sweep.open("s", storage=again).next_run()
    check_laws(again, "s")


@pytest.mark.parametrize(
    "damage", [b"{", b"[]", b'["commit", "s"]', b'["guess", "s"]', b'["commit", "s", 1, {}, [], []]']
)
def test_a_damaged_line_is_an_error_that_names_the_file_and_the_place(tmp_path: Path, damage: bytes) -> None:
    """Each time, and never a sweep that is half of what it was."""
    storage, _ = journal_of(tmp_path)
    size = storage.path.stat().st_size
    with storage.path.open("ab") as file:
        file.write(damage + b"\n")
    for each in (storage, JournalStorage(storage.path), storage):
        with pytest.raises(StorageError, match=f"sweeps.journal is damaged at byte {size}: .*; restore a backup"):
            each.sweep("s")


def test_a_full_disk_is_an_error_and_nothing_was_written(tmp_path: Path) -> None:
    storage, sweep = journal_of(tmp_path)
    with full_disk(storage.path, 40), pytest.raises(StorageError, match="the disk is full, and nothing was written"):
        sweep.next_run()
    with full_disk(storage.path, 0), pytest.raises(StorageError, match="nothing was written"):
        sweep.next_run()
    assert storage.sweep("s").version == 1
    assert sweep.next_run()


def test_a_disk_that_fails_leaves_it_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, sweep = journal_of(tmp_path)

    def fail(_descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    change = decide(move, sweep.state, lambda _: (), sweep.state.at)(SweepTrigger.PAUSE).change
    assert change is not None
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OutcomeUnknown, match="read the sweep again"):
            storage.commit(change)
    assert sweep.pause() == ()  # reading it again finds out


def test_who_is_interrupted_while_reading_reads_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After Ctrl-C between any two steps: what it remembers is not relied on."""
    storage, _ = journal_of(tmp_path)
    other = JournalStorage(storage.path)
    Sweep.open("s", storage=other).next_run()
    read = storage._read

    def interrupted(line: bytes) -> None:
        read(line)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(storage, "_read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            storage.sweep("s")
    assert storage.sweep("s") == other.sweep("s")
    check_laws(storage, "s")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_goes_on_with_the_file(tmp_path: Path) -> None:
    """With a memory of its own, since it must not use its parent's."""
    storage, sweep = journal_of(tmp_path)
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if sweep.next_run("child") else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    run = sweep.next_run("parent")
    assert run
    assert run.index == 1
    check_laws(storage, "s")


def test_a_file_that_is_gone_is_an_error(tmp_path: Path) -> None:
    storage, sweep = journal_of(tmp_path)
    storage.path.unlink()
    with pytest.raises(StorageError, match="No such file"):
        sweep.next_run()

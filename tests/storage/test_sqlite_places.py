"""Places that cannot be written to, disks that are full or fail, and how ``SQLiteStorage`` goes on afterwards."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import pytest

from sweepstate import OutcomeUnknown, SQLiteStorage
from sweepstate.core import decide as core
from sweepstate.core.limits import Limits
from tests.support.sqlite import PAGE, change_of, filled, new_sweep, problem, take


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[SQLiteStorage]:
    """Give a storage with a sweep "s", of which one run was handed out."""
    with SQLiteStorage(tmp_path / "sweeps.db") as made:
        take(new_sweep(made))
        yield made


# --- places that cannot be written to ---------------------------------------------------------------

_VISITOR = """
import os, sys, urllib.parse  # imported while the standard library can still be read
from sweepstate import SQLiteStorage, StorageError
from tests.support.sqlite import change_of

if os.geteuid() == 0:  # for whom permissions do not count
    os.setuid(65534)

storage = None
for line in sys.stdin:
    try:
        storage = storage or SQLiteStorage(sys.argv[1])
        if line == "write\\n":
            storage.commit(change_of(storage))
        print("version", storage.sweep("s").version, flush=True)
    except StorageError as error:
        print(type(error).__name__, error, flush=True)
"""


@contextmanager
def visitor(path: Path) -> Generator[Callable[[Literal["read", "write"]], str]]:
    """Give a function that lets another process read or write, as somebody for whom permissions count."""
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", _VISITOR, str(path)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": root, "PYTHONDONTWRITEBYTECODE": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask(what: Literal["read", "write"]) -> str:
            print(what, file=process.stdin, flush=True)
            assert process.stdout is not None
            return process.stdout.readline()

        yield ask
        process.stdin.close()


@pytest.fixture
def shared_path() -> Iterator[Path]:
    """Give a path of a file that anybody may write to."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o777)
    path = directory / "sweeps.db"
    filled(path)
    path.chmod(0o666)
    yield path
    shutil.rmtree(directory)


@pytest.mark.skipif(os.name != "posix", reason="permissions are otherwise there")
def test_a_read_only_file_is_read_and_not_written(shared_path: Path) -> None:
    shared_path.chmod(0o444)
    with visitor(shared_path) as ask:
        assert ask("read") == "version 2\n"
        for _ in range(2):
            said = ask("write")
            assert said.startswith(f"StorageError SQLite file {str(shared_path)!r}: attempt to write a readonly")
            assert "change the permissions" in said
        make_writable(shared_path)
        assert ask("write") == "version 3\n"
    shared_path.chmod(0o444)
    with visitor(shared_path) as ask:
        assert ask("read") == "version 3\n"
        make_writable(shared_path)
        assert ask("write") == "version 4\n"


def make_writable(path: Path) -> None:
    for file in path.parent.iterdir():
        file.chmod(0o666)


@pytest.mark.skipif(os.name != "posix", reason="permissions are otherwise there")
def test_a_read_only_directory(shared_path: Path) -> None:
    """What is beside the file cannot be made."""
    shared_path.parent.chmod(0o755 if os.geteuid() == 0 else 0o555)
    with visitor(shared_path) as ask:
        for what in ("read", "write"):
            said = ask(what)
            assert said.startswith(f"StorageError SQLite file {str(shared_path)!r}: ")
            assert "change the permissions of the file" in said
        shared_path.parent.chmod(0o777)
        assert ask("write") == "version 3\n"
    fresh = shared_path.with_name("fresh.db")
    shared_path.parent.chmod(0o755 if os.geteuid() == 0 else 0o555)
    with visitor(fresh) as ask:
        assert "change the permissions of the file" in ask("read")
    assert not fresh.exists()
    shared_path.parent.chmod(0o777)


@pytest.mark.skipif(os.name != "posix", reason="permissions are otherwise there")
def test_a_file_that_may_not_even_be_read(shared_path: Path) -> None:
    shared_path.chmod(0)
    with visitor(shared_path) as ask:
        assert "change the permissions" in ask("read")
        shared_path.chmod(0o666)
        assert ask("write") == "version 3\n"


# --- full disks -----------------------------------------------------------------------------------


def test_a_full_disk_is_said_to_be_full_and_nothing_was_written(storage: SQLiteStorage) -> None:
    """As SQLite takes it for full when a file has as many pages as it may."""
    large = creation("large", "x" * 9_000)
    pages = storage._read(lambda desk: desk.execute("PRAGMA page_count").fetchone()[0])
    storage._read(lambda desk: desk.execute(f"PRAGMA max_page_count = {pages}").fetchone())
    said = "the disk is full, and nothing was written"
    error = problem(lambda: storage.commit(large), storage.path, said, "free some space")
    assert not isinstance(error, OutcomeUnknown)
    assert [sweep.id for sweep in storage.sweeps(limit=9)] == ["s"]
    storage.commit(large)  # on a new connection, which has no such limit
    assert [sweep.id for sweep in storage.sweeps(limit=9)] == ["large", "s"]


def creation(sweep_id: str, reason: str) -> core.Change:
    """Return the commit that creates a sweep, in as many bytes as its reason has."""
    return core.create(sweep_id, 1e9, search=None, size=None, limits=Limits(), objective=None, reason=reason)


@contextmanager
def file_size_limit(size: int) -> Generator[None]:
    """Let no file of this process grow beyond a size, as a quota does; the system says EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fails_in_the_middle_of_a_commit_leaves_its_outcome_unknown(storage: SQLiteStorage) -> None:
    """It is whole or absent, and the storage goes on when the disk does."""
    change = change_of(storage)
    wal = Path(f"{storage.path}-wal").stat().st_size
    with file_size_limit(wal + PAGE // 2):
        error = problem(lambda: storage.commit(change), storage.path, "in the middle of a commit", "look at the disk")
    assert isinstance(error, OutcomeUnknown)
    assert storage.sweep("s").version == change.version
    storage.commit(change)
    with SQLiteStorage(storage.path) as again:
        assert again.sweep("s") == change.sweep


def fill(filler: Path) -> None:
    """Write until the disk is full."""
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(b"x" * PAGE) == PAGE:
            pass


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """Where a small one may be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if (
        mount is None
        or subprocess.run(
            [mount, "-t", "tmpfs", "-o", "size=512k", "tmpfs", disk], check=False, capture_output=True
        ).returncode
    ):
        pytest.skip("no file system may be mounted here")
    try:
        path, filler = disk / "sweeps.db", disk / "filler"
        with SQLiteStorage(path) as storage:
            take(new_sweep(storage))
            change = change_of(storage)
            fill(filler)
            for _ in range(2):
                error = problem(lambda: storage.commit(change), path, "full")
                assert not isinstance(error, OutcomeUnknown)
                assert storage.sweep("s").version == change.version
            filler.unlink()
            storage.commit(change)
            assert storage.sweep("s") == change.sweep
    finally:
        subprocess.run(["umount", disk], check=True)

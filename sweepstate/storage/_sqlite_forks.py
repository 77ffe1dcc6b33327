"""What keeps SQLite files whole when a process forks: no connection is open in the moment of the fork.

SQLite forbids to use, or even to close, a connection in a forked child
(https://www.sqlite.org/howtocorrupt.html, 2.6). Leaving inherited connections
alone is not enough: the library in the child still counts the locks that the
parent holds as its process's own, so a new connection to the same file takes
none. The file's WAL is then removed under it when the parent is done, and what
the child has committed is lost. So connections that nobody uses are closed
before the fork, and the fork waits for those in use. Where one outlasts that, such as
that of a turn around the fork itself, the child may not use its file.
"""

from __future__ import annotations

import os
import time
from sqlite3 import Connection
from threading import Lock, get_ident
from typing import TYPE_CHECKING, Final
from weakref import ref

from ..core.errors import StorageError

if TYPE_CHECKING:
    from ._sqlite_file import SQLiteFile, Use

#: For so many seconds a fork waits for those who are in the middle of something.
PATIENCE: Final = 5.0
#: Who waits looks again after so many seconds.
_LOOK_AGAIN: Final = 0.001

#: Every file that is open in this process, by its id.
files: Final[dict[int, ref[SQLiteFile]]] = {}
#: Who uses a connection now, by the id of the use. Entered before one is taken, and left when it was given back.
uses: Final[dict[int, Use]] = {}

#: Files, as device and inode, that this process must not open: see the module's docstring.
_forbidden: Final[set[tuple[int, int]]] = set()
# What was inherited is kept as long as the process lives, since closing it is forbidden too.
_inherited: Final[list[Connection]] = []


class _Fork:
    """The fork that is going on, if there is one."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.thread = 0


_fork: Final = _Fork()


def enter(use: Use) -> None:
    """Note that a connection is going to be used; wait, if the process is just forking."""
    while True:
        # First noted, then looked, and the other way round by whoever forks: one of the two sees the other.
        uses[use.key] = use
        if not _fork.lock.locked() or _fork.thread == get_ident():
            return
        uses.pop(use.key, None)
        time.sleep(_LOOK_AGAIN)


def check(identity: tuple[int, int], name: str) -> None:
    """Raise StorageError if this process must not open a file."""
    if identity in _forbidden:
        raise StorageError(
            f"{name} was in use when this process was forked, and SQLite cannot be used here any more; fork outside of "
            "turns, or start processes with multiprocessing's 'spawn'"
        )


def _open_files() -> list[SQLiteFile]:
    found = (reference() for reference in list(files.values()))
    return [file for file in found if file is not None]


def _before() -> None:
    _fork.lock.acquire()
    _fork.thread = get_ident()
    deadline = time.monotonic() + PATIENCE
    while any(use.thread != _fork.thread for use in list(uses.values())) and time.monotonic() < deadline:
        time.sleep(_LOOK_AGAIN)
    for file in _open_files():
        file.close_idle()


def _after_in_parent() -> None:
    if _fork.lock.locked() and _fork.thread in {0, get_ident()}:  # 0: an interrupt came just after it was acquired
        _fork.thread = 0
        _fork.lock.release()


def _after_in_child() -> None:
    _fork.thread, _fork.lock = 0, Lock()
    for use in list(uses.values()):
        _inherited.extend(use.abandon())
        _forbidden.update(use.file.identities())
    uses.clear()
    for file in _open_files():
        left = file.begin_anew()
        if left:  # by another hook that used it just before the fork
            _inherited.extend(left)
            _forbidden.update(file.identities())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child)

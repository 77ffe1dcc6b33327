"""Processes of Linux: which one it is, whom its group has, and how to end all of it without ever hitting another.

A number of a process is used again once nobody has it any more, so a number alone means nothing. Here a process
is its number and the time at which it began (field 22 of /proc/PID/stat, proc(5)), on this boot and in
this namespace of numbers. A signal is sent either to a child that has not been waited for, whose number
nobody else can get, or by a descriptor of the process (pidfd_open(2)), after looking at whom it is of.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Final

import attrs

from ..core.errors import InvalidValue

_PROC: Final = Path("/proc")
_BOOT: Final = _PROC / "sys/kernel/random/boot_id"
#: States in which nothing of a process executes any more: a zombie, or dead.
_OVER: Final = frozenset("ZXx")


def check_platform() -> None:
    """Refuse a system on which processes cannot be told apart, or ended as a group.

    Raises:
        InvalidValue: it is not Linux 5.3 or newer with /proc.
    """
    if sys.platform != "linux" or not hasattr(os, "pidfd_open") or not _BOOT.exists():
        remedy = "run it on Linux 5.3 or newer, or give a function to another agent"
        raise InvalidValue("platform", f"{sys.platform} has no /proc or no pidfd_open", remedy)


@attrs.frozen
class Stat:
    """What /proc says about a process.

    Attributes:
        state: a letter.
        group: its process group.
        began: when it began, in ticks since the system did.
    """

    state: str
    group: int
    began: int

    @property
    def over(self) -> bool:
        """Whether nothing of it executes any more, though it is still listed."""
        return self.state in _OVER


def stat_of(pid: int) -> Stat | None:
    """Return what is known of a process, or None if there is none of this number."""
    try:
        text = (_PROC / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):  # and not for want of a descriptor
        return None
    # The name, in parentheses, may hold anything; so the fields are counted from its end: state is the third.
    fields = text[text.rindex(b")") + 2 :].split()
    return Stat(fields[0].decode("ascii", "replace"), int(fields[2]), int(fields[19]))


@cache
def machine() -> str:
    """Return what names the numbers of processes: this boot, and this namespace."""
    return f"{_BOOT.read_text(encoding='ascii').strip()}/{(_PROC / 'self/ns/pid').stat().st_ino}"


@attrs.frozen
class Identity:
    """One process, and no other that ever gets its number.

    Attributes:
        machine: where its number counts; see ``machine``.
        pid: its number.
        began: when it began.
    """

    machine: str
    pid: int
    began: int

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """Return which process has a number, or None."""
        stat = stat_of(pid)
        return None if stat is None else cls(machine(), pid, stat.began)

    def alive(self) -> bool:
        """Return whether it executes; only on the machine that it is of."""
        stat = stat_of(self.pid)
        return stat is not None and stat.began == self.began and not stat.over


def _all_pids() -> Iterator[int]:
    """Yield the number of every process that can be seen."""
    for name in os.listdir(_PROC):  # noqa: PTH208 - of hundreds, each as a path would be thrown away
        if name.isdigit():
            yield int(name)


def members(group: int) -> list[int]:
    """Return the processes of a group in which something executes."""
    try:
        os.killpg(group, 0)  # nearly always nobody is left, and this is quick
    except ProcessLookupError:
        return []
    except PermissionError:
        pass
    found = ((pid, stat_of(pid)) for pid in _all_pids())
    return [pid for pid, stat in found if stat is not None and stat.group == group and not stat.over]


def with_environment(entry: str) -> list[int]:
    """Return the processes that began with an entry in their environment, such as ``NAME=value``, and execute."""
    wanted = entry.encode()
    found: list[int] = []
    for pid in _all_pids():
        try:
            entries = (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
        except OSError:  # gone, or somebody else's
            continue
        if wanted in entries:
            found.append(pid)
    return found


def end_exactly(pid: int, began: int) -> None:
    """Kill the process that has a number since a time; no other, though it may get the number meanwhile."""
    with _opened(pid, began) as descriptor:
        if descriptor is not None:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)


def end_group(leader: Identity) -> None:
    """Kill the whole group of a leader that is there, in one step, so that nothing it starts meanwhile is missed.

    Should the leader end between the look and the signal, its number is not anybody else's at once: Linux gives out
    the others first, thousands of them.
    """
    with _opened(leader.pid, leader.began) as descriptor:
        if descriptor is not None:
            os.killpg(leader.pid, signal.SIGKILL)


@contextmanager
def _opened(pid: int, began: int) -> Generator[int | None]:
    """Give a descriptor of the process that has a number since a time, or None; that it ends meanwhile is no error.

    The descriptor is of whoever had the number when it was opened. If that one has ended since, what is read here
    may be of another, but then a signal by the descriptor reaches nobody.
    """
    descriptor = open_quietly(pid)
    try:
        stat = stat_of(pid)
        right = stat is not None and stat.began == began
        with suppress(ProcessLookupError, PermissionError):
            yield descriptor if right else None
    finally:
        if descriptor is not None:
            os.close(descriptor)


class Group:
    """A child that leads a process group of its own, with all that it has started in it.

    Safe for any thread: nothing is sent to the group once its leader has been waited for, since from
    then on its number may be given to another.

    Attributes:
        returncode: how the leader ended, as ``subprocess`` says it; None before that, or if nobody knows.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process: Final = process
        self._lock: Final = Lock()
        self._waited = False
        self._gone = False
        self.returncode: int | None = None

    @property
    def pid(self) -> int:
        """The number of the leader, and of the group."""
        return self._process.pid

    @property
    def waited(self) -> bool:
        """Whether the leader has ended and was waited for."""
        return self._waited

    def send(self, number: int) -> None:
        """Send a signal to all of it."""
        with self._lock:
            if not self._waited:
                self._kill(number)

    def _kill(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def poll(self) -> bool:
        """Return whether nothing of it executes any more; what a leader that has ended left behind is killed."""
        with self._lock:
            if not self._waited and not self._wait():
                return False
            # Asked no more once it was so: the number may be another's from then on.
            self._gone = self._gone or not members(self.pid)
            return self._gone

    def end_and_wait(self) -> None:
        """Kill all of it, and wait for the leader."""
        self.send(signal.SIGKILL)
        with self._lock:
            self.returncode = self._process.wait()
            self._waited = True

    def _wait(self) -> bool:
        """Wait for the leader if it has ended; kill the others first, while the group's number is still its own."""
        try:
            if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return False
        except ChildProcessError:
            # Somebody else has waited for it, or SIGCHLD is ignored: how it ended is not known.
            self._waited = True
            self._process.returncode = self._process.returncode or 0  # so that its destructor does not complain
            return True
        self._kill(signal.SIGKILL)
        self.returncode = self._process.wait()
        self._waited = True
        return True

    def left(self) -> list[int]:
        """Return who executes still, after the leader has ended."""
        return [] if self._gone else members(self.pid)


def open_quietly(pid: int) -> int | None:
    """Return a descriptor of a process that becomes readable when it has ended; None if it cannot be had."""
    try:
        return os.pidfd_open(pid)
    except OSError:  # there is no such process, or there are too many files open
        return None

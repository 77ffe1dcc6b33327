"""Processes and groups: who executes, and that a signal never reaches another."""

from __future__ import annotations

import errno
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import attrs
import pytest

from sweepstate import InvalidValue
from sweepstate.agent import _processes, _watcher
from sweepstate.agent._processes import Group, Identity, end_exactly, members, stat_of, with_environment
from sweepstate.agent._watcher import Watcher
from tests.agents.processes import until


@pytest.fixture
def sleeping() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "300"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def test_an_identity_is_of_one_process_only(sleeping: subprocess.Popen[bytes]) -> None:
    """Not of the next one with its number, and not of a zombie."""
    identity = Identity.of(sleeping.pid)
    assert identity is not None
    assert identity.alive()
    assert not attrs.evolve(identity, began=identity.began + 1).alive()
    sleeping.kill()
    until(lambda: not identity.alive())
    assert stat_of(sleeping.pid) is not None  # nobody has waited for it
    sleeping.wait()
    assert Identity.of(sleeping.pid) is None


def test_a_name_that_looks_like_fields_does_not_confuse(tmp_path: Path) -> None:
    """A process may call itself anything."""
    program = tmp_path / ") Z 1 (x"
    program.symlink_to("/bin/sleep")
    process = subprocess.Popen([str(program), "300"], start_new_session=True)
    try:
        until(lambda: b") Z 1 (x" in Path(f"/proc/{process.pid}/stat").read_bytes())
        stat = stat_of(process.pid)
        assert stat is not None
        assert (stat.group, stat.over) == (process.pid, False)
    finally:
        process.kill()
        process.wait()


def test_only_who_began_then_is_killed(sleeping: subprocess.Popen[bytes]) -> None:
    stat = stat_of(sleeping.pid)
    assert stat is not None
    end_exactly(sleeping.pid, stat.began + 1)
    end_exactly(2**22 + 1, stat.began)  # a number that no process can have
    assert sleeping.poll() is None
    end_exactly(sleeping.pid, stat.began)
    assert sleeping.wait(60) == -signal.SIGKILL


def test_processes_are_found_by_what_stood_in_their_environment() -> None:
    """The whole entry, not a part of it."""
    process = subprocess.Popen(["sleep", "300"], env={"TOKEN": "abcdef"})
    try:
        until(lambda: process.pid in with_environment("TOKEN=abcdef"))
        assert process.pid not in with_environment("TOKEN=abc")
    finally:
        process.kill()
        process.wait()


def test_a_group_that_was_waited_for_is_sent_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number may be another's by then."""
    group = Group(subprocess.Popen(["true"], start_new_session=True))
    until(group.poll)
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "killpg", lambda *args: sent.append(args))
    group.send(signal.SIGTERM)
    assert group.poll()
    assert (sent, group.returncode, group.left()) == ([], 0, [])


def test_a_group_is_over_when_its_last_process_is() -> None:
    """Its leader ends at once and leaves one that is in no hurry."""
    group = Group(subprocess.Popen(["sh", "-c", "sleep 300 & exit 7"], start_new_session=True))
    until(group.poll)
    assert group.returncode == 7
    assert members(group.pid) == []


def test_a_watcher_wakes_at_once_for_each_end_and_its_thread_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for one that has ended already, and for one that is nobody's child any more."""
    monkeypatch.setattr(_watcher, "_IDLE", 0.05)
    woken: list[int] = []
    watcher = Watcher(lambda: woken.append(1))
    processes = [subprocess.Popen(["sleep", "0.05"]) for _ in range(5)]
    for process in processes:
        watcher.watch_process(process.pid)
    until(lambda: len(woken) == 5)
    for process in processes:
        process.wait()
        watcher.watch_process(process.pid)
    assert len(woken) == 10
    until(lambda: watcher._epoll is None)
    late = subprocess.Popen(["true"])
    watcher.watch_process(late.pid)
    until(lambda: len(woken) == 11)
    late.wait()


def test_a_watcher_that_can_watch_nothing_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many files are open, or too many threads are there: whoever looks the next time sees it."""
    watcher = Watcher(lambda: None)
    process = subprocess.Popen(["sleep", "0.2"])

    def refuse(*_: object) -> NoReturn:
        raise OSError(errno.EMFILE, "too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(select, "epoll", refuse)
        watcher.watch_process(process.pid)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pidfd_open", refuse)
        watcher.watch_process(process.pid)
    woken: list[int] = []
    watcher = Watcher(lambda: woken.append(1))
    watcher.watch_process(process.pid)
    until(lambda: woken)
    process.wait()


@pytest.mark.parametrize("missing", ["platform", "pidfd_open"])
def test_a_system_that_lacks_what_is_needed_is_told_so(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    if missing == "platform":
        monkeypatch.setattr(sys, "platform", "darwin")
    else:
        monkeypatch.delattr(os, "pidfd_open")
    with pytest.raises(InvalidValue, match=r"Linux 5\.3"):
        _processes.check_platform()

"""The child side's end of the socket: whole lines, the newest metrics, and nothing that must not be lost is."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from sweepstate.agent import child
from sweepstate.agent.child import _Channel


class Ends:
    """Both ends of a socket: the program's, and what arrives at the other."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        for end in (self.ours, self.theirs):
            end.setblocking(False)
        self.channel = _Channel(self.theirs.fileno())

    def heard(self) -> list[Any]:
        """Return what has arrived; every line has to be one message."""
        data = b""
        while True:
            try:
                piece = self.ours.recv(65_536)
            except BlockingIOError:
                break
            data += piece
        assert data == b"" or data.endswith(b"\n")
        return [json.loads(line) for line in data.splitlines()]

    def fill(self) -> int:
        """Fill the socket up to its last byte, with empty lines; return with how many."""
        count = 0
        for size in (65_536, 1):
            try:
                while True:
                    count += os.write(self.theirs.fileno(), b"\n" * size)
            except BlockingIOError:
                pass
        return count

    def drain(self, count: int) -> None:
        """Read so many bytes."""
        while count > 0:
            count -= len(self.ours.recv(count))


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    yield ends
    ends.ours.close()
    ends.theirs.close()


def test_who_does_not_read_gets_the_newest_metrics_later(ends: Ends) -> None:
    """And all that must not be lost, before them."""
    filled = ends.fill()
    for step in range(1000):
        ends.channel.say({"report": {"step": step}}, surely=False)
    ends.channel._sure.append(b'{"preempting": true}\n')
    ends.drain(filled)
    ends.channel.flush(0.0)
    # The first one was on its way already.
    assert ends.heard() == [{"report": {"step": 0}}, {"preempting": True}, {"report": {"step": 999}}]


def test_what_must_not_be_lost_waits_for_a_while_only(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training goes on though the agent hangs; it is sent when that comes back."""
    monkeypatch.setattr(child, "_PATIENCE", 0.05)
    filled = ends.fill()
    ends.channel.say({"finish": {"loss": 1}}, surely=True)
    ends.drain(filled)
    ends.channel.flush(0.0)
    assert ends.heard() == [{"finish": {"loss": 1}}]


def test_a_mark_is_not_replaced_by_metrics(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though neither could be sent when they were said."""
    monkeypatch.setattr(child, "_PATIENCE", 0.0)
    filled = ends.fill()
    ends.channel.say({"report": {"step": 0}}, surely=False)  # this one is on its way
    ends.channel.say({"preempting": True}, surely=True)
    ends.channel.say({"report": {"step": 1}}, surely=False)
    ends.drain(filled)
    ends.channel.flush(0.0)
    assert ends.heard() == [{"report": {"step": 0}}, {"preempting": True}, {"report": {"step": 1}}]


def test_a_handler_that_speaks_in_the_middle_of_a_line_breaks_none(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says comes behind."""
    write = os.write
    interrupted: list[int] = []

    def write_a_little(descriptor: int, data: bytes) -> int:
        sent = write(descriptor, data[:5])
        if not interrupted:
            interrupted.append(1)
            ends.channel.say({"preempting": True}, surely=True)  # as a signal's handler would, here
        return sent

    monkeypatch.setattr(os, "write", write_a_little)
    ends.channel.say({"report": {"loss": 1}}, surely=False)
    assert ends.heard() == [{"report": {"loss": 1}}, {"preempting": True}]


def test_a_handler_that_ends_the_program_between_two_lines_loses_nothing(ends: Ends) -> None:
    """It may have raised where the interrupted code could not say any more that it is over (seen once in 100 runs)."""
    ends.channel._sending = True
    ends.channel.say({"preempting": True}, surely=True)
    assert ends.heard() == []
    ends.channel.end()
    assert ends.heard() == [{"preempting": True}]


def test_a_fork_says_nothing(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its words would mix with those of the one that it is a copy of."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    ends.channel.say({"finish": {"loss": 1}}, surely=True)
    monkeypatch.undo()
    assert ends.heard() == []


def test_nobody_who_listens_is_no_error(ends: Ends) -> None:
    """The orchestrator has died; training goes on."""
    ends.ours.close()
    for _ in range(3):
        ends.channel.say({"report": {"loss": 1}}, surely=False)
        ends.channel.say({"finish": {"loss": 1}}, surely=True)
        ends.channel.listen()
    assert not ends.channel.stop


@pytest.mark.parametrize("pieces", [1, 3, 100])
def test_being_asked_to_stop_is_heard_among_other_things(ends: Ends, pieces: int) -> None:
    """In whatever pieces it comes, and only once it is there whole."""
    data = b'{"later": 1}\nnonsense\n[1]\n{"stop": true}\n'
    for begin in range(0, len(data), pieces):
        assert not ends.channel.stop
        ends.ours.send(data[begin : begin + pieces])
        ends.channel.listen()
    assert ends.channel.stop

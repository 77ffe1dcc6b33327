"""The channel: what a program may say, in bounded memory, whatever else it sends."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweepstate.agent._channel import LONGEST_LINE, Channel


@pytest.fixture
def channel() -> Iterator[Channel]:
    channel = Channel()
    yield channel
    channel.close()


def say(channel: Channel, data: bytes) -> None:
    """Send something as the program, however much it is, and hear it."""
    while data:
        data = data[os.write(channel.theirs, data[:50_000]) :]
        channel.hear()


def test_the_newest_metrics_win_and_are_taken_once(channel: Channel) -> None:
    say(channel, b'{"report": {"loss": 2}}\n{"report": {"loss": 1.5}}\n')
    assert channel.take_newest() == {"loss": 1.5}
    assert channel.take_newest() is None


def test_what_could_not_be_passed_on_is_kept_unless_newer_came(channel: Channel) -> None:
    say(channel, b'{"report": {"loss": 2}}\n')
    old = channel.take_newest()
    assert old is not None
    channel.keep_newest(old)
    assert channel.take_newest() == {"loss": 2}
    say(channel, b'{"report": {"loss": 1}}\n')
    channel.keep_newest(old)
    assert channel.take_newest() == {"loss": 1}


def test_a_line_may_come_in_pieces(channel: Channel) -> None:
    for byte in b'{"finish": {"loss": 1}}\n{"preempting": true}\n':
        say(channel, bytes([byte]))
    assert channel.finished == {"loss": 1}
    assert channel.preempting


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"not json",
        b"\xff\xfe",
        b"[1, 2]",
        b"null",
        b"[" * 100_000,
        b"1" * 10_000,
        b'{"finish": 1}',
        b'{"finish": null}',
        b'{"finish": {"loss": "low"}}',
        b'{"finish": {"loss": true}}',
        b'{"finish": {"loss": {"deep": 1}}}',
        b'{"finish": {"\\ud800": 1}}',
        b'{"finish": {"loss": ' + b"9" * 4_000 + b"}}",
        b'{"preempting": 1}',
        b'{"finish": {"loss": 2}, "junk": "' + b"x" * LONGEST_LINE + b'"}',
    ],
    ids=lambda line: repr(line[:30]),
)
def test_whatever_is_no_message_changes_nothing(channel: Channel, line: bytes) -> None:
    """And what comes after it is understood."""
    say(channel, line + b"\n")
    assert (channel.finished, channel.preempting, channel.take_newest()) == (None, False, None)
    say(channel, b'{"finish": {"loss": 1}}\n')
    assert channel.finished == {"loss": 1}


def test_a_line_without_an_end_is_not_kept(channel: Channel) -> None:
    """However much comes."""
    for _ in range(40):
        say(channel, b"x" * 100_000)
        assert len(channel._line) <= LONGEST_LINE
    say(channel, b'\n{"preempting": true}\n')
    assert channel.preempting


def test_the_end_of_a_line_that_was_too_long_is_no_message(channel: Channel) -> None:
    """Though it looks like one."""
    say(channel, b"x" * LONGEST_LINE)
    say(channel, b"x")
    say(channel, b'{"preempting": true}\n')
    assert not channel.preempting
    say(channel, b'{"preempting": true}\n')
    assert channel.preempting


def test_infinite_losses_are_numbers(channel: Channel) -> None:
    """A training that diverges says so."""
    say(channel, json.dumps({"finish": {"loss": float("inf")}}).encode() + b"\n")
    assert channel.finished == {"loss": float("inf")}


@given(st.lists(st.binary(max_size=60), max_size=10), st.data())
def test_noise_between_lines_hides_none_of_them(noise: list[bytes], data: st.DataObject) -> None:
    """In whatever pieces it comes."""
    channel = Channel()
    try:
        stream = b"".join(each.replace(b"\n", b"") + b'\n{"report": {"n": %d}}\n' % n for n, each in enumerate(noise))
        while stream:
            size = data.draw(st.integers(1, len(stream)))
            say(channel, stream[:size])
            stream = stream[size:]
        assert channel.take_newest() == ({"n": len(noise) - 1} if noise else None)
        assert channel.finished is None
    finally:
        channel.close()


def test_its_end_is_seen_and_closing_twice_is_harmless(channel: Channel) -> None:
    say(channel, b'{"preempting": true}\n')
    channel.handed_over()  # nobody else has it
    assert channel.hear() is False
    channel.close()
    channel.ask_to_stop()
    assert channel.hear(in_the_end=True) is False


def test_asking_to_stop_never_waits(channel: Channel) -> None:
    """Not even a program that never reads."""
    for _ in range(100_000):
        channel.ask_to_stop()
    assert os.read(channel.theirs, 100).startswith(b'{"stop": true}\n')

"""Two small indexes for storages that live in memory."""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import Final

_BITS: Final = 10
_MASK: Final = (1 << _BITS) - 1


class IndexSet:
    """A set of small non-negative integers that finds the next one above a given one quickly.

    Two levels of bit sets: one integer for every 1,024 members-to-be, and one that says which of
    those are not zero. A sorted list would move half of itself for each removal from its front,
    which is where a backlog takes from.
    """

    __slots__ = ("_blocks", "_used")

    def __init__(self) -> None:
        self._blocks: dict[int, int] = {}
        self._used = 0

    def __bool__(self) -> bool:
        return self._used != 0

    def add(self, index: int) -> None:
        """Add an integer."""
        block = index >> _BITS
        bits = self._blocks.get(block, 0)
        self._blocks[block] = bits | 1 << (index & _MASK)
        if not self._used >> block & 1:
            self._used |= 1 << block

    def discard(self, index: int) -> None:
        """Remove an integer, if it is there."""
        block = index >> _BITS
        bits = self._blocks.get(block, 0) & ~(1 << (index & _MASK))
        if bits:
            self._blocks[block] = bits
        else:
            self._blocks.pop(block, None)
            self._used &= ~(1 << block)

    def above(self, after: int) -> Iterator[int]:
        """Yield the members above ``after``, in order."""
        start = after + 1
        block = start >> _BITS
        bits = self._blocks.get(block, 0) >> (start & _MASK) << (start & _MASK)
        rest = self._used >> (block + 1) << (block + 1)
        while True:
            while bits:
                low = bits & -bits
                yield block << _BITS | low.bit_length() - 1
                bits ^= low
            if not rest:
                return
            low = rest & -rest
            block = low.bit_length() - 1
            rest ^= low
            bits = self._blocks.get(block, 0)


class TimeIndex:
    """Finds the members whose time has come. Moving a time later, as heartbeats do, costs a dictionary write."""

    __slots__ = ("_heap", "_pushed", "_times")

    def __init__(self) -> None:
        self._times: dict[int, float] = {}
        # Each member has one valid entry in the heap, at its time or before; it is corrected when it comes up.
        self._pushed: dict[int, float] = {}
        self._heap: list[tuple[float, int]] = []

    def set(self, index: int, time: float | None) -> None:
        """Give a member its time; None removes it."""
        if time is None:
            if self._times.pop(index, None) is not None:
                self._pushed.pop(index, None)
                self._compact()
            return
        self._times[index] = time
        pushed = self._pushed.get(index)
        if pushed is None or time < pushed:
            self._push(time, index)

    def until(self, time: float, limit: int) -> list[int]:
        """Return at most ``limit`` members whose time is not after ``time``, by time and then number."""
        found: list[tuple[float, int]] = []
        while self._heap and self._heap[0][0] <= time and len(found) < limit:
            entry = heappop(self._heap)
            at, index = entry
            if self._pushed.get(index) != at:
                continue
            if self._times[index] > at:
                self._push(self._times[index], index)
            elif not found or found[-1] != entry:
                found.append(entry)
        for entry in found:
            heappush(self._heap, entry)
        return [index for _, index in found]

    def _push(self, time: float, index: int) -> None:
        self._pushed[index] = time
        heappush(self._heap, (time, index))

    def _compact(self) -> None:
        """Drop the entries of members that are gone once they outnumber the others."""
        if len(self._heap) > 64 + 2 * len(self._pushed):
            self._heap = [(time, index) for index, time in self._pushed.items()]
            heapify(self._heap)

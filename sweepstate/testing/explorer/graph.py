"""The recorded graph of an exploration, and what can be reached in it."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator


class Graph:
    """States, numbered from 0, and the moves between them: two integers a move."""

    def __init__(self) -> None:
        self._targets = array("i")
        self._facts = bytearray()
        self._starts = array("q", [0])

    def __len__(self) -> int:
        """Return how many states have their moves recorded."""
        return len(self._starts) - 1

    def add(self, targets: Iterable[tuple[int, bool]]) -> None:
        """Record the moves of the next state: where each leads, and whether it is a fact."""
        for target, fact in targets:
            self._targets.append(target)
            self._facts.append(fact)
        self._starts.append(len(self._targets))

    def moves(self, state: int, *, facts: bool) -> Iterator[int]:
        """Yield where the moves of a state lead."""
        if state >= len(self):
            return
        for place in range(self._starts[state], self._starts[state + 1]):
            if not facts or self._facts[place]:
                yield self._targets[place]

    def leading_to(self, goals: bytearray, *, facts: bool) -> bytearray:
        """Return which states have a way to a goal.

        Args:
            goals: which states are one; as long as there are states.
            facts: whether the way may take facts only.
        """
        found = bytearray(goals)
        targets, starts, allowed = self._targets, self._starts, self._facts
        # Moves mostly lead to states that were found later, so going backwards needs few rounds; a
        # reversed copy of the graph would need twice the memory.
        again = True
        while again:
            again = False
            for state in range(len(self) - 1, -1, -1):
                if found[state]:
                    continue
                for place in range(starts[state], starts[state + 1]):
                    if found[targets[place]] and (not facts or allowed[place]):
                        found[state] = again = True
                        break
        return found

    def reached_from(self, starts: Iterable[int], *, facts: bool) -> bytearray:
        """Return which states can be reached from some, themselves included; as long as the highest reached."""
        found = bytearray(len(self))
        waiting = list(starts)
        while waiting:
            state = waiting.pop()
            if state >= len(found):
                found.extend(bytes(state + 1 - len(found)))
            if not found[state]:
                found[state] = 1
                waiting += self.moves(state, facts=facts)
        return found

"""Slots: GPUs, or whatever else there is a fixed number of, handed out to runs."""

from __future__ import annotations

import re
from collections.abc import Collection
from threading import Lock
from typing import Final

from ..core.errors import InvalidValue
from ..core.values import check_collection, check_count, check_text, show

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Slots:
    """A pool from which each run gets some slots for as long as it executes.

    Agents may share one, also those of different sweeps in one process. An agent whose pool cannot serve
    one more run wants no more runs (``accepting`` is False), so that none waits for a slot with a lease in
    its hand, and none fails for want of one.

    Args:
        slots: what there is, such as the numbers of GPUs, or their UUIDs.
        per_run: how many of them each run gets.
        variable: the environment variable in which the program finds its own, with commas between them.

    Raises:
        InvalidValue: there are fewer than one run needs, or one twice.

    Example:
        >>> gpus = Slots([0, 1, 2, 3], per_run=2)
        >>> taken = gpus.take()
        >>> taken, gpus.variables(taken), gpus.free
        (('0', '1'), {'CUDA_VISIBLE_DEVICES': '0,1'}, 2)
        >>> gpus.give_back(taken)
    """

    def __init__(
        self, slots: Collection[int | str], *, per_run: int = 1, variable: str = "CUDA_VISIBLE_DEVICES"
    ) -> None:
        self._all: Final = tuple(_check_slot(slot, f"slots[{n}]") for n, slot in enumerate(_check_slots(slots)))
        if len(set(self._all)) < len(self._all):
            raise InvalidValue("slots", f"has one twice: {show(list(self._all))}", "name each of them once")
        self.per_run: Final = check_count(per_run, "per_run", least=1)
        if self.per_run > len(self._all):
            problem = f"is {self.per_run}, and there are {len(self._all)} slots"
            raise InvalidValue("per_run", problem, "give more slots, or fewer to each run")
        self.variable: Final = check_text(variable, "variable", most=200)
        if not _NAME.fullmatch(variable):
            raise InvalidValue("variable", f"{show(variable)} cannot name an environment variable")
        self._lock: Final = Lock()
        self._free = list(self._all)

    def __repr__(self) -> str:
        return f"<Slots {list(self._all)}, {self.per_run} a run: {self.free} free>"

    @property
    def free(self) -> int:
        """How many slots are free."""
        return len(self._free)

    @property
    def available(self) -> bool:
        """Whether there are enough for one more run."""
        return len(self._free) >= self.per_run

    def take(self) -> tuple[str, ...] | None:
        """Return the slots for a run, the lowest that are free; None if there are not enough."""
        with self._lock:
            if len(self._free) < self.per_run:
                return None
            taken, self._free = tuple(self._free[: self.per_run]), self._free[self.per_run :]
            return taken

    def reserve(self, slots: Collection[str]) -> tuple[str, ...]:
        """Take slots that somebody who was found executing has; return those of them that were free."""
        with self._lock:
            taken = tuple(slot for slot in slots if slot in self._free)
            self._free = [slot for slot in self._free if slot not in taken]
            return taken

    def give_back(self, taken: Collection[str]) -> None:
        """Make slots free again that were taken."""
        with self._lock:
            free = {*self._free, *taken}
            self._free = [slot for slot in self._all if slot in free]

    def variables(self, taken: Collection[str]) -> dict[str, str]:
        """Return the environment variable that tells a program its slots."""
        return {self.variable: ",".join(taken)}


def _check_slots(slots: object) -> Collection[object]:
    found = check_collection(slots, "slots")
    if not found:
        raise InvalidValue("slots", "is empty", "name at least one slot, e.g. [0]")
    return found


def _check_slot(slot: object, field: str) -> str:
    text = str(check_count(slot, field)) if isinstance(slot, int) else check_text(slot, field, most=200)
    if not text or "," in text or "\0" in text:
        raise InvalidValue(field, f"{show(slot)} cannot name a slot", "use numbers, or names without commas")
    return text

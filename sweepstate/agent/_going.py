"""What a worker says when it goes home."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast, final

import attrs

from ..core.events import Event, LateReport, RunEnded
from ..core.lifecycle import RUN_ENDED
from ..core.status import RunStatus, Word
from ..core.values import EMPTY, FrozenDict

if TYPE_CHECKING:
    from ..run import Run


class GoingReason(Word):
    """Why a worker went home."""

    ENDED = "the sweep has ended"
    DRAINING = "the sweep creates no runs any more"
    STALLED = "the search waits although nothing is active"
    DELETED = "the sweep was deleted"
    COUNT = "it has executed as many runs as it was to"
    FLAPPING = "what it executes fails"
    INTERRUPTED = "it was interrupted"


@final
@attrs.frozen
class Going:
    """That a worker went home, and what it has done.

    Attributes:
        reason: why.
        message: the same in a sentence, with the figures.
        counts: how many of its runs got which verdict by its report; FAILED counts each time, also if the run is
            tried again.
        requeued: how many were queued again instead, because they were preempted.
        late: how many ended after somebody else had given the verdict: killed, or handed on.
    """

    reason: GoingReason
    message: str
    counts: Mapping[RunStatus, int] = cast("Mapping[RunStatus, int]", EMPTY)
    requeued: int = 0
    late: int = 0

    @property
    def runs(self) -> int:
        """How many runs it has executed."""
        return sum(self.counts.values()) + self.requeued + self.late

    def __str__(self) -> str:
        parts = [f"{count} {status.lower()}" for status, count in self.counts.items()]
        parts += [f"{count} {word}" for count, word in ((self.requeued, "queued again"), (self.late, "late")) if count]
        runs = f"{self.runs} run" + ("" if self.runs == 1 else "s")
        return f"{self.message}; {', '.join([runs, *parts])}"

    def after(self, run: Run, events: tuple[Event, ...]) -> tuple[Going, RunStatus | None]:
        """Return what has been done with one more run, and the verdict on it, if it got one by this report.

        Args:
            run: the run, whose end was reported.
            events: what the report has caused; nothing, if the function has reported the end itself. Then the status
                tells.
        """
        for event in events:
            if isinstance(event, LateReport) and event.index == run.index:
                return attrs.evolve(self, late=self.late + 1), None
        verdicts = [event.status for event in events if isinstance(event, RunEnded) and event.index == run.index]
        verdict = verdicts[0] if verdicts else run.status
        if verdict not in RUN_ENDED:
            return attrs.evolve(self, requeued=self.requeued + 1), None
        counts = dict(self.counts)
        counts[verdict] = counts.get(verdict, 0) + 1
        frozen = FrozenDict(cast("dict[str, int]", counts))
        return attrs.evolve(self, counts=cast("Mapping[RunStatus, int]", frozen)), verdict

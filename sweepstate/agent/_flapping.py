"""When a worker gives up: its runs fail at once, or nearly all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import attrs

from ..core.errors import InvalidValue
from ..core.lifecycle import FAILURES
from ..core.status import RunStatus
from ..core.values import check_count, check_seconds, freeze, show


def _early(value: tuple[int, float] | None) -> tuple[int, float] | None:
    if value is None:
        return None
    pair = freeze(value, "flapping.early")
    if type(pair) is not tuple or len(cast("tuple[object, ...]", pair)) != 2:
        raise InvalidValue("flapping.early", f"must be a pair, not {show(value)}", "e.g. (3, 60.0)")
    count, seconds = cast("tuple[object, object]", pair)
    return (
        check_count(count, "flapping.early[0]", least=1),
        check_seconds(seconds, "flapping.early[1]", zero=False),
    )


def _failures(value: int | None) -> int | None:
    return None if value is None else check_count(value, "flapping.failures", least=1)


def _successes(value: int) -> int:
    return check_count(value, "flapping.successes")


@attrs.frozen(kw_only=True)
class Flapping:
    """When a worker goes home because what it executes fails: a broken machine must not burn a sweep.

    It is about one worker; ``Limits(failure=...)`` is about the whole sweep. FAILED and CRASHED count, each time,
    also if the run is retried; KILLED and preempted runs count nowhere.

    Attributes:
        early: ``(n, seconds)``: n failures in the first seconds; None does not look at it.
            Source: wandb, ``wandb_agent.py``, ``Agent.is_flapping``: 3 in the first 60 s.
        failures: so many failures, with few successes, are enough at any time; None does not look at it.
            Source: wandb, ``Agent.is_failing`` and ``WANDB_AGENT_MAX_INITIAL_FAILURES``: 5.
        successes: with at most so many successes. Source: the same; a worker that was seen to work twice stays.

    Raises:
        InvalidValue: a number is out of its range.
    """

    early: tuple[int, float] | None = attrs.field(default=(3, 60.0), converter=_early)
    failures: int | None = attrs.field(default=5, converter=_failures)
    successes: int = attrs.field(default=1, converter=_successes)


@attrs.define
class Tally:
    """What has become of a worker's runs, as far as that says something about the worker.

    Args:
        rule: when it goes home; None is never.
        monotonic: returns seconds; the first ones count from now.
    """

    _rule: Flapping | None
    _monotonic: Callable[[], float]
    _began: float = attrs.field(init=False)
    _failed: int = attrs.field(default=0, init=False)
    _early: int = attrs.field(default=0, init=False)
    _succeeded: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self._began = self._monotonic()

    def note(self, verdict: RunStatus) -> None:
        """Note the verdict that a run got when this worker reported its end."""
        if verdict is RunStatus.FINISHED:
            self._succeeded += 1
        elif verdict in FAILURES:
            self._failed += 1
            early = None if self._rule is None else self._rule.early
            if early is not None and self._monotonic() - self._began < early[1]:
                self._early += 1

    def flapping(self) -> str | None:
        """Return why the worker should go home, or None."""
        rule = self._rule
        if rule is None:
            return None
        if rule.early is not None and self._early >= rule.early[0]:
            return f"{self._early} runs failed in the first {rule.early[1]:g} s"
        if rule.failures is not None and self._failed >= rule.failures and self._succeeded <= rule.successes:
            return f"{self._failed} runs failed, and {self._succeeded} succeeded"
        return None

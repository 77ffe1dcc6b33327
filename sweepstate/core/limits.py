"""What bounds a sweep: limits, the failure rule, and the objective. All of it is part of the snapshot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypedDict

import attrs

from .errors import InvalidValue
from .lifecycle import FAILURES
from .status import RunStatus
from .values import EMPTY, FrozenDict, check_count, check_number, check_seconds, check_text, freeze, show


def _count(name: str, least: int = 0) -> Callable[[Any], int]:
    return lambda value: check_count(value, name, least=least)


def _count_or_none(name: str) -> Callable[[Any], int | None]:
    return lambda value: None if value is None else check_count(value, name, least=1)


def _seconds(name: str) -> Callable[[Any], float]:
    return lambda value: check_seconds(value, name)


def _retries(value: Any) -> FrozenDict:
    """Return how often a run is requeued by itself, by the status it ended in, without zeros."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = dict.fromkeys(FAILURES, value)
    if not isinstance(value, Mapping):
        raise InvalidValue("limits.retries", f"must be a count or a mapping, not {show(value)}", "e.g. {RunStatus.CRASHED: 2}")
    counts: dict[str, int] = {}
    for status in sorted(value):
        if status not in FAILURES:
            raise InvalidValue("limits.retries", f"{show(status)} is never retried by limit", "use FAILED and CRASHED")
        if count := check_count(value[status], f"limits.retries.{RunStatus(status)}"):
            counts[RunStatus(status).value] = count
    return FrozenDict(counts)


def _pair(value: Any, field: str, example: str) -> tuple[Any, Any]:
    plain = freeze(value, field)
    if not isinstance(plain, tuple) or len(plain) != 2:
        raise InvalidValue(field, f"must be a pair, not {show(value)}", f"e.g. {example}")
    return plain


def _within(value: Any) -> tuple[int, float] | None:
    if value is None:
        return None
    count, seconds = _pair(value, "limits.failure.within", "(3, 60.0)")
    return (
        check_count(count, "limits.failure.within[0]", least=1),
        check_seconds(seconds, "limits.failure.within[1]", zero=False),
    )


def _rate(value: Any) -> tuple[float, int] | None:
    if value is None:
        return None
    share, at_least = _pair(value, "limits.failure.rate", "(0.5, 20)")
    share = check_number(share, "limits.failure.rate[0]")
    if not 0 <= share < 1:
        raise InvalidValue("limits.failure.rate[0]", f"must be a share from 0 to less than 1, not {share}")
    return share, check_count(at_least, "limits.failure.rate[1]", least=1)


@attrs.frozen(kw_only=True)
class FailureRule:
    """When a sweep gives up because its runs fail systematically; what is None is not looked at.

    FAILED and CRASHED runs count, once for each run and each reopening of the sweep, after the
    run's retries are used up. KILLED runs count nowhere.

    Attributes:
        streak: so many ended runs in a row failed.
        within: ``(n, seconds)``: n failures in the first seconds after the first start.
            Source: W&B's agents stop after 3 failures in the first 60 s.
        rate: ``(share, at_least)``: more than this share of at least so many ended runs failed.

    Raises:
        InvalidValue: a number is out of its range.
    """

    streak: int | None = attrs.field(default=None, converter=_count_or_none("limits.failure.streak"))
    within: tuple[int, float] | None = attrs.field(default=None, converter=_within)
    rate: tuple[float, int] | None = attrs.field(default=None, converter=_rate)


def _failure(value: Any) -> FailureRule | None:
    if value is not None and not isinstance(value, FailureRule):
        raise InvalidValue("limits.failure", f"must be a FailureRule, not {show(value)}", "e.g. FailureRule(streak=5)")
    return value


@attrs.frozen(kw_only=True)
class Limits:
    """What bounds a sweep. Times are in seconds; None means no bound.

    Attributes:
        run_cap: how many runs may be created, exactly, over all agents (W&B's ``run_cap``). A
            requeue or a retry is not a new run.
        max_active: how many executions may exist at once; one that is being killed counts until it is gone.
        heartbeat_timeout: after so much silence a RUNNING attempt that promised heartbeats is
            suspected (300, W&B), and one that was killed or requeued counts as lost.
        suspicion: a suspected attempt that is still silent after so much more is lost.
        start_timeout: a worker's run that has not begun after so long is given to somebody else.
        stop_grace: a run that was asked to stop is killed after so long (30, W&B).
        max_preemptions: how often a run is requeued by preemption; the next one ends in CRASHED (5, W&B's launch agent).
        retries: how often a run that ended FAILED or CRASHED is requeued by itself: one count for
            both, or a mapping from the status.
        launch_attempts: a run whose agent failed to start it so often is FAILED, not launched.
        time_limit: a sweep stops after so many seconds of being RUNNING, counted since it was
            created or reopened; a pause stops the clock.
        failure: when a sweep gives up; None for never.

    Raises:
        InvalidValue: a value is out of its range; ``field`` names it.
    """

    run_cap: int | None = attrs.field(default=None, converter=_count_or_none("limits.run_cap"))
    max_active: int | None = attrs.field(default=None, converter=_count_or_none("limits.max_active"))
    heartbeat_timeout: float = attrs.field(default=300.0, converter=_seconds("limits.heartbeat_timeout"))
    suspicion: float = attrs.field(default=60.0, converter=_seconds("limits.suspicion"))
    start_timeout: float = attrs.field(default=300.0, converter=_seconds("limits.start_timeout"))
    stop_grace: float = attrs.field(default=30.0, converter=_seconds("limits.stop_grace"))
    max_preemptions: int = attrs.field(default=5, converter=_count("limits.max_preemptions"))
    retries: Mapping[RunStatus, int] = attrs.field(default=EMPTY, converter=_retries)
    launch_attempts: int = attrs.field(default=3, converter=_count("limits.launch_attempts", 1))
    time_limit: float | None = attrs.field(
        default=None, converter=lambda value: None if value is None else check_seconds(value, "limits.time_limit", zero=False)
    )
    failure: FailureRule | None = attrs.field(default=None, converter=_failure)

    def replace(self, changes: Mapping[str, Any]) -> Limits:
        """Return these limits with some of them changed.

        Raises:
            InvalidValue: a name is no limit, or a value is out of its range.
        """
        for name in changes:
            if name not in _LIMITS:
                raise InvalidValue(f"limits.{name}", "there is no such limit", "use one of " + ", ".join(_LIMITS))
        return attrs.evolve(self, **changes)


class LimitChanges(TypedDict, total=False):
    """Names of limits and their new values; see ``Limits``."""

    run_cap: int | None
    max_active: int | None
    heartbeat_timeout: float
    suspicion: float
    start_timeout: float
    stop_grace: float
    max_preemptions: int
    retries: int | Mapping[RunStatus, int]
    launch_attempts: int
    time_limit: float | None
    failure: FailureRule | None


_LIMITS = tuple(field.name for field in attrs.fields(Limits))


def _goal(value: Any) -> str:
    if value not in ("minimize", "maximize"):
        raise InvalidValue("objective.goal", f"must be 'minimize' or 'maximize', not {show(value)}")
    return str(value)


@attrs.frozen
class Objective:
    """What a sweep is after: a metric that a run reports with its end, and a goal for it.

    Attributes:
        metric: the metric's name.
        goal: ``"minimize"`` or ``"maximize"``.
        target: a value good enough to end the search, or None.

    Raises:
        InvalidValue: a field cannot be used.
    """

    metric: str = attrs.field(converter=lambda value: check_text(value, "objective.metric"))
    goal: str = attrs.field(default="minimize", converter=_goal)
    target: float | None = attrs.field(
        default=None, converter=lambda value: None if value is None else check_number(value, "objective.target")
    )

    def better(self, value: float, than: float | None) -> bool:
        """Return whether ``value`` beats the best so far; NaN beats nothing, and a tie keeps the first."""
        if value != value:
            return False
        return than is None or (value < than if self.goal == "minimize" else value > than)

    def reached(self, value: float) -> bool:
        """Return whether ``value`` is as good as the target; never, without a target."""
        if self.target is None:
            return False
        return value <= self.target if self.goal == "minimize" else value >= self.target

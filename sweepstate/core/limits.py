"""What bounds a sweep: limits, the failure rule, and the objective. All of it is part of the snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict, cast

import attrs

from .errors import InvalidValue
from .lifecycle import FAILURES
from .status import RunStatus
from .values import EMPTY, FrozenDict, check_count, check_number, check_seconds, check_text, freeze, show

# A converter for each limit, by name: so that mypy and pyright know what the constructor takes, and an error names it.


def _bound(value: object, field: str) -> int | None:
    return None if value is None else check_count(value, field, least=1)


def _run_cap(value: int | None) -> int | None:
    return _bound(value, "limits.run_cap")


def _max_active(value: int | None) -> int | None:
    return _bound(value, "limits.max_active")


def _heartbeat_timeout(value: float) -> float:
    return check_seconds(value, "limits.heartbeat_timeout")


def _suspicion(value: float) -> float:
    return check_seconds(value, "limits.suspicion")


def _start_timeout(value: float) -> float:
    return check_seconds(value, "limits.start_timeout")


def _stop_grace(value: float) -> float:
    return check_seconds(value, "limits.stop_grace")


def _max_preemptions(value: int) -> int:
    return check_count(value, "limits.max_preemptions")


def _launch_attempts(value: int) -> int:
    return check_count(value, "limits.launch_attempts", least=1)


def _time_limit(value: float | None) -> float | None:
    return None if value is None else check_seconds(value, "limits.time_limit", zero=False)


def _retries(value: int | Mapping[RunStatus, int]) -> Mapping[RunStatus, int]:
    """Return how often a run is requeued by itself, by the status it ended in, without zeros."""
    given: object = value
    if isinstance(given, int) and not isinstance(given, bool):
        given = dict.fromkeys(FAILURES, given)
    if not isinstance(given, Mapping):
        raise InvalidValue(
            "limits.retries", f"must be a count or a mapping, not {show(value)}", "e.g. {RunStatus.CRASHED: 2}"
        )
    wanted = cast("Mapping[object, object]", given)
    counts: dict[str, int] = {}
    for status in sorted(wanted, key=show):
        if not isinstance(status, str) or status not in FAILURES:
            raise InvalidValue("limits.retries", f"{show(status)} is never retried by limit", "use FAILED and CRASHED")
        if count := check_count(wanted[status], f"limits.retries.{RunStatus(status)}"):
            counts[RunStatus(status).value] = count
    return cast("Mapping[RunStatus, int]", FrozenDict(counts))


def _streak(value: int | None) -> int | None:
    return _bound(value, "limits.failure.streak")


def _pair(value: object, field: str, example: str) -> tuple[object, object]:
    plain = freeze(value, field)
    if type(plain) is not tuple or len(cast("tuple[object, ...]", plain)) != 2:
        raise InvalidValue(field, f"must be a pair, not {show(value)}", f"e.g. {example}")
    return cast("tuple[object, object]", plain)


def _within(value: tuple[int, float] | None) -> tuple[int, float] | None:
    if value is None:
        return None
    count, seconds = _pair(value, "limits.failure.within", "(3, 60.0)")
    return (
        check_count(count, "limits.failure.within[0]", least=1),
        check_seconds(seconds, "limits.failure.within[1]", zero=False),
    )


def _rate(value: tuple[float, int] | None) -> tuple[float, int] | None:
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

    streak: int | None = attrs.field(default=None, converter=_streak)
    within: tuple[int, float] | None = attrs.field(default=None, converter=_within)
    rate: tuple[float, int] | None = attrs.field(default=None, converter=_rate)


def _failure(value: FailureRule | None) -> FailureRule | None:
    given = cast(object, value)
    if given is not None and not isinstance(given, FailureRule):
        raise InvalidValue("limits.failure", f"must be a FailureRule, not {show(given)}", "e.g. FailureRule(streak=5)")
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
        max_preemptions: how often a run is requeued by preemption; the next one ends in CRASHED
            (5, W&B's launch agent).
        retries: how often a run that ended FAILED or CRASHED is requeued by itself: one count for
            both, or a mapping from the status.
        launch_attempts: a run whose agent failed to start it so often is FAILED, not launched.
        time_limit: a sweep stops after so many seconds of being RUNNING, counted since it was
            created or reopened; a pause stops the clock.
        failure: when a sweep gives up; None for never.

    Raises:
        InvalidValue: a value is out of its range; ``field`` names it.
    """

    run_cap: int | None = attrs.field(default=None, converter=_run_cap)
    max_active: int | None = attrs.field(default=None, converter=_max_active)
    heartbeat_timeout: float = attrs.field(default=300.0, converter=_heartbeat_timeout)
    suspicion: float = attrs.field(default=60.0, converter=_suspicion)
    start_timeout: float = attrs.field(default=300.0, converter=_start_timeout)
    stop_grace: float = attrs.field(default=30.0, converter=_stop_grace)
    max_preemptions: int = attrs.field(default=5, converter=_max_preemptions)
    retries: Mapping[RunStatus, int] = attrs.field(default=cast("Mapping[RunStatus, int]", EMPTY), converter=_retries)
    launch_attempts: int = attrs.field(default=3, converter=_launch_attempts)
    time_limit: float | None = attrs.field(default=None, converter=_time_limit)
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


def _metric(value: str) -> str:
    return check_text(value, "objective.metric")


def _target(value: float | None) -> float | None:
    return None if value is None else check_number(value, "objective.target")


def _goal(value: str) -> str:
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

    metric: str = attrs.field(converter=_metric)
    goal: str = attrs.field(default="minimize", converter=_goal)
    target: float | None = attrs.field(default=None, converter=_target)

    def better(self, value: float, than: float | None) -> bool:
        """Return whether ``value`` beats the best so far; NaN beats nothing, and a tie keeps the first."""
        if value != value:  # noqa: PLR0124 - NaN; math.isnan refuses integers that are too large for a float
            return False
        return than is None or (value < than if self.goal == "minimize" else value > than)

    def reached(self, value: float) -> bool:
        """Return whether ``value`` is as good as the target; never, without a target."""
        if self.target is None:
            return False
        return value <= self.target if self.goal == "minimize" else value >= self.target

"""A clock that only moves when it is told to."""

from __future__ import annotations

from ..core.values import check_seconds


class ManualClock:
    """Returns the time that it was set to, so that a test decides how much of it passes.

    Args:
        now: POSIX seconds to begin with.

    Raises:
        InvalidValue: that is no time.

    Example:
        >>> clock = ManualClock(100.0)
        >>> clock.advance(30)
        130.0
        >>> clock()
        130.0
    """

    __slots__ = ("_now",)

    def __init__(self, now: float = 0.0) -> None:
        self._now = check_seconds(now, "now")

    def __call__(self) -> float:
        """Return POSIX seconds."""
        return self._now

    @property
    def now(self) -> float:
        """The time it shows, in POSIX seconds."""
        return self._now

    def advance(self, seconds: float) -> float:
        """Let time pass, and return what the clock shows then.

        Args:
            seconds: how much of it; a clock runs forwards, so not less than 0.

        Raises:
            InvalidValue: they are negative, or no number.
        """
        self._now += check_seconds(seconds, "seconds")
        return self._now

    def set(self, now: float) -> None:
        """Set the clock, also backwards: clocks of real machines are corrected now and then.

        Args:
            now: POSIX seconds.

        Raises:
            InvalidValue: that is no time.
        """
        self._now = check_seconds(now, "now")

    def __repr__(self) -> str:
        return f"ManualClock({self._now!r})"

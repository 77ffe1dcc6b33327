"""What reports are made of: results, errors and metrics as they are kept, and the token of a run."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from typing import Final, cast

from ..core.decide import End
from ..core.errors import InvalidValue
from ..core.lifecycle import Exit
from ..core.limits import Objective
from ..core.values import EMPTY, FrozenDict, check_count, check_text, describe_error, freeze_metrics, show

_MESSAGE: Final = 10_000
_MOST_CODE: Final = 2**31 - 1


def end_of(result: object, objective: Objective | None) -> tuple[End, InvalidValue | None]:
    """Return what the result of a function says about its run's end.

    Args:
        result: what the function returned.
        objective: of the sweep; it names a number.

    Returns:
        The report, and an error to be raised after it, because every run would fail for it.
    """
    if isinstance(result, Mapping):
        metrics = cast("Mapping[str, object]", result)
    elif result is None:
        metrics = EMPTY
    elif objective is not None:
        metrics = {objective.metric: result}
    else:
        remedy = "return a mapping of metrics or None, or give the sweep an objective"
        error = InvalidValue("result", f"{show(result)} has no name", remedy)
        return End(Exit.ERROR, describe(error)), error if isinstance(result, (int, float)) else None
    try:
        return End(Exit.SUCCESS, None, None, None, freeze_metrics(metrics)), None
    except InvalidValue as error:
        # It is the run's error; what can be kept of its result is kept.
        numbers = {
            str(name).encode(errors="replace").decode(): item
            for name, item in metrics.items()
            if type(item) in (int, float)
        }
        return End(Exit.ERROR, describe(error), None, None, freeze_metrics(numbers)), None


def end_by(error: BaseException, interrupts: tuple[type[BaseException], ...] = (KeyboardInterrupt,)) -> End:
    """Return what an exception that left the body of a run, or its function, says about the run's end.

    Args:
        error: the exception; SystemExit with nothing or 0 is an end without an error.
        interrupts: what means that somebody interrupted it.
    """
    if isinstance(error, SystemExit):
        code = error.code
        if code is None or code == 0:
            return End(Exit.SUCCESS)
        # sys.exit takes anything: a text, True, a number that no process can exit with.
        number = max(-_MOST_CODE, min(int(code), _MOST_CODE)) if isinstance(code, int) else 1
        return End(Exit.ERROR, describe(code if isinstance(code, str) else show(code)), number)
    if isinstance(error, interrupts):
        return End(Exit.INTERRUPT, type(error).__name__, None, 2)
    return End(Exit.ERROR, describe(error))


def make_token(sweep_id: str, index: int, attempt: int, execution: str | None) -> str:
    """Return an opaque text that stands for an execution of a run."""
    text = json.dumps([sweep_id, index, attempt, execution], separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def read_token(token: str) -> tuple[str, int, int, str | None]:
    """Return sweep, index, attempt and execution of a token.

    Raises:
        InvalidValue: it is none.
    """
    try:
        text = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        parts = json.loads(text)
    except (ValueError, TypeError, binascii.Error, RecursionError):
        parts = None
    match parts:
        case [str() as sweep_id, int() as index, int() as attempt, (str() | None) as execution]:
            if execution is not None:
                check_text(execution, "token.execution", most=1_000)
            return (
                sweep_id,
                check_count(index, "token.index"),
                check_count(attempt, "token.attempt", least=1),
                execution,
            )
        case _:
            raise InvalidValue("token", f"{show(token)} is no run's token", "pass on run.token as it is")


def describe(error: BaseException | str) -> str | None:
    """Return what to keep of an error: never too much, and always storable."""
    text = error if isinstance(error, str) else describe_error(error) + _place(error)
    return text[:_MESSAGE].encode(errors="replace").decode() or None


def _place(error: BaseException) -> str:
    """Return where an exception was raised, without reading any source file."""
    trace = getattr(error, "__traceback__", None)  # whatever was passed as an error
    if trace is None:
        return ""
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    return f" (at {code.co_filename}:{trace.tb_lineno} in {code.co_name})"


def join(metrics: Mapping[str, float] | None, named: dict[str, float]) -> FrozenDict:
    """Return metrics that were given as a mapping, by name, or both."""
    if metrics is not None:
        return freeze_metrics({**freeze_metrics(metrics), **named})
    return freeze_metrics(named) if named else EMPTY


def check_code(value: int | None, field: str = "exit_code") -> int | None:
    """Return an exit code or a signal, if there is one, as a number that can be stored."""
    return None if value is None else check_count(value, field, least=-(2**31))

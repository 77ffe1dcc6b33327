"""What is known of executors: what they have in common, and what each library does otherwise.

None of these libraries is imported here: where they come from tells what they are.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, Protocol

from ..core.errors import InvalidValue
from ..core.values import describe_error, show

#: Errors by which libraries say that an execution died; they are not imported here. ``FailedJobError``, which is an
#: ``UncompletedJobError`` too, is an error of the call (submitit/core/utils.py).
_DIED: Final = {"submitit": "UncompletedJobError", "distributed": "KilledWorker"}
_FAILED: Final = "FailedJobError"


class Submits(Protocol):
    """What an executor has to have: the one method that ``concurrent.futures`` and all others agree on."""

    def submit(self, fn: Callable[[], Any], /) -> Any:
        """Begin a call soon, and return what stands for it: it has ``done``, ``cancel`` and ``result``."""
        ...


def has_died(error: BaseException) -> bool:
    """Return whether an executor says by this error that the execution died."""
    names = [(base.__module__.partition(".")[0], base.__name__) for base in type(error).__mro__]
    return isinstance(error, BrokenExecutor) or (
        any(_DIED.get(module) == name for module, name in names) and type(error).__name__ != _FAILED
    )


def is_broken(error: Exception) -> bool:
    """Return whether an executor takes no calls any more; of a shutdown only the text tells."""
    return isinstance(error, BrokenExecutor) or (isinstance(error, RuntimeError) and "shutdown" in str(error).lower())


def cancel(future: Any) -> bool:
    """Cancel; return whether that was granted. submitit's returns nothing, and fails for a job that is over."""
    try:
        return future is not None and future.cancel() is True
    except Exception:
        return False


def usable(executor: Any) -> Submits:
    """Return what may be an executor; refuse what cannot be one."""
    if not callable(getattr(executor, "submit", None)):
        raise InvalidValue("executor", f"{show(executor)} has no submit()", "e.g. ThreadPoolExecutor(4)")
    return executor  # type: ignore[no-any-return]


def submit(executor: Submits, call: Callable[[], object]) -> Any:
    """Submit a call, and have a pool of processes watch the worker that it may have started for it.

    It wakes who watches over its workers before it starts another one (CPython 3.11 to 3.13, ``submit`` in
    concurrent/futures/process.py), so the death of that one would be noticed when another call ends, if any does.
    """
    future = executor.submit(call)
    if is_process_pool(executor):
        with suppress(Exception):
            executor.submit(int)
    return future


def is_process_pool(executor: object) -> bool:
    """Return whether it is the standard library's."""
    # Not imported for this: multiprocessing changes sys.modules for the whole process.
    pools = sys.modules.get("concurrent.futures.process")
    return pools is not None and isinstance(executor, pools.ProcessPoolExecutor)


def keeps_cancelled(executor: object) -> bool:
    """Return whether a call that could be cancelled does not execute, and harms no other."""
    if comes_from(executor, "distributed"):
        return False  # Dask grants it also to a call that executes, and goes on (distributed/cfexecutor.py)
    # Before Python 3.12, a pool that breaks stops telling of its calls at the first that was cancelled
    # (terminate_broken in concurrent/futures/process.py): the others would be waited for without end.
    return sys.version_info >= (3, 12) or not is_process_pool(executor)


def workers(executor: object) -> int:
    """Return on how many calls an executor works at once, as far as it says so; else, how many CPUs there are."""
    found = getattr(executor, "_max_workers", None)  # of concurrent.futures and loky
    return found if isinstance(found, int) and found > 0 else os.cpu_count() or 1


def comes_from(executor: object, library: str) -> bool:
    """Return whether an executor's class, or one that it is derived from, is of a library."""
    return any(base.__module__.partition(".")[0] == library for base in type(executor).__mro__)


def shares_memory(executor: object) -> bool:
    """Return whether calls execute in threads that share all objects, as those of InterpreterPoolExecutor do not."""
    return isinstance(executor, ThreadPoolExecutor) and "InterpreterPoolExecutor" not in {
        base.__name__ for base in type(executor).__mro__
    }


def check_sendable(executor: object, function: object) -> None:
    """Refuse a function that pickle cannot find again; loky, Dask and submitit send any (cloudpickle)."""
    if not is_process_pool(executor):
        return
    try:
        pickle.dumps(function)
    except Exception as error:
        problem = f"cannot be sent to another process ({describe_error(error)})"
        raise InvalidValue("function", problem, "define it at the top level of a module") from error

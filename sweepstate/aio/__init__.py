"""Sweeps on an event loop: the same lifecycle, the same decisions, awaited.

What is shown (``sweep.state``, ``sweep.status``, ``run.config``, ...) is shown at once. Whatever reads or
writes the storage is awaited, under the name that it has without ``await``:

===============================  =======================================
``Sweep``, ``Run``               ``AsyncSweep``, ``AsyncRun``
===============================  =======================================
``sweep.pause(...)`` and so on   ``await sweep.pause(...)``
``for run in sweep``             ``async for run in sweep``
``with run``                     ``async with run``
``sweep.runs(status)``           ``async for run in sweep.runs(status)``
``sweep.history()``              ``async for event in sweep.history()``
===============================  =======================================

Six are called otherwise, because neither a constructor nor a property nor an index can be awaited:

===============================  =======================================
``Sweep(search, ...)``           ``await AsyncSweep.create(search, ...)``
``sweep[index]``                 ``await sweep.run(index)``
``sweep.best``                   ``await sweep.best()``
``run.metrics``                  ``await run.metrics()``
``run.should_stop``              ``await run.should_stop()``
``order.gone()``                 ``await order.gone()``
===============================  =======================================

**Cancellation.** A task that is cancelled leaves nothing half done:

- while it waits, or reads, or the search thinks, nothing has happened;
- a commit that has begun is finished, listeners and the agent are told, and then the cancellation goes on;
- a run that it was about to get is given back: another one gets it;
- a run whose body it executes (``async with run``, ``execute``) is interrupted: KILLED, or queued again if
  it was preempting.

A handle belongs to the tasks of one event loop at a time.
"""

from .run import AsyncRun
from .sweep import AsyncSweep

__all__ = ["AsyncRun", "AsyncSweep"]

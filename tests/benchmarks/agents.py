"""What agents cost: a run that does nothing, beside the bare thing that executes it; and how fast a cancel is.

    python tests/benchmarks/agents.py [SECTION ...]

Each section is a function that prints what it measures, and returns the lines of the summary. Ray is measured by
``agents_ray.py``, as it needs a network namespace of its own.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from statistics import median

from sweepstate import Grid, Limits, RunStatus, Sweep
from sweepstate.agent._processes import stat_of, with_environment
from sweepstate.agent.subprocess import SubprocessAgent
from tests.benchmarks.agents_executor import executor
from tests.benchmarks.agents_worker import worker
from tests.benchmarks.common import Batch, Row, interleaved, ratio, show

_NOTHING = [sys.executable, "-S", "-c", "pass"]
_TRUE = ["/bin/true"]


def subprocess_agent() -> list[Row]:
    """A run beside ``subprocess.run`` of the same program, one after the other; and the end of 50 processes."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as workdir:
        for title, command in (("python -S -c pass", _NOTHING), ("true", _TRUE)):
            peers: dict[str, Batch] = {
                "subprocess.run": partial(_bare, command),
                "SubprocessAgent": partial(_driven, command, workdir),
            }
            times = interleaved(peers, 9, 40, clock=time.perf_counter)
            show(f"a run of {title}, one at a time", times, "subprocess.run")
            if command is _NOTHING:
                rows.append(Row(f"a run of {title}", ratio(times, "SubprocessAgent", "subprocess.run"), 1.3))
        gone = [_cancel(50, f"{workdir}/{n}") for n in range(5)]
    print(f"\ncancel() of 50 processes until none executes: median {median(gone):.3f} s, most {max(gone):.3f} s")
    rows.append(Row("cancel() to the last of 50 processes gone", max(gone), 1.0, "s"))
    return rows


def _bare(command: list[str], count: int) -> None:
    for _ in range(count):
        subprocess.run(command, check=True)


def _driven(command: list[str], workdir: str, count: int) -> None:
    agent = SubprocessAgent(command, arguments=False, workdir=workdir)
    sweep = Sweep(Grid({"x": list(range(count))}), agent=agent, limits=Limits(max_active=1))
    agent.drive(sweep)
    assert sweep.counts[RunStatus.FINISHED] == count


def _cancel(count: int, workdir: str) -> float:
    """Return the seconds from the call of ``cancel`` until none of the processes executes."""
    tag = f"SWEEPSTATE_BENCHMARK={workdir}"
    name, _, value = tag.partition("=")
    agent = SubprocessAgent(["sleep", "300"], arguments=False, workdir=workdir, env={name: value})
    sweep = Sweep(Grid({"x": list(range(count))}), agent=agent, limits=Limits(max_active=count))
    sweep.tick()
    while len(pids := with_environment(tag)) < count:
        time.sleep(0.01)
    began = time.perf_counter()
    sweep.cancel()
    while any((stat := stat_of(pid)) is not None and not stat.over for pid in pids):
        pass
    took = time.perf_counter() - began
    agent.drive(sweep)
    assert sweep.done
    return took


SECTIONS: dict[str, Callable[[], list[Row]]] = {
    "worker": worker,
    "subprocess": subprocess_agent,
    "executor": executor,
}


def main(names: list[str]) -> None:
    rows = [row for name, section in SECTIONS.items() if not names or name in names for row in section()]
    print()
    for row in rows:
        print(row)


if __name__ == "__main__":
    main(sys.argv[1:])

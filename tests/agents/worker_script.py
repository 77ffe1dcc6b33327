"""A training script that pulls runs, for the tests with real processes: ``worker_script.py MODE DATABASE GO``.

What it does with a run is its mode; it goes on when there is a file GO.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path

from sweepstate import Run, SQLiteStorage, Sweep, work
from sweepstate.agent import _waiting

GO = Path(sys.argv[-1])
#: After so many seconds each process ends, also if whoever tests was killed meanwhile.
LIFE = 300


def say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def finish(run: Run) -> dict[str, float]:
    say(f"began {run.index}")
    while not GO.exists():
        time.sleep(0.01)
    return {"loss": 0.5}


def obey(run: Run) -> None:
    say(f"began {run.index}")
    while not run.should_stop:
        time.sleep(0.01)
    raise RuntimeError("stopped, as asked")


def ignore(run: Run) -> None:
    say(f"began {run.index}")
    while True:
        time.sleep(0.01)


def fork(run: Run) -> dict[str, float]:
    """Have a loader of data; it lives until GO, and one more, that is terminated."""
    loader = os.fork()
    if loader == 0:
        signal.alarm(LIFE)
        while not GO.exists():
            time.sleep(0.01)
        os._exit(7)
    other = os.fork()
    if other == 0:
        signal.alarm(LIFE)
        while True:
            time.sleep(0.01)
    say(f"began {run.index}")
    code = os.waitstatus_to_exitcode(os.waitpid(loader, 0)[1])
    os.kill(other, signal.SIGTERM)
    return {"loader": code, "other": os.waitstatus_to_exitcode(os.waitpid(other, 0)[1])}


def main(mode: str, database: str) -> None:
    signal.alarm(LIFE)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests in the background ignores it
    logging.basicConfig(level="INFO", stream=sys.stderr, format="%(message)s")
    _waiting.FIRST_WAIT = 3600.0  # type: ignore[misc]  # so that only a signal can end a wait
    sweep = Sweep.open("s", storage=SQLiteStorage(database))
    function = {"finish": finish, "obey": obey, "ignore": ignore, "fork": fork}[mode]
    going = work(sweep, function, name="script", poll=3600.0, preemptible=mode in ("ignore", "fork"))
    say(f"home: {going.reason.name}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])

"""One run's life on SQLite, as a careful engineer writes it for this one case: the floor of ``storage.py``.

It hands out, starts and finishes a run in three transactions (BEGIN IMMEDIATE ... COMMIT), and leaves the very rows
that ``SQLiteStorage`` leaves, in the same tables with the same indexes; ``storage.py`` compares them to the byte. It
makes the snapshots and the event of each step as dictionaries and their JSON, and moves the sweep by an UPDATE that
demands its version, so that no other process is overrun. The configuration comes from the same search.

``reads`` chooses between two engineers. The first trusts what this process wrote last, and only writes: the bare cost
of the rows. The second looks at the sweep's version and at the run in each transaction, as one must who shares the
file. Neither knows another rule of the lifecycle, checks an argument, or has heartbeats, limits or retries.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

from sweepstate import Random

_INSERT_RUN = """
    INSERT INTO run (number, status, status_version, leased, agent, due_at, body, sweep) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
_START_RUN = "UPDATE run SET status = ?, status_version = ?, due_at = NULL, body = ? WHERE sweep = ? AND number = ?"
_END_RUN = """
    UPDATE run SET status = ?, status_version = ?, leased = NULL, agent = NULL, body = ? WHERE sweep = ? AND number = ?
"""
_MOVE_SWEEP = "UPDATE sweep SET version = ?, body = ? WHERE key = ? AND version = ?"
_INSERT_EVENT = "INSERT INTO event (sweep, number, version, body) VALUES (?, ?, ?, ?)"
_AGENT = "worker"
_AGENT_DIGEST = blake2b(f"{len(_AGENT)}:{_AGENT}".encode(), digest_size=16).hexdigest()
_LEASE: dict[str, Any] = {
    "attempt": 1,
    "agent": _AGENT,
    "request_id": None,
    "attached": False,
    "since": 0.0,
    "began": False,
    "beats": False,
    "execution": None,
    "stop_at": None,
    "preempting": False,
    "suspected_at": None,
    "heard": None,
    "launch_failures": 0,
    "revoked_at": None,
    "lost": False,
}


class ByHand:
    """Lives of runs in a sweep that is there already, over a connection of its own.

    Args:
        path: the file.
        synchronous: FULL or NORMAL.
        clock: returns POSIX seconds.
        reads: whether it looks at what is stored before it writes.
    """

    def __init__(self, path: str, synchronous: str, clock: Callable[[], float], *, reads: bool) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute(f"PRAGMA synchronous = {synchronous}")
        self._execute = self._connection.execute
        self._clock = clock
        self._reads = reads
        self._key, body = self._execute("SELECT key, body FROM sweep").fetchone()
        self._sweep: dict[str, Any] = json.loads(body)
        self._search = Random.from_settings(self._sweep["search"]["settings"])

    def batch(self, count: int) -> None:
        """Hand out, start and finish so many runs."""
        for _ in range(count):
            run = self.hand_out()
            run = self.start(run)
            self.finish(run, 0.5 + 1.0 / (run["index"] + 1))

    def close(self) -> None:
        self._connection.close()

    # --- three steps -----------------------------------------------------------------------------

    def hand_out(self) -> dict[str, Any]:
        self._execute("BEGIN IMMEDIATE")
        sweep = self._begin()
        at, index = self._clock(), sweep["finished"] + sweep["running"] + sweep["pending"]
        config = self._search.propose(index, None)
        run = {
            "format": 1,
            "kind": "RunState",
            "index": index,
            "config": config,
            "status": "PENDING",
            "status_version": sweep["version"] + 1,
            "attempt": 1,
            "lease": {**_LEASE, "since": at},
            "cause": None,
            "message": None,
            "exit_code": None,
            "signal": None,
            "metrics": {},
            "created_at": at,
            "started_at": None,
            "ended_at": None,
            "preemptions": 0,
            "failed_retries": 0,
            "crashed_retries": 0,
            "counted_in": -1,
            "late": [],
            "due_at": at + sweep["limits"]["start_timeout"],
        }
        sweep["pending"] += 1
        sweep["leased"] += 1
        self._move(sweep, at)
        version = sweep["version"]
        values = (index, "PENDING", version, index, _AGENT_DIGEST, run["due_at"], _dump(run), self._key)
        self._execute(_INSERT_RUN, values)
        event = {"agent": _AGENT, "request_id": None, "attached": False, "config": config}
        self._end(sweep, "RunCreated", run, event)
        return run

    def start(self, run: dict[str, Any]) -> dict[str, Any]:
        self._execute("BEGIN IMMEDIATE")
        sweep = self._begin()
        run = self._again(run)
        at = self._clock()
        sweep["pending"] -= 1
        sweep["running"] += 1
        if sweep["first_start_at"] is None:
            sweep["first_start_at"] = at
        self._move(sweep, at)
        version = sweep["version"]
        run["lease"].update(since=at, began=True)
        run.update(status="RUNNING", status_version=version, started_at=at, due_at=None)
        self._execute(_START_RUN, ("RUNNING", version, _dump(run), self._key, run["index"]))
        self._end(sweep, "RunStarted", run, {"execution": None, "heartbeats": False})
        return run

    def finish(self, run: dict[str, Any], loss: float) -> None:
        self._execute("BEGIN IMMEDIATE")
        sweep = self._begin()
        run = self._again(run)
        at = self._clock()
        sweep["running"] -= 1
        sweep["finished"] += 1
        sweep["leased"] -= 1
        sweep["rule_ended"] += 1
        self._move(sweep, at)
        version = sweep["version"]
        run.update(status="FINISHED", status_version=version, lease=None, cause="success", metrics={"loss": loss})
        run.update(ended_at=at, counted_in=0)
        self._execute(_END_RUN, ("FINISHED", version, _dump(run), self._key, run["index"]))
        event = {
            "status": "FINISHED",
            "cause": "success",
            "fate": "gone",
            "counts": True,
            "message": None,
            "exit_code": None,
            "signal": None,
            "metrics": {"loss": loss},
        }
        self._end(sweep, "RunEnded", run, event)

    # --- what they share -------------------------------------------------------------------------

    def _begin(self) -> dict[str, Any]:
        """Return the sweep, read again if somebody else has moved it."""
        if self._reads:
            (version,) = self._execute("SELECT version FROM sweep WHERE key = ?", (self._key,)).fetchone()
            if version != self._sweep["version"]:
                (body,) = self._execute("SELECT body FROM sweep WHERE key = ?", (self._key,)).fetchone()
                self._sweep = json.loads(body)
        return self._sweep

    def _again(self, run: dict[str, Any]) -> dict[str, Any]:
        """Return the run as it is stored."""
        if not self._reads:
            return run
        sql = "SELECT body FROM run WHERE sweep = ? AND number = ?"
        found: dict[str, Any] = json.loads(self._execute(sql, (self._key, run["index"])).fetchone()[0])
        return found

    def _move(self, sweep: dict[str, Any], at: float) -> None:
        """Move the sweep to its next version, unless somebody else has."""
        before = sweep["version"]
        sweep.update(version=before + 1, events=sweep["events"] + 1, at=at)
        moved = self._execute(_MOVE_SWEEP, (before + 1, _dump(sweep), self._key, before)).rowcount
        if moved != 1:
            raise RuntimeError("another process has moved the sweep")

    def _end(self, sweep: dict[str, Any], kind: str, run: dict[str, Any], rest: dict[str, Any]) -> None:
        """Write the event of a step, and commit."""
        number, version = sweep["events"], sweep["version"]
        common = {"number": number, "version": version, "at": sweep["at"], "reason": None, "actor": None}
        event = {"format": 1, "kind": kind, **common, "index": run["index"], "attempt": 1, **rest}
        self._execute(_INSERT_EVENT, (self._key, number, version, _dump(event)))
        self._execute("COMMIT")


def _dump(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))

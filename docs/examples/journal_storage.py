# ruff: noqa: D102 - what the methods promise is said once, in sweepstate/hooks.py
"""A storage of your own: a journal with a line of JSON for each commit, and memory that reads it. For POSIX systems."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sweepstate import AlreadyExists, Change, Conflict, Event, MemoryStorage, OutcomeUnknown, StorageError
from sweepstate.core.plain import from_dict, to_dict
from sweepstate.core.questions import RunQuery
from sweepstate.core.state import RunState, SweepState


class JournalStorage:
    """Keeps sweeps in a file that only grows. All that is answered was read from it, so all handles agree."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self._process = 0  # whose memory it is; 0 while that cannot be relied on
        self.path.touch()

    def __reduce__(self) -> tuple[Any, ...]:  # pickled, it opens the same file in another process
        return (JournalStorage, (self.path,))

    @contextmanager
    def _open(self) -> Iterator[Any]:
        """Open the file for one caller at a time, and read what was written since."""
        try:
            with self.path.open("r+b", buffering=0) as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # until the file is closed, or its process is dead
                if self._process != os.getpid():  # new, forked, or interrupted while it read
                    self._memory, self._ids, self._end = MemoryStorage(), set[str](), 0
                self._process = 0
                file.seek(self._end)
                *lines, torn = file.read().split(b"\n")
                for line in lines:
                    self._read(line)
                if torn:  # whoever wrote it died before the line was whole, and has told nobody that it was
                    file.truncate(self._end)
                file.seek(self._end)
                self._process = os.getpid()
                yield file
        except OSError as error:
            raise StorageError(f"{self.path}: {error}; nothing was written") from error

    def _read(self, line: bytes) -> None:
        try:
            kind, sweep_id, *rest = json.loads(line)
            if kind == "commit":
                version, sweep, runs, events = rest
                run_states = tuple(from_dict(run, RunState) for run in runs)
                happened = tuple(from_dict(event, Event) for event in events)
                self._memory.commit(Change(sweep_id, version, from_dict(sweep, SweepState), run_states, happened))
                self._ids.add(sweep_id)
            else:
                replay: Any = {"beat": self._memory.beat, "delete": self._memory.delete}[kind]
                replay(sweep_id, *rest)
        except (ValueError, TypeError, LookupError, Conflict, AlreadyExists) as error:
            raise StorageError(f"{self.path} is damaged at byte {self._end}: {error}; restore a backup") from error
        self._end += len(line) + 1

    def _write(self, file: Any, *values: object) -> None:
        line = json.dumps(values).encode() + b"\n"
        if file.write(line) != len(line):  # torn: it is cut off by whoever comes next
            raise StorageError(f"{self.path}: the disk is full, and nothing was written; make room and call again")
        try:
            os.fsync(file.fileno())
        except OSError as error:
            raise OutcomeUnknown(f"{self.path}: {error}; read the sweep again before acting on it") from error

    def commit(self, change: Change) -> None:
        with self._open() as file:
            if change.version == 0 and change.sweep_id in self._ids:  # also if that was deleted
                raise AlreadyExists(change.sweep_id)
            found = self._memory.sweep(change.sweep_id).version if change.version else 0
            if found != change.version:
                raise Conflict(change.sweep_id, change.version, found)
            for silence in change.silences:
                (heard,) = self._memory.last_heard(change.sweep_id, [(silence.index, silence.attempt)])
                if heard is not None and heard > silence.heard:
                    raise Conflict(change.sweep_id, change.version, found, f"run {silence.index} was heard meanwhile")
            runs, events = [to_dict(run) for run in change.runs], [to_dict(event) for event in change.events]
            self._write(file, "commit", change.sweep_id, change.version, to_dict(change.sweep), runs, events)

    def sweep(self, sweep_id: str) -> SweepState:
        return self._fresh().sweep(sweep_id)

    def runs(self, sweep_id: str, query: RunQuery, *, after: int = -1, limit: int) -> Sequence[RunState]:
        return self._fresh().runs(sweep_id, query, after=after, limit=limit)

    def events(self, sweep_id: str, *, after: int = 0, limit: int) -> Sequence[Event]:
        return self._fresh().events(sweep_id, after=after, limit=limit)

    def _fresh(self) -> MemoryStorage:
        with self._open():
            return self._memory

    def beat(self, sweep_id: str, index: int, attempt: int, at: float, metrics: Mapping[str, float] | None) -> None:
        with self._open() as file:
            self._memory.sweep(sweep_id)  # or SweepNotFound
            self._write(file, "beat", sweep_id, index, attempt, at, None if metrics is None else dict(metrics))

    def last_heard(self, sweep_id: str, leases: Sequence[tuple[int, int]]) -> Sequence[float | None]:
        return self._fresh().last_heard(sweep_id, leases)

    def last_metrics(self, sweep_id: str, index: int) -> Mapping[str, float] | None:
        return self._fresh().last_metrics(sweep_id, index)

    def sweeps(self, *, after: str = "", limit: int) -> Sequence[SweepState]:
        return self._fresh().sweeps(after=after, limit=limit)

    def delete(self, sweep_id: str) -> None:
        with self._open() as file:
            self._memory.sweep(sweep_id)
            self._write(file, "delete", sweep_id)

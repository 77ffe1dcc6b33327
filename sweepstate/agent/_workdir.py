"""What is kept of each attempt on disk: its configuration, its output, and who executes it, for whoever comes back."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import attrs

from ._command import to_json
from ._processes import Identity

_FORMAT: Final = 1
#: A longer name of a directory is shortened; most file systems take 255 bytes.
_LONGEST_NAME: Final = 120
#: So much of the end of an output is put into the message of a failure.
_TAIL_BYTES: Final = 4_000
_TAIL_LINES: Final = 20


@attrs.frozen
class Record:
    """Who executes an attempt.

    Attributes:
        token: of the run, its execution included.
        slots: the slots that it has.
        leader: the process that leads its group; None if it was about to be started.
    """

    token: str
    slots: tuple[str, ...]
    leader: Identity | None


@attrs.frozen
class Place:
    """The directory of one attempt.

    Attributes:
        directory: where it is.
    """

    directory: Path

    @property
    def config(self) -> Path:
        """Its configuration as JSON."""
        return self.directory / "config.json"

    @property
    def output(self) -> Path:
        """What it has written to its standard output and error."""
        return self.directory / "output.log"

    @property
    def _record(self) -> Path:
        return self.directory / "process.json"

    def make(self) -> None:
        """Make the directory."""
        self.directory.mkdir(parents=True, exist_ok=True)

    def write_config(self, config: Any) -> None:
        """Write the configuration."""
        _write(self.config, to_json(config))

    def write_record(self, record: Record) -> None:
        """Write who executes it, whole or not at all."""
        _write(self._record, json.dumps({"format": _FORMAT, **attrs.asdict(record)}))

    def read_record(self) -> Record | None:
        """Return who executes it; None if that is not known, or cannot be read."""
        try:
            found: Any = json.loads(self._record.read_text(encoding="utf-8"))
            if found["format"] != _FORMAT:
                return None
            slots = tuple(str(slot) for slot in found["slots"])
            leader = found["leader"]
            if leader is not None:
                leader = Identity(str(leader["machine"]), int(leader["pid"]), int(leader["began"]))
            return Record(str(found["token"]), slots, leader)
        except (OSError, ValueError, TypeError, LookupError, RecursionError):
            return None

    def remove_record(self) -> None:
        """Forget who executes it: nobody does. A record that stays does no harm, as it names a process exactly."""
        with contextlib.suppress(OSError):
            self._record.unlink(missing_ok=True)

    def output_size(self) -> int:
        """Return how much it has written so far, in bytes."""
        try:
            return self.output.stat().st_size
        except OSError:
            return 0

    def tail(self, after: int = 0) -> str:
        """Return the last lines of its output, few and short enough for a message.

        Args:
            after: bytes at the beginning that are of somebody else.
        """
        try:
            with self.output.open("rb") as file:
                end = file.seek(0, os.SEEK_END)
                begin = max(after, end - _TAIL_BYTES)
                file.seek(begin)
                text = file.read(_TAIL_BYTES).decode(errors="replace")
        except OSError as error:
            return f"(its output cannot be read: {error})"
        lines = text.splitlines()
        if begin > after and len(lines) > 1:
            del lines[0]  # it has lost its beginning
        last = "\n".join(lines[-_TAIL_LINES:]).strip()
        return f"{last}\n({self.output})" if last else f"it has written nothing to {self.output}"


class Workdir:
    """Where the directories of attempts are: ``SWEEP/INDEX.ATTEMPT``."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        # Absolute, so that it stays the same place if the orchestrator changes its directory.
        self.path: Final = Path(path).absolute()

    def place(self, sweep_id: str, index: int, attempt: int) -> Place:
        """Return the place of an attempt; nothing is made yet."""
        return Place(self.path / directory_name(sweep_id) / f"{index}.{attempt}")


def directory_name(sweep_id: str) -> str:
    """Return the name of a sweep's directory: another one for each id, whatever characters that has."""
    name = quote(sweep_id, safe=" ")
    if name.startswith("."):
        name = "%2E" + name[1:]
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME]}-{hashlib.sha256(sweep_id.encode()).hexdigest()[:16]}"


def _write(path: Path, text: str) -> None:
    """Write a file, so that whoever reads it finds the whole of it; it need not outlast the machine's power."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise

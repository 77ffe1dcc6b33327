"""The programs of a ``SubprocessAgent``: children of its own, and what an earlier orchestrator has left."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from typing import Final

import attrs

from ._channel import Channel
from ._processes import Group, Identity, end_exactly, end_group, machine, members, stat_of, with_environment
from ._workdir import Place, Record
from .driving import Execution

#: The variable in which a program finds its run's token, and by which its processes are known.
TOKEN: Final = "SWEEPSTATE_RUN"  # noqa: S105 - it names a variable
#: The variables that tell a program what it is to do.
CONTEXT: Final = (
    "SWEEPSTATE_SWEEP",
    "SWEEPSTATE_INDEX",
    "SWEEPSTATE_ATTEMPT",
    "SWEEPSTATE_CONFIG_FILE",
    "SWEEPSTATE_CONFIG",
)
#: Linux takes no string of an environment that is longer than 128 KiB (execve(2)); what is, stays a file.
_LONGEST_VARIABLE: Final = 100_000


@attrs.frozen
class Prepared:
    """What a run is about to be started with.

    Attributes:
        place: its directory.
        arguments: returns the program and its arguments, for an environment.
        environment: its environment, but for what is known only when it is started.
        cwd: its current directory; None for the orchestrator's.
        slots: the slots that it has.
        channel: what it is to speak over.
    """

    place: Place
    arguments: Callable[[Mapping[str, str]], list[str]]
    environment: dict[str, str]
    cwd: str | None
    slots: tuple[str, ...]
    channel: Channel


@attrs.define(eq=False, slots=False)
class Supervised(Execution):
    """An execution of this agent.

    Attributes:
        place: its directory.
        slots: the slots that it has, until nothing of it executes.
    """

    place: Place
    slots: tuple[str, ...]


@attrs.define(eq=False, slots=False)
class Child(Supervised):
    """A program that this process has started.

    Attributes:
        group: its processes.
        channel: what it says.
        output_before: how much was in its file of outputs before.
        watched: those of its processes that have outlived their leader and are waited for.
    """

    group: Group
    channel: Channel
    output_before: int
    watched: set[int] = attrs.field(factory=set[int])

    def message(self) -> str:
        """Return what there is to say about a bad end."""
        return self.place.tail(self.output_before)


@attrs.define(eq=False, slots=False)
class Orphan(Supervised):
    """What is left of a program that an earlier orchestrator has started. It is being ended.

    Attributes:
        token: of its run.
        leader: the process that led its group, if that was written down.
        led: whether that one was found.
        watched: processes that are waited for.
    """

    token: str
    leader: Identity | None
    led: bool = False
    watched: set[int] = attrs.field(factory=set[int])

    def end(self) -> list[int]:
        """Kill what executes of it; return what did.

        By identity: the group of a leader that is the one that was written down, and whoever began with
        the run's token in its environment, which no other process has.
        """
        leader = self.leader
        led = leader is not None and leader.machine == machine() and leader.alive()
        self.led = self.led or led
        named = with_environment(f"{TOKEN}={self.token}")
        # Nothing is sent to the group once its leader is gone; whoever was in it is dying, and is waited for.
        group = members(leader.pid) if leader is not None and self.led else []
        stats = {pid: stat_of(pid) for pid in {*named, *group} if pid != os.getpid()}
        left = {pid: stat.began for pid, stat in stats.items() if stat is not None and not stat.over}
        if leader is not None and led:
            end_group(leader)
        for pid in named:
            if pid in left:
                end_exactly(pid, left[pid])
        return list(left)


def launch(prepared: Prepared, token: str) -> Group:
    """Start a program, and write down which process it is.

    The record is written before it is started too: whoever finds only that looks for the token in the
    environment of processes. So there is no moment at which a crash of this process loses one.

    Args:
        prepared: what it is started with; its channel is the program's afterwards.
        token: of its run, the execution included.

    Returns:
        Its processes.

    Raises:
        InvalidValue: a value of the configuration cannot be an argument; nothing was started.
        OSError: it could not be started or written down; nothing of it executes.
    """
    place, channel = prepared.place, prepared.channel
    place.write_record(Record(token, prepared.slots, None))
    environment = {**prepared.environment, TOKEN: token, **channel.variables()}
    with place.output.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - the user's program, without a shell
            prepared.arguments(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=prepared.cwd,
            start_new_session=True,
            pass_fds=[channel.theirs],
        )
    group = Group(process)
    try:
        channel.handed_over()
        place.write_record(Record(token, prepared.slots, Identity.of(process.pid)))
    except BaseException:
        group.end_and_wait()
        raise
    return group


def context(config: str, place: Place, sweep_id: str, index: int, attempt: int) -> dict[str, str]:
    """Return the environment variables that tell a program what it is to do; ``CONTEXT`` has their names."""
    variables = {
        "SWEEPSTATE_SWEEP": sweep_id,
        "SWEEPSTATE_INDEX": str(index),
        "SWEEPSTATE_ATTEMPT": str(attempt),
        "SWEEPSTATE_CONFIG_FILE": str(place.config),
    }
    if len(config) <= _LONGEST_VARIABLE:
        variables["SWEEPSTATE_CONFIG"] = config
    return variables

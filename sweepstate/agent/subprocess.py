"""SubprocessAgent: each run is a program, in a process group of its own.

Needs Linux: processes are told apart by /proc, and waited for by pidfd_open.
"""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import signal
import socket
import threading
from collections import deque
from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, cast

from ..core.errors import InvalidValue
from ..core.values import check_collection, check_text, show
from ._channel import Channel
from ._command import Command, to_json
from ._obeying import name_here
from ._processes import Identity, check_platform, machine
from ._programs import CONTEXT, TOKEN, Child, Orphan, Prepared, Supervised, context, launch
from ._room import has_room
from ._watcher import Watcher
from ._workdir import Workdir
from .driving import DrivenAgent, NoRoom, Report, Trace
from .slots import Slots

if TYPE_CHECKING:
    from ..run import Run

__all__ = ["Slots", "SubprocessAgent"]

_log: Final = logging.getLogger("sweepstate")
#: Signals that are not the program's business: these end or stop the orchestrator, or are its own.
_NEVER_FORWARDED: Final = frozenset({signal.SIGINT, signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD})


class SubprocessAgent(DrivenAgent[Prepared, Supervised]):
    """Starts a program for each run, and reports how it ended.

    Each is the leader of a session and process group of its own. *Stop* sends SIGTERM to the group, and what has
    not ended after the sweep's ``limits.stop_grace`` is killed. *Kill* and *cancel* send SIGKILL to the
    group at once. When the program has ended, what it has left in its group is killed before its end is
    reported; so nothing of an attempt executes when its lease is over. (What begins a session of its own, such as
    a daemon, is out of reach, except for one that an orchestrator finds when it comes back.)

    An exit code of 0 finishes the run, any other fails it, a signal crashes it (SIGINT: it is KILLED); see "How an
    execution ends" in the documentation of the lifecycle. The last lines of its output become the run's message
    unless it finished.

    The program finds its configuration in its arguments, as JSON in ``SWEEPSTATE_CONFIG`` (unless it is longer than
    100,000 bytes) and in the file that ``SWEEPSTATE_CONFIG_FILE`` names; ``SWEEPSTATE_SWEEP``,
    ``SWEEPSTATE_INDEX`` and ``SWEEPSTATE_ATTEMPT`` say which run it is, and ``SWEEPSTATE_RUN`` is
    its token. ``sweepstate.agent.child`` is for programs that report metrics or ask whether to stop.

    How many execute at once is said by ``limits.max_active`` of the sweep, or by ``slots``; if neither says it, it
    is one for each CPU.

    An orchestrator that died has left its programs behind. When an agent of the same name and ``workdir`` drives
    the sweep again, on the same boot of the same machine, they are ended, and their runs are reported as gone:
    nobody can say any more how they would have ended. ``Limits(retries={RunStatus.CRASHED: 1})`` repeats
    them. As long as the orchestrator that began a run lives, it is left alone.

    Args:
        command: the program and its arguments, with macros as in W&B's ``command``: ``${env}``, ``${interpreter}``,
            ``${program}``, ``${args}``, ``${args_no_hyphens}``, ``${args_no_boolean_flags}``, ``${args_json}``,
            ``${args_json_file}`` and ``${envvar:NAME}``. If none of them carries the configuration,
            ``${args}`` is added in the end: ``--lr=0.1 --optimizer.name=adam``.
        name: stable over restarts, and different for agents that drive the same sweep at once: runs are handed to the
            name, and whoever has it begins them. "subprocess@HOST" if it is not given; give one if several drive on
            this machine, or if its name is another one after a restart, as a container's often is.
        program: what ``${program}`` stands for.
        arguments: False: do not add ``${args}``.
        workdir: a directory for ``SWEEP/INDEX.ATTEMPT/``, with ``config.json`` and ``output.log``, where standard
            output and error go. Agents find here what an earlier orchestrator left.
        cwd: the current directory of programs; that of this process if it is not given.
        env: environment variables that are added to those of this process. They are kept in memory
            only, and never logged.
        slots: GPUs, or whatever there is a fixed number of; no more runs are begun than it serves.
        forward: signals that are passed on to all programs while ``drive`` is in the main thread.
        poll: seconds between two looks at what others have done to the sweep. The end of a program is seen at once.
        patience: seconds for which the storage may be away before ``drive`` gives up.

    Raises:
        InvalidValue: an argument cannot be used, or this is not Linux 5.3 or newer.

    Example:
        >>> agent = SubprocessAgent(["${interpreter}", "train.py"], slots=Slots([0, 1]))
    """

    can_kill: bool = True

    def __init__(
        self,
        command: Sequence[str],
        *,
        name: str | None = None,
        program: str | None = None,
        arguments: bool = True,
        workdir: str | os.PathLike[str] = "sweepstate-runs",
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        slots: Slots | None = None,
        forward: Collection[signal.Signals] = (),
        poll: float = 1.0,
        patience: float = 600.0,
    ) -> None:
        check_platform()
        super().__init__(name_here("subprocess") if name is None else name, poll=poll, patience=patience)
        self._slots: Final = _check_slots(slots)
        self._env: Final = _check_env({} if env is None else env)
        ours = {TOKEN, *CONTEXT, *({slots.variable} if slots is not None else ())}
        variables = frozenset({*os.environ, *self._env, *ours})
        self._command: Final = Command(command, program=program, arguments=arguments, variables=variables)
        self._workdir: Final = Workdir(workdir)
        self._cwd: Final = None if cwd is None else str(Path(cwd).absolute())
        self._forward: Final = frozenset(_check_signal(number) for number in check_collection(forward, "forward"))
        self._to_forward: Final[deque[int]] = deque()
        self._cpus: Final = len(os.sched_getaffinity(0))
        self._watcher: Final = Watcher(self._wake.set)
        # Tells this agent from any other of the same name, also within this process.
        self._nonce: Final = secrets.token_hex(8)

    # --- beginning --------------------------------------------------------------------------------

    def _has_room(self) -> bool:
        if self._slots is not None:
            return self._slots.available
        return has_room(list(self._executions.values()), self._cpus)

    def _prepare(self, run: Run) -> Prepared:
        place = self._workdir.place(run.sweep_id, run.index, run.attempt)
        place.make()
        taken = self._take()
        try:
            environment = {**os.environ, **self._env}
            for name in CONTEXT:
                environment.pop(name, None)  # of the run that this process may be part of
            environment |= context(to_json(run.config), place, run.sweep_id, run.index, run.attempt)
            if self._slots is not None:
                environment |= self._slots.variables(taken)
            arguments = partial(self._command.fill, run.config, str(place.config))
            # With the token of the execution that is not begun yet; it is put in when it is launched.
            program = arguments({**environment, TOKEN: run.token})[0]
            _check_program(program, environment, self._cwd)
            return Prepared(place, arguments, environment, self._cwd, taken, Channel())
        except BaseException:
            self._give_back(taken)
            raise

    def _take(self) -> tuple[str, ...]:
        if self._slots is None:
            return ()
        taken = self._slots.take()
        if taken is None:
            raise NoRoom  # another agent that shares the pool was quicker, since this one wanted the run
        return taken

    def _give_back(self, taken: tuple[str, ...]) -> None:
        if self._slots is not None:
            self._slots.give_back(taken)

    def _discard(self, prepared: Prepared) -> None:
        prepared.channel.close()
        self._give_back(prepared.slots)

    def _launch(self, run: Run, prepared: Prepared) -> Child:
        place = prepared.place
        place.write_config(run.config)
        before = place.output_size()
        try:
            group = launch(prepared, run.token)
        except BaseException:
            place.remove_record()
            raise
        self._watcher.watch_process(group.pid)
        self._watcher.watch_channel(prepared.channel)
        return Child(run, place, prepared.slots, group, prepared.channel, before)

    # --- ending -----------------------------------------------------------------------------------

    def _ask(self, execution: Supervised) -> None:
        if isinstance(execution, Child):
            execution.channel.ask_to_stop()  # first, so that a handler of the signal finds it said
            execution.group.send(signal.SIGTERM)

    def _end(self, execution: Supervised) -> None:
        if isinstance(execution, Child):
            execution.group.send(signal.SIGKILL)
        # An orphan was ended when it was found, and is again whenever it is looked at.

    # --- looking ----------------------------------------------------------------------------------

    def _look(self, execution: Supervised) -> Report | None:
        report = None
        if isinstance(execution, Child):
            report = self._look_at_child(execution)
        elif isinstance(execution, Orphan):
            report = self._look_at_orphan(execution)
        if report is not None:
            # Nothing of it executes, so its slots are free, though the storage may not be told of its end yet.
            self._give_back(execution.slots)
            execution.slots = ()
        return report

    def _look_at_child(self, child: Child) -> Report | None:
        gone = child.group.poll()
        more = child.channel.hear(in_the_end=gone)
        if gone:
            if more:
                _log.debug("agent %r: something that %r has started goes on talking", self.name, child.run)
            return self._report_of(child)
        if not child.ended:
            self._pass_on(child)
        if child.group.waited:
            self._watch(child, child.group.left())
        return None

    def _report_of(self, child: Child) -> Report:
        """Return how to report the end of a program: what it has said is reported first."""
        exit_ = _exit_of(child)

        def report(run: Run) -> object:
            self._pass_on(child)
            return exit_(run)

        return report

    def _pass_on(self, child: Child) -> None:
        """Report what a program has said: first that it is being preempted, as that decides about its end."""
        channel = child.channel
        if channel.preempting:
            self._mark_preempting(child)
        metrics = channel.take_newest()
        if metrics is not None:
            try:
                answer = child.run.report(metrics)
            except BaseException:
                channel.keep_newest(metrics)
                raise
            self._heed(child, answer)

    def _look_at_orphan(self, orphan: Orphan) -> Report | None:
        left = orphan.end()
        if not left:
            return lambda run: run.gone()
        self._watch(orphan, left)
        return None

    def _watch(self, execution: Child | Orphan, pids: Collection[int]) -> None:
        """Be woken when each of these processes has ended."""
        for pid in pids:
            if pid not in execution.watched:
                execution.watched.add(pid)
                _log.info("agent %r: waiting for the end of process %d of %r", self.name, pid, execution.run)
                self._watcher.watch_process(pid)

    def _released(self, execution: Supervised) -> None:
        if isinstance(execution, Child):
            self._watcher.forget(execution.channel)
            execution.channel.close()
        execution.place.remove_record()

    # --- what was left behind ---------------------------------------------------------------------

    def _execution_name(self) -> str:
        me = Identity.of(os.getpid())
        began = 0 if me is None else me.began
        return f"{socket.gethostname()}:{os.getpid()}:{began}:{machine()}:{self._nonce}:{secrets.token_hex(8)}"

    def _find(self, run: Run) -> Supervised | Trace:
        """End what an orchestrator that is gone has left of a run; what one that lives executes is left alone."""
        match (run.execution or "").split(":"):
            case [_, pid, began, where, nonce, _] if where == machine() and pid.isdecimal() and began.isdecimal():
                origin = Identity(where, int(pid), int(began))
            case _:
                return Trace.UNKNOWN  # of another machine, or of another kind of agent
        if nonce == self._nonce and origin.pid == os.getpid():
            return Trace.GONE  # begun by this agent, and not executing: the answer to its start was lost
        if origin.alive():
            return Trace.UNKNOWN
        place = self._workdir.place(run.sweep_id, run.index, run.attempt)
        record = place.read_record()
        if record is not None and record.token != run.token:
            record = None  # of a sweep of this id in another storage
        orphan = Orphan(run, place, (), run.token, None if record is None else record.leader, ended=True)
        left = orphan.end()
        if not left:
            if record is not None:
                place.remove_record()
            return Trace.GONE
        _log.warning("agent %r: ending %d processes that an earlier orchestrator left of %r", self.name, len(left), run)
        if self._slots is not None and record is not None:
            orphan.slots = self._slots.reserve(record.slots)
        self._watch(orphan, left)
        return orphan

    # --- signals ----------------------------------------------------------------------------------

    @contextmanager
    def _listening(self, *, signals: bool) -> Generator[None]:
        """Note the signals that are to be passed on, in the main thread."""
        before: dict[signal.Signals, Any] = {}
        with super()._listening(signals=signals):
            try:
                if threading.current_thread() is threading.main_thread():
                    for number in self._forward:
                        before[number] = signal.signal(number, self._note_signal)
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _note_signal(self, number: int, _frame: FrameType | None) -> None:
        # Only noted: the locks of what is told may be held by what the signal has interrupted.
        self._to_forward.append(number)
        self._wake.set()

    def _obey_interrupts(self) -> None:
        while self._to_forward:
            number = self._to_forward.popleft()
            for execution in list(self._executions.values()):
                if isinstance(execution, Child):
                    execution.group.send(number)
        super()._obey_interrupts()


def _exit_of(child: Child) -> Report:
    """Return how to report how a program has ended."""
    code = child.group.returncode
    if code is None:
        return lambda run: run.gone()  # somebody else has waited for it, so nobody can say how it ended
    message = "" if code == 0 else child.message()
    metrics = child.channel.finished
    return lambda run: run.exited(code, message, metrics)


def _check_program(program: str, environment: Mapping[str, str], cwd: str | None) -> None:
    """Raise if there is no such program, before the start is reported."""
    if os.sep in program:
        found = os.access(Path(cwd or os.curdir) / program, os.X_OK)
    else:
        found = shutil.which(program, path=environment.get("PATH")) is not None
    if not found:
        raise FileNotFoundError(f"there is no program {program!r} that can be executed")


def _check_slots(slots: object) -> Slots | None:
    if slots is None or isinstance(slots, Slots):
        return slots
    raise InvalidValue("slots", f"must be Slots, not {show(slots)}", "e.g. Slots([0, 1])")


def _check_env(env: object) -> dict[str, str]:
    """Return environment variables as they are; an error names the variable, never its value."""
    if not isinstance(env, Mapping):
        raise InvalidValue("env", "must be a mapping", "give names and values")
    checked: dict[str, str] = {}
    for name, value in cast("Mapping[object, object]", env).items():
        text = check_text(name, "env", most=1_000)
        if not text or "=" in text or "\0" in text:
            raise InvalidValue("env", f"{show(text)} cannot name a variable")
        if not isinstance(value, str) or "\0" in value or not _is_encodable(value):
            raise InvalidValue(f"env.{text}", "must be a string that a process can be given", "convert it: str(...)")
        checked[text] = value
    return checked


def _is_encodable(value: str) -> bool:
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return True


def _check_signal(number: object) -> signal.Signals:
    try:
        found = signal.Signals(number)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    except ValueError:
        raise InvalidValue("forward", f"{show(number)} is no signal", "e.g. signal.SIGUSR1") from None
    if found in _NEVER_FORWARDED:
        raise InvalidValue("forward", f"{found.name} cannot be forwarded", "it is this process's own; leave it out")
    return found

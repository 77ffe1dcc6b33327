"""The tree of errors.

Every error of this library is a ``SweepstateError``, carries what it says as
fields, builds its text from them, and survives pickling::

    SweepstateError
     +-- InvalidValue (ValueError)        an argument or plain data that cannot be used
     |    +-- UnknownStatus               a word that names no status
     +-- IllegalTransition                refused by the lifecycle
     |    +-- StaleAttempt                a start by an attempt that is not the run's current one
     |    +-- AlreadyStarted              a start by another execution than the one that began
     +-- Conflict                         somebody else committed first, or the status moved since if_version
     |    +-- GaveWay                     a database made a turn give way to another transaction
     +-- NotFound (LookupError)
     |    +-- SweepNotFound
     |    +-- RunNotFound
     +-- AlreadyExists                    a sweep of that id is, or was, there
     +-- SearchError                      a search raised, or answered what cannot be used
     |    +-- SearchMismatch              the search given is not the one the sweep was created with
     |    +-- SearchMissing               there is no search to hand out runs with
     +-- StorageError                     a storage could not do what was asked
     |    +-- OutcomeUnknown              a commit was sent, and nobody can say whether it happened
     +-- AgentError                       an agent's hook raised while orders were delivered

After an error nothing has changed. There are two exceptions, and both say so:
``OutcomeUnknown`` cannot know, and after an ``AgentError`` everything is
committed and the orders it names are still outstanding.
"""

from __future__ import annotations

import attrs

# attrs passes the fields of an exception to BaseException.__init__, in order;
# that is what makes these errors pickle, and why no field is keyword-only.


class SweepstateError(Exception):
    """The base of every error that this library raises on purpose."""


@attrs.define(slots=False, auto_exc=True)
class InvalidValue(SweepstateError, ValueError):
    """An argument, or a field of plain data, that cannot be used.

    Attributes:
        field: which one, as a path (``limits.max_active``).
        problem: what is wrong with it, with the value shown shortened.
        remedy: what to do instead; may be empty.
    """

    field: str
    problem: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}" + (f"; {self.remedy}" if self.remedy else "")


@attrs.define(slots=False, auto_exc=True)
class UnknownStatus(InvalidValue):
    """A word that names no status.

    Attributes:
        known: the words that do.
    """

    known: tuple[str, ...] = ()


@attrs.define(slots=False, auto_exc=True)
class IllegalTransition(SweepstateError):
    """The lifecycle refuses this from here.

    Attributes:
        subject: ``"sweep"`` or ``"run"``.
        id: the sweep's id; for a run ``"<sweep>[<index>]"``; empty where only the table was asked.
        status: the status it has.
        asked: the trigger, or the command, that was refused.
        allowed: what is accepted from here.
        remedy: what the caller probably wants; may be empty.
    """

    subject: str
    id: str
    status: str
    asked: str
    allowed: tuple[str, ...] = ()
    remedy: str = ""

    def __str__(self) -> str:
        name = f"{self.subject} {self.id!r}" if self.id else f"a {self.subject}"
        allowed = ", ".join(self.allowed) if self.allowed else "nothing"
        text = f"cannot {self.asked} {name}: it is {self.status}; accepted from there: {allowed}"
        return f"{text}; {self.remedy}" if self.remedy else text


@attrs.define(slots=False, auto_exc=True)
class StaleAttempt(IllegalTransition):
    """A start by an attempt that is not the current one: somebody else may have the run now.

    Attributes:
        attempt: the attempt that asked.
        current: the run's attempt now.
    """

    attempt: int = 0
    current: int = 0

    def __str__(self) -> str:
        return f"{super().__str__()} (attempt {self.attempt} asked, attempt {self.current} is current)"


@attrs.define(slots=False, auto_exc=True)
class AlreadyStarted(IllegalTransition):
    """A start by another execution than the one that began this attempt.

    Attributes:
        execution: the one that asked, if it said.
        begun_by: the one that began, if it said.
    """

    execution: str | None = None
    begun_by: str | None = None

    def __str__(self) -> str:
        if self.execution is None and self.begun_by is None:
            return super().__str__()
        return f"{super().__str__()} (asked by execution {self.execution!r}, begun by {self.begun_by!r})"


@attrs.define(slots=False, auto_exc=True)
class Conflict(SweepstateError):
    """Somebody else committed first, or a status moved since ``if_version``.

    A storage raises it for a commit on an old version, and for one that acts
    on a silence in which something was heard; the decision is then made again.
    A command raises it, and it is final, when the status it was aimed at has
    changed since ``if_version``.

    Attributes:
        sweep_id: the sweep's id.
        expected: the version the caller acted on.
        found: the version found instead; -1 where the storage did not say.
        what: what collided.
    """

    sweep_id: str
    expected: int
    found: int = -1
    what: str = "another commit came first"

    def __str__(self) -> str:
        found = "" if self.found < 0 else f", found {self.found}"
        return f"sweep {self.sweep_id!r}: {self.what} (expected version {self.expected}{found})"


@attrs.define(slots=False, auto_exc=True)
class GaveWay(Conflict):
    """A database made a turn give way to another transaction (a deadlock, a serialization failure).

    A storage raises it from whatever is asked in a turn; nothing was written, and the decision is made again.
    """

    def __str__(self) -> str:
        return f"sweep {self.sweep_id!r}: {self.what}"


class NotFound(SweepstateError, LookupError):
    """There is no such thing."""


@attrs.define(slots=False, auto_exc=True)
class SweepNotFound(NotFound):
    """No sweep of this id is stored, or it was deleted.

    Attributes:
        sweep_id: the id that was asked for.
    """

    sweep_id: str

    def __str__(self) -> str:
        return f"there is no sweep {self.sweep_id!r} in this storage, or not any more; is it the right storage?"


@attrs.define(slots=False, auto_exc=True)
class RunNotFound(NotFound):
    """The sweep has no run of this index.

    Attributes:
        sweep_id: the sweep's id.
        index: the index that was asked for.
        created: how many runs there are; they are numbered from 0.
    """

    sweep_id: str
    index: int
    created: int

    def __str__(self) -> str:
        return f"sweep {self.sweep_id!r} has no run {self.index}; {self.created} were created, numbered from 0"


@attrs.define(slots=False, auto_exc=True)
class AlreadyExists(SweepstateError):
    """A sweep of this id is there, or was: ids are never used again.

    Attributes:
        sweep_id: the id.
    """

    sweep_id: str

    def __str__(self) -> str:
        return f"a sweep {self.sweep_id!r} exists already, or did; pass exists_ok=True to open it, or another id"


@attrs.define(slots=False, auto_exc=True)
class SearchError(SweepstateError):
    """A search raised, or answered what cannot be used; nothing was committed.

    Attributes:
        sweep_id: the sweep's id.
        index: the index a configuration was wanted for; -1 where none was.
        problem: what happened.
    """

    sweep_id: str
    index: int
    problem: str

    def __str__(self) -> str:
        place = f" for run {self.index}" if self.index >= 0 else ""
        return f"the search of sweep {self.sweep_id!r} failed{place}: {self.problem}"


@attrs.define(slots=False, auto_exc=True)
class SearchMismatch(SearchError):
    """The search given is not the one the sweep was created with."""

    def __str__(self) -> str:
        return f"sweep {self.sweep_id!r}: {self.problem}; open it without a search, or take another id"


@attrs.define(slots=False, auto_exc=True)
class SearchMissing(SearchError):
    """There is no search to hand out runs with."""

    def __str__(self) -> str:
        return f"sweep {self.sweep_id!r}: {self.problem}"


@attrs.define(slots=False, auto_exc=True)
class StorageError(SweepstateError):
    """A storage could not do what was asked; nothing happened.

    Attributes:
        problem: what went wrong, with the remedy where one is known.
    """

    problem: str

    def __str__(self) -> str:
        return self.problem


@attrs.define(slots=False, auto_exc=True)
class OutcomeUnknown(StorageError):
    """A commit was sent, and nobody can say whether it happened: look again before acting on it."""


@attrs.define(slots=False, auto_exc=True)
class AgentError(SweepstateError):
    """Hooks of an agent raised while its orders were delivered; the orders stay outstanding.

    Attributes:
        agent: the agent's name.
        failures: one line for each order that could not be delivered.
    """

    agent: str
    failures: tuple[str, ...]

    def __str__(self) -> str:
        return f"agent {self.agent!r} could not take {len(self.failures)} order(s): " + "; ".join(self.failures)

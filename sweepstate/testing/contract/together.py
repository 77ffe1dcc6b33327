"""Threads and processes that begin at the same moment, and are waited for."""

from __future__ import annotations

from collections.abc import Callable
from threading import Barrier, BrokenBarrierError, Thread
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

_T = TypeVar("_T")

#: Seconds after which whatever is still running is taken to be stuck; far more than it ever needs.
PATIENCE: Final = 60.0


def in_threads(*functions: Callable[[], _T]) -> list[_T]:
    """Call functions at once, each in a thread of its own, and return what they returned, in order.

    Raises:
        AssertionError: one of them is stuck.
        BaseException: what the first of them raised.
    """
    gate = Barrier(len(functions))
    results: dict[int, _T] = {}
    raised: list[BaseException] = []

    def work(place: int, function: Callable[[], _T]) -> None:
        try:
            gate.wait(PATIENCE)
            results[place] = function()
        except BaseException as error:
            raised.append(error)

    threads = [Thread(target=work, args=each, daemon=True) for each in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    for error in raised:
        if not isinstance(error, BrokenBarrierError):  # which is what follows from somebody else's error
            raise error
    if any(thread.is_alive() for thread in threads):
        raise AssertionError(f"a thread is stuck in the storage: it did not come back within {PATIENCE:g} s")
    return [results[place] for place in range(len(functions))]


class Child:
    """Another process, new and with nothing inherited, that calls a function of a module.

    Args:
        function: called with a connection to this process, and the arguments; of a module, so that it is
            found there too.
        arguments: pickled.
    """

    def __init__(self, function: Callable[..., None], *arguments: Any) -> None:
        import multiprocessing  # noqa: PLC0415 - importing it changes sys.modules for the whole process

        context = multiprocessing.get_context("spawn")
        pipe: tuple[Connection, Connection] = context.Pipe()
        self.line: Connection = pipe[0]
        self._process = context.Process(target=_call, args=(pipe[1], function, arguments), daemon=True)
        self._process.start()
        pipe[1].close()  # so that the line ends when the child does

    def hear(self) -> Any:
        """Return the next thing that it says.

        Raises:
            EOFError: it has ended.
            AssertionError: it is stuck, or an exception ended it.
        """
        if not self.line.poll(PATIENCE):
            raise AssertionError(f"another process is stuck: nothing was heard of it for {PATIENCE:g} s")
        try:
            said = self.line.recv()
        except ConnectionError:  # it was killed
            raise EOFError from None
        if isinstance(said, _Raised):
            raise AssertionError(f"another process raised {said.text}")  # noqa: TRY004 - it is a test that fails
        return said

    def say(self, word: object) -> None:
        """Tell it something."""
        self.line.send(word)

    def kill(self) -> None:
        """End it at once: SIGKILL, of which it learns nothing."""
        self._process.kill()

    def close(self) -> None:
        """Wait for its end; end it, if it does not come."""
        self._process.join(PATIENCE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(PATIENCE)
        self.line.close()


class _Raised:
    """What an exception in a child is reported as; the exception itself may not pickle."""

    def __init__(self, text: str) -> None:
        self.text = text


def _call(line: Connection, function: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    try:
        function(line, *arguments)
    except BaseException as error:
        line.send(_Raised(f"{type(error).__name__}: {error}"))
    finally:
        line.close()


def in_processes(function: Callable[..., None], *arguments: tuple[Any, ...]) -> list[Any]:
    """Call a function once for each tuple of arguments, each in a process of its own, all at once.

    The function says something when it is ready, and waits for an answer before it begins; the last thing
    it says is its result.

    Returns:
        The results, in order.
    """
    children = [Child(function, *each) for each in arguments]
    try:
        for child in children:
            child.hear()
        for child in children:
            child.say("go")
        return [child.hear() for child in children]
    finally:
        for child in children:
            child.close()

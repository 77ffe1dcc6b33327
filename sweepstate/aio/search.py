"""Asking a search, which is a plain object, from an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

from ..core.decide import Change
from ..core.errors import InvalidValue
from ..core.events import RunEnded
from ..core.questions import Proposal, Question
from ..core.values import FrozenDict
from ..handles.shell import Proposals
from ..hooks import AsyncStorage, Ended
from ..outlast import in_thread

if TYPE_CHECKING:
    from .shell import AsyncShell

_T = TypeVar("_T")
_PAGE: Final = 256


class Proposer(Proposals["AsyncShell"]):
    """Answers the questions of handing out; a search that may take its time is asked in a thread, out of turn."""

    __slots__ = ("_asks", "_turn")

    def __init__(self, shell: AsyncShell, turn: AsyncExitStack) -> None:
        super().__init__(shell, LoopHistory(shell))
        self.alone = True  # every other task would wait
        self._turn = turn
        # Whether it is its turn to ask the search.
        self._asks = False

    async def answer(self, storage: AsyncStorage, question: Question) -> object:
        """Answer a question of handing out; see ``AsyncShell.answer``."""
        if type(question) is not Proposal:
            return await self._shell.answer(storage, question)
        kept = self.kept(question.index)
        return self.ask(question.index) if kept is None else kept  # by_index

    async def fetch(self) -> None:
        """Ask the search for what a decision has found to be wanted, if it is its turn; else wait for that.

        After waiting, another index may be wanted, or none, so it is decided again.
        """
        index = self.wanted()
        if index is None:
            return
        if self._asks:
            await self._call(partial(self.ask, index))
        else:
            await self._turn.enter_async_context(self._shell.turns().asking)
            self._asks = True

    async def close(self, change: Change | None) -> None:
        """Tell the search of a proposal that was not used."""
        if self.unused(change):
            await self._call(self.discard)

    async def _call(self, function: Callable[[], _T]) -> _T:
        return function() if self.by_index else await in_thread(None, function)


class LoopHistory:
    """What a search in a thread reads: the verdicts, by way of the loop."""

    def __init__(self, shell: AsyncShell) -> None:
        self._shell = shell
        self._loop = asyncio.get_running_loop()

    def ended(self, *, after: int = 0, limit: int) -> Sequence[Ended]:
        """Return verdicts behind a cursor; see ``History.ended``.

        Raises:
            InvalidValue: the search is asked on the loop, which would wait for itself.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run_coroutine_threadsafe(self._verdicts(after, limit), self._loop).result()
        raise InvalidValue("history", "cannot be read by a search that says by_index", "drop by_index")

    async def _verdicts(self, after: int, limit: int) -> list[Ended]:
        shell = self._shell
        found: list[Ended] = []
        while len(found) < limit:
            page = await shell.storage.events(shell.sweep_id, after=after, limit=_PAGE)
            if not page:
                break
            for event in page:
                if isinstance(event, RunEnded) and len(found) < limit:
                    run = await shell.load_run(event.index)
                    config = FrozenDict() if run is None else run.config
                    found.append(Ended(event.number, event.index, config, event.status, event.metrics))
            after = page[-1].number
        return found

"""One thread that waits for all processes of an agent, and hears what they say, so that nobody has to poll."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Callable
from threading import Lock, Thread
from typing import Final

from ._channel import Channel
from ._processes import open_quietly

#: The thread ends after it had nothing to watch for so many seconds.
_IDLE: Final = 5.0


class Watcher:
    """Watches descriptors in a thread, which is there only while there is something to watch.

    It saves time and is not relied upon: what cannot be watched, because too many files are open, is found by
    whoever looks at it the next time.

    Args:
        wake: called when a process has ended, or has said what is not to wait.
    """

    def __init__(self, wake: Callable[[], object]) -> None:
        self._wake: Final = wake
        self._lock: Final = Lock()
        # What to do when a descriptor is readable; it returns whether it goes on being watched.
        self._watched: dict[int, Callable[[], bool]] = {}
        self._epoll: select.epoll | None = None
        self._waiting = False

    def watch_process(self, pid: int) -> None:
        """Wake when a process has ended: a child, or any other."""
        descriptor = open_quietly(pid)
        if descriptor is None:
            self._wake()
            return

        def ended() -> bool:
            # First: a fork of this process may have a copy, and closing ours would leave it in the set for ever.
            if self._epoll is not None:
                with contextlib.suppress(OSError):
                    self._epoll.unregister(descriptor)
            os.close(descriptor)
            self._wake()
            return False

        if not self._add(descriptor, ended):
            os.close(descriptor)

    def watch_channel(self, channel: Channel) -> None:
        """Hear what is said; wake if it is a mark of preemption, which has to be noted before the end."""

        def spoke() -> bool:
            marked = channel.preempting
            more = channel.hear()
            if channel.preempting and not marked:
                self._wake()
            return more

        self._add(channel.descriptor, spoke)

    def forget(self, channel: Channel) -> None:
        """Watch a channel no longer; it may be closed then."""
        with self._lock:
            if self._watched.pop(channel.descriptor, None) is not None and self._epoll is not None:
                self._epoll.unregister(channel.descriptor)

    def _add(self, descriptor: int, readable: Callable[[], bool]) -> bool:
        """Watch a descriptor, and return whether it is watched."""
        with self._lock:
            try:
                self._epoll = select.epoll() if self._epoll is None else self._epoll
                self._epoll.register(descriptor, select.EPOLLIN)
            except OSError:
                return False
            self._watched[descriptor] = readable
            if not self._waiting:
                # A daemon: the orchestrator may leave while what it started executes.
                thread = Thread(target=self._wait, args=(self._epoll,), name="sweepstate-watcher", daemon=True)
                with contextlib.suppress(RuntimeError):  # there are too many threads
                    thread.start()
                    self._waiting = True
        return True

    def _wait(self, epoll: select.epoll) -> None:
        while True:
            ready = epoll.poll(_IDLE)
            with self._lock:
                if not self._watched:
                    self._epoll, self._waiting = None, False
                    epoll.close()
                    return
                calls = [(descriptor, self._watched.get(descriptor)) for descriptor, _ in ready]
            for descriptor, call in calls:
                if call is not None:
                    self._serve(epoll, descriptor, call)

    def _serve(self, epoll: select.epoll, descriptor: int, call: Callable[[], bool]) -> None:
        with self._lock:
            if self._watched.get(descriptor) is not call:
                return  # forgotten meanwhile
            if call():
                return
            del self._watched[descriptor]
            with contextlib.suppress(OSError):
                epoll.unregister(descriptor)

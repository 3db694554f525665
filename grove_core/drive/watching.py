"""Events on their way to the application: bounded, and the oldest go first when nobody reads."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType

from grove_core.errors import LocalProtocolError
from grove_core.machine import Event


class Watched:
    """A `Watch`: what `node.watch(…)` gives. Listens from `__aenter__` to `__aexit__`.

    Iteration ends when the node stops; `next` then raises what ended it.
    """

    def __init__(
        self,
        kinds: tuple[type[Event], ...],
        limit: int,
        begin: Callable[[Watched], None],
        end: Callable[[Watched], None],
    ) -> None:
        self.kinds = kinds
        self.missed = 0
        self._limit = limit
        self._begin = begin
        self._end = end
        self._events: deque[Event] = deque()
        self._arrived = asyncio.Event()
        self._over: BaseException | None = None

    def tell(self, event: Event) -> None:
        """From the node: an event of any kind."""
        if self.kinds and not isinstance(event, self.kinds):
            return
        if len(self._events) >= self._limit:
            self._events.popleft()
            self.missed += 1
        self._events.append(event)
        self._arrived.set()

    def close(self, why: BaseException) -> None:
        """From the node: nothing more will come."""
        self._over = why
        self._arrived.set()

    async def __aenter__(self) -> Watched:
        self._begin(self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end(self)
        if self._over is None:
            self.close(LocalProtocolError("this watch has been left"))

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        await self._wait()
        if not self._events:
            raise StopAsyncIteration
        return self._events.popleft()

    async def next(self) -> Event:
        """The next event; waits without bound (use asyncio.timeout)."""
        await self._wait()
        if not self._events:
            assert self._over is not None
            raise self._over
        return self._events.popleft()

    async def _wait(self) -> None:
        while not self._events and self._over is None:
            self._arrived.clear()
            await self._arrived.wait()

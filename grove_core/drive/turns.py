"""Fair shares of the event loop for what peers send: nobody's flood delays anybody else for long.

Work that a peer causes comes in small steps (a message, a question, a signature). Streams with more
to do than a few steps wait here and get one step each, peer after peer, for at most SLICE seconds a
turn of the loop. What a stream has not worked off it gives no credit for, so what waits is bounded
by the streams' windows.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from grove_core.machine import PeerId

SLICE = 0.002
"""Seconds of such work per turn of the loop."""


class Worker(Protocol):
    """A stream with work to do."""

    peer: PeerId

    def step(self) -> bool:
        """Do one piece; whether there is more. Must not raise."""
        ...


class Turns:
    """Peers take turns, and each peer's streams take turns within its own."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._peers: deque[PeerId] = deque()
        self._workers: dict[PeerId, deque[Worker]] = {}
        self._is_scheduled = False

    def add(self, worker: Worker) -> None:
        """Has more to do; must not be waiting here already."""
        mine = self._workers.get(worker.peer)
        if mine is None:
            mine = self._workers[worker.peer] = deque()
            self._peers.append(worker.peer)
        mine.append(worker)
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._slice)

    def _slice(self) -> None:
        end = self._loop.time() + SLICE
        peers, workers = self._peers, self._workers
        while peers:
            peer = peers.popleft()
            mine = workers[peer]
            worker = mine.popleft()
            if worker.step():
                mine.append(worker)
            if mine:
                peers.append(peer)
            else:
                del workers[peer]
            if self._loop.time() >= end:
                break
        self._is_scheduled = bool(peers)
        if peers:
            self._loop.call_soon(self._slice)

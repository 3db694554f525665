"""Two engines and a line between them, in virtual time: latency, loss and a diary of what happened."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import TypeVar

from grove_libp2p.certificate import make_certificate
from grove_quic import wire
from grove_quic.config import Config
from grove_quic.engine import Address, Ended, Engine, Event, Handshaken, Initial, StreamData
from grove_quic.engines import AioquicEngines
from grove_quic.over_aioquic import AioquicEngine

from grove_core.identity import Identity

CLIENT: Address = ("192.0.2.1", 1)
SERVER: Address = ("192.0.2.2", 2)

E = TypeVar("E", bound=Event)


class Link:
    """A client that dials a server; `run` moves time until a condition holds.

    passes(data, at, upstream) -> whether a datagram gets through.
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        latency: float = 0.01,
        passes: Callable[[bytes, float, bool], bool] = lambda data, at, upstream: True,
        local: bool = False,
        streams: int = 256,
        handshaken: bool = True,
        reads: bool = True,
    ) -> None:
        config = config or Config()
        self.now = 1000.0
        self.latency = latency
        self.passes = passes
        self.reads = reads
        self.local = local
        self.client_at = CLIENT  # change it, and the client has moved
        self.sizes: list[int] = []  # of every datagram that got through
        self.engines = tuple(
            AioquicEngines(
                config,
                *make_certificate(Identity.from_seed(bytes([n]) * 32), 1_700_000_000),
                streams=streams,
            )
            for n in (1, 2)
        )
        self.heap: list[tuple[float, int, bool, bytes]] = []
        self.order = count()
        self.seen: dict[bool, list[Event]] = {True: [], False: []}
        client = self.engines[0].dial(SERVER, self.now, local=local)
        assert isinstance(client, AioquicEngine)
        self.client = client
        self.server: AioquicEngine | None = None
        self.first = b""
        self._move(client, upstream=True)
        if handshaken:
            self.run(lambda: self.got(Handshaken, at_server=True) and self.got(Handshaken))
            self.settle()

    @property
    def there(self) -> AioquicEngine:
        assert self.server is not None
        return self.server

    def got(self, kind: type[E], *, at_server: bool = False) -> list[E]:
        return [event for event in self.seen[not at_server] if isinstance(event, kind)]

    def data(self, *, at_server: bool) -> bytes:
        return b"".join(event.data for event in self.got(StreamData, at_server=at_server))

    def run(self, until: Callable[[], object], bound: float = 60.0) -> None:
        """Move time on until a condition holds; fails if it does not within bound virtual seconds."""
        end = self.now + bound
        self._move_both()
        while not until():
            assert self._step(end), f"nothing more happens, or {bound} s have passed"

    def settle(self, seconds: float = 0.5) -> None:
        """Let a while pass."""
        end = self.now + seconds
        self._move_both()
        while self._step(end):
            pass
        self.now = end

    def _step(self, end: float) -> bool:
        timers = [
            (at, engine is self.client, engine)
            for engine in (self.client, self.server)
            if engine is not None and (at := engine.timer()) is not None
        ]
        timer = min(timers, key=lambda entry: entry[0], default=None)
        if self.heap and (timer is None or self.heap[0][0] <= timer[0]):
            if self.heap[0][0] > end:
                return False
            at, _, upstream, data = heapq.heappop(self.heap)
            self.now = max(self.now, at)
            self._deliver(data, upstream)
        elif timer is not None and timer[0] <= end:
            self.now = max(self.now, timer[0])
            timer[2].timer_fired(self.now)
            self._move(timer[2], upstream=timer[1])
        else:
            return False
        return True

    def _deliver(self, data: bytes, upstream: bool) -> None:
        engine = self.server if upstream else self.client
        if engine is None:
            first = wire.initial(data)
            assert isinstance(first, Initial)
            self.first = data
            made = self.engines[1].accept(first, CLIENT, self.now, local=self.local)
            assert isinstance(made, AioquicEngine)
            engine = self.server = made
        self.sizes.append(len(data))
        engine.datagram_in(data, self.client_at if upstream else SERVER, self.now)
        self._move(engine, upstream=not upstream)

    def _move_both(self) -> None:
        self._move(self.client, upstream=True)
        if self.server is not None:
            self._move(self.server, upstream=False)

    def _move(self, engine: Engine, *, upstream: bool) -> None:
        """One turn: take events, send what is due."""
        for _ in range(2):
            for event in engine.events():
                self.seen[upstream].append(event)
                if self.reads and isinstance(event, StreamData) and event.data:
                    engine.grant(event.stream, len(event.data))
            if engine.wants_to_send(self.now):
                for data, _ in engine.poll_out(self.now):
                    if self.passes(data, self.now, upstream):
                        at = self.now + self.latency
                        heapq.heappush(self.heap, (at, next(self.order), upstream, data))

    def ended(self, *, at_server: bool = False) -> Ended | None:
        found = self.got(Ended, at_server=at_server)
        return found[0] if found else None

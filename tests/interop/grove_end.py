"""One Grove transport with the interop protocols on it and no node around it; and how it meets js.

`meeting(way, js)` makes the connection that the way describes and gives both ends of it. When it is left,
Grove's end is closed, and whatever went wrong inside its handlers fails the test.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from grove_core.identity import Identity, parse_peer, peer_text
from grove_core.machine import PeerId
from grove_core.multiaddr import Multiaddr
from grove_core.transport import Connection, Transport
from tests.interop.js_peer import JsPeer
from tests.interop.lines import Way
from tests.interop.services import Services
from tests.plugins.fakes import FakeUpcalls

BOUND = 20.0  # s, for anything that takes milliseconds on an idle machine
LISTEN = {"tcp": "/ip4/127.0.0.1/tcp/0", "quic": "/ip4/127.0.0.1/udp/0/quic-v1"}


class GroveEnd(FakeUpcalls):
    """A transport and the node's side of it. Its identity is a new one each time: js outlives a test."""

    def __init__(self, transport: str) -> None:
        super().__init__()
        self.identity = Identity.generate()
        self.services = Services()
        self.handlers = self.services.handlers
        (spec,) = importlib.import_module(f"grove_{transport}").grove_transports()
        self.transport: Transport = spec.build(spec.config(), self)
        self._listen = LISTEN[transport]
        self._address: Multiaddr | None = None

    @property
    def peer(self) -> str:
        return peer_text(self.identity.peer)

    async def listen(self) -> None:
        (self._address,) = await self.transport.listen(Multiaddr.parse(self._listen))

    def addr(self, peer: PeerId | None = None) -> str:
        """Where it listens, with its peer id or the one given."""
        assert self._address is not None
        return str(self._address.with_peer(peer or self.identity.peer))

    async def dial(self, addr: str, peer: PeerId | None = None) -> Connection:
        """Dial a js address, expecting the peer id that stands in it, or the one given."""
        target = Multiaddr.parse(addr)
        return await self.transport.dial(target.without_peer(), peer or target.peer)

    async def connection(self, peer: str) -> Connection:
        """The connection to a peer, once there is one."""
        await self.until(lambda: any(each.peer == parse_peer(peer) for each in self.live), BOUND)
        return next(each for each in self.live if each.peer == parse_peer(peer))

    @property
    def taken_in(self) -> int:
        """Inbound connections that were ever opened."""
        return sum(connection.inbound for connection in self.connections)

    async def settled(self) -> None:
        """Wait until every inbound attempt has come to its end and no connection is open."""
        await self.until(
            lambda: not self.live and len(self.admitted) == len(self.given_up) + self.taken_in, BOUND
        )

    async def close(self) -> None:
        async with asyncio.timeout(BOUND):
            await self.services.close()
            await self.transport.close()
        if self.services.failures:
            raise ExceptionGroup("Grove's handlers failed", self.services.failures)  # type: ignore[type-var]


class Meeting(NamedTuple):
    """The two ends of one connection."""

    grove: GroveEnd
    js: JsPeer
    connection: Connection
    """Grove's end."""
    dialled: Mapping[str, Any]
    """js's end, as js describes it."""


@asynccontextmanager
async def grove_end(transport: str) -> AsyncIterator[GroveEnd]:
    """A Grove transport that listens."""
    grove = GroveEnd(transport)
    try:
        await grove.listen()
        yield grove
    finally:
        await grove.close()


@asynccontextmanager
async def meeting(way: Way, js: JsPeer) -> AsyncIterator[Meeting]:
    """Grove and js, connected the way asked for."""
    async with grove_end(way.transport) as grove:
        if way.grove_dials:
            async with asyncio.timeout(BOUND):
                connection = await grove.dial(js.addr(way.transport))
            told = await js.event("connected", peer=grove.peer)
        else:
            told = await js.do("dial", addr=grove.addr())
            connection = await grove.connection(js.peer)
        yield Meeting(grove, js, connection, told)

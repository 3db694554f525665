"""The TCP transport: dials and listens; each connection then runs itself (connection.py)."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from functools import partial
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from grove_libp2p.noise import Credentials

from grove_core.errors import GroveError, LocalProtocolError
from grove_core.machine import PeerId
from grove_core.multiaddr import Multiaddr
from grove_core.transport import SHUTDOWN, DialError, Upcalls
from grove_tcp.config import Config
from grove_tcp.connection import GOODBYE, TcpConnection, address_of

RANK: Final = 10
"""TCP comes after QUIC (`Transport.rank`)."""

RECEIVE_BUFFER: Final = 128 * 1024
"""Bytes of the one buffer that all connections receive into: two of the longest Noise messages, and
what one peer is given of each turn of the loop. Full of new streams it takes some 50 ms."""

BACKLOG: Final = 256
"""Connections the system may keep for us until we accept them."""

STAGGER: Final = 0.25
"""Seconds between attempts if a name has several addresses (RFC 8305)."""


class TcpTransport:
    """Dials and listens over TCP with Noise XX and yamux. Implements `transport.Transport`."""

    def __init__(self, config: Config, upcalls: Upcalls) -> None:
        self.config = config
        self.upcalls = upcalls
        self.credentials = Credentials(upcalls.identity, X25519PrivateKey.generate())
        """The Noise static key of this process, fresh, and the identity's signature over it."""
        self.view = memoryview(bytearray(RECEIVE_BUFFER))
        self.live: dict[TcpConnection, None] = {}
        """Connections whose socket is open, upgraded or not."""
        self.closing = False
        self.sent_bytes = 0
        """Given to the system so far, without TCP and IP headers; what a handshake takes included."""
        self._servers: list[asyncio.Server] = []

    def rank(self, address: Multiaddr) -> int | None:
        """10 for a plain TCP address, else None."""
        return RANK if address.is_tcp else None

    async def listen(self, address: Multiaddr) -> Sequence[Multiaddr]:
        """Accept connections; the address with its port resolved. Raises GroveError if it is taken."""
        port = address.port
        if not address.is_tcp or address.ip is None or port is None:
            raise LocalProtocolError(f"cannot listen on {address}; TCP listens on /ip4|ip6/…/tcp/…")
        try:
            server = await asyncio.get_running_loop().create_server(
                partial(TcpConnection, self, inbound=True),
                str(address.ip),
                port,
                backlog=BACKLOG,
            )
        except OSError as error:
            raise GroveError(f"cannot listen on {address}: {_why(error)}") from None
        self._servers.append(server)
        return [address_of(bound.getsockname()) for bound in server.sockets]

    async def dial(self, address: Multiaddr, peer: PeerId | None) -> TcpConnection:
        """Connect and prove both identities; see `transport.Transport.dial`."""
        host, port = address.host, address.port
        if not address.is_tcp or host is None or port is None:
            raise DialError(f"{address} is no TCP address")
        if self.closing:
            raise DialError(f"{address}: this transport is closed")
        connection = TcpConnection(
            self, inbound=False, remote=address.without_peer(), expected=peer or address.peer
        )
        limit = self.config.connect_timeout
        try:
            async with asyncio.timeout(limit):
                await asyncio.get_running_loop().create_connection(
                    lambda: connection,
                    host,
                    port,
                    family=_FAMILIES.get(address.parts[0][0], socket.AF_UNSPEC),
                    happy_eyeballs_delay=STAGGER if address.ip is None else None,
                )
                await connection.until_ready()
        except TimeoutError:
            stage = connection.stage
            connection.abandon("dial timed out")
            raise DialError(f"{address}: timed out after {limit:g} s while {stage}") from None
        except OSError as error:
            raise DialError(f"{address}: {_why(error)}") from None
        except asyncio.CancelledError:
            connection.abandon("dial was given up")
            raise
        return connection

    async def close(self) -> None:
        """Stop listening, close every connection with SHUTDOWN, wait at most 1 s."""
        self.closing = True
        for server in self._servers:
            server.close()
        connections = list(self.live)
        for connection in connections:
            connection.close(SHUTDOWN, "this node shuts down")
        waits = [asyncio.ensure_future(connection.wait_closed()) for connection in connections]
        if waits:
            _, late = await asyncio.wait(waits, timeout=GOODBYE)
            for connection in list(self.live):
                connection.abandon("this node shuts down")
            if late:
                await asyncio.wait(late)


_FAMILIES: Final = {"dns4": socket.AF_INET, "dns6": socket.AF_INET6}


def _why(error: OSError) -> str:
    """What the system says, without asyncio's wrapping."""
    if isinstance(error, socket.gaierror):
        return f"name does not resolve ({error.strerror})"
    if error.errno is None:
        return str(error)
    return os.strerror(error.errno).lower()

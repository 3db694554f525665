"""The QUIC transport on asyncio: which socket listens, which one dials.

Implements `grove_core.transport.Transport`. Per address family there is one socket for dialling and
listening; a second one is opened only where the first cannot reach (a socket bound to loopback
reaches nothing else).
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections.abc import Sequence

from grove_libp2p.certificate import make_certificate

from grove_core.errors import GroveError, LocalProtocolError
from grove_core.machine import PeerId
from grove_core.multiaddr import Multiaddr
from grove_core.transport import SHUTDOWN, Connection, DialError, Upcalls
from grove_quic.config import Config
from grove_quic.driver.endpoint import Door, Endpoint
from grove_quic.engine import Address
from grove_quic.engines import AioquicEngines

RANK = 0
"""Before TCP: one round trip to a proven peer, and no second negotiation (go's dial ranker)."""

_FAMILIES = {"dns4": socket.AF_INET, "dns6": socket.AF_INET6}

_FAREWELL = 1.0
"""Seconds that `close` may take."""


class QuicTransport:
    """Dials and listens for /quic-v1 addresses of one node."""

    def __init__(self, config: Config, upcalls: Upcalls) -> None:
        self._config = config
        self._upcalls = upcalls
        self._engines = AioquicEngines(
            config, *make_certificate(upcalls.identity, time.time()), streams=upcalls.max_streams
        )
        self._door = Door(config)
        self._endpoints: list[Endpoint] = []
        self._is_closed = False

    @property
    def sent_bytes(self) -> int:
        """Given to the system so far, without UDP and IP headers; handshakes and repetitions included."""
        return sum(endpoint.sent_bytes for endpoint in self._endpoints)

    def rank(self, address: Multiaddr) -> int | None:
        """0 for /ip4|ip6|dns…/udp/…/quic-v1, None for all others."""
        return RANK if address.is_quic else None

    async def listen(self, address: Multiaddr) -> Sequence[Multiaddr]:
        """Accept connections; the address with its port resolved. Raises GroveError if it is taken."""
        ip, port = address.ip, address.port
        if not address.is_quic or ip is None or port is None:
            raise LocalProtocolError(f"cannot listen on {address}: QUIC needs /ip4|ip6/…/udp/…/quic-v1")
        try:
            endpoint = self._endpoint(await self._resolve(str(ip), port), accepting=True)
        except OSError as error:
            raise GroveError(f"cannot listen on {address}: {error.strerror or error}") from None
        return (endpoint.address,)

    async def dial(self, address: Multiaddr, peer: PeerId | None) -> Connection:
        host, port = address.host, address.port
        if not address.is_quic or host is None or port is None:
            raise DialError(f"{address} is no QUIC address")
        if self._is_closed:
            raise DialError(f"{address}: the transport is closed")
        try:
            resolved = await self._resolve(host, port, _FAMILIES.get(address.parts[0][0], 0))
            endpoint = self._towards(resolved)
        except OSError as error:
            raise DialError(f"{address}: {error.strerror or error}") from None
        connection = endpoint.dial(resolved, peer)
        assert connection.ready is not None
        try:
            await connection.ready
        except asyncio.CancelledError:
            connection.close()
            raise
        return connection

    async def close(self) -> None:
        """Say goodbye to everyone, wait until it is sent, give the ports back."""
        self._is_closed = True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _FAREWELL
        open_ones = [each for endpoint in self._endpoints for each in endpoint.connections]
        while loop.time() < deadline and any(each.flowing for each in open_ones):
            await asyncio.sleep(0.005)  # what was written still tries to leave
        for connection in open_ones:
            connection.close(SHUTDOWN)
        for connection in open_ones:
            await connection.wait_closed()
        for endpoint in self._endpoints:
            endpoint.close()
        self._endpoints.clear()

    async def _resolve(self, host: str, port: int, family: int = 0) -> Address:
        """A socket address in the form in which datagrams from there will carry it.

        family: of the names to look up; 0: any.
        """
        loop = asyncio.get_running_loop()
        try:
            ip = ipaddress.ip_address(host)
        except ValueError:
            found = await loop.getaddrinfo(host, port, family=family, type=socket.SOCK_DGRAM)
            return found[0][4]  # type: ignore[return-value]
        if isinstance(ip, ipaddress.IPv4Address):
            return (str(ip), port)
        if ip.ipv4_mapped is not None:
            return (str(ip.ipv4_mapped), port)
        if ip.scope_id:
            scope = int(ip.scope_id) if ip.scope_id.isdigit() else socket.if_nametoindex(ip.scope_id)
            return (f"{str(ip).partition('%')[0]}%{ip.scope_id}", port, 0, scope)
        return (str(ip), port, 0, 0)

    def _towards(self, remote: Address) -> Endpoint:
        """The socket that can reach a remote: a listening one if possible."""
        family = socket.AF_INET6 if ":" in remote[0] else socket.AF_INET
        for endpoint in sorted(self._endpoints, key=lambda each: not each.accepting):
            if endpoint.family == family and _reaches(endpoint.bound[0], remote[0]):
                return endpoint
        return self._endpoint(("::" if family == socket.AF_INET6 else "0.0.0.0", 0), accepting=False)

    def _endpoint(self, bind: Address, *, accepting: bool) -> Endpoint:
        endpoint = Endpoint(
            self._config, self._upcalls, self._engines, self._door, bind, accepting=accepting
        )
        self._endpoints.append(endpoint)
        return endpoint


def _reaches(bound: str, remote: str) -> bool:
    """Whether a socket bound to one address can send to another."""
    here = ipaddress.ip_address(bound)
    return here.is_unspecified or here.is_loopback == ipaddress.ip_address(remote).is_loopback

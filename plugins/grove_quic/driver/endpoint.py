"""One UDP socket, for every connection that is dialled from it or accepted on it.

One socket, because observed addresses and hole punching need dials to come from the port that
listens (libp2p-wire.md 2.7). Datagrams find their connection by its id, never by their address.

All datagrams that wait are read in one turn of the event loop; then each connection they touched
takes one turn: one walk over its events, one flight of packets, one timer.

What strangers can cost, bounded: unfinished inbound handshakes (`handshakes`), before that the
proof of an address (`retry_above`), and answers to those we refuse (`refusals_per_second`). Every
answer to an unproven address is shorter than what it answers.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from grove_core.machine import PeerId
from grove_core.multiaddr import Multiaddr
from grove_core.transport import Upcalls
from grove_quic import wire
from grove_quic.config import Config
from grove_quic.driver.connection import QuicConnection
from grove_quic.engine import Address, Engines, Initial

CONNECTION_REFUSED: Final = 0x2
INVALID_TOKEN: Final = 0xB
"""Transport error codes of RFC 9000 section 20.1."""

_BATCH = 64
_BATCH_BYTES = 128 * 1024
"""Datagrams read in one turn, and their bytes; then others get theirs."""

_STRANGERS = 4
"""Datagrams of no connection looked at in one turn."""

_QUEUE = 256
"""Those that may wait for it; honest clients send theirs again."""

_OUTBOX = 1024
"""Datagrams that wait for the system to take them; more are lost, as on any full queue."""

# Linux: set the Don't Fragment bit and leave path MTU to us (RFC 8899 section 3); not in `socket`.
# And tell us by the error queue which remote a host or router called unreachable (ip(7), ipv6(7)).
_MTU_DISCOVER = {socket.AF_INET: (socket.IPPROTO_IP, 10), socket.AF_INET6: (socket.IPPROTO_IPV6, 23)}
_PROBE = 3
_RECEIVE_ERRORS = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}
_ERROR_QUEUE = 0x2000
_FROM_ICMP = (2, 3)


class Door:
    """What all sockets of a transport share: the pending handshakes and the budget of refusals."""

    __slots__ = ("_config", "_filled_at", "_tokens", "pending")

    def __init__(self, config: Config) -> None:
        self._config = config
        self.pending = 0  # inbound connections admitted and not opened
        self._tokens = config.refusals_per_second
        self._filled_at = 0.0

    @property
    def is_full(self) -> bool:
        return self.pending >= self._config.handshakes

    @property
    def is_crowded(self) -> bool:
        return self.pending >= self._config.retry_above

    def may_answer(self, now: float) -> bool:
        """Whether one more refusal fits the budget."""
        rate = self._config.refusals_per_second
        self._tokens = min(rate, self._tokens + (now - self._filled_at) * rate)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Endpoint:
    """A bound socket and its connections."""

    def __init__(
        self,
        config: Config,
        upcalls: Upcalls,
        engines: Engines,
        door: Door,
        bind: Address,
        *,
        accepting: bool,
    ) -> None:
        """bind: a literal address; port 0 lets the system choose. Raises OSError."""
        self.config = config
        self.upcalls = upcalls
        self.engines = engines
        self.door = door
        self.accepting = accepting
        self.clock: Callable[[], float] = time.monotonic  # uvloop's own clock stands still in a turn
        self.loop = asyncio.get_running_loop()
        self.connections: dict[QuicConnection, None] = {}  # opened and not closed
        self._routes: dict[bytes, QuicConnection] = {}
        self._touched: list[QuicConnection] = []
        self._in_turn = False
        self._meeting = False
        self._strangers: deque[tuple[bytes, Address]] = deque()
        self._outbox: deque[tuple[bytes, Address]] = deque()
        self.sent_bytes = 0  # of datagrams that the system took
        self._buffer = bytearray(65_536)
        self._view = memoryview(self._buffer)
        self._socket = _bound_socket(bind, config.socket_buffer)
        self.family = self._socket.family
        self.bound: Address = self._socket.getsockname()
        self.is_closed = False
        self.loop.add_reader(self._socket, self._readable)

    @property
    def address(self) -> Multiaddr:
        return Multiaddr.quic(self.bound[0], self.bound[1])

    def local_towards(self, remote: Address) -> Multiaddr:
        """The address the system sends from to a remote; of a wildcard socket it is chosen per route."""
        host = self.bound[0]
        if ipaddress.ip_address(host).is_unspecified:
            with socket.socket(self.family, socket.SOCK_DGRAM) as probe:
                try:
                    probe.connect(remote)
                    host = probe.getsockname()[0]
                except OSError:  # no route any more; the wildcard is all we know
                    pass
        return Multiaddr.quic(host, self.bound[1])

    # --- connections

    def dial(self, address: Address, expected: PeerId | None) -> QuicConnection:
        """Begin to connect; the connection's `ready` says how it went."""
        now = self.clock()
        engine = self.engines.dial(address, now, local=_is_local(address))
        connection = QuicConnection(self, engine, inbound=False, expected=expected, now=now)
        connection.ready = self.loop.create_future()
        self.route(engine.id, connection)
        connection.touch()
        return connection

    def route(self, cid: bytes, connection: QuicConnection) -> None:
        """Datagrams to this id are the connection's."""
        self._routes[cid] = connection
        connection.ids.append(cid)

    def unroute(self, cid: bytes, connection: QuicConnection) -> None:
        if self._routes.get(cid) is connection:
            del self._routes[cid]
        if cid in connection.ids:
            connection.ids.remove(cid)

    def opened(self, connection: QuicConnection) -> None:
        """The peer is proven."""
        if connection.inbound:
            self.door.pending -= 1
        self.connections[connection] = None
        self.upcalls.opened(connection)

    def ended(self, connection: QuicConnection, reason: str) -> None:
        """It is over, opened or not."""
        if connection.is_open:
            del self.connections[connection]
            self.upcalls.closed(connection, reason)
        elif connection.inbound:
            self.door.pending -= 1
            self.upcalls.gave_up(connection.remote)

    # --- turns

    def touched(self, connection: QuicConnection) -> None:
        """A turn is due for a connection, in this turn of the loop if we are in one of ours."""
        connection.is_touched = True
        self._touched.append(connection)
        if not self._in_turn and len(self._touched) == 1:
            self.loop.call_soon(self._turn)

    def _turn(self) -> None:
        """One turn for each connection touched; those touched meanwhile get theirs at once."""
        now = self.clock()
        self._in_turn = True
        try:
            for _ in range(4):
                touched, self._touched = self._touched, []
                for connection in touched:
                    connection.is_touched = False
                    try:
                        connection.turn(now)
                    except Exception as error:  # our own mistake costs one connection, not the socket
                        self.loop.call_exception_handler(
                            {"message": f"{connection!r} failed", "exception": error}
                        )
                        connection.abandon(f"internal error: {type(error).__name__}")
                if not self._touched:
                    return
        finally:
            self._in_turn = False
        self.loop.call_soon(self._turn)

    # --- the socket

    def _readable(self) -> None:
        receive, view = self._socket.recvfrom_into, self._view
        now = self.clock()
        routes = self._routes
        self._in_turn = True
        try:
            read = 0
            for number in range(_BATCH):
                if read >= _BATCH_BYTES:
                    break
                try:
                    size, address = receive(view)
                except (BlockingIOError, InterruptedError):
                    if not number:  # woken, and no datagram: the error queue is not empty
                        self._read_errors()
                    break
                except OSError:  # of some earlier datagram of ours
                    self._read_errors()
                    continue
                read += size
                data = bytes(view[:size])
                cid = wire.destination(data)
                if cid is None:
                    continue
                connection = routes.get(cid)
                if connection is not None:
                    connection.datagram(data, address, now)
                    if not connection.is_touched:
                        connection.is_touched = True
                        self._touched.append(connection)
                elif self.accepting and len(self._strangers) < _QUEUE:
                    self._strangers.append((data, address))
        finally:
            self._in_turn = False
        if self._touched:
            self._turn()
        if self._strangers and not self._meeting:
            self._meet()

    def _meet(self) -> None:
        """Some strangers, after everybody known: each may cost a millisecond of cryptography.

        While more of them wait than one turn takes, three quarters of the time are the others'.
        """
        self._meeting = False
        began = self.clock()
        for _ in range(min(_STRANGERS, len(self._strangers))):
            self._stranger(*self._strangers.popleft(), began)
        if self._strangers:
            self._meeting = True
            self.loop.call_later(3 * (self.clock() - began), self._meet)

    def _stranger(self, data: bytes, address: Address, now: float) -> None:
        """A datagram that no connection claims: perhaps the first of a new one."""
        first = wire.initial(data)
        if first is None or self.is_closed:
            return
        if isinstance(first, Initial) and first.destination in self._routes:
            self._routes[first.destination].datagram(data, address, now)  # its first one was just met
            self._routes[first.destination].touch()
            return
        if isinstance(first, int):
            answer = wire.version_negotiation(data, data[0])
            if answer is not None and self.door.may_answer(now):
                self.send([(answer, address)])
            return
        if first.token and not self.engines.is_ours(first.token):
            first = Initial(first.destination, first.source, b"")
        door = self.door
        if door.is_full:
            return
        if door.is_crowded and not first.token:
            self.send([(self.engines.retry(first, address, now), address)])
            return
        remote = Multiaddr.quic(address[0], address[1])
        if self.upcalls.admit(remote):
            if door.may_answer(now):
                self.send([(self.engines.refuse(first, CONNECTION_REFUSED), address)])
            return
        engine = self.engines.accept(first, address, now, local=_is_local(address))
        if engine is None:
            self.upcalls.gave_up(remote)
            if door.may_answer(now):
                self.send([(self.engines.refuse(first, INVALID_TOKEN), address)])
            return
        engine.datagram_in(data, address, now)
        if not engine.deciphered:  # garbage in the shape of an Initial
            self.upcalls.gave_up(remote)
            return
        door.pending += 1
        connection = QuicConnection(self, engine, inbound=True, expected=None, now=now)
        self.route(first.destination, connection)
        self.route(engine.id, connection)
        connection.touch()

    def send(self, datagrams: list[tuple[bytes, Address]]) -> None:
        """Give datagrams to the system; what it has no room for waits, within a bound."""
        send = self._socket.sendto
        for at, (data, address) in enumerate(datagrams):
            if self._outbox:
                self._keep(datagrams[at:])
                return
            try:
                self.sent_bytes += send(data, address)
            except (BlockingIOError, InterruptedError):
                self._keep(datagrams[at:])
                return
            except OSError:  # perhaps an earlier datagram's, told late: once more
                self._read_errors()
                try:
                    self.sent_bytes += send(data, address)
                except OSError as error:
                    self._refused(address, error)

    def _keep(self, datagrams: list[tuple[bytes, Address]]) -> None:
        if not self._outbox:
            self.loop.add_writer(self._socket, self._writable)
        self._outbox.extend(datagrams[: _OUTBOX - len(self._outbox)])

    def _writable(self) -> None:
        while self._outbox:
            data, address = self._outbox[0]
            try:
                self.sent_bytes += self._socket.sendto(data, address)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._refused(address, error)
            self._outbox.popleft()
        self.loop.remove_writer(self._socket)

    def _refused(self, address: Address, error: OSError) -> None:
        """No route, or a probe larger than the link: lost like any packet, but a dial may give up."""
        for connection in list(self._routes.values()):
            dialling = connection.ready is not None and not connection.ready.done()
            if dialling and connection.engine.remote == address:
                self.loop.call_soon(connection.unreachable, error)

    def _read_errors(self) -> None:
        """Hear which remotes are said to be gone. Anyone can forge that, so it only raises a doubt."""
        if sys.platform != "linux":
            return
        while True:
            try:
                _, ancillary, _, address = self._socket.recvmsg(0, 512, _ERROR_QUEUE)
            except OSError:
                return
            for level, kind, data in ancillary:
                if (level, kind) != _RECEIVE_ERRORS[self.family] or len(data) < 5:
                    continue
                number, origin = struct.unpack_from("=IB", data)  # struct sock_extended_err
                if (
                    origin in _FROM_ICMP
                    and number != errno.EMSGSIZE
                    and self.door.may_answer(self.clock())
                ):
                    for connection in list(dict.fromkeys(self._routes.values())):
                        if connection.engine.remote == address:
                            connection.doubted(number)

    def close(self) -> None:
        """Forget every connection and give the port back."""
        if self.is_closed:
            return
        self.is_closed = True
        for connection in list(dict.fromkeys(self._routes.values())):
            connection.abandon("the transport is closed")
        self.loop.remove_reader(self._socket)
        if self._outbox:
            self.loop.remove_writer(self._socket)
        self._socket.close()


def _bound_socket(bind: Address, buffer: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in bind[0] else socket.AF_INET
    made = socket.socket(family, socket.SOCK_DGRAM)
    try:
        made.setblocking(False)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # A burst that overflows the receive buffer is loss, and loss halves the window: the default of
        # 208 KiB holds 92 small datagrams. The system may give less than we ask (rmem_max).
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            made.setsockopt(socket.SOL_SOCKET, option, buffer)
        if sys.platform == "linux":
            made.setsockopt(*_MTU_DISCOVER[family], _PROBE)
            made.setsockopt(*_RECEIVE_ERRORS[family], 1)
        made.bind(bind)
    except OSError:
        made.close()
        raise
    return made


def _is_local(address: Address) -> bool:
    host = address[0]
    return host.startswith("127.") or host == "::1"

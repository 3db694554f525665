"""The interface of a QUIC engine: one connection's protocol state, without socket, clock or node.

Bytes and time go in, datagrams and events come out, as in h11. `over_aioquic.py` has the engine we
ship; a faster one (another library, another language) needs to offer these two protocols and no
more, and everything else in this plugin stays as it is.

What an engine owes beyond RFC 9000, because libp2p or our memory depends on it:

1. Credit follows consumption: a peer may be ahead of `grant` by at most the configured windows.
2. The server asks for a client certificate, and both sides prove possession of the key of theirs;
   whether the certificate is a good one is decided by whoever receives `Handshaken`.
3. What a peer can make it store is bounded by the windows, the stream limit and constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

import msgspec

Address: TypeAlias = tuple[str, int] | tuple[str, int, int, int]
"""A socket address as `recvfrom` gives it; compared for equality only."""

ID_LENGTH = 8
"""Bytes of the connection ids we choose, so that a short header can be routed."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """What happened on a connection, in the order it happened."""


class Handshaken(Event, frozen=True, gc=False):
    """TLS is complete. certificates: the peer's, DER, its own first; empty if it showed none."""

    certificates: tuple[bytes, ...]


class StreamOpened(Event, frozen=True, gc=False):
    """The peer opened a stream; nothing was opened before with this id."""

    stream: int


class StreamData(Event, frozen=True, gc=False):
    """Bytes in order; end: the peer finished its direction."""

    stream: int
    data: bytes
    end: bool


class StreamReset(Event, frozen=True, gc=False):
    """The peer aborted its direction; nothing more will come."""

    stream: int
    code: int


class StreamStopped(Event, frozen=True, gc=False):
    """The peer will read no more of our direction, which the engine has aborted in answer."""

    stream: int
    code: int


class StreamsAllowed(Event, frozen=True, gc=False):
    """The peer lets us open more streams."""


class IdIssued(Event, frozen=True, gc=False):
    """Datagrams to this connection id are ours from now on."""

    id: bytes


class IdRetired(Event, frozen=True, gc=False):
    """This connection id is no longer ours."""

    id: bytes


class Ended(Event, frozen=True, gc=False):
    """The connection is over; at most late datagrams are still answered (`timer` says how long).

    code: the application's (libp2p error codes) if application, else a QUIC transport error.
    """

    code: int
    application: bool
    reason: str


class Engine(Protocol):
    """One QUIC connection. `now` is seconds on a monotonic clock, never decreasing."""

    @property
    def id(self) -> bytes:
        """The first connection id we chose."""
        ...

    @property
    def remote(self) -> Address:
        """Where we send to now; changes when the peer migrates."""
        ...

    @property
    def rtt(self) -> float:
        """Latest round trip in seconds; 0.0 before the first."""
        ...

    @property
    def idle_timeout(self) -> float:
        """Seconds of silence that end the connection: the smaller of both sides' wishes."""
        ...

    @property
    def deciphered(self) -> bool:
        """Whether any packet of the peer could be read; a server drops a connection without."""
        ...

    @property
    def finished(self) -> bool:
        """Nothing will come out any more; forget it."""
        ...

    def datagram_in(self, data: bytes, address: Address, now: float) -> None:
        """A datagram for this connection. Never raises, whatever the bytes."""
        ...

    def wants_to_send(self, now: float) -> bool:
        """Whether `poll_out` could give something; cheap."""
        ...

    def poll_out(self, now: float) -> list[tuple[bytes, Address]]:
        """Datagrams to send now, in order: what pacing and congestion allow, and no more."""
        ...

    def timer(self) -> float | None:
        """When `timer_fired` wants to be called; ask after every `poll_out`."""
        ...

    def timer_fired(self, now: float) -> None: ...

    def events(self) -> Sequence[Event]:
        """What happened since the last call."""
        ...

    def open_stream(self) -> int | None:
        """A new bidirectional stream, or None while the peer allows no more."""
        ...

    def write(self, stream: int, data: bytes, end: bool = False) -> None:
        """Queue bytes, then perhaps the end. Ignored once the direction is over."""
        ...

    def unsent(self, stream: int) -> int:
        """Bytes written and not yet sent for the first time."""
        ...

    def grant(self, stream: int, count: int) -> None:
        """The reader consumed count bytes that `StreamData` gave: the peer may send as many more."""
        ...

    def release(self, stream: int) -> None:
        """Nobody will read this stream any more: what `StreamData` gave of it counts as consumed."""
        ...

    def reset(self, stream: int, code: int) -> None:
        """Abort our direction."""
        ...

    def stop(self, stream: int, code: int) -> None:
        """Ask the peer to abort its direction."""
        ...

    def ping(self) -> None:
        """Make the peer answer, so that both idle timers start again."""
        ...

    def end(self, code: int, reason: str) -> None:
        """End with an application error code; reason: cut to 200 bytes."""
        ...

    def fail(self, alert: int, reason: str) -> None:
        """End with a TLS alert (crypto error 0x100 + alert), as a failed handshake does."""
        ...


class Initial(msgspec.Struct, frozen=True, gc=False):
    """The parts of a client's first packet that decide what becomes of it."""

    destination: bytes
    source: bytes
    token: bytes


class Engines(Protocol):
    """Makes the engines of a node, and the packets a server sends without having one."""

    def dial(self, address: Address, now: float, *, local: bool = False) -> Engine:
        """A client that has begun its handshake. local: the peer is on this machine (larger MTU)."""
        ...

    def accept(
        self, initial: Initial, address: Address, now: float, *, local: bool = False
    ) -> Engine | None:
        """A server for a client's first packet, which it has not been fed yet. None: bad token."""
        ...

    def is_ours(self, token: bytes) -> bool:
        """Whether it came from a Retry packet of ours, good or not.

        Others do come: quinn keeps what NEW_TOKEN gave it by server name, and under libp2p all servers
        have one name. Such a token counts as none (RFC 9000 section 8.1.3).
        """
        ...

    def retry(self, initial: Initial, address: Address, now: float) -> bytes:
        """A Retry packet: proves the client's address and stores nothing (RFC 9000 section 8.1.2)."""
        ...

    def refuse(self, initial: Initial, code: int) -> bytes:
        """An Initial packet that closes what was never opened, with a QUIC transport error."""
        ...

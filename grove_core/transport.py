"""The contract of transports: connections that are secure and multiplexed, and their streams.

A transport plugin implements these protocols in its `driver.py`; `drive/` is their only user. A
`Connection` exists only once the remote's key is proven, so `connection.peer` can be trusted.

Backpressure is real in both directions: credit is granted to the remote as the reader consumes,
never on receipt; and `drain` waits until what was written has left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from grove_core.errors import GroveError
from grove_core.identity import Identity
from grove_core.machine import PeerId
from grove_core.multiaddr import Multiaddr

# libp2p error codes (libp2p/specs, error-codes); 0 is an orderly end.
PROTOCOL_NEGOTIATION_FAILED = 0x1000
RESOURCE_LIMIT_EXCEEDED = 0x1001
RATE_LIMITED = 0x1002
PROTOCOL_VIOLATION = 0x1003
SUPPLANTED = 0x1004
GARBAGE_COLLECTED = 0x1005
SHUTDOWN = 0x1006
GATED = 0x1007


class DialError(GroveError):
    """A dial failed: refused, timed out, wrong peer, bad certificate. Says which and where."""


class StreamClosed(GroveError):
    """The stream is over for this direction because of us, or the connection under it is gone."""


class StreamReset(GroveError):
    """The remote reset the stream; `code` is the remote's, 0 if it gave none."""

    def __init__(self, code: int = 0) -> None:
        super().__init__(f"stream reset by the remote (code {code:#x})")
        self.code = code


class ProtocolNotSupported(GroveError):
    """The remote speaks none of the protocols proposed for a stream."""


class Sink(Protocol):
    """Receives a stream's bytes as they come, without a task per stream. Methods must not raise."""

    def data_received(self, data: bytes) -> None:
        """Bytes in order. The remote's credit returns only through `stream.grant(len)`."""
        ...

    def eof_received(self) -> None:
        """The remote finished writing."""
        ...

    def stream_lost(self, error: GroveError | None) -> None:
        """Nothing more will come in either direction. None: both sides finished in order."""
        ...


class Stream(Protocol):
    """One ordered, flow-controlled, bidirectional byte stream of a connection."""

    @property
    def protocol(self) -> str:
        """The id both sides agreed on by multistream-select."""
        ...

    @property
    def connection(self) -> Connection: ...

    async def read(self, limit: int = 65536) -> bytes:
        """Between 1 and limit bytes, or b"" at the remote's end. Grants credit for what it returns.

        Raises StreamReset, or StreamClosed when the connection is gone.
        """
        ...

    async def read_exactly(self, count: int) -> bytes:
        """Exactly count bytes. Raises StreamClosed if the remote ends before."""
        ...

    def attach(self, sink: Sink) -> None:
        """From now on push to sink (beginning with what is buffered); `read` may not be used."""
        ...

    def grant(self, count: int) -> None:
        """Return credit for count bytes that a sink has consumed."""
        ...

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Queue bytes; never blocks. Raises StreamClosed or StreamReset when nothing can leave."""
        ...

    @property
    def buffered(self) -> int:
        """Bytes written and not yet on their way (waiting for credit or for the socket)."""
        ...

    async def drain(self) -> None:
        """Wait until `buffered` is small enough (at most 256 KiB) to write on."""
        ...

    def close_write(self) -> None:
        """Finish our direction in order; reading goes on."""
        ...

    def reset(self, code: int = 0) -> None:
        """Abort both directions at once."""
        ...


class Connection(Protocol):
    """A secure, multiplexed connection whose remote has proven its identity."""

    @property
    def peer(self) -> PeerId: ...
    @property
    def transport(self) -> str:
        """Name of the plugin that made it: "tcp", "quic"."""
        ...

    @property
    def local(self) -> Multiaddr: ...
    @property
    def remote(self) -> Multiaddr:
        """As seen by us; without `/p2p`. IPv4-mapped addresses are given as IPv4."""
        ...

    @property
    def inbound(self) -> bool: ...
    @property
    def rtt(self) -> float:
        """Latest round trip in seconds, 0.0 while unknown."""
        ...

    @property
    def stream_count(self) -> int:
        """Streams open now, both directions."""
        ...

    async def open_stream(self, protocols: Sequence[str]) -> Stream:
        """Open a stream and agree on the first protocol of the list that the remote speaks.

        Raises ProtocolNotSupported, StreamClosed, or TimeoutError after 10 s.
        With one candidate the stream is returned at once and the answer is checked on the first
        read (lazy negotiation): it costs no round trip.
        """
        ...

    def close(self, code: int = 0, reason: str = "") -> None:
        """Say goodbye with a libp2p error code and release everything; idempotent."""
        ...

    async def wait_closed(self) -> None: ...


StreamHandler = Callable[[Stream], None]
"""Called with each accepted stream after negotiation; must return at once (start a task to wait)."""


class Upcalls(Protocol):
    """What a transport asks of, and tells, the node it works for."""

    @property
    def identity(self) -> Identity: ...

    @property
    def handlers(self) -> Mapping[str, StreamHandler]:
        """Protocols served to remotes, by id. Live: may change while connections are open."""
        ...

    @property
    def max_streams(self) -> int:
        """Streams a remote may have open on one connection (`limits.streams_per_connection`).

        The transport holds it, in its muxer's own way: by credit (QUIC), or by resets (yamux).
        """
        ...

    def admit(self, remote: Multiaddr) -> int:
        """0 to go on with an inbound connection, else the code to refuse it with.

        Called before any expensive work; counts the attempt. Each admitted attempt ends in exactly
        one of `opened` or `gave_up`.
        """
        ...

    def gave_up(self, remote: Multiaddr) -> None:
        """An admitted inbound connection failed before it was opened."""
        ...

    def opened(self, connection: Connection) -> None:
        """A connection (inbound or dialled) is up. The node may close it at once."""
        ...

    def closed(self, connection: Connection, reason: str) -> None:
        """A connection that was opened is over. Called once, after its streams were lost."""
        ...


class Transport(Protocol):
    """Dials and listens for one kind of address.

    One that knows how many bytes it has given to the system, headers below it not counted, says so in
    an attribute `sent_bytes`: the node tells it as the counter ``bytes.NAME``.
    """

    def rank(self, address: Multiaddr) -> int | None:
        """How good a dial to this address would be, smaller is better; None: not mine.

        By convention 0 to 9 for QUIC, 10 to 19 for TCP, 100 and more for relays.
        """
        ...

    async def listen(self, address: Multiaddr) -> Sequence[Multiaddr]:
        """Accept connections; returns the concrete addresses (port 0 resolved). May be called again."""
        ...

    async def dial(self, address: Multiaddr, peer: PeerId | None) -> Connection:
        """Connect and prove both identities; raises DialError. `opened` is called before it returns.

        peer: whom we expect; None accepts anyone (and the caller learns who it is).
        """
        ...

    async def close(self) -> None:
        """Stop listening, close every connection with SHUTDOWN, wait at most 1 s."""
        ...

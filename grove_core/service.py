"""The contract of services: what lives beside the machines of a real node, and what it may use.

A service (identify, the gateway) is built with its configuration and the `LiveNode` it belongs to.
It may open streams, serve protocols, watch events and call roles; it may not reach into machines.
Everything here runs on the node's event loop and must not block it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import msgspec

from grove_core.identity import Identity
from grove_core.machine import Event, PeerId
from grove_core.multiaddr import Multiaddr
from grove_core.node import Plan
from grove_core.roles import (
    Broadcast,
    Claim,
    Commons,
    Consensus,
    Discovery,
    Membership,
    Storage,
)
from grove_core.transport import Connection, Stream, StreamHandler


class PeerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What the node knows of a peer. Tables are bounded; an entry may be forgotten and learnt again."""

    peer: PeerId
    addresses: tuple[Multiaddr, ...] = ()  # without /p2p; signed ones first; at most 32
    protocols: tuple[str, ...] | None = None  # None: not identified yet; at most 1024
    agent: str = ""  # agentVersion, at most 128 characters
    record: bytes = b""  # newest signed peer record (envelope), at most 1024 bytes
    sequence: int = 0  # of that record; older ones are ignored


class PeerBook(Protocol):
    """The node's address book: bounded by `limits.peers_known`, least recently used forgotten first."""

    def get(self, peer: PeerId) -> PeerEntry: ...

    def learn(
        self,
        peer: PeerId,
        *,
        addresses: Sequence[Multiaddr] = (),
        protocols: Sequence[str] | None = None,
        agent: str | None = None,
    ) -> None:
        """Add what was learnt; addresses are merged, newest first, the others replaced."""
        ...

    def learn_record(self, record: bytes) -> PeerId:
        """Verify a signed peer record and keep it. Raises RemoteProtocolError if it does not hold."""
        ...


class Watch(Protocol):
    """A bounded stream of events, to be entered: ``async with node.watch(Delivered) as heard``."""

    missed: int
    """Events dropped (oldest first) because the reader was too slow."""

    async def __aenter__(self) -> Watch: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def __aiter__(self) -> AsyncIterator[Event]: ...
    async def next(self) -> Event:
        """The next event; waits without bound (use asyncio.timeout)."""
        ...


Greeter = Callable[[Connection], Awaitable[None]]
"""Run for each new connection, in parallel, at most 5 s, before its peer is announced to machines."""


class LiveNode(Protocol):
    """A running node, as services and applications see it. `grove_core.Node` is the real one."""

    @property
    def identity(self) -> Identity: ...
    @property
    def peer(self) -> PeerId: ...
    @property
    def plan(self) -> Plan: ...
    @property
    def data(self) -> Path:
        """The data folder: exists, mode 0700."""
        ...

    @property
    def addresses(self) -> tuple[Multiaddr, ...]:
        """How others can reach us: `announce`, or the listening addresses with wildcards expanded."""
        ...

    @property
    def peers(self) -> PeerBook: ...
    @property
    def membership(self) -> Membership: ...
    @property
    def broadcast(self) -> Broadcast: ...
    @property
    def discovery(self) -> Discovery: ...
    @property
    def storage(self) -> Storage: ...
    @property
    def consensus(self) -> Consensus:
        """Role handles raise LocalProtocolError when the profile fills the role with nothing."""
        ...

    @property
    def commons(self) -> Commons:
        """What the village agrees on. LocalProtocolError if no plugin of the node provides "commons"."""
        ...

    def claim(
        self, task: str, *, lease: float = 30.0, agent: str = "", wait: float = 0.0
    ) -> AbstractAsyncContextManager[Claim]:
        """Hold a task that nobody else holds: `commons.claim`."""
        ...

    def plugin(self, name: str) -> Any:
        """The facade or role handle of a machine, or the service object, by plugin name.

        KeyError if it is not on this node.
        """
        ...

    def record(self) -> bytes:
        """Our own signed peer record, re-made when our addresses change."""
        ...

    def serve(self, protocol: str, handler: StreamHandler) -> None:
        """Accept streams of a protocol from any peer. LocalProtocolError if it is taken."""
        ...

    def unserve(self, protocol: str) -> None: ...

    @property
    def protocols(self) -> tuple[str, ...]:
        """Everything served now, ascending."""
        ...

    def greet(self, greeter: Greeter) -> None: ...

    def on_protocols_changed(self, callback: Callable[[], None]) -> None:
        """Called when `protocols` or `addresses` changed (identify/push hangs on this)."""
        ...

    def connections(self) -> tuple[Connection, ...]: ...

    def connection(self, peer: PeerId) -> Connection | None:
        """The one new streams should use: direct before relayed, then the oldest."""
        ...

    async def connect(self, target: PeerId | Multiaddr) -> Connection:
        """The connection to a peer, dialled if need be and held until `disconnect`.

        A multiaddr may end in /p2p/ID; without it whoever answers is accepted. Raises Unreachable,
        with the outcome of each address tried.
        """
        ...

    def disconnect(self, peer: PeerId, reason: str = "") -> None:
        """Close every connection to a peer now."""
        ...

    async def open_stream(self, peer: PeerId, protocols: Sequence[str]) -> Stream: ...

    async def join(self, ticket: str) -> PeerId:
        """Use a ticket: connect to the peer it names and enter the overlay through it."""
        ...

    def ticket(self) -> str:
        """An invitation to this node."""
        ...

    def watch(self, *kinds: type[Event], limit: int = 1024) -> Watch: ...

    @property
    def counters(self) -> Mapping[str, int]:
        """Monotonic counts by dotted name: "sent.plumtree", "dropped.queue", "refused.per_ip" …"""
        ...

    @property
    def uptime(self) -> float:
        """Seconds since the node started."""
        ...

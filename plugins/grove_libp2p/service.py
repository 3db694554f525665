"""The service that introduces us: identify, identify/push and ping beside the machines of a real node.

Source: libp2p/specs identify/README.md and ping/ping.md; limits are go-libp2p's and js-libp2p's
(`config.py`). Everybody waits for identify before using a peer, so both ends ask at once: the node
runs `_greet` for each new connection before machines hear of its peer.

1. Nothing that contradicts the connection's proven peer is believed: neither a public key nor a
   record of somebody else.
2. What a peer can make grow is bounded: streams per peer and protocol, pushes per peer and second,
   and the tables that count them.
3. Addresses are told and believed only as far as the connection reaches: no private address crosses
   a public connection, either way. (A signed record is whole or nothing; the node makes ours.)
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from importlib import metadata
from typing import Any, Final
from weakref import WeakValueDictionary

from grove_core.errors import GroveError, RemoteProtocolError
from grove_core.identity import short
from grove_core.machine import PeerId
from grove_core.multiaddr import Multiaddr
from grove_core.record import verify_record
from grove_core.service import LiveNode
from grove_core.transport import Connection, ProtocolNotSupported, Stream
from grove_libp2p import identify, ping
from grove_libp2p.config import Config
from grove_libp2p.framing import Unframer, frame
from grove_libp2p.identify import ID, PUSH, Identify
from grove_libp2p.observed import Observed
from grove_libp2p.ping import PING
from grove_libp2p.stream import STREAM_PROTOCOL_VIOLATION, STREAM_RESOURCE_LIMIT, STREAM_SHUTDOWN

log = logging.getLogger("grove.libp2p")

PROTOCOL_VERSION: Final = "grove/1.0.0"
"""protocolVersion of identify; nobody decides anything by it."""

MAX_PUSHERS: Final = 1024
"""Peers whose pushes are being rated; the longest silent is forgotten first."""

_TROUBLE = (GroveError, TimeoutError)
"""What a stream to somebody else can end in."""


Work = Callable[[Stream], Coroutine[Any, Any, None]]
"""What is done with an inbound stream."""


class Libp2p:
    """The service "libp2p" of a node."""

    def __init__(self, config: Config, node: LiveNode) -> None:
        self._config = config
        self._node = node
        self._observed = Observed()
        self.agent = node.plan.settings.agent or f"grove/{_version()}"
        """Our agentVersion: name and version, as everybody is told."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._serving: Counter[tuple[str, PeerId]] = Counter()  # streams being served now
        self._pushers: OrderedDict[PeerId, tuple[float, float]] = OrderedDict()  # (tokens, as of)
        self._pinging: WeakValueDictionary[PeerId, asyncio.Lock] = WeakValueDictionary()
        self._push_timer: asyncio.TimerHandle | None = None
        self._pushed_at = float("-inf")
        self._running = False

    async def start(self) -> None:
        """Serve the three protocols and greet each new connection."""
        self._running = True
        self._node.serve(ID, self._on_identify)
        self._node.serve(PUSH, self._on_push)
        self._node.serve(PING, self._on_ping)
        self._node.greet(self._greet)
        self._node.on_protocols_changed(self._changed)

    async def stop(self) -> None:
        """Serve no more and end every stream of ours."""
        self._running = False
        for protocol in (ID, PUSH, PING):
            self._node.unserve(protocol)
        if self._push_timer is not None:
            self._push_timer.cancel()
            self._push_timer = None
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._serving.clear()  # a task that never began counted nothing down

    @property
    def observed(self) -> Observed:
        """How we appear to others: addresses with the number of peers that said so."""
        return self._observed

    async def ping(self, peer: PeerId, count: int = 1, interval: float = 0.0) -> AsyncIterator[float]:
        """Round trips to a peer in seconds, one after the other on one stream, dialling if need be.

        interval: seconds from an echo to the next ping. At most one stream per peer is in use: a
        second caller waits. Raises Unreachable, ProtocolNotSupported, StreamReset, StreamClosed,
        RemoteProtocolError (another echo), or TimeoutError (10 s without an echo).
        """
        lock = self._pinging.setdefault(peer, asyncio.Lock())
        async with lock:
            stream = await self._node.open_stream(peer, [PING])
            done = False
            try:
                for index in range(count):
                    if index and interval > 0:
                        await asyncio.sleep(interval)
                    yield await ping.once(stream, os.urandom(ping.SIZE), self._config.ping_timeout)
                stream.close_write()
                done = True
            finally:
                if not done:
                    stream.reset()

    # --- identify: we ask ------------------------------------------------------------------------

    async def _greet(self, connection: Connection) -> None:
        """Ask a new connection's peer who it is. Whatever goes wrong, the connection stays usable."""
        stream: Stream | None = None
        try:
            async with asyncio.timeout(self._config.identify_timeout):
                stream = await connection.open_stream([ID])
                stream.close_write()
                info = await _read(stream)
            self._believe(connection, info, pushed=False)
        except _TROUBLE as error:
            if stream is not None:
                stream.reset(STREAM_PROTOCOL_VIOLATION if isinstance(error, RemoteProtocolError) else 0)
            _explain("did not identify", connection.peer, error)
        except asyncio.CancelledError:
            if stream is not None:
                stream.reset(STREAM_SHUTDOWN)
            raise

    def _believe(self, connection: Connection, info: Identify, *, pushed: bool) -> None:
        """Keep what a peer said of itself. RemoteProtocolError if it speaks of somebody else."""
        peer = connection.peer
        if info.public_key is not None and info.public_key.peer != peer:
            raise RemoteProtocolError(
                f"identify by {short(peer)} carries the key of {short(info.public_key.peer)}"
            )
        addresses = _within_reach(info.addresses, connection.remote)
        if info.record is not None and self._believe_record(peer, info.record):
            addresses = ()  # the signed ones are better, and the plain ones add nothing to them
        self._node.peers.learn(
            peer,
            addresses=addresses,
            protocols=info.protocols if info.protocols or not pushed else None,
            agent=info.agent,
        )
        if info.observed is not None and not connection.remote.is_circuit:
            self._observed.saw(connection.remote, info.observed)

    def _believe_record(self, peer: PeerId, record: bytes) -> bool:
        """Keep a signed record. False if it does not hold: then the plain addresses count."""
        try:
            signer = verify_record(record).peer
            if signer != peer:
                raise RemoteProtocolError(f"a signed record of {short(signer)}")
            self._node.peers.learn_record(record)
        except RemoteProtocolError as error:
            _explain("sent a record that does not hold", peer, error)
            return False
        return True

    # --- identify: we answer ---------------------------------------------------------------------

    def _on_identify(self, stream: Stream) -> None:
        self._serve(ID, stream, self._config.identify_streams, self._introduce)

    async def _introduce(self, stream: Stream) -> None:
        """Say who we are, and wait a moment for the asker to have read it."""
        async with asyncio.timeout(self._config.identify_timeout):
            stream.write(self._words_for(stream.connection))
            stream.close_write()
            while await stream.read():
                pass  # nothing is to be said here, so nothing is read into it

    def _words_for(self, connection: Connection) -> bytes:
        """Our Identify for one connection, one or two delimited messages."""
        remote = connection.remote
        info = Identify(
            public_key=self._node.identity.public,
            addresses=_within_reach(self._node.addresses, remote),
            protocols=self._node.protocols,
            observed=None if remote.is_circuit else remote,
            protocol_version=PROTOCOL_VERSION,
            agent=self.agent,
            record=self._node.record(),
        )
        return b"".join(frame(message) for message in identify.encode(info))

    # --- push, both ways -------------------------------------------------------------------------

    def _changed(self) -> None:
        """Our protocols or addresses changed: tell everybody, soon and not too often."""
        if not self._running or self._push_timer is not None:
            return
        loop = asyncio.get_running_loop()
        due = max(loop.time() + self._config.push_delay, self._pushed_at + self._config.push_interval)
        self._push_timer = loop.call_at(due, self._push_due)

    def _push_due(self) -> None:
        self._push_timer = None
        self._pushed_at = asyncio.get_running_loop().time()
        self._start(self._push_to_all())

    async def _push_to_all(self) -> None:
        peers = dict.fromkeys(connection.peer for connection in self._node.connections())
        gate = asyncio.Semaphore(self._config.push_concurrency)

        async def push(peer: PeerId) -> None:
            async with gate:
                connection = self._node.connection(peer)
                if connection is not None:
                    await self._push(connection)

        # A peer not identified yet (None) will be told on its own identify stream.
        listening = [peer for peer in peers if PUSH in (self._node.peers.get(peer).protocols or ())]
        async with asyncio.TaskGroup() as group:
            for peer in listening:
                group.create_task(push(peer))

    async def _push(self, connection: Connection) -> None:
        stream: Stream | None = None
        try:
            async with asyncio.timeout(self._config.identify_timeout):
                stream = await connection.open_stream([PUSH])
                stream.write(self._words_for(connection))
                stream.close_write()
                while await stream.read():
                    pass
        except _TROUBLE as error:
            if stream is not None:
                stream.reset()
            _explain("took no push", connection.peer, error)
        except asyncio.CancelledError:
            if stream is not None:
                stream.reset(STREAM_SHUTDOWN)
            raise

    def _on_push(self, stream: Stream) -> None:
        if not self._may_push(stream.connection.peer):
            stream.reset(STREAM_RESOURCE_LIMIT)
            return
        self._serve(PUSH, stream, self._config.push_concurrency, self._take_push)

    async def _take_push(self, stream: Stream) -> None:
        async with asyncio.timeout(self._config.identify_timeout):
            info = await _read(stream)
        stream.close_write()
        self._believe(stream.connection, info, pushed=True)

    def _may_push(self, peer: PeerId) -> bool:
        """A token bucket per peer: `push_burst` at once, `push_rate` per second from then on."""
        now = asyncio.get_running_loop().time()
        burst = float(self._config.push_burst)
        tokens, since = self._pushers.pop(peer, (burst, now))
        tokens = min(burst, tokens + (now - since) * self._config.push_rate)
        allowed = tokens >= 1
        self._pushers[peer] = (tokens - 1 if allowed else tokens, now)
        if len(self._pushers) > MAX_PUSHERS:
            self._pushers.popitem(last=False)
        return allowed

    # --- ping ------------------------------------------------------------------------------------

    def _on_ping(self, stream: Stream) -> None:
        self._serve(PING, stream, self._config.ping_streams, self._echo)

    async def _echo(self, stream: Stream) -> None:
        await ping.echo(stream, self._config.ping_idle)

    # --- streams and tasks -----------------------------------------------------------------------

    def _serve(self, protocol: str, stream: Stream, limit: int, work: Work) -> None:
        """Work on an inbound stream in a task of its own, at most `limit` per peer and protocol."""
        key = (protocol, stream.connection.peer)
        if not self._running or self._serving[key] >= limit:
            stream.reset(STREAM_RESOURCE_LIMIT)
            return
        self._serving[key] += 1
        self._start(self._watch(key, stream, work))

    async def _watch(self, key: tuple[str, PeerId], stream: Stream, work: Work) -> None:
        try:
            await work(stream)
        except _TROUBLE as error:
            stream.reset(STREAM_PROTOCOL_VIOLATION if isinstance(error, RemoteProtocolError) else 0)
            _explain(f"broke off {key[0]}", key[1], error)
        except asyncio.CancelledError:
            stream.reset(STREAM_SHUTDOWN)
            raise
        finally:
            self._serving[key] -= 1
            if self._serving[key] <= 0:
                del self._serving[key]

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _read(stream: Stream) -> Identify:
    """All messages of an identify stream as one; what comes after ten of them is not read."""
    unframer = Unframer(identify.MAX_MESSAGE, "identify message")
    messages: list[Identify] = []
    while data := await stream.read(identify.MAX_MESSAGE):
        unframer.feed(data)
        while (message := unframer.next()) is not None:
            messages.append(identify.decode(message))
            if len(messages) == identify.MAX_MESSAGES:
                return identify.merge(messages)
    if unframer.rest():
        raise RemoteProtocolError("identify message cut short")
    if not messages:
        raise RemoteProtocolError("identify stream without a message")
    return identify.merge(messages)


_REACH = {"loopback": 0, "link": 1, "private": 1, "public": 2, "unknown": 2}
"""How far a scope reaches: this machine, this house, everywhere. Names are for everywhere."""


def _within_reach(addresses: Iterable[Multiaddr], remote: Multiaddr) -> tuple[Multiaddr, ...]:
    """The addresses that make sense to somebody at `remote`: none of a narrower reach than its own."""
    reach = _REACH[remote.scope]
    return tuple(address for address in addresses if _REACH[address.scope] >= reach)


def _explain(what: str, peer: PeerId, error: BaseException) -> None:
    if isinstance(error, ProtocolNotSupported):
        return  # an old or small peer; nothing is wrong
    log.debug("%s %s: %s", short(peer), what, str(error) or type(error).__name__)


def _version() -> str:
    try:
        return metadata.version("grove-node")
    except metadata.PackageNotFoundError:
        return "0"

"""The connections of a node in being: dial, accept, greet, announce, let go. The transports' `Upcalls`.

The life of a connection (`libp2p-wire.md` 7.3): a transport proves both ends and hands it over; it
enters the table or is closed; the greeters (identify) run, at most GREETING seconds; then its peer
is announced to the machines, once for all its connections, and streams for machines that came
meanwhile are handed on. When its last connection is lost the peer is announced as down.

Invariants:
1. A peer is dialled by one dial at a time; everybody who wants it waits for the same future.
2. A future of `reach` that succeeds does so after the machines were told that the peer is up.
3. Machines' streams are read only from announced peers.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from grove_core.drive.connections import Connections, Open
from grove_core.drive.dialing import Attempt, Backoff, Pace, place, plan
from grove_core.drive.links import STREAM_LIMIT
from grove_core.drive.peerbook import Book
from grove_core.errors import GroveError, LocalProtocolError, Unreachable
from grove_core.events import Connected, Disconnected
from grove_core.identity import Identity, short
from grove_core.machine import Event, PeerId
from grove_core.multiaddr import Multiaddr
from grove_core.node import Limits
from grove_core.service import Greeter
from grove_core.transport import (
    GARBAGE_COLLECTED,
    GATED,
    RESOURCE_LIMIT_EXCEEDED,
    SUPPLANTED,
    Connection,
    DialError,
    Stream,
    StreamHandler,
    Transport,
)

log = logging.getLogger("grove.swarm")

GREETING = 5.0
"""Seconds identify may take before machines hear of the peer without it (`libp2p-wire.md` 7.3)."""

EARLY_STREAMS = 16
"""Streams of one connection that may wait for its greeting."""

REACHING = 1024
"""Peers that may be waited for at once; a peer can make machines send to many it has made up."""


class Listener(Protocol):
    """Who hears of peers and events."""

    def peer_up(self, peer: PeerId) -> None: ...
    def peer_down(self, peer: PeerId) -> None: ...
    def published(self, event: Event) -> None: ...


class _TimedOut(Unreachable, TimeoutError):
    """No address answered in time."""


class Swarm:
    """All transports of a node and the connections they made."""

    def __init__(
        self,
        identity: Identity,
        limits: Limits,
        listener: Listener,
        counters: Counter[str],
    ) -> None:
        self.identity = identity
        self.limits = limits
        self.listener = listener
        self.counters = counters
        self.table = Connections(limits)
        self.loop = asyncio.get_running_loop()
        self.transports: list[Transport] = []
        self.greeters: list[Greeter] = []
        self.book: Book = Book(limits.peers_known, identity.peer, self._is_in_use)
        self._handlers: dict[str, StreamHandler] = {}
        self._spoken: dict[PeerId, frozenset[str] | None] = {}  # of peers that are up
        self._greeting: dict[Connection, asyncio.Task[None]] = {}
        self._early: dict[Connection, deque[tuple[StreamHandler, Stream]]] = {}
        self._awaited: dict[PeerId, asyncio.Future[Connection]] = {}
        self._dials: dict[PeerId, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(limits.dials)
        self._pace = Pace(limits.dials_per_second, limits.dial_burst)
        self._backoff = Backoff()
        self._is_closed = False
        self.ready = asyncio.Event()
        """Set when machines and greeters are there: until then connections wait to be greeted."""

    # Upcalls.

    @property
    def handlers(self) -> Mapping[str, StreamHandler]:
        return self._handlers

    @property
    def max_streams(self) -> int:
        return self.limits.streams_per_connection

    def admit(self, remote: Multiaddr) -> int:
        if self._is_closed:
            return GATED
        return self.table.admit(remote, self.loop.time())

    def gave_up(self, remote: Multiaddr) -> None:
        self.table.gave_up(remote)

    def opened(self, connection: Connection) -> None:
        code = self.table.add(connection, self.loop.time())
        if code == 0 and (self._is_closed or connection.peer == self.identity.peer):
            code = GATED
        if code == 0 and connection.inbound and len(self._greeting) >= self.limits.inbound_pending:
            self.table.refused["greeting"] += 1
            code = RESOURCE_LIMIT_EXCEEDED
        if code:
            self.table.remove(connection)
            connection.close(code, "not admitted")
            return
        self.counters["opened.inbound" if connection.inbound else "opened.outbound"] += 1
        self._early[connection] = deque()
        self._greeting[connection] = self.loop.create_task(self._greet(connection))

    def closed(self, connection: Connection, reason: str) -> None:
        entry = self.table.get(connection)
        if entry is None:
            return
        was_last = self.table.remove(connection)
        self.counters["closed"] += 1
        self._early.pop(connection, None)
        greeting = self._greeting.pop(connection, None)
        if greeting is not None and greeting is not asyncio.current_task(self.loop):
            greeting.cancel()
        if not was_last:
            return
        peer = connection.peer
        if peer in self._spoken:
            del self._spoken[peer]
            self.listener.peer_down(peer)
            self.listener.published(Disconnected(peer, reason))
        waited = self._awaited.get(peer)
        if waited is not None and peer not in self._dials:
            self._fail(peer, Unreachable(f"{short(peer)} closed the connection: {reason}"))

    async def _greet(self, connection: Connection) -> None:
        """Run the greeters in parallel, then announce the peer."""
        await self.ready.wait()
        if self.greeters:
            tasks = [asyncio.ensure_future(greeter(connection)) for greeter in self.greeters]
            try:
                _, late = await asyncio.wait(tasks, timeout=GREETING)
            except asyncio.CancelledError:
                for task in tasks:
                    task.cancel()
                raise
            for task in late:
                task.cancel()
                self.counters["failed.greeting"] += 1
            for task in tasks:
                if task not in late and (error := task.exception()) is not None:
                    self.counters["failed.greeting"] += 1
                    if isinstance(error, GroveError | OSError):
                        log.info("greeting %s: %r", short(connection.peer), error)
                    else:
                        log.error("a greeter raised", exc_info=error)
        self._greeting.pop(connection, None)
        if self.table.get(connection) is not None:
            self._announce(connection)

    def _announce(self, connection: Connection) -> None:
        peer = connection.peer
        is_new = peer not in self._spoken
        entry = self.book.get(peer)
        if is_new:
            self._spoken[peer] = None if entry.protocols is None else frozenset(entry.protocols)
        self.listener.published(
            Connected(peer, connection.transport, str(connection.remote), connection.inbound, entry.agent)
        )
        if is_new:
            self.listener.peer_up(peer)
        waited = self._awaited.pop(peer, None)
        if waited is not None and not waited.done():
            waited.set_result(connection)
        dial = self._dials.get(peer)
        if dial is not None and all(entry.connection.inbound for entry in self.table.of(peer)):
            # The peer came to us. But never cancel a dial that has just succeeded: with both sides
            # dialling, each would close the connection that the other one keeps.
            dial.cancel()
            del self._dials[peer]
        for handler, stream in self._early.pop(connection, ()):
            handler(stream)

    # Serving.

    def serve(self, protocol: str, handler: StreamHandler, *, announced: bool = False) -> None:
        """Accept streams of a protocol; with `announced`, only after their peer was announced."""
        if protocol in self._handlers:
            raise LocalProtocolError(f"{protocol} is served already")
        self._handlers[protocol] = self._patient(handler) if announced else handler

    def unserve(self, protocol: str) -> None:
        self._handlers.pop(protocol, None)

    def _patient(self, handler: StreamHandler) -> StreamHandler:
        def accept(stream: Stream) -> None:
            early = self._early.get(stream.connection)
            if early is None:
                handler(stream)
            elif len(early) < EARLY_STREAMS:
                early.append((handler, stream))
            else:
                self.counters["refused.streams"] += 1
                stream.reset(STREAM_LIMIT)

        return accept

    # Peers, as the machines' driver sees them.

    def best(self, peer: PeerId) -> Connection | None:
        return self.table.best(peer)

    def is_up(self, peer: PeerId) -> bool:
        return peer in self._spoken

    def up(self) -> tuple[PeerId, ...]:
        """Peers that were announced and are still connected, in that order."""
        return tuple(self._spoken)

    def speaks(self, peer: PeerId) -> frozenset[str] | None:
        return self._spoken.get(peer)

    def learnt(self, peer: PeerId) -> bool:
        """The book knows other protocols of a peer than before; whether the peer is up."""
        if peer not in self._spoken:
            return False
        protocols = self.book.get(peer).protocols
        self._spoken[peer] = None if protocols is None else frozenset(protocols)
        return True

    def touch(self, peer: PeerId) -> None:
        self.table.touch(peer, self.loop.time())

    def hold(self, peer: PeerId, holder: Hashable) -> None:
        self.table.hold(peer, holder)

    def release(self, peer: PeerId, holder: Hashable) -> None:
        self.table.release(peer, holder)

    def release_all(self, holder: Hashable) -> None:
        for peer in self.table.peers():
            self.table.release(peer, holder)

    def is_holding(self, peer: PeerId, holder: object) -> bool:
        return self.table.is_holding(peer, holder)

    def close_peer(self, peer: PeerId, code: int, reason: str) -> None:
        """Close every connection to a peer, soon: never inside the caller's own turn."""
        self.loop.call_soon(self._close_peer, peer, code, reason)

    def _close_peer(self, peer: PeerId, code: int, reason: str) -> None:
        for entry in self.table.of(peer):
            entry.connection.close(code, reason)

    def _is_in_use(self, peer: PeerId) -> bool:
        return bool(self.table.of(peer)) or peer in self._awaited

    # Dialling.

    def rank(self, address: Multiaddr) -> int | None:
        """The best opinion any transport has of an address."""
        ranks = [rank for transport in self.transports if (rank := transport.rank(address)) is not None]
        return min(ranks, default=None)

    def reach(self, peer: PeerId, *, insist: bool = False) -> asyncio.Future[Connection]:
        """A future of a connection to a peer, greeted and announced; dials if need be.

        Shared: await it behind asyncio.shield. Fails with Unreachable. insist: also try addresses
        that failed a moment ago.
        """
        future = self._awaited.get(peer)
        if future is not None:
            return future
        future = self.loop.create_future()
        future.add_done_callback(_looked_at)
        connection = self.table.best(peer)
        if peer in self._spoken and connection is not None:
            future.set_result(connection)
        elif self._is_closed:
            future.set_exception(Unreachable("the node is stopping"))
        elif peer == self.identity.peer:
            future.set_exception(Unreachable("that is this node itself"))
        elif self.table.denied.peer(peer):
            future.set_exception(Unreachable(f"{short(peer)} is denied by limits.denied"))
        elif len(self._awaited) >= REACHING:
            self.counters["refused.reach"] += 1
            future.set_exception(Unreachable(f"already waiting for {REACHING} peers"))
        else:
            self._awaited[peer] = future
            if connection is None and peer not in self._dials:
                self._dials[peer] = self.loop.create_task(self._dial_peer(peer, insist))
        return future

    def _fail(self, peer: PeerId, error: GroveError) -> None:
        future = self._awaited.pop(peer, None)
        if future is not None and not future.done():
            future.set_exception(error)

    async def _dial_peer(self, peer: PeerId, insist: bool) -> None:
        """Dial a peer's addresses; on success its greeting goes on to `_announce`."""
        failure: GroveError | None = None
        try:
            connection = await self._dial_addresses(peer, self.book.get(peer).addresses, insist)
            if self.table.get(connection) is None:
                failure = Unreachable(f"{short(peer)} was connected and closed at once")
        except GroveError as error:
            failure = error
        except Exception as error:  # a transport broke its word; who waits is answered all the same
            log.exception("dialling %s", short(peer))
            failure = Unreachable(f"{short(peer)}: {type(error).__name__}: {error}")
        if self._dials.get(peer) is asyncio.current_task():
            del self._dials[peer]
            if failure is not None and self.table.best(peer) is None:  # else it came to us meanwhile
                self._fail(peer, failure)

    async def _dial_addresses(
        self, peer: PeerId, addresses: Sequence[Multiaddr], insist: bool
    ) -> Connection:
        """Happy eyeballs: each attempt at its time, or at once when all before it have failed."""
        allowed = [address for address in addresses if not self.table.denied.address(address)]
        attempts = plan(allowed, self.rank)
        now = self.loop.time()
        if not insist:
            ready = [one for one in attempts if self._backoff.wait((peer, one.address), now) == 0.0]
            if attempts and not ready:
                raise Unreachable(f"{short(peer)} failed on all {len(attempts)} addresses a moment ago")
            attempts = ready
        if not attempts:
            known = ", ".join(map(str, addresses)) or "none"
            raise Unreachable(f"{short(peer)} has no address that this node can dial (known: {known})")

        outcomes: dict[Multiaddr, BaseException] = {}
        running: dict[asyncio.Task[Connection], Multiaddr] = {}
        waiting = deque(attempts)
        try:
            while waiting or running:
                while waiting and (not running or self.loop.time() >= now + waiting[0].delay):
                    attempt: Attempt = waiting.popleft()
                    task = self.loop.create_task(self._dial(attempt.address, peer))
                    running[task] = attempt.address
                until = now + waiting[0].delay - self.loop.time() if waiting else None
                done, _ = await asyncio.wait(running, timeout=until, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    address = running.pop(task)
                    error = task.exception()
                    if error is None:
                        self._backoff.forget((peer, address))
                        return task.result()
                    outcomes[address] = error
                    if place(address).reach != "local":
                        self._backoff.failed((peer, address), self.loop.time())
        finally:
            for task in running:
                task.cancel()
        tried = "; ".join(f"{address}: {error}" for address, error in outcomes.items())
        kind = (
            _TimedOut
            if all(isinstance(error, TimeoutError) for error in outcomes.values())
            else Unreachable
        )
        raise kind(f"{short(peer)} could not be reached: {tried}")

    async def _dial(self, address: Multiaddr, peer: PeerId | None) -> Connection:
        """One address: paced, within the dials in flight and the time limit."""
        transport = min(
            (one for one in self.transports if one.rank(address) is not None),
            key=lambda one: one.rank(address) or 0,
            default=None,
        )
        if transport is None:
            raise DialError(f"no transport of this node dials {address}")
        if place(address).reach == "public":
            wait = self._pace.reserve(self.loop.time())
            if wait:
                self.counters["paced.dials"] += 1
                try:
                    await asyncio.sleep(wait)
                except asyncio.CancelledError:
                    self._pace.give_back()
                    raise
        async with self._slots:
            self.counters["dials"] += 1
            try:
                async with asyncio.timeout(self.limits.dial_timeout):
                    return await transport.dial(address, peer)
            except TimeoutError:
                raise TimeoutError(f"no answer within {self.limits.dial_timeout:g} s") from None
            except (GroveError, OSError):
                raise
            except Exception as error:
                log.exception("dialling %s", address)
                raise DialError(f"{type(error).__name__}: {error}") from error

    async def dial_address(self, address: Multiaddr) -> Connection:
        """Dial an address, whoever answers; greeted and announced. Raises Unreachable."""
        if self.table.denied.address(address):
            raise Unreachable(f"{address} is denied by limits.denied")
        try:
            connection = await self._dial(address, None)
        except (GroveError, OSError, TimeoutError) as error:
            raise Unreachable(f"{address}: {error}") from None
        if connection.peer == self.identity.peer:
            raise Unreachable(f"{address} is this node itself")
        self.book.learn(connection.peer, addresses=(address,))
        return await asyncio.shield(self.reach(connection.peer))

    # Upkeep.

    def sweep(self) -> None:
        """Close what is idle, and what is too much."""
        now = self.loop.time()
        for connection in self.table.idle(now):
            is_spare = len(self.table.of(connection.peer)) > 1
            self.counters["closed.idle"] += 1
            connection.close(SUPPLANTED if is_spare else GARBAGE_COLLECTED, "idle")
        for connection in self.table.surplus(now):
            self.counters["closed.trimmed"] += 1
            connection.close(GARBAGE_COLLECTED, "trimmed")

    async def close(self) -> None:
        """Close every connection with SHUTDOWN and every transport."""
        self.stop_dialling()
        results = await asyncio.gather(
            *(transport.close() for transport in self.transports), return_exceptions=True
        )
        for result in results:
            if isinstance(result, Exception):
                log.error("a transport did not close well", exc_info=result)

    def stop_dialling(self) -> None:
        """Nothing is dialled, greeted or admitted any more. Idempotent."""
        self._is_closed = True
        for task in (*self._dials.values(), *self._greeting.values()):
            task.cancel()
        self._dials = {}
        for peer in tuple(self._awaited):
            self._fail(peer, Unreachable("the node is stopping"))

    def entries(self) -> tuple[Open, ...]:
        return tuple(entry for peer in self.table.peers() for entry in self.table.of(peer))


def _looked_at(future: asyncio.Future[Any]) -> None:
    """Nobody may have waited: then the failure is nobody's loss, and no reason for a warning."""
    if not future.cancelled():
        with suppress(Exception):
            future.exception()

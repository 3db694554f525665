"""A real node: `async with Node.from_profile("residential") as node`.

Puts the rooms together in the order in which they can stand: veto, folder and key, transports,
machines, services, fixed peers; and takes them apart in reverse. It is the `LiveNode` that services
and applications see, and owns what is said about the node itself: its addresses, its signed record,
its tickets.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from grove_core.drive.aio import AioContext, Drive
from grove_core.drive.dialing import Pace, place
from grove_core.drive.store import Store
from grove_core.drive.swarm import Swarm
from grove_core.drive.watching import Watched
from grove_core.errors import (
    ConfigError,
    GroveError,
    LocalProtocolError,
    RemoteProtocolError,
    Unreachable,
)
from grove_core.events import PeerFound
from grove_core.identity import Identity, peer_text, short
from grove_core.machine import Event, PeerId
from grove_core.multiaddr import Multiaddr
from grove_core.node import Assembly, Plan
from grove_core.record import sign_record
from grove_core.roles import (
    HANDLES,
    Broadcast,
    Claim,
    Commons,
    Consensus,
    Discovery,
    Membership,
    Storage,
)
from grove_core.service import Greeter, PeerBook, Watch
from grove_core.specs import Service
from grove_core.ticket import MAX_ADDRESSES, Ticket
from grove_core.transport import Connection, Stream, StreamHandler

if TYPE_CHECKING:
    from grove_core.registry import Registry

log = logging.getLogger("grove.node")

FAREWELL = 1.0
"""Seconds in which what machines send in `on_stop` may leave."""

SERVICE_STOP = 2.0
"""Seconds a service has to stop."""

ALONE = 30.0
"""Seconds between two looks whether we stand alone though a fixed peer is there."""

INTERFACES = 60.0
"""Seconds between two looks at the machine's interfaces, if we listen on a wildcard."""

RECORDS_PER_SECOND = 50.0
RECORDS_BURST = 200
"""Peer records that are verified for PeerFound events: 150 µs each, so under 1 % of the time."""

_OWN = "@node"  # what the node itself keeps among the records; no plugin's name begins with @
_BESIDE = "@"  # a machine's companion among the services

T = TypeVar("T")


class Node:
    """One node. Start it with `async with`, or with `start` and `stop`.

    registry: whose plugins' hooks are called; None: no hooks. identity: instead of the key in the
    data folder.
    """

    def __init__(
        self, plan: Plan, *, registry: Registry | None = None, identity: Identity | None = None
    ) -> None:
        self.plan = plan
        self.failure: BaseException | None = None
        """What ended the node against its will: a failed disk; in strict mode, a machine that raised."""
        self._registry = registry
        self._given = identity
        self._identity: Identity | None = None
        self._store: Store | None = None
        self._swarm: Swarm | None = None
        self._drive: Drive | None = None
        self._inside = _Inside(self)
        self._counters: Counter[str] = Counter()
        self._services: dict[str, Service] = {}
        self._handles: dict[str, Any] = {}
        self._facades: dict[str, Any] = {}
        self._watches: dict[Watched, None] = {}
        self._changed: list[Callable[[], None]] = []
        self._listening: list[Multiaddr] = []
        self._addresses: tuple[Multiaddr, ...] = ()
        self._record = b""
        self._keepers: list[asyncio.Task[None]] = []
        self._upkeep: asyncio.TimerHandle | None = None
        self._looked = 0.0
        self._began = 0.0
        self._dying: asyncio.Task[None] | None = None
        self._over = asyncio.Event()

    @classmethod
    def from_profile(
        cls,
        profile: str | None = None,
        *,
        data: str | Path | None = None,
        file: Path | None = None,
        set: Mapping[str, Any] | None = None,
        identity: Identity | None = None,
    ) -> Node:
        """A node as `grove up` would make it. Raises ConfigError or PluginError; starts nothing.

        profile: "residential" if neither this nor the file says another. data: its folder. file: a
        `grove.toml`. set: dotted keys to values, stronger than everything else.
        """
        from grove_core.config import load
        from grove_core.registry import Registry

        registry = Registry()
        flags = [("data", "node.data", str(data))] if data is not None else []
        flags += [("set", key, value) for key, value in (set or {}).items()]
        config = load(profile, file=file, flags=flags, registry=registry)
        return cls(registry.assemble(config), registry=registry, identity=identity)

    # Life.

    async def __aenter__(self) -> Node:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()
        if self.failure is not None and error is None:
            raise self.failure

    async def start(self) -> None:
        """From nothing to a node that listens. Raises GroveError; then nothing is left running."""
        if self._began:
            raise LocalProtocolError("a node is started once; make another")
        plan = self.plan
        if self._registry is not None:
            self._registry.hooks.grove_node_configured(plan=plan)
        self._began = time.monotonic()
        try:
            self._store = Store(plan.data, self._inside.durable, self._inside.broken)
            self._identity = self._given or self._find_identity()
            run_seed = secrets.token_bytes(32)
            log.info("node %s, run seed %s", peer_text(self.peer), run_seed.hex())
            self._swarm = Swarm(self._identity, plan.limits, self._inside, self._counters)
            self._swarm.book.changed = self._inside.protocols_of
            for spec, config in plan.transports:
                self._swarm.transports.append(spec.build(config, self._swarm))
            self._drive = Drive(
                Assembly(plan.parts),
                self.peer,
                run_seed,
                self._inside,
                self._swarm,
                self._store,
                self._counters,
            )
            self._drive.serve()
            await self._listen()
            self._look()
            self._drive.start()
            for ctx in self._drive.contexts:
                make = ctx.slot.spec.companion
                if make is not None:
                    companion = make(self, self._handle(ctx))
                    self._services[_BESIDE + ctx.slot.name] = companion
                    await companion.start()
            for service_spec, config in plan.services:
                service = service_spec.build(config, self)
                self._services[service_spec.name] = service
                await service.start()
            self._swarm.ready.set()
            self._keepers = [
                asyncio.create_task(self._keep(_parse("node.peers", text)))
                for text in plan.settings.peers
            ]
            self._look_after()
            if self._registry is not None:
                self._registry.hooks.grove_node_started(node=self)
        except BaseException:
            await self._take_apart()
            raise

    async def stop(self) -> None:
        """End in order: what is saved is durable, goodbyes are said. Idempotent."""
        if self._dying is not None:
            await self._over.wait()
            return
        if self._over.is_set() or not self._began:
            return
        if self._registry is not None:
            self._registry.hooks.grove_node_stopping(node=self)
        await self._take_apart()

    async def wait_closed(self) -> None:
        """Until the node has stopped. Raises what ended it, if it was not `stop`."""
        await self._over.wait()
        if self.failure is not None:
            raise self.failure

    async def _take_apart(self) -> None:
        for keeper in self._keepers:
            keeper.cancel()
        if self._upkeep is not None:
            self._upkeep.cancel()
        for name, service in reversed(self._services.items()):
            try:
                async with asyncio.timeout(SERVICE_STOP):
                    await service.stop()
            except Exception as error:
                log.error("service %s did not stop well", name, exc_info=error)
        if self._drive is not None:
            await self._drive.stop(FAREWELL)
        if self._swarm is not None:
            await self._swarm.close()
        if self._store is not None:
            await self._store.close()
        self._end()

    def kill(self) -> None:
        """End at once, as far as possible like `kill -9`: nothing is said, saved or waited for.

        For tests. Transports that have a `vanish` are told to; others are left as they are.
        """
        for keeper in self._keepers:
            keeper.cancel()
        if self._upkeep is not None:
            self._upkeep.cancel()
        if self._drive is not None:
            self._drive.abort()
        if self._swarm is not None:
            self._swarm.stop_dialling()
            for transport in self._swarm.transports:
                vanish = getattr(transport, "vanish", None)
                if vanish is not None:
                    vanish()
        if self._store is not None:
            self._store.abandon()
        self._end()

    def _break(self, error: BaseException) -> None:
        """The node cannot go on: nothing leaves from now on, and what it holds is given back."""
        if self.failure is not None or self._over.is_set():
            return
        self.failure = error
        log.critical("the node stops: %s", error)
        if self._drive is not None:
            self._drive.abort()
        if self._swarm is not None:
            self._swarm.stop_dialling()
        self._dying = asyncio.get_running_loop().create_task(self._take_apart())

    def _end(self) -> None:
        self._over.set()
        why = self.failure or LocalProtocolError("the node has stopped")
        for watch in tuple(self._watches):
            watch.close(why)

    # Beginning.

    def _find_identity(self) -> Identity:
        if self._registry is not None:
            found = self._registry.hooks.grove_identity(plan=self.plan)
            if found is not None:
                return found
        return Identity.load_or_create(self.data / "identity.key")

    async def _listen(self) -> None:
        swarm = self._live(self._swarm)
        explicit = [_parse("node.listen", text) for text in self.plan.settings.listen]
        for address in explicit:
            if swarm.rank(address) is None:
                names = ", ".join(spec.name for spec, _ in self.plan.transports) or "none"
                raise ConfigError(
                    [f"node.listen: no transport listens on {address} (this node has: {names})"]
                )
        for (spec, config), transport in zip(self.plan.transports, swarm.transports, strict=True):
            name = f"plugins.{spec.name}.listen"
            own = explicit or [_parse(name, text) for text in getattr(config, "listen", ())]
            failed = []
            heard = 0
            for address in own:
                if transport.rank(address) is None:
                    continue
                try:
                    self._listening += await transport.listen(address)
                    heard += 1
                except OSError as error:
                    failed.append(f"{address}: {error.strerror or error}")
            if failed and (explicit or not heard):
                raise GroveError(
                    f"cannot listen on {'; '.join(failed)}. Choose another address with --listen, "
                    "or port 0 for any free one."
                )
            for text in failed:  # one of several defaults, such as IPv6 on a machine without
                log.warning("does not listen on %s", text)

    def _look(self) -> None:
        """See under which addresses we can be reached; re-make our record if they changed."""
        self._looked = time.monotonic()
        if self.plan.settings.announce:
            found = tuple(
                _parse("node.announce", text).without_peer() for text in self.plan.settings.announce
            )
        else:
            found = reachable(self._listening)
        if found == self._addresses and self._record:
            return
        self._addresses = found
        self._record = self._sign_record()
        self._tell_changed()

    def _sign_record(self) -> bytes:
        """A sequence must rise over all our lives, also if the clock was set back in between."""
        store = self._live(self._store)
        last = int.from_bytes(store.load(_OWN, "record.sequence") or b"", "big")
        sequence = max(time.time_ns() // 1_000_000, last + 1)
        store.put(_OWN, "record.sequence", sequence.to_bytes(8, "big"))
        return sign_record(self.identity, sequence, self._addresses)

    def _look_after(self) -> None:
        """Everything periodic: idle streams and connections, surplus ones, interfaces."""
        swarm, drive = self._live(self._swarm), self._live(self._drive)
        idle = self.plan.limits.idle
        drive.sweep(idle)
        swarm.sweep()
        if time.monotonic() - self._looked >= INTERFACES and any(map(_is_wildcard, self._listening)):
            self._look()
        period = min(max(idle / 4, 0.02), 15.0)
        self._upkeep = asyncio.get_running_loop().call_later(period, self._look_after)

    async def _keep(self, address: Multiaddr) -> None:
        """Stay connected to a fixed peer, and enter the overlay through it when we stand alone."""
        swarm = self._live(self._swarm)
        is_near = place(address).reach == "local"
        failures = 0
        while True:
            try:
                connection = await self._reach(address)
            except GroveError as error:
                failures += 1
                log.info("fixed peer %s: %s", address, error)
            else:
                failures = 0
                peer = connection.peer
                self._enter_through(peer)
                while swarm.is_up(peer):
                    swarm.hold(peer, "node.peers")
                    try:
                        async with asyncio.timeout(ALONE):
                            await connection.wait_closed()
                    except TimeoutError:
                        self._enter_through(peer, only_if_alone=True)
                        continue
                    await asyncio.sleep(0.05)  # another connection may have its place
                    connection = swarm.best(peer) or connection
            # go-libp2p takes 0.2 connections per second and address, loopback exempt (7.2).
            wait = min(5.0 * 2.0**failures, 300.0) if not is_near else min(0.5 * 2.0**failures, 10.0)
            await asyncio.sleep(wait * random.uniform(1.0, 1.2))

    def _enter_through(self, contact: PeerId, *, only_if_alone: bool = False) -> None:
        try:
            membership = self.membership
        except LocalProtocolError:
            return  # this profile has no overlay
        try:
            neighbors = membership.neighbors()
            if contact not in neighbors and not (neighbors and only_if_alone):
                membership.join(contact)
        except GroveError as error:
            log.warning("cannot enter the overlay through %s: %s", short(contact), error)

    # Who and where we are.

    @property
    def identity(self) -> Identity:
        return self._live(self._identity)

    @property
    def peer(self) -> PeerId:
        return self.identity.peer

    @property
    def data(self) -> Path:
        return self.plan.data

    @property
    def addresses(self) -> tuple[Multiaddr, ...]:
        return self._addresses

    @property
    def listening(self) -> tuple[Multiaddr, ...]:
        """Where the transports listen, wildcards as they are."""
        return tuple(self._listening)

    def record(self) -> bytes:
        return self._record

    def ticket(self) -> str:
        order = {"public": 0, "private": 1, "local": 2}
        best = sorted(self._addresses, key=lambda address: order[place(address).reach])
        chosen: list[Multiaddr] = []
        for address in best:  # one that is far too long shall not cost the others their place
            if len(chosen) < MAX_ADDRESSES and len(address.encode()) <= 256:
                chosen.append(address)
        return Ticket(self.peer, tuple(chosen), self.plan.settings.network).encode()

    # Roles and plugins.

    @property
    def membership(self) -> Membership:
        return cast(Membership, self._role("membership"))

    @property
    def broadcast(self) -> Broadcast:
        return cast(Broadcast, self._role("broadcast"))

    @property
    def discovery(self) -> Discovery:
        return cast(Discovery, self._role("discovery"))

    @property
    def storage(self) -> Storage:
        return cast(Storage, self._role("storage"))

    @property
    def consensus(self) -> Consensus:
        return cast(Consensus, self._role("consensus"))

    def _role(self, role: str) -> Any:
        for ctx in self._live(self._drive).contexts:
            if ctx.slot.spec.role == role:
                return self._handle(ctx)
        raise LocalProtocolError(
            f"the profile {self.plan.profile!r} has no plugin for the role {role!r}; "
            f"name one with --set roles.{role}=…"
        )

    def _handle(self, ctx: AioContext) -> Any:
        name = ctx.slot.name
        if name not in self._handles:
            call = _Call(self._live(self._drive), ctx)
            self._handles[name] = HANDLES[ctx.slot.spec.role](ctx.machine, call)
        return self._handles[name]

    @property
    def commons(self) -> Commons:
        for ctx in self._live(self._drive).contexts:
            if "commons" in ctx.slot.spec.provides:
                return cast(Commons, self.plugin(ctx.slot.name))
        raise LocalProtocolError(
            f"the profile {self.plan.profile!r} has no plugin that provides 'commons', so this node "
            "shares no map and no claims; try --set roles.storage=commons --set roles.consensus=raft"
        )

    def claim(
        self, task: str, *, lease: float = 30.0, agent: str = "", wait: float = 0.0
    ) -> AbstractAsyncContextManager[Claim]:
        return self.commons.claim(task, lease=lease, agent=agent, wait=wait)

    def plugin(self, name: str) -> Any:
        if name not in self._facades:
            for ctx in self._live(self._drive).contexts:
                if ctx.slot.name == name:
                    handle, make = self._handle(ctx), ctx.slot.spec.facade
                    self._facades[name] = handle if make is None else make(self, handle)
                    break
            else:
                return self._services[name]
        return self._facades[name]

    @property
    def failures(self) -> Mapping[str, str]:
        """Machines that raised and were stopped, by plugin name, and what they raised."""
        return dict(self._drive.failures) if self._drive is not None else {}

    # Streams and protocols.

    def serve(self, protocol: str, handler: StreamHandler) -> None:
        self._live(self._swarm).serve(protocol, handler)
        self._tell_changed()

    def unserve(self, protocol: str) -> None:
        self._live(self._swarm).unserve(protocol)
        self._tell_changed()

    @property
    def protocols(self) -> tuple[str, ...]:
        return tuple(sorted(self._live(self._swarm).handlers))

    def greet(self, greeter: Greeter) -> None:
        self._live(self._swarm).greeters.append(greeter)

    def on_protocols_changed(self, callback: Callable[[], None]) -> None:
        self._changed.append(callback)

    def _tell_changed(self) -> None:
        for callback in self._changed:
            callback()

    # Peers and connections.

    @property
    def peers(self) -> PeerBook:
        return self._live(self._swarm).book

    def connections(self) -> tuple[Connection, ...]:
        return self._live(self._swarm).table.all()

    def connection(self, peer: PeerId) -> Connection | None:
        return self._live(self._swarm).best(peer)

    async def connect(self, target: PeerId | Multiaddr) -> Connection:
        connection = await self._reach(target)
        self._live(self._swarm).hold(connection.peer, "application")
        return connection

    async def _reach(self, target: PeerId | Multiaddr) -> Connection:
        swarm = self._live(self._swarm)
        if isinstance(target, Multiaddr):
            peer = target.peer
            if peer is None:
                return await swarm.dial_address(target)
            swarm.book.learn(peer, addresses=(target,))
        else:
            peer = target
        return await asyncio.shield(swarm.reach(peer, insist=True))

    def disconnect(self, peer: PeerId, reason: str = "") -> None:
        swarm = self._live(self._swarm)
        swarm.release(peer, "application")
        for entry in swarm.table.of(peer):
            entry.connection.close(0, reason or "asked for by the application")

    async def open_stream(self, peer: PeerId, protocols: Sequence[str]) -> Stream:
        connection = self.connection(peer)
        if connection is None:
            connection = await self._reach(peer)
        return await connection.open_stream(protocols)

    async def join(self, ticket: str) -> PeerId:
        invitation = Ticket.decode(ticket)
        network = self.plan.settings.network
        if invitation.network != network:
            raise LocalProtocolError(
                f"this ticket is for the network {invitation.network!r}, this node is in {network!r}; "
                f"start it with --set node.network={invitation.network}"
            )
        if invitation.expired(time.time()):
            raise LocalProtocolError("this ticket has expired; ask for a new one")
        if invitation.peer == self.peer:
            raise LocalProtocolError("this ticket is an invitation to this node itself")
        if not invitation.addresses and not self.peers.get(invitation.peer).addresses:
            raise Unreachable(f"the ticket says no address of {short(invitation.peer)}, and we know none")
        self.peers.learn(invitation.peer, addresses=invitation.addresses)
        await self.connect(invitation.peer)
        try:
            membership = self.membership
        except LocalProtocolError:
            return invitation.peer  # no overlay to enter: connected is all there is
        membership.join(invitation.peer)
        return invitation.peer

    # Observation.

    def watch(self, *kinds: type[Event], limit: int = 1024) -> Watch:
        return Watched(kinds, limit, self._watch, self._unwatch)

    def _watch(self, watch: Watched) -> None:
        self._watches[watch] = None
        if self._over.is_set():
            watch.close(self.failure or LocalProtocolError("the node has stopped"))

    def _unwatch(self, watch: Watched) -> None:
        self._watches.pop(watch, None)

    @property
    def counters(self) -> Mapping[str, int]:
        found = dict(self._counters)
        if self._swarm is not None:
            found |= {f"refused.{reason}": n for reason, n in self._swarm.table.refused.items()}
            for (spec, _), transport in zip(self.plan.transports, self._swarm.transports, strict=False):
                if (sent := getattr(transport, "sent_bytes", None)) is not None:
                    found[f"bytes.{spec.name}"] = sent
        return found

    @property
    def uptime(self) -> float:
        return time.monotonic() - self._began if self._began else 0.0

    def _live(self, room: T | None) -> T:
        if room is None:
            raise LocalProtocolError("this node has not been started")
        return room


class _Call:
    """Enters one machine from outside: see `roles.Call`."""

    __slots__ = ("_ctx", "_drive")

    def __init__(self, drive: Drive, ctx: AioContext) -> None:
        self._drive = drive
        self._ctx = ctx

    def __call__(self, act: Callable[[Any, Any], T]) -> T:
        result: T = self._drive.call(self._ctx, act)
        return result


class _Inside:
    """What the node's own rooms call, and nobody else: `House` of the drive, `Listener` of the swarm."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._records = Pace(RECORDS_PER_SECOND, RECORDS_BURST)

    def sign(self, data: bytes) -> bytes:
        return self._node.identity.sign(data)

    def record_of(self, peer: PeerId) -> bytes:
        node = self._node
        return node._record if peer == node.peer else node.peers.get(peer).record

    def emitted(self, event: Event) -> None:
        if isinstance(event, PeerFound) and event.record:
            self._learn(event)

    def _learn(self, found: PeerFound) -> None:
        node = self._node
        if found.peer == node.peer or node.peers.get(found.peer).record == found.record:
            return
        if not self._records.take(time.monotonic()):
            node._counters["dropped.record"] += 1
            return
        try:
            told = node.peers.learn_record(found.record)
        except RemoteProtocolError as error:
            node._counters["refused.record"] += 1
            log.info("record of %s: %s", short(found.peer), error)
            return
        if told != found.peer:
            node._counters["refused.record"] += 1

    def published(self, event: Event) -> None:
        for watch in tuple(self._node._watches):
            watch.tell(event)

    def serve(self, protocol: str, handler: StreamHandler) -> None:
        node = self._node
        node._live(node._swarm).serve(protocol, handler, announced=True)
        node._tell_changed()

    def unserve(self, protocol: str) -> None:
        self._node.unserve(protocol)

    def broken(self, error: BaseException) -> None:
        self._node._break(error)

    def durable(self, batch: int) -> None:
        drive = self._node._drive
        if drive is not None:
            drive.durable(batch)

    def peer_up(self, peer: PeerId) -> None:
        self._node._live(self._node._drive).peer_up(peer)

    def peer_down(self, peer: PeerId) -> None:
        self._node._live(self._node._drive).peer_down(peer)

    def protocols_of(self, peer: PeerId) -> None:
        node = self._node
        if node._swarm is not None and node._swarm.learnt(peer) and node._drive is not None:
            node._drive.peer_changed(peer)


def reachable(listening: Iterable[Multiaddr]) -> tuple[Multiaddr, ...]:
    """Listening addresses as others can use them: wildcards expanded, loopback only if nothing else."""
    found: dict[Multiaddr, None] = {}
    for address in listening:
        for concrete in _expanded(address):
            found[concrete] = None
    far = tuple(address for address in found if address.scope != "loopback")
    return far or tuple(found)


def _is_wildcard(address: Multiaddr) -> bool:
    return address.ip is not None and address.ip.is_unspecified


def _expanded(address: Multiaddr) -> list[Multiaddr]:
    if not _is_wildcard(address):
        return [address]
    import ifaddr  # comes with zeroconf; not needed by nodes that say where they listen

    name = address.parts[0][0]
    expanded = []
    for adapter in ifaddr.get_adapters():
        for ip in adapter.ips:
            if ip.is_IPv4 != (name == "ip4"):
                continue
            text = ip.ip if isinstance(ip.ip, str) else ip.ip[0].partition("%")[0]
            concrete = Multiaddr((name, text), *address.parts[1:])
            if concrete.scope != "link":  # needs a zone, which means nothing to others
                expanded.append(concrete)
    return expanded


def _parse(key: str, text: str) -> Multiaddr:
    try:
        return Multiaddr.parse(text)
    except RemoteProtocolError as error:
        raise ConfigError([f"{key}: {error}"]) from None

"""What a program may ask of the node: the verbs, what each takes and what it gives.

This is the door's own vocabulary on the way in; `subscribe` and `unsubscribe` live with the
subscriptions in `driver.py`, and what the other plugins of the node bring (`DoorVerb` in their specs)
joins it when the door opens. Bodies are msgpack maps with exactly these fields as keys. Peer ids are
text (`12D3KooW…`); the ending of a connected peer's id, at least four characters, is enough where it
is the only one. Message ids are hex. Times are seconds unless the name says `_ms`.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from grove_core.errors import GroveError, LocalProtocolError, RemoteProtocolError, Unreachable
from grove_core.identity import parse_peer, peer_text
from grove_core.machine import Event, PeerId
from grove_core.multiaddr import Multiaddr
from grove_core.node import Plan
from grove_core.outward import name_of
from grove_core.service import LiveNode
from grove_core.specs import DoorVerb, ProtocolSpec, ServiceSpec
from grove_core.transport import Connection
from grove_gateway import frames
from grove_gateway.paths import path_of

Topic = Annotated[str, Meta(min_length=1, max_length=256)]
Name = Annotated[str, Meta(min_length=1, max_length=512)]


class Nothing(msgspec.Struct, frozen=True):
    """The verbs hello, status, id, peers, links, members, counters and ticket take nothing."""


class Publish(msgspec.Struct, frozen=True):
    topic: Topic
    data: bytes


class Join(msgspec.Struct, frozen=True):
    ticket: Annotated[str, Meta(min_length=1, max_length=4096)]


class Connect(msgspec.Struct, frozen=True):
    target: Name  # a multiaddr, or the id of a peer whose addresses are known


class Peer(msgspec.Struct, frozen=True):
    peer: Name


class Subscribe(msgspec.Struct, frozen=True):
    """topics: Delivered events of these. events: other events by name, such as "neighbor_up"."""

    topics: tuple[Topic, ...] = ()
    events: tuple[Annotated[str, Meta(max_length=64)], ...] = ()


class Unsubscribe(msgspec.Struct, frozen=True):
    subscription: bytes  # the id of the subscribe request


ASKS: Mapping[str, type[msgspec.Struct]] = {
    "hello": Nothing,
    "status": Nothing,
    "id": Nothing,
    "peers": Nothing,
    "links": Nothing,
    "members": Nothing,
    "counters": Nothing,
    "ticket": Nothing,
    "publish": Publish,
    "join": Join,
    "connect": Connect,
    "disconnect": Peer,
    "ping": Peer,
    "subscribe": Subscribe,
    "unsubscribe": Unsubscribe,
}


class Refused(GroveError):
    """The door answers ERROR with a word a program can act on."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class Offers(NamedTuple):
    """What the plugins of a node bring to its door: verbs by name, events by their outward name."""

    verbs: Mapping[str, DoorVerb]
    events: Mapping[str, type[Event]]

    @property
    def asks(self) -> Mapping[str, type[msgspec.Struct]]:
        """Everything this door knows: the body of each verb."""
        return {**ASKS, **{name: verb.takes for name, verb in self.verbs.items()}}


def offers_of(plan: Plan) -> Offers:
    """What the parts and services of a plan offer. GroveError if two offer the same word."""
    verbs: dict[str, DoorVerb] = {}
    events: dict[str, type[Event]] = {}
    specs: list[ProtocolSpec | ServiceSpec] = [part.spec for part in plan.parts]
    for spec in [*specs, *(spec for spec, _ in plan.services)]:
        for verb in spec.verbs:
            if verb.name in ASKS or verb.name in verbs:
                raise GroveError(f"plugin {spec.name!r} offers the verb {verb.name!r}, which is taken")
            verbs[verb.name] = verb
        for kind in spec.tells:
            if events.setdefault(name_of(kind), kind) is not kind:
                raise GroveError(f"plugin {spec.name!r} tells {name_of(kind)!r}, which is taken")
    return Offers(verbs, events)


def decode_ask(verb: str, body: bytes, asks: Mapping[str, type[msgspec.Struct]] = ASKS) -> Any:
    """A request's body as its verb's type. Raises Refused for an unknown verb, or RemoteProtocolError."""
    kind = asks.get(verb)
    if kind is None:
        raise Refused("unknown-verb", f"unknown verb {verb!r}; this door knows {', '.join(asks)}")
    try:
        return msgspec.msgpack.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError, OverflowError) as error:
        raise RemoteProtocolError(f"{verb}: {error}") from None


class Desk:
    """Answers each verb from a LiveNode. A method per verb; those that wait are coroutines.

    opened: when each peer's connection came up (monotonic seconds). counts: the door's own counters.
    """

    def __init__(
        self, node: LiveNode, opened: Mapping[PeerId, float], counts: Counter[str], offers: Offers
    ) -> None:
        self.asks = offers.asks
        self._node = node
        self._offered = offers.verbs
        self._opened = opened
        self._counts = counts

    def act(self, verb: str) -> Callable[[Any], Any]:
        """What answers a verb; a coroutine function if it waits."""
        offered = self._offered.get(verb)
        own: Callable[[Any], Any] | None = getattr(self, verb, None)
        if offered is not None:
            return partial(offered.act, self._node)
        assert own is not None, verb
        return own

    def hello(self, _: Nothing) -> dict[str, Any]:
        return {
            "version": frames.VERSION,
            "peer": peer_text(self._node.peer),
            "agent": self._agent,
            "verbs": sorted(self.asks),
            "max_body": frames.MAX_BODY,
        }

    def status(self, _: Nothing) -> dict[str, Any]:
        node, plan = self._node, self._node.plan
        connections = node.connections()
        return {
            "peer": peer_text(node.peer),
            "agent": self._agent,
            "profile": plan.profile,
            "network": plan.settings.network,
            "data": str(node.data),
            "pid": os.getpid(),
            "uptime": round(node.uptime, 3),
            "addrs": self._addresses,
            "connections": len(connections),
            "limit": plan.limits.connections,
            "paths": dict(Counter(path_of(connection)[0] for connection in connections)),
            "transports": dict(Counter(connection.transport for connection in connections)),
            "neighbors": len(self._neighbors()),
            "topics": list(self._topics()),
            "plugins": {part.spec.role: part.spec.name for part in plan.parts},
        }

    def id(self, _: Nothing) -> dict[str, Any]:
        return {
            "peer": peer_text(self._node.peer),
            "agent": self._agent,
            "addrs": self._addresses,
            "protocols": list(self._node.protocols),
        }

    def peers(self, _: Nothing) -> dict[str, Any]:
        """One row per connected peer, by the connection that new streams would use."""
        neighbors, links = frozenset(self._neighbors()), self._links()
        rows = []
        for peer in dict.fromkeys(connection.peer for connection in self._node.connections()):
            connection = self._node.connection(peer)
            if connection is None:
                continue
            rows.append(
                {
                    **self._route(connection),
                    "inbound": connection.inbound,
                    "rtt_ms": round(connection.rtt * 1000, 3),
                    "streams": connection.stream_count,
                    "agent": self._node.peers.get(peer).agent,
                    "neighbor": peer in neighbors,
                    "link": next((kind for kind, linked in links.items() if peer in linked), ""),
                    "since": round(time.monotonic() - self._opened.get(peer, time.monotonic()), 3),
                }
            )
        return {"peers": rows}

    def links(self, _: Nothing) -> dict[str, Any]:
        """Broadcast links by kind, in the protocol's own words: eager and lazy in Plumtree."""
        links = self._node.broadcast.links()
        return {"links": {kind: [peer_text(peer) for peer in linked] for kind, linked in links.items()}}

    def members(self, _: Nothing) -> dict[str, Any]:
        """The partial views: neighbours in use and peers in reserve."""
        members = self._node.membership
        return {
            "neighbors": [peer_text(peer) for peer in members.neighbors()],
            "known": [peer_text(peer) for peer in members.known()],
        }

    def counters(self, _: Nothing) -> dict[str, Any]:
        own = {f"gateway.{name}": count for name, count in self._counts.items()}
        return {"counters": {**self._node.counters, **own}}

    def ticket(self, _: Nothing) -> dict[str, Any]:
        return {"ticket": self._node.ticket()}

    def publish(self, ask: Publish) -> dict[str, Any]:
        return {"id": self._node.broadcast.publish(ask.topic, ask.data).hex()}

    async def join(self, ask: Join) -> dict[str, Any]:
        peer = await self._node.join(ask.ticket)
        connection = self._node.connection(peer)
        return self._route(connection) if connection else {"peer": peer_text(peer)}

    async def connect(self, ask: Connect) -> dict[str, Any]:
        if ask.target.startswith("/"):
            return self._route(await self._node.connect(Multiaddr.parse(ask.target)))
        return self._route(await self._node.connect(self._peer(ask.target)))

    def disconnect(self, ask: Peer) -> dict[str, Any]:
        peer = self._peer(ask.peer)
        closed = sum(connection.peer == peer for connection in self._node.connections())
        self._node.disconnect(peer, "asked for at the local door")
        return {"peer": peer_text(peer), "closed": closed}

    async def ping(self, ask: Peer) -> dict[str, Any]:
        """One round trip, dialling if need be: the second, on a stream already negotiated."""
        peer = self._peer(ask.peer)
        trips = [trip async for trip in self._libp2p().ping(peer, count=2)]
        connection = self._node.connection(peer)
        route = self._route(connection) if connection is not None else {"peer": peer_text(peer)}
        return {**route, "rtt_ms": round(trips[-1] * 1000, 3)}

    def _libp2p(self) -> Any:
        """The service that introduces this node and pings others."""
        try:
            return self._node.plugin("libp2p")
        except KeyError:
            raise Refused("refused", "this node's profile has no service libp2p, which pings") from None

    @property
    def _agent(self) -> str:
        """What identify tells others; what the configuration says where there is no identify."""
        try:
            told: str = self._node.plugin("libp2p").agent
        except KeyError:
            return self._node.plan.settings.agent
        return told

    @property
    def _addresses(self) -> list[str]:
        return [str(address.with_peer(self._node.peer)) for address in self._node.addresses]

    def _route(self, connection: Connection) -> dict[str, Any]:
        path, why = path_of(connection)
        return {
            "peer": peer_text(connection.peer),
            "path": path,
            "why": why,
            "transport": connection.transport,
            "address": str(connection.remote),
        }

    def _peer(self, text: str) -> PeerId:
        """A peer by its id, or by the ending of a connected peer's id if only one has it."""
        ending = text.rpartition("…")[2]
        if 4 <= len(ending) <= 16:
            known = {
                peer_text(connection.peer): connection.peer for connection in self._node.connections()
            }
            found = [name for name in known if name.endswith(ending)]
            if len(found) == 1:
                return known[found[0]]
            count = f"{len(found)} connected peers end" if found else "no connected peer ends"
            raise Refused("unknown-peer", f"{count} in {ending!r}; give the whole peer id")
        try:
            return parse_peer(text)
        except RemoteProtocolError as error:
            raise Refused("unknown-peer", f"{text!r} is not a peer id: {error}") from None

    def _neighbors(self) -> tuple[PeerId, ...]:
        try:
            return self._node.membership.neighbors()
        except LocalProtocolError:  # the profile fills the role with nothing
            return ()

    def _links(self) -> Mapping[str, tuple[PeerId, ...]]:
        try:
            return self._node.broadcast.links()
        except LocalProtocolError:
            return {}

    def _topics(self) -> tuple[str, ...]:
        try:
            return self._node.broadcast.topics()
        except LocalProtocolError:
            return ()


CODES: tuple[tuple[type[BaseException], str], ...] = (
    (Unreachable, "unreachable"),
    (TimeoutError, "timeout"),
    (RemoteProtocolError, "bad-request"),
    (LocalProtocolError, "refused"),
    (GroveError, "failed"),
)


def code_of(error: BaseException) -> str:
    """The machine-readable word for what went wrong: the error's own, one of CODES, or "internal"."""
    own = getattr(error, "code", None)
    if isinstance(error, GroveError) and isinstance(own, str):
        return own
    return next((code for kind, code in CODES if isinstance(error, kind)), "internal")

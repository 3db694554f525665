"""The door itself: one ROUTER socket, its guests, and what each of them holds open.

Programs send requests (`frames.py`), `verbs.py` answers them, and events flow to subscriptions on
the same socket. A guest is a program with something open here; one with nothing open is forgotten.

Invariants:
1. Nothing waits without a bound. A request beyond `requests`, `subscriptions` or `clients` is
   answered BUSY; an answer or event that finds its guest's `backlog` full is dropped and counted.
2. A subscription's numbers grow by one for each event meant for it, sent or dropped, so the program
   sees every loss as a gap. Events lost before they reached the door count for every subscription.
3. A guest that is gone is noticed at the next thing sent to it, at the latest with the heartbeat;
   its requests are cancelled and its topics released.
4. Requests that need not wait (publish among them) are answered in the order they came.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from typing import Any, Final

import zmq
import zmq.asyncio

from grove_core.errors import GroveError, LocalProtocolError, RemoteProtocolError
from grove_core.events import Connected, Delivered, Disconnected, NeighborDown, NeighborUp
from grove_core.identity import peer_text
from grove_core.machine import Event, PeerId
from grove_core.outward import name_of, plain
from grove_core.service import LiveNode
from grove_gateway import frames
from grove_gateway.config import Config
from grove_gateway.place import Place
from grove_gateway.verbs import (
    Desk,
    Refused,
    Subscribe,
    Unsubscribe,
    code_of,
    decode_ask,
    offers_of,
)

log = logging.getLogger("grove.gateway")

TOLD: Final = (Delivered, Connected, Disconnected, NeighborUp, NeighborDown)
"""Types of events a program may subscribe to, with those that the node's other plugins tell."""

_TURN: Final = 32  # requests read before the rest of the node gets its turn
_LINGER: Final = 200  # ms that END frames have to leave when the node stops


class Subscription:
    """One guest's interest, and the number of the last event meant for it."""

    __slots__ = ("events", "id", "seq", "topics")

    def __init__(self, id: bytes, ask: Subscribe) -> None:
        self.id = id
        self.topics = frozenset(ask.topics)
        self.events = frozenset(ask.events)
        self.seq = 0

    def wants(self, event: Event) -> bool:
        if isinstance(event, Delivered) and event.topic in self.topics:
            return True
        return name_of(type(event)) in self.events


class Guest:
    """A program with requests in flight or subscriptions."""

    __slots__ = ("requests", "subscriptions")

    def __init__(self) -> None:
        self.requests: dict[bytes, asyncio.Task[None]] = {}
        self.subscriptions: dict[bytes, Subscription] = {}


class Gateway:
    """The service that grove_core starts beside the machines."""

    def __init__(self, config: Config, node: LiveNode) -> None:
        self.counts: Counter[str] = Counter()
        self._config = config
        self._node = node
        self._place = Place(node.data)
        self._guests: dict[bytes, Guest] = {}
        self._topics: Counter[str] = Counter()  # subscriptions that want a topic
        self._borrowed: set[str] = set()  # topics the node had subscribed to before anyone here did
        self._opened: dict[PeerId, float] = {}  # bounded by limits.connections
        offers = offers_of(node.plan)
        self._told = {**offers.events, **{name_of(kind): kind for kind in TOLD}}
        self._desk = Desk(node, self._opened, self.counts, offers)
        self._context: zmq.asyncio.Context | None = None
        self._socket: zmq.asyncio.Socket
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def endpoint(self) -> str:
        """Where programs connect: `ipc://…`."""
        return self._place.endpoint

    async def start(self) -> None:
        """Open the door. Raises GroveError if another node already has it, or the path is unusable."""
        self._place.prepare()
        self._context = zmq.asyncio.Context()
        self._socket = socket = self._context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # sending to a guest that is gone says so
        socket.setsockopt(zmq.SNDHWM, self._config.backlog)
        socket.setsockopt(zmq.RCVHWM, self._config.inbox)
        socket.setsockopt(zmq.MAXMSGSIZE, frames.MAX_BODY)  # per part; a longer one ends the connection
        socket.setsockopt(zmq.LINGER, _LINGER)
        try:
            socket.bind(self._place.endpoint)
        except zmq.ZMQError as error:
            self._release()
            raise GroveError(f"the local door cannot open at {self._place.endpoint}: {error}") from None
        self._place.announce(peer_text(self._node.peer))
        now = time.monotonic()
        self._opened.update((connection.peer, now) for connection in self._node.connections())
        self._tasks = [
            asyncio.create_task(self._read(), name="gateway requests"),
            asyncio.create_task(self._tell(), name="gateway events"),
            asyncio.create_task(self._beat(), name="gateway heartbeat"),
        ]
        for task in self._tasks:
            task.add_done_callback(_ended)

    async def stop(self) -> None:
        """Tell every subscription the end, answer no more, remove the socket file. Idempotent."""
        tasks = self._tasks + [
            task for guest in self._guests.values() for task in guest.requests.values()
        ]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._tasks = []
        for route, guest in list(self._guests.items()):
            for subscription in list(guest.subscriptions.values()):
                self._send(
                    route, subscription.id, "END", {"seq": subscription.seq, "reason": "node stopped"}
                )
        self._release()

    def _release(self) -> None:
        if self._context is not None:
            self._place.clear()
            self._guests.clear()
            self._socket.close()
            self._context.destroy()
            self._context = None

    # Requests

    async def _read(self) -> None:
        turn = 0
        while True:
            route, *parts = await self._socket.recv_multipart()
            self._take(route, parts)
            turn = (turn + 1) % _TURN
            if not turn:  # a receive that need not wait does not yield
                await asyncio.sleep(0)

    def _take(self, route: bytes, parts: list[bytes]) -> None:
        self.counts["requests"] += 1
        try:
            request = frames.decode_request(parts)
        except RemoteProtocolError as error:
            self.counts["bad_frames"] += 1
            if len(parts) > 1 and 1 <= len(parts[1]) <= frames.MAX_ID:  # it can be answered
                code = "version" if isinstance(error, frames.WrongVersion) else "bad-frame"
                self._send(route, parts[1], "ERROR", _wrong(code, error))
            return
        try:
            ask = decode_ask(request.verb, request.body, self._desk.asks)
            if isinstance(ask, Subscribe):
                answer: Any = self._subscribe(route, request.id, ask)
            elif isinstance(ask, Unsubscribe):
                answer = self._unsubscribe(route, ask)
            else:
                answer = self._ask(route, request, ask)
        except _Full as full:
            self.counts["busy"] += 1
            body = {"limit": full.limit, "bound": full.bound, "retry_ms": self._config.retry}
            self._send(route, request.id, "BUSY", body)
        except Exception as error:
            self._failed(route, request.id, request.verb, error)
        else:
            if answer is not None:
                self._send(route, request.id, "OK", answer)

    def _ask(self, route: bytes, request: frames.Request, ask: Any) -> Any:
        """The answer now; or None, and a task that will give it."""
        guest = self._guests.get(route)
        if guest is not None and len(guest.requests) >= self._config.requests:
            raise _Full("requests", self._config.requests)
        act = self._desk.act(request.verb)
        if not iscoroutinefunction(act):
            return act(ask)
        guest = self._guest(route)
        if request.id in guest.requests:
            raise Refused("bad-request", f"id {request.id.hex()} has a request in flight already")
        task = asyncio.create_task(self._wait(route, request, act, ask), name=f"gateway {request.verb}")
        guest.requests[request.id] = task
        return None

    async def _wait(
        self, route: bytes, request: frames.Request, act: Callable[[Any], Awaitable[Any]], ask: Any
    ) -> None:
        try:
            async with asyncio.timeout(self._config.patience):
                body = await act(ask)
        except Exception as error:
            self._failed(route, request.id, request.verb, error)
        else:
            self._send(route, request.id, "OK", body)
        finally:
            guest = self._guests.get(route)
            if guest is not None:
                guest.requests.pop(request.id, None)
                self._forget_idle(route, guest)

    def _failed(self, route: bytes, id: bytes, verb: str, error: Exception) -> None:
        code = code_of(error)
        self.counts["errors"] += 1
        if code == "internal":
            log.error("the verb %s failed", verb, exc_info=error)
        elif code == "timeout" and not str(error):
            error = GroveError(f"{verb}: no outcome within {self._config.patience:g} s")
        self._send(route, id, "ERROR", _wrong(code, error))

    # Subscriptions

    def _subscribe(self, route: bytes, id: bytes, ask: Subscribe) -> dict[str, Any]:
        if not ask.topics and not ask.events:
            raise Refused("bad-request", "subscribe: neither topics nor events are named")
        unknown = sorted(set(ask.events) - self._told.keys())
        if unknown:
            raise Refused(
                "bad-request", f"unknown event {unknown[0]!r}; known: {', '.join(sorted(self._told))}"
            )
        if len(ask.topics) > self._config.topics:
            raise _Full("topics", self._config.topics)
        guest = self._guest(route)
        if id in guest.subscriptions:
            raise Refused("bad-request", f"id {id.hex()} names a subscription already")
        if len(guest.subscriptions) >= self._config.subscriptions:
            raise _Full("subscriptions", self._config.subscriptions)
        subscription = Subscription(id, ask)
        try:
            self._want(subscription)
        except GroveError:
            self._forget_idle(route, guest)
            raise
        guest.subscriptions[id] = subscription
        return {"subscription": id, "heartbeat": self._config.heartbeat}

    def _unsubscribe(self, route: bytes, ask: Unsubscribe) -> dict[str, Any]:
        guest = self._guests.get(route)
        subscription = guest.subscriptions.pop(ask.subscription, None) if guest else None
        if guest is None or subscription is None:
            raise Refused(
                "unknown-subscription", f"no subscription {ask.subscription.hex()[:32]} is open"
            )
        self._release_topics(subscription)
        self._forget_idle(route, guest)
        return {"seq": subscription.seq}

    def _want(self, subscription: Subscription) -> None:
        if subscription.topics:
            broadcast = self._node.broadcast
            had = frozenset(broadcast.topics())
            for topic in sorted(subscription.topics):
                if topic in had and not self._topics[topic]:
                    self._borrowed.add(topic)
                self._topics[topic] += 1
                broadcast.subscribe(topic)

    def _release_topics(self, subscription: Subscription) -> None:
        for topic in sorted(subscription.topics):
            self._topics[topic] -= 1
            if not self._topics[topic]:
                del self._topics[topic]
                if topic in self._borrowed:
                    self._borrowed.discard(topic)
                else:
                    with contextlib.suppress(GroveError):
                        self._node.broadcast.unsubscribe(topic)

    async def _tell(self) -> None:
        missed = 0
        async with self._node.watch(*self._told.values(), limit=self._config.backlog) as events:
            async for event in events:
                lost, missed = events.missed - missed, events.missed
                if isinstance(event, Connected):
                    self._opened.setdefault(event.peer, time.monotonic())
                elif isinstance(event, Disconnected):
                    self._opened.pop(event.peer, None)
                self._pass_on(event, lost)

    def _pass_on(self, event: Event, lost: int) -> None:
        told: dict[str, Any] | None = None
        for route, guest in list(self._guests.items()):
            for subscription in list(guest.subscriptions.values()):
                subscription.seq += lost
                if subscription.wants(event):
                    subscription.seq += 1
                    told = told or plain(event)
                    self._send(route, subscription.id, "EVENT", {"seq": subscription.seq, **told})

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._config.heartbeat)
            for route, guest in list(self._guests.items()):
                for subscription in list(guest.subscriptions.values()):
                    self._send(route, subscription.id, "ALIVE", {"seq": subscription.seq})

    # Guests

    def _guest(self, route: bytes) -> Guest:
        guest = self._guests.get(route)
        if guest is None:
            if len(self._guests) >= self._config.clients:
                raise _Full("clients", self._config.clients)
            guest = self._guests[route] = Guest()
        return guest

    def _forget_idle(self, route: bytes, guest: Guest) -> None:
        if not guest.requests and not guest.subscriptions:
            self._guests.pop(route, None)

    def _gone(self, route: bytes) -> None:
        guest = self._guests.pop(route, None)
        if guest is not None:
            self.counts["gone"] += 1
            for task in guest.requests.values():
                task.cancel()
            for subscription in guest.subscriptions.values():
                self._release_topics(subscription)

    def _send(self, route: bytes, id: bytes, kind: frames.Kind, body: dict[str, Any]) -> None:
        """Hand a frame to the socket, or drop it: never waits."""
        try:
            parts = frames.encode_answer(id, kind, body)
        except LocalProtocolError as error:
            self.counts["too_long"] += 1
            if kind == "EVENT":
                return
            parts = frames.encode_answer(id, "ERROR", _wrong("too-long", error))
        sent: Any = self._socket.send_multipart([route, *parts], zmq.DONTWAIT)
        problem = sent.exception()  # with DONTWAIT the future is done when it is returned
        if isinstance(problem, zmq.Again):
            self.counts["dropped"] += 1
        elif problem is not None:
            self._gone(route)


class _Full(Exception):
    """A bound is reached: answered BUSY."""

    def __init__(self, limit: str, bound: int) -> None:
        super().__init__(limit)
        self.limit, self.bound = limit, bound


def _ended(task: asyncio.Task[None]) -> None:
    """None of the door's own tasks ends by itself; if one does, that is a bug to be seen."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("%s ended", task.get_name(), exc_info=error)


def _wrong(code: str, error: Exception) -> dict[str, Any]:
    """The body of ERROR: a word for programs, a sentence for people, the exit code for shells."""
    text = f"the node failed inside ({type(error).__name__})" if code == "internal" else str(error)
    return {"code": code, "text": text[:2000], "exit": getattr(error, "exit_code", 1)}

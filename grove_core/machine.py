"""The contract: what a protocol is, and all it may do to the world.

A protocol is a `Machine`: a plain object whose `on_…` methods are its inputs. Each input is given a
`Context`, and the context's methods are its outputs. A machine holds no context, opens nothing,
waits for nothing and reads no clock, so the same object runs over sockets (`drive/aio.py`) and in
virtual time (`drive/virtual/`), can be deep-copied, and can be replayed.

The rules, which the drivers keep and the tests in `tests/core/test_contract.py` hold up:

1. A context method records; it never calls back into a machine. Effects take place in call order.
2. Same state, same input, same rng stream give the same effects, for any hash seed: no clock, no
   global randomness, no iteration over unordered collections.
3. `save` is a barrier: whatever leaves the machine after it (send, request, reply, connect,
   disconnect, emit) leaves only once the record is durable. Inputs go on being processed meanwhile.
4. A timer may fire late, never early. A key that was re-armed or cancelled does not fire.
5. Whatever a remote can make grow has a bound named in Config; per-peer queues have one in the spec.
6. A machine may host other machines (`host.py`); their messages travel in its own.
7. A machine sees only authenticated messages: the driver checks the proofs its spec declares, and
   what fails is dropped with its sender, or named to the machine if that is what the spec asks for.
8. `ctx.rng` is seeded from the node's identity, one stream per machine. Keys never come from it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from random import Random
from typing import Any, ClassVar, Final, Generic, NewType, Protocol, TypeVar

import msgspec

from grove_core.errors import LocalProtocolError

PeerId = NewType("PeerId", bytes)
"""A libp2p peer id: the multihash of a public key, real and simulated alike (34 to 42 bytes)."""

Token = NewType("Token", int)
"""Names one incoming request until it is answered; never reused within a run."""


class Message(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Base of wire messages in Grove's own msgpack frames. Leaf data only: no cycles, no machines."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """Base of what machines tell their siblings and the application. Named in the past tense."""


class Terms(msgspec.Struct, frozen=True, gc=False):
    """On what terms a peer is connected, as far as one machine is concerned.

    protocol: the wire id that the machine's stream to the peer speaks, one of the spec's `protocols`;
    "" while that is not known. outbound: whether we dialled the connection. host: where the peer is as
    the network sees it, an IP address, so that peers of one host can be counted; "" if unknown, if it
    is a relay's, and in the simulator unless the world says otherwise.
    """

    protocol: str = ""
    outbound: bool = False
    host: str = ""


class _Connect:
    """The key under which `on_failure` reports a `connect` that did not succeed."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "CONNECT"

    def __reduce__(self) -> str:
        return "CONNECT"

    def __deepcopy__(self, memo: object) -> _Connect:
        return self


CONNECT: Final = _Connect()

LOST: Final = "@lost"
"""The key under which `Context.load` says that records were lost."""

M = TypeVar("M")
M_contra = TypeVar("M_contra", contravariant=True)


class Context(Protocol[M_contra]):
    """All a machine may do. M is the union of the protocol's messages.

    A context is valid only during the input it came with; keep none.
    """

    @property
    def me(self) -> PeerId:
        """This node."""
        ...

    @property
    def now(self) -> float:
        """Seconds on a monotonic clock of unspecified origin; constant during one input."""
        ...

    @property
    def rng(self) -> Random:
        """This machine's own stream: seeded by sha256("grove/rng/" + run seed + me + plugin name)."""
        ...

    def record(self, peer: PeerId) -> bytes:
        """How to reach a peer, in the peer's own signed words, fit to be passed on.

        At most 1024 bytes; empty if nothing is known, and always empty in the simulator.
        """
        ...

    def terms(self, peer: PeerId) -> Terms:
        """On what terms a peer is connected now; the default `Terms()` if it is not.

        Fixed while a connection lasts, but for a protocol that becomes known: ask in `on_peer_up`.
        """
        ...

    def send(self, peer: PeerId, msg: M_contra) -> None:
        """Put a message on the ordered stream to a peer.

        With no connection yet, the driver opens a temporary one; if that fails the message is
        dropped and counted. A full queue is treated as the spec's `overflow` says.
        """
        ...

    def request(self, peer: PeerId, msg: M_contra, key: Hashable, timeout: float) -> None:
        """Ask a question on an exchange of its own, dialling if need be.

        Answered once, by `on_reply(key, …)` or by `on_failure(key, …)` with reason "timeout",
        "unreachable", "refused" or "invalid". timeout: seconds, > 0. A key that is still open is
        replaced: the older question is never answered.
        """
        ...

    def reply(self, token: Token, msg: M_contra) -> None:
        """Answer an `on_request`, once, now or in a later input. A stale token is ignored."""
        ...

    def connect(self, peer: PeerId) -> None:
        """Hold a connection to a peer, opening one if there is none.

        Always answered, by `on_peer_up(peer)` (also when the peer was up already) or by
        `on_failure(CONNECT, peer, reason)`: "unreachable", "timeout", or "refused" when the peer
        does not speak this protocol. The connection is protected until `disconnect`, or
        until it is lost: after `on_peer_down` nothing is held and nothing is redialled by itself.
        """
        ...

    def disconnect(self, peer: PeerId, reason: str = "") -> None:
        """Hold a connection no longer. It closes once nobody at either end holds it and it is idle."""
        ...

    def save(self, key: str, value: bytes | None) -> None:
        """Make a record durable; None erases it. A barrier: see rule 3.

        key: at most 255 characters, private to this machine. value: at most 16 MiB.
        """
        ...

    def load(self, key: str) -> bytes | None:
        """The value last saved under a key in this or an earlier life of the node, or None.

        Unless the disk forgot: under the key `LOST` there is a value, another one after each such
        loss, until the machine says by `save(LOST, None)` that it knows. Until then what it loads are
        records of one past moment, some of them perhaps missing.
        """
        ...

    def saved(self, prefix: str = "") -> tuple[str, ...]:
        """Every key of this machine that starts with prefix, in ascending order."""
        ...

    def sign(self, data: bytes) -> bytes:
        """This node's signature. data must begin with the spec's `domain`."""
        ...

    def set_timer(self, key: Hashable, delay: float) -> None:
        """Call `on_timer(key)` after delay seconds (>= 0). The same key re-arms."""
        ...

    def cancel_timer(self, key: Hashable) -> None:
        """Forget a timer. An absent key is no error."""
        ...

    def emit(self, event: Event) -> None:
        """Tell siblings that handle this type (in node order, after this input), then the application."""
        ...


F = TypeVar("F", bound=Callable[..., Any])


def handles(*types: type) -> Callable[[F], F]:
    """Declare a method as the handler of message types or event types.

    A message handler is called as ``method(ctx, peer, msg)``, an event handler as ``method(ctx, event)``.
    """

    def mark(method: F) -> F:
        method.__dict__["_grove_handles"] = types
        return method

    return mark


class Machine(Generic[M]):
    """A protocol as a pure object. Every input does nothing unless a subclass says otherwise."""

    message_handlers: ClassVar[dict[type, Callable[..., None]]] = {}
    event_handlers: ClassVar[dict[type, Callable[..., None]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        messages, events = dict(cls.message_handlers), dict(cls.event_handlers)
        for method in list(vars(cls).values()):
            for kind in getattr(method, "_grove_handles", ()):
                table = events if issubclass(kind, Event) else messages
                table[kind] = method
        cls.message_handlers, cls.event_handlers = messages, events

    def on_start(self, ctx: Context[M]) -> None:
        """The node begins, or begins again after a crash: `ctx.load` has what was durable."""

    def on_stop(self, ctx: Context[M]) -> None:
        """The node ends in order. Sends made here are still tried, for a moment."""

    def on_peer_up(self, ctx: Context[M], peer: PeerId) -> None:
        """A connection to a peer that speaks this protocol is open. May come more than once."""

    def on_peer_down(self, ctx: Context[M], peer: PeerId) -> None:
        """The last connection to a peer that was up has closed or been reset."""

    def on_message(self, ctx: Context[M], peer: PeerId, msg: M) -> None:
        """A message from a peer: goes to the method that `@handles` its type."""
        handler = self.message_handlers.get(type(msg))
        if handler is None:
            raise LocalProtocolError(f"{type(self).__name__} has no handler for {type(msg).__name__}")
        handler(self, ctx, peer, msg)

    def on_forged(self, ctx: Context[M], peer: PeerId, msg: M, bad: tuple[int, ...]) -> None:
        """A message of which some proofs do not hold; only if the spec says `forged="tell"`.

        bad: which, as ascending indices into the spec's `proofs(msg)`. The rest holds.
        """

    def on_request(self, ctx: Context[M], peer: PeerId, msg: M, token: Token) -> None:
        """A question from a peer; answer with `ctx.reply(token, …)`, now or later, or not at all."""

    def on_reply(self, ctx: Context[M], key: Any, peer: PeerId, msg: M) -> None:
        """The answer to `ctx.request(…, key, …)`."""

    def on_failure(self, ctx: Context[M], key: Any, peer: PeerId, reason: str) -> None:
        """A request (by its key) or a connect (key is `CONNECT`) failed; reason in one word."""

    def on_timer(self, ctx: Context[M], key: Any) -> None:
        """A timer set under key is due."""

    def on_event(self, ctx: Context[M], event: Event) -> None:
        """A sibling emitted an event: goes to the method that `@handles` its type, if any."""
        handler = self.event_handlers.get(type(event))
        if handler is not None:
            handler(self, ctx, event)

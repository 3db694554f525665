"""Machines inside a machine: how hierarchical consensus hosts the configured group protocol.

A `Host` builds other protocols (`Part`s the registry found by role) and runs them as its guests.
A guest is an ordinary machine that does not know where it lives: its messages travel in the host's
`Envelope`, its timers, requests and records carry the guest's name, and what it emits is heard by
the host, after the guest's handler has returned, and by nobody else.

Two invariants:
1. A guest's context lives no longer than one input of the host, so the host still deep-copies.
2. A connection is held by the host while at least one guest holds it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from random import Random
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Meta

from grove_core.errors import LocalProtocolError, RemoteProtocolError
from grove_core.machine import CONNECT, LOST, Context, Event, Machine, Message, PeerId, Terms, Token
from grove_core.specs import Part, Proof

M = TypeVar("M")


class Envelope(Message, frozen=True):
    """A guest's message on its way between two hosts. Belongs in the host's codec.

    guest: the name both hosts know it by. body: a frame body of the guest's own codec.
    """

    guest: Annotated[str, Meta(max_length=64)]
    body: bytes


class GuestKey(msgspec.Struct, frozen=True):
    """A guest's timer or request key, as the driver sees it."""

    guest: str
    key: Any


class _Guest:
    __slots__ = ("held", "machine", "part", "rng")

    def __init__(self, part: Part) -> None:
        self.part = part
        self.machine = part.build()
        self.held: dict[PeerId, None] = {}
        self.rng: Random | None = None


class Host(Machine[M], Generic[M]):
    """Base of machines with guests. A subclass adds its own messages and calls `super()` in inputs."""

    def __init__(self) -> None:
        self._guests: dict[str, _Guest] = {}
        self._heard: list[tuple[str, Event]] = []

    # What a hosting machine does with its guests.

    def host(self, ctx: Context[Any], name: str, part: Part) -> None:
        """Take a guest in and start it. LocalProtocolError if the name is taken."""
        if name in self._guests:
            raise LocalProtocolError(f"guest {name!r} is already here")
        self._guests[name] = _Guest(part)
        self._enter(ctx, name, lambda machine, inner: machine.on_start(inner))

    def dismiss(self, ctx: Context[Any], name: str) -> None:
        """Stop a guest and let go of what it held. Its records stay."""
        self._enter(ctx, name, lambda machine, inner: machine.on_stop(inner))
        guest = self._guests.pop(name)
        for peer in guest.held:
            if not self._is_held(peer):
                ctx.disconnect(peer, f"{name} left")

    def guests(self) -> tuple[str, ...]:
        """Names of the guests, in order of arrival."""
        return tuple(self._guests)

    def guest(self, name: str) -> Machine[Any]:
        """A guest's machine, to read its state or to call its API inside `enter`."""
        return self._guests[name].machine

    def enter(self, ctx: Context[Any], name: str, act: Any) -> Any:
        """Call a guest's API: ``enter(ctx, "group", lambda raft, inner: raft.propose(inner, x))``."""
        return self._enter(ctx, name, act)

    def on_guest_event(self, ctx: Context[Any], guest: str, event: Event) -> None:
        """A guest emitted an event. The host decides whether anybody else hears of it."""

    # Inputs: what is a guest's goes to the guest.

    def on_stop(self, ctx: Context[M]) -> None:
        for name in self.guests():
            self._enter(ctx, name, lambda machine, inner: machine.on_stop(inner))

    def on_peer_up(self, ctx: Context[M], peer: PeerId) -> None:
        for name in self.guests():
            self._enter(ctx, name, lambda machine, inner: machine.on_peer_up(inner, peer))

    def on_peer_down(self, ctx: Context[M], peer: PeerId) -> None:
        for name in self.guests():
            self._guests[name].held.pop(peer, None)
            self._enter(ctx, name, lambda machine, inner: machine.on_peer_down(inner, peer))

    def on_message(self, ctx: Context[M], peer: PeerId, msg: M) -> None:
        if not isinstance(msg, Envelope):
            super().on_message(ctx, peer, msg)
        elif msg.guest in self._guests:  # else: it left, or has not come yet
            inside = self._open(msg)
            self._enter(ctx, msg.guest, lambda machine, inner: machine.on_message(inner, peer, inside))

    def on_forged(self, ctx: Context[M], peer: PeerId, msg: M, bad: tuple[int, ...]) -> None:
        if not isinstance(msg, Envelope) or msg.guest not in self._guests:
            return
        if self._guests[msg.guest].part.spec.forged == "tell":
            inside = self._open(msg)
            self._enter(
                ctx, msg.guest, lambda machine, inner: machine.on_forged(inner, peer, inside, bad)
            )

    def on_request(self, ctx: Context[M], peer: PeerId, msg: M, token: Token) -> None:
        if isinstance(msg, Envelope) and msg.guest in self._guests:
            inside = self._open(msg)
            self._enter(
                ctx, msg.guest, lambda machine, inner: machine.on_request(inner, peer, inside, token)
            )

    def on_reply(self, ctx: Context[M], key: Any, peer: PeerId, msg: M) -> None:
        if isinstance(key, GuestKey) and key.guest in self._guests and isinstance(msg, Envelope):
            inside = self._open(msg)
            self._enter(
                ctx, key.guest, lambda machine, inner: machine.on_reply(inner, key.key, peer, inside)
            )

    def on_failure(self, ctx: Context[M], key: Any, peer: PeerId, reason: str) -> None:
        if isinstance(key, GuestKey) and key.guest in self._guests:
            self._enter(
                ctx, key.guest, lambda machine, inner: machine.on_failure(inner, key.key, peer, reason)
            )
        elif key is CONNECT:
            for name, guest in tuple(self._guests.items()):
                if peer in guest.held:  # it was waiting for this answer
                    del guest.held[peer]
                    self._enter(
                        ctx, name, lambda machine, inner: machine.on_failure(inner, CONNECT, peer, reason)
                    )

    def on_timer(self, ctx: Context[M], key: Any) -> None:
        if isinstance(key, GuestKey) and key.guest in self._guests:
            self._enter(ctx, key.guest, lambda machine, inner: machine.on_timer(inner, key.key))

    # Inside.

    def _open(self, msg: Envelope) -> Any:
        codec = self._guests[msg.guest].part.spec.codec
        assert codec is not None, f"guest {msg.guest!r} has messages but no codec"
        return codec.decode(msg.body)  # was decoded once before, for its proofs: cannot fail here

    def _is_held(self, peer: PeerId) -> bool:
        return any(peer in guest.held for guest in self._guests.values())

    def _enter(self, ctx: Context[Any], name: str, act: Any) -> Any:
        outermost = not self._heard
        result = act(self._guests[name].machine, _GuestContext(self, name, ctx))
        if outermost:
            while self._heard:
                guest, event = self._heard[0]
                self.on_guest_event(ctx, guest, event)
                del self._heard[0]
        return result


class _GuestContext:
    """A guest's effects, translated into the host's."""

    __slots__ = ("_ctx", "_guest", "_host", "_name", "me", "now")

    def __init__(self, host: Host[Any], name: str, ctx: Context[Any]) -> None:
        self._host = host
        self._name = name
        self._guest = host._guests[name]
        self._ctx = ctx
        self.me = ctx.me
        self.now = ctx.now

    @property
    def rng(self) -> Random:
        if self._guest.rng is None:  # one draw from the host's stream seeds the guest's own
            self._guest.rng = Random(self._ctx.rng.getrandbits(256))
        return self._guest.rng

    def record(self, peer: PeerId) -> bytes:
        return self._ctx.record(peer)

    def terms(self, peer: PeerId) -> Terms:
        """The host's: what is agreed is the protocol that the envelopes travel in."""
        return self._ctx.terms(peer)

    def _wrap(self, msg: Any) -> Envelope:
        codec = self._guest.part.spec.codec
        if codec is None:
            raise LocalProtocolError(f"guest {self._name!r} sends but its spec has no codec")
        return Envelope(self._name, codec.encode(msg))

    def send(self, peer: PeerId, msg: Any) -> None:
        self._ctx.send(peer, self._wrap(msg))

    def request(self, peer: PeerId, msg: Any, key: Hashable, timeout: float) -> None:
        self._ctx.request(peer, self._wrap(msg), GuestKey(self._name, key), timeout)

    def reply(self, token: Token, msg: Any) -> None:
        self._ctx.reply(token, self._wrap(msg))

    def connect(self, peer: PeerId) -> None:
        self._guest.held[peer] = None
        self._ctx.connect(peer)

    def disconnect(self, peer: PeerId, reason: str = "") -> None:
        self._guest.held.pop(peer, None)
        if not self._host._is_held(peer):
            self._ctx.disconnect(peer, reason)

    def save(self, key: str, value: bytes | None) -> None:
        if key == LOST:  # the guest knows of this loss; the host's word for it is not the guest's
            value = self._ctx.load(LOST)
        self._ctx.save(f"{self._name}/{key}", value)

    def load(self, key: str) -> bytes | None:
        if key == LOST:
            loss = self._ctx.load(LOST)
            return None if loss == self._ctx.load(f"{self._name}/{LOST}") else loss
        return self._ctx.load(f"{self._name}/{key}")

    def saved(self, prefix: str = "") -> tuple[str, ...]:
        skip = len(self._name) + 1
        keys = (key[skip:] for key in self._ctx.saved(f"{self._name}/{prefix}"))
        return tuple(key for key in keys if key != LOST)

    def sign(self, data: bytes) -> bytes:
        domain = self._guest.part.spec.domain
        if not domain or not data.startswith(domain):
            raise LocalProtocolError(f"guest {self._name!r} signs outside its domain {domain!r}")
        return self._ctx.sign(data)

    def set_timer(self, key: Hashable, delay: float) -> None:
        self._ctx.set_timer(GuestKey(self._name, key), delay)

    def cancel_timer(self, key: Hashable) -> None:
        self._ctx.cancel_timer(GuestKey(self._name, key))

    def emit(self, event: Event) -> None:
        self._host._heard.append((self._name, event))


def proofs(part: Part, msg: Any) -> Iterable[Proof]:
    """The signatures that must hold before a message may reach this part's machine.

    For an Envelope they are those of the guest's message inside, if the part hosts such a guest:
    a guest name is matched by its longest hosted field, ``group`` for ``group`` and ``group/17``.
    Raises RemoteProtocolError if the body is no message of that guest.
    """
    if part.hosted and isinstance(msg, Envelope):
        field = msg.guest.partition("/")[0]
        guest = part.hosted.get(field)
        if guest is None or guest.spec.codec is None:
            raise RemoteProtocolError(
                f"envelope for {msg.guest!r}; this node hosts {', '.join(part.hosted)}"
            )
        return proofs(guest, guest.spec.codec.decode(msg.body))
    return part.spec.proofs(msg) if part.spec.proofs is not None else ()

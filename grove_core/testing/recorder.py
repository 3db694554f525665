"""A context that only writes down: the shortest way to ask a machine what it would do."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from random import Random
from typing import Any

import msgspec

from grove_core.errors import LocalProtocolError
from grove_core.machine import Event, PeerId, Terms, Token


class Effect(msgspec.Struct, frozen=True):
    """One call of a context method. Compares by value."""


class Send(Effect, frozen=True):
    peer: PeerId
    msg: Any


class Request(Effect, frozen=True):
    peer: PeerId
    msg: Any
    key: Any
    timeout: float


class Reply(Effect, frozen=True):
    token: Token
    msg: Any


class Connect(Effect, frozen=True):
    peer: PeerId


class Disconnect(Effect, frozen=True):
    peer: PeerId
    reason: str = ""


class Save(Effect, frozen=True):
    key: str
    value: bytes | None


class SetTimer(Effect, frozen=True):
    key: Any
    delay: float


class CancelTimer(Effect, frozen=True):
    key: Any


class Emit(Effect, frozen=True):
    event: Event


_UNKNOWN = Terms()


class Recorder:
    """A `Context` whose effects are kept in order until `take`.

    me: this node's id. now: the clock; set it, or `advance` it. seed: of the rng.
    records: what `load` finds (a dict is used in place, so two lives can share it).
    known: what `record(peer)` gives. agreed: what `terms(peer)` gives; change it in place.
    """

    def __init__(
        self,
        me: PeerId,
        *,
        now: float = 0.0,
        seed: int = 0,
        records: dict[str, bytes] | None = None,
        known: Mapping[PeerId, bytes] | None = None,
        agreed: Mapping[PeerId, Terms] | None = None,
    ) -> None:
        self.me = me
        self.now = now
        self.rng = Random(seed)
        self.records = {} if records is None else records
        self.known = dict(known or {})
        self.agreed = dict(agreed or {})
        self.timers: dict[Any, float] = {}
        """Armed timers: key -> when they are due."""
        self._effects: list[Effect] = []

    def take(self, *kinds: type[Effect]) -> list[Effect]:
        """The effects since the last take, in order; with kinds, only those (the rest is dropped)."""
        effects, self._effects = self._effects, []
        return [effect for effect in effects if isinstance(effect, kinds)] if kinds else effects

    def sent(self) -> list[tuple[PeerId, Any]]:
        """Take, and return only the messages as (peer, message)."""
        return [(effect.peer, effect.msg) for effect in self.take(Send) if isinstance(effect, Send)]

    def emitted(self) -> list[Event]:
        """Take, and return only the events."""
        return [effect.event for effect in self.take(Emit) if isinstance(effect, Emit)]

    def advance(self, seconds: float) -> None:
        """Let time pass. Fires nothing: call `on_timer` yourself, or use `fire`."""
        self.now += seconds

    def fire(self, machine: Any, key: Any) -> None:
        """Advance to when a timer is due and call `on_timer`. KeyError if it is not armed."""
        self.now = max(self.now, self.timers.pop(key))
        machine.on_timer(self, key)

    # The context.

    def record(self, peer: PeerId) -> bytes:
        return self.known.get(peer, b"")

    def terms(self, peer: PeerId) -> Terms:
        return self.agreed.get(peer, _UNKNOWN)

    def send(self, peer: PeerId, msg: Any) -> None:
        self._effects.append(Send(peer, msg))

    def request(self, peer: PeerId, msg: Any, key: Hashable, timeout: float) -> None:
        self._effects.append(Request(peer, msg, key, timeout))

    def reply(self, token: Token, msg: Any) -> None:
        self._effects.append(Reply(token, msg))

    def connect(self, peer: PeerId) -> None:
        self._effects.append(Connect(peer))

    def disconnect(self, peer: PeerId, reason: str = "") -> None:
        self._effects.append(Disconnect(peer, reason))

    def save(self, key: str, value: bytes | None) -> None:
        if len(key) > 255:
            raise LocalProtocolError(f"record key of {len(key)} characters; limit 255")
        if value is None:
            self.records.pop(key, None)
        else:
            self.records[key] = value
        self._effects.append(Save(key, value))

    def load(self, key: str) -> bytes | None:
        return self.records.get(key)

    def saved(self, prefix: str = "") -> tuple[str, ...]:
        return tuple(sorted(key for key in self.records if key.startswith(prefix)))

    def sign(self, data: bytes) -> bytes:
        return b"signed by " + self.me[-4:] + b":" + data[:50]

    def set_timer(self, key: Hashable, delay: float) -> None:
        if delay < 0:
            raise LocalProtocolError(f"timer {key!r} with a delay of {delay} s; it must be 0 or more")
        self.timers[key] = self.now + delay
        self._effects.append(SetTimer(key, delay))

    def cancel_timer(self, key: Hashable) -> None:
        self.timers.pop(key, None)
        self._effects.append(CancelTimer(key))

    def emit(self, event: Event) -> None:
        self._effects.append(Emit(event))

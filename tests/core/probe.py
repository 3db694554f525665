"""A machine that writes down every input and does what it is told: the contract's test subject."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from grove_core.codec import MsgpackCodec
from grove_core.machine import Context, Event, Machine, Message, PeerId, Token
from grove_core.specs import Part, Proof, ProtocolSpec


class Note(Message, frozen=True):
    text: str


class Signed(Message, frozen=True):
    author: bytes
    text: str
    signature: bytes
    key: bytes = b""


class Both(Message, frozen=True):
    first: Signed
    second: Signed


class Question(Message, frozen=True):
    text: str


class Happened(Event, frozen=True):
    text: str


DOMAIN = b"grove/probe/1:"


class ProbeConfig(msgspec.Struct, frozen=True):
    """Nothing to configure."""


def proofs(msg: Any) -> tuple[Proof, ...]:
    if isinstance(msg, Both):
        return proofs(msg.first) + proofs(msg.second)
    if isinstance(msg, Signed):
        return (Proof(PeerId(msg.author), DOMAIN + msg.text.encode(), msg.signature, msg.key),)
    return ()


class Probe(Machine[Any]):
    """Keeps `log`: one tuple per input. `script` maps an input's name to what to do then."""

    def __init__(self, config: Any = None) -> None:
        self.log: list[tuple[Any, ...]] = []
        self.script: dict[str, Callable[..., None]] = {}

    def _note(self, what: str, ctx: Context[Any], *args: Any) -> None:
        self.log.append((what, *args))
        if what in self.script:
            self.script[what](ctx, *args)

    def on_start(self, ctx: Context[Any]) -> None:
        self._note("start", ctx)

    def on_stop(self, ctx: Context[Any]) -> None:
        self._note("stop", ctx)

    def on_peer_up(self, ctx: Context[Any], peer: PeerId) -> None:
        self._note("up", ctx, peer)

    def on_peer_down(self, ctx: Context[Any], peer: PeerId) -> None:
        self._note("down", ctx, peer)

    def on_message(self, ctx: Context[Any], peer: PeerId, msg: Any) -> None:
        self._note("message", ctx, peer, msg)

    def on_forged(self, ctx: Context[Any], peer: PeerId, msg: Any, bad: tuple[int, ...]) -> None:
        self._note("forged", ctx, peer, msg, bad)

    def on_request(self, ctx: Context[Any], peer: PeerId, msg: Any, token: Token) -> None:
        self._note("request", ctx, peer, msg, token)

    def on_reply(self, ctx: Context[Any], key: Any, peer: PeerId, msg: Any) -> None:
        self._note("reply", ctx, key, peer, msg)

    def on_failure(self, ctx: Context[Any], key: Any, peer: PeerId, reason: str) -> None:
        self._note("failure", ctx, key, peer, reason)

    def on_timer(self, ctx: Context[Any], key: Any) -> None:
        self._note("timer", ctx, key)

    def on_event(self, ctx: Context[Any], event: Event) -> None:
        self._note("event", ctx, event)

    def seen(self, what: str) -> list[tuple[Any, ...]]:
        """The arguments of every input of that name, in order."""
        return [entry[1:] for entry in self.log if entry[0] == what]

    def texts(self) -> list[str]:
        """The texts of the messages received, in order."""
        return [msg.text for _, msg in self.seen("message")]


CODEC = MsgpackCodec(Note, Signed, Both, Question, max_size=4096)


def probe(name: str = "probe", **spec: Any) -> Part:
    """A part whose machine is a Probe; keyword arguments go to its ProtocolSpec."""
    defaults: dict[str, Any] = {
        "role": "membership",
        "config": ProbeConfig,
        "build": Probe,
        "codec": CODEC,
        "protocols": (f"/grove/{name}/1.0.0",),
        "rpc": (f"/grove/{name}/rpc/1.0.0",),
        "proofs": proofs,
        "domain": DOMAIN,
    }
    return Part(ProtocolSpec(name=name, **{**defaults, **spec}), ProbeConfig())

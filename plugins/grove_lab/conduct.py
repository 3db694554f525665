"""How attackers behave: as everybody else, except that they keep back what they should pass on.

An attacker is a node of a class with ``attacker = true``. It runs the broadcast machine of any plugin,
with settings of its own (a huge degree makes a greedy GossipSub peer), inside a `Withholder`. That gives
the machine every input and lets every effect through, but for the payloads that a `withhold` fault names:
those do not leave. So an attack is staged through the machine contract alone, the attacker looks sound to
its neighbours in all it says of itself, and one scenario attacks every broadcast there is.

After BadBoy of libp2p/gossipsub-hardening (test/badboy.go), which draws once for each message whether to
pass it on, from a moment on, and may spare all but one author.

Invariants:
1. What an attacker keeps back depends on the seed, the fault, the attacker and the message, and on
   nothing else: it gives a message to all it would have, or to none.
2. Honest nodes pay nothing for this and draw nothing from it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from grove_core.machine import Event, Machine, PeerId, Token
from grove_core.specs import Codec, Part
from grove_lab.streams import stream
from grove_lab.traffic import numbers


class Rule(msgspec.Struct, frozen=True):
    """What a `withhold` fault says: this share of the messages of these classes; none named: of all."""

    name: str
    drop: float
    authors: frozenset[str]


class Conduct:
    """What the attackers of one world do at present."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.authors: dict[int, str] = {}
        """Number of a payload -> the class of the node that published it."""
        self.rules: dict[PeerId, list[Rule]] = {}
        self._msg: Any = None
        self._numbers: tuple[int, ...] = ()

    def begin(self, rule: Rule, peers: Iterable[PeerId]) -> None:
        for peer in peers:
            self.rules.setdefault(peer, []).append(rule)

    def end(self, rule: Rule, peers: Iterable[PeerId]) -> None:
        for peer in peers:
            self.rules[peer].remove(rule)

    def withholds(self, me: PeerId, codec: Codec | None, msg: Any) -> bool:
        """Whether an attacker keeps a message back, for one of the payloads in it."""
        rules = self.rules.get(me)
        if not rules:
            return False
        if msg is not self._msg:  # the same goes to many
            self._msg, self._numbers = msg, numbers(b"" if codec is None else codec.encode(msg))
        return any(self._drops(rule, me, number) for number in self._numbers for rule in rules)

    def _drops(self, rule: Rule, me: PeerId, number: int) -> bool:
        if rule.authors and self.authors.get(number) not in rule.authors:
            return False
        if rule.drop >= 1.0:
            return True
        return stream(self.seed, "withhold", rule.name, me.hex(), number).random() < rule.drop


class Muted:
    """A machine's context, whose sends the conduct may keep back."""

    __slots__ = ("_codec", "_conduct", "_ctx")

    def __init__(self, ctx: Any, conduct: Conduct, codec: Codec | None) -> None:
        self._ctx = ctx
        self._conduct = conduct
        self._codec = codec

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)

    def send(self, peer: PeerId, msg: Any) -> None:
        if not self._conduct.withholds(self._ctx.me, self._codec, msg):
            self._ctx.send(peer, msg)


class Withholder(Machine[Any]):
    """A machine inside another that hands it every input with a muted context.

    What the role's handle asks of it, and what the curious look at, is the inner machine's own.
    """

    def __init__(self, machine: Machine[Any], conduct: Conduct, codec: Codec | None) -> None:
        self.machine = machine
        self._conduct = conduct
        self._codec = codec

    def __getattr__(self, name: str) -> Any:
        if name == "machine":  # while it is being copied
            raise AttributeError(name)
        return getattr(self.machine, name)

    def _muted(self, ctx: Any) -> Any:
        return Muted(ctx, self._conduct, self._codec)

    def on_start(self, ctx: Any) -> None:
        self.machine.on_start(self._muted(ctx))

    def on_stop(self, ctx: Any) -> None:
        self.machine.on_stop(self._muted(ctx))

    def on_peer_up(self, ctx: Any, peer: PeerId) -> None:
        self.machine.on_peer_up(self._muted(ctx), peer)

    def on_peer_down(self, ctx: Any, peer: PeerId) -> None:
        self.machine.on_peer_down(self._muted(ctx), peer)

    def on_message(self, ctx: Any, peer: PeerId, msg: Any) -> None:
        self.machine.on_message(self._muted(ctx), peer, msg)

    def on_forged(self, ctx: Any, peer: PeerId, msg: Any, bad: tuple[int, ...]) -> None:
        self.machine.on_forged(self._muted(ctx), peer, msg, bad)

    def on_request(self, ctx: Any, peer: PeerId, msg: Any, token: Token) -> None:
        self.machine.on_request(self._muted(ctx), peer, msg, token)

    def on_reply(self, ctx: Any, key: Any, peer: PeerId, msg: Any) -> None:
        self.machine.on_reply(self._muted(ctx), key, peer, msg)

    def on_failure(self, ctx: Any, key: Any, peer: PeerId, reason: str) -> None:
        self.machine.on_failure(self._muted(ctx), key, peer, reason)

    def on_timer(self, ctx: Any, key: Any) -> None:
        self.machine.on_timer(self._muted(ctx), key)

    def on_event(self, ctx: Any, event: Event) -> None:
        self.machine.on_event(self._muted(ctx), event)


def attacking(parts: tuple[Part, ...], conduct: Conduct) -> tuple[Part, ...]:
    """The same parts, their broadcast under the conduct."""
    return tuple(_attacking(one, conduct) if one.spec.role == "broadcast" else one for one in parts)


def _attacking(part: Part, conduct: Conduct) -> Part:
    spec = part.spec

    def build(config: Any, **hosted: Part) -> Machine[Any]:
        return Withholder(spec.build(config, **hosted), conduct, spec.codec)

    return Part(msgspec.structs.replace(spec, build=build), part.config, part.hosted)

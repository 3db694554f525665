"""A whole group as one voter: the context in which its members run the upper protocol's machine.

Rule 2 of the contract says that the same state, input and random stream give the same effects. So if all
members of a group feed their copy of the machine the same inputs in the order that the group decided, the
copies stay equal, and a quorum of the group can sign what it sends: state machine replication, with the
upper protocol's machine as the state machine (Steward does the same with Paxos).

    identity     the group's
    time         agreed: it moves only when a timer fires, to the moment for which that was set
    random       one stream, seeded by the group's name
    records      in memory: the group's log, from which a restarted member replays, is the disk
    connections  always up: certified messages find their way by themselves, or are lost
    questions    messages like any other, numbered; a timer says when no answer will come

Invariant: nothing here depends on which member runs it.
"""

from __future__ import annotations

from collections.abc import Hashable
from hashlib import sha256
from random import Random
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from grove_core.machine import Context, Event, PeerId, Terms, Token
from grove_hierarchy.messages import MAX_BODY, Number

MAX_STEPS: Final = 10_000
"""Effects on itself that one input may have, in a row; a machine beyond would never rest."""


MAX_QUESTIONS: Final = 1024
"""Questions of other groups that wait for an answer; the oldest gives way."""
ASIDE: Final = b"\xc1"
"""Begins what is a question or an answer: a byte that begins no message in msgpack."""


class Aside(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A question of one group to another, or the answer to it. number: the asker's."""

    is_answer: bool
    number: Number
    body: Annotated[bytes, Meta(max_length=MAX_BODY)]


class Overdue(msgspec.Struct, frozen=True):
    """The key of the timer that ends the wait for an answer."""

    key: Any


class Again(msgspec.Struct, frozen=True):
    """The key of the timer after which what is not ordered yet is proposed once more."""


_ASIDES: Final = msgspec.msgpack.Decoder(Aside)


def decode_aside(data: bytes) -> Aside | None:
    """The question or answer in a message between groups; None if it is none."""
    try:
        return _ASIDES.decode(data[len(ASIDE) :])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


class Replica:
    """What is agreed of the group's one machine, besides the machine. Part of every member's state."""

    __slots__ = (
        "armed", "asked", "me", "now", "out", "questions", "records", "rng", "timers", "tokens", "up",
    )  # fmt: skip

    def __init__(self, me: PeerId) -> None:
        self.me: Final = me
        self.now = 0.0
        self.rng = Random(me)
        self.records: dict[str, bytes] = {}
        self.timers: dict[Hashable, tuple[int, float]] = {}
        """Key -> (armed as the so-manieth, when due)."""
        self.armed = 0
        self.questions = 0
        self.asked: dict[Hashable, tuple[int, PeerId]] = {}
        """Key -> (number, whom): questions of ours that are open."""
        self.tokens: dict[int, tuple[PeerId, int]] = {}
        """Token -> (who, number): questions of others that are open."""
        self.out: list[tuple[PeerId, bytes]] = []
        """Sent in this input."""
        self.up: list[PeerId] = []
        """Connects of this input, not yet answered."""

    def token_for(self, peer: PeerId, number: int) -> Token:
        """Names a question of another group until it is answered."""
        self.questions += 1
        self.tokens[self.questions] = (peer, number)
        if len(self.tokens) > MAX_QUESTIONS:
            del self.tokens[next(iter(self.tokens))]
        return Token(self.questions)

    def answered(self, peer: PeerId, number: int) -> Hashable | None:
        """The key of the open question that this peer answers."""
        for key, asked in self.asked.items():
            if asked == (number, peer):
                del self.asked[key]
                self.timers.pop(Overdue(key), None)
                return key
        return None

    def key_of(self, armed: int) -> Hashable | None:
        """The key of a timer that is still armed as the so-manieth."""
        for key, (number, _) in self.timers.items():
            if number == armed:
                return key
        return None


class GroupContext:
    """The Context that the upper protocol's host enters it with."""

    __slots__ = ("_real", "_replica")

    def __init__(self, replica: Replica, real: Context[Any]) -> None:
        self._replica = replica
        self._real = real

    @property
    def real(self) -> Context[Any]:
        """The member's own."""
        return self._real

    @property
    def me(self) -> PeerId:
        return self._replica.me

    @property
    def now(self) -> float:
        return self._replica.now

    @property
    def rng(self) -> Random:
        return self._replica.rng

    def record(self, peer: PeerId) -> bytes:
        return b""

    def terms(self, peer: PeerId) -> Terms:
        return Terms()

    def send(self, peer: PeerId, msg: Any) -> None:
        self._replica.out.append((peer, msg.body))

    def request(self, peer: PeerId, msg: Any, key: Hashable, timeout: float) -> None:
        replica = self._replica
        replica.questions += 1
        replica.asked[key] = (replica.questions, peer)
        self._aside(peer, Aside(False, replica.questions, msg.body))
        self.set_timer(Overdue(key), timeout)

    def reply(self, token: Token, msg: Any) -> None:
        asked = self._replica.tokens.pop(token, None)
        if asked is not None:
            self._aside(asked[0], Aside(True, asked[1], msg.body))

    def _aside(self, peer: PeerId, aside: Aside) -> None:
        self._replica.out.append((peer, ASIDE + msgspec.msgpack.encode(aside)))

    def connect(self, peer: PeerId) -> None:
        self._replica.up.append(peer)

    def disconnect(self, peer: PeerId, reason: str = "") -> None:
        pass

    def save(self, key: str, value: bytes | None) -> None:
        if value is None:
            self._replica.records.pop(key, None)
        else:
            self._replica.records[key] = value

    def load(self, key: str) -> bytes | None:
        return self._replica.records.get(key)

    def saved(self, prefix: str = "") -> tuple[str, ...]:
        return tuple(sorted(key for key in self._replica.records if key.startswith(prefix)))

    def sign(self, data: bytes) -> bytes:
        """A mark that all members make alike. It convinces nobody by itself: what does is the certificate
        of the message that it comes in."""
        return sha256(b"grove/hierarchy/1:g" + self._replica.me + data).digest()

    def set_timer(self, key: Hashable, delay: float) -> None:
        self._replica.armed += 1
        self._replica.timers[key] = (self._replica.armed, self._replica.now + delay)

    def cancel_timer(self, key: Hashable) -> None:
        self._replica.timers.pop(key, None)

    def emit(self, event: Event) -> None:
        self._real.emit(event)

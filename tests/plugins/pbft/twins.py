"""Twins (Bano et al., OPODIS 2021, arXiv 2004.10617): unmodified replicas, one of them twice.

Two machines share one identity and one place among the voters: together they equivocate, vote twice and
forget, without a line of Byzantine code. A scenario is a list of phases. In each, the five machines are
cut into sides that hear each other and nobody else; each side is given a command of its own, all that
can be delivered is, and then the machines' timers run out. All four views are led by whoever the
configuration says, so a twin leads one view in two places at once.

Here the network is a bag of messages, not a world: a scenario takes a few milliseconds, and signatures
are taken for good (twins cannot forge).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Hashable
from random import Random
from typing import Any

from grove_pbft.config import Config
from grove_pbft.machine import Pbft
from grove_pbft.machine.clients import PROPOSE
from grove_pbft.quorum import Configuration

from grove_core.events import Committed
from grove_core.identity import peer_text
from grove_core.machine import Event, PeerId, Terms
from grove_core.testing import peer

VIEWS = 4
SCENARIOS = 100_000 if os.environ.get("GROVE_FULL") else 400

IDS = sorted(peer(number) for number in range(4))
CONFIG = Config(voters=tuple(peer_text(one) for one in IDS), checkpoint_every=2, snapshot_every=2)


class _Context:
    """One machine's context: sends go to the bag, timers to a table."""

    def __init__(self, net: Twins, place: int, me: PeerId) -> None:
        self.net = net
        self.place = place
        self.me = me
        self.now = 0.0
        self.rng = Random(place)
        self.disk: dict[str, bytes] = {}
        self.timers: dict[Hashable, None] = {}
        self.committed: list[Committed] = []

    def record(self, peer: PeerId) -> bytes:
        return b""

    def terms(self, peer: PeerId) -> Terms:
        return Terms()

    def send(self, peer: PeerId, msg: Any) -> None:
        self.net.bag.append((self.place, peer, msg))

    def request(self, peer: PeerId, msg: Any, key: Hashable, timeout: float) -> None:
        self.net.bag.append((self.place, peer, (msg, key)))

    def reply(self, token: Any, msg: Any) -> None:
        self.net.replies.append((token, msg))

    def connect(self, peer: PeerId) -> None: ...
    def disconnect(self, peer: PeerId, reason: str = "") -> None: ...

    def save(self, key: str, value: bytes | None) -> None:
        if value is None:
            self.disk.pop(key, None)
        else:
            self.disk[key] = value

    def load(self, key: str) -> bytes | None:
        return self.disk.get(key)

    def saved(self, prefix: str = "") -> tuple[str, ...]:
        return tuple(sorted(key for key in self.disk if key.startswith(prefix)))

    def sign(self, data: bytes) -> bytes:
        return b"%d" % self.place

    def set_timer(self, key: Hashable, delay: float) -> None:
        self.timers[key] = None

    def cancel_timer(self, key: Hashable) -> None:
        self.timers.pop(key, None)

    def emit(self, event: Event) -> None:
        if isinstance(event, Committed):
            self.committed.append(event)


class Twins:
    """One scenario, drawn from its seed. quorum: another than the protocol's, as a negative control."""

    def __init__(self, seed: int, quorum: int | None = None) -> None:
        rng = Random(seed)
        self.bag: deque[tuple[int, PeerId, Any]] = deque()
        self.replies: list[tuple[Any, Any]] = []
        self.twin = rng.randrange(4)
        ids = [*IDS, IDS[self.twin]]
        self.contexts = [_Context(self, place, me) for place, me in enumerate(ids)]
        self.machines = [Pbft(CONFIG) for _ in ids]
        self.sides = [0] * 5
        self.deaf = [""] * 5
        for machine, ctx in zip(self.machines, self.contexts, strict=True):
            machine.on_start(ctx)
            if quorum is not None:
                lower(machine.configuration, quorum)
        for phase in range(VIEWS):
            self._phase(rng, phase)

    def _phase(self, rng: Random, phase: int) -> None:
        # Two sides, each with one of the twins as often as not; who is in none is alone.
        self.sides = [rng.choice((0, 0, 1, 1, 2 + place)) for place in range(5)]
        if rng.random() < 0.7:
            self.sides[self.twin], self.sides[4] = 0, 1
        # And now and then a machine that misses one kind of message, so that phases end half done.
        self.deaf = [rng.choice(("", "", "Prepare", "Commit", "Commit")) for _ in range(5)]
        for place in rng.sample(range(5), rng.choice((1, 2, 2))):
            self.machines[place].propose(self.contexts[place], b"%d/%d" % (phase, place))
            self._end_turn(place)
        self._deliver(rng, rng.choice((10, 40, 10_000)))
        for name in ("retry", "request", "view", "resend"):
            for place in range(5):
                ctx = self.contexts[place]
                if name in ctx.timers and (name == "retry" or rng.random() < 0.8):
                    del ctx.timers[name]
                    ctx.now += 10.0
                    self.machines[place].on_timer(ctx, name)
                    self._end_turn(place)
            self._deliver(rng, rng.choice((5, 30, 10_000)))
        self.bag.clear()

    def _deliver(self, rng: Random, most: int) -> None:
        """Deliver up to so many messages; those between sides are lost."""
        while self.bag and most:
            place, to, msg = self.bag.popleft()
            for other, ctx in enumerate(self.contexts):
                if ctx.me == to and other != place and self.sides[other] == self.sides[place]:
                    self._hand(place, other, ctx, msg)
                    most -= 1

    def _hand(self, place: int, other: int, ctx: _Context, msg: Any) -> None:
        sender = self.contexts[place]
        if type(msg).__name__ == self.deaf[other]:
            return
        if not isinstance(msg, tuple):
            self.machines[other].on_message(ctx, sender.me, msg)
            self._end_turn(other)
            return
        question, key = msg
        self.machines[other].on_request(ctx, sender.me, question, 0)
        for _, answer in self.replies:
            self.machines[place].on_reply(sender, key, ctx.me, answer)
            self._end_turn(place)
        self.replies.clear()

    def _end_turn(self, place: int) -> None:
        """Here every input is a turn of its own."""
        ctx = self.contexts[place]
        if PROPOSE in ctx.timers:
            del ctx.timers[PROPOSE]
            self.machines[place].on_timer(ctx, PROPOSE)


def lower(configuration: Configuration, quorum: int) -> None:
    """Break the rule that two quorums share a correct voter."""
    object.__setattr__(configuration, "quorum", quorum)


def conflicts(twins: Twins) -> list[str]:
    """Two honest machines that committed different commands at one index."""
    agreed: dict[int, tuple[int, bytes]] = {}
    found = []
    for place, ctx in enumerate(twins.contexts):
        if place in (twins.twin, 4):
            continue
        for event in ctx.committed:
            known = agreed.setdefault(event.index, (place, event.id))
            if known[1] != event.id:
                found.append(f"index {event.index}: machine {known[0]} and {place} differ")
    return found

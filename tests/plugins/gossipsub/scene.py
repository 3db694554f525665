"""One GossipSub machine among peers that a test plays: they meet it, it hears them, its heart beats.

`me` is peer 0. Peers 1, 2, … are subscribed to "t" and speak 1.2; odd ones dialled us, even ones we.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from grove_gossipsub.config import Config
from grove_gossipsub.machine import HEARTBEAT, GossipSub
from grove_gossipsub.messages import Graft, Publication, Rpc, Subscription

from grove_core.machine import PeerId, Terms
from grove_core.testing import Recorder, peer

ME = peer(0)
AUTHOR = peer(900)


class Scene:
    """A machine, its recorder and its peers."""

    def __init__(self, peers: int = 0, *, mesh: int = 0, subscribe: bool = True, **config: Any) -> None:
        self.machine = GossipSub(Config(**config))
        self.ctx = Recorder(ME)
        self.machine.on_start(self.ctx)
        if subscribe:
            self.machine.subscribe(self.ctx, "t")
        for number in range(1, peers + 1):
            self.meet(number)
        for number in range(1, mesh + 1):
            self.hear(number, Rpc(graft=(Graft("t"),)))
        self.ctx.take()

    def meet(
        self,
        number: int,
        protocol: str = "/meshsub/1.2.0",
        *,
        outbound: bool | None = None,
        topics: Sequence[str] = ("t",),
        host: str = "",
    ) -> PeerId:
        them = peer(number)
        out = number % 2 == 0 if outbound is None else outbound
        self.ctx.agreed[them] = Terms(protocol, out, host)
        self.machine.on_peer_up(self.ctx, them)
        if topics:
            told = tuple(Subscription(True, topic) for topic in topics)
            self.machine.on_message(self.ctx, them, Rpc(subscriptions=told))
        return them

    def hear(self, number: int, rpc: Rpc) -> None:
        self.machine.on_message(self.ctx, peer(number), rpc)

    def beat(self, count: int = 1) -> None:
        """So many heartbeats; if the machine sleeps, time passes all the same."""
        for _ in range(count):
            until = self.ctx.now + self.machine.config.heartbeat
            while HEARTBEAT in self.ctx.timers and self.ctx.timers[HEARTBEAT] <= until:
                self.ctx.fire(self.machine, HEARTBEAT)
            self.ctx.now = until

    def sent(self, number: int) -> list[Rpc]:
        """What a peer was sent since the last look (and everything else is forgotten)."""
        return [msg for to, msg in self.ctx.sent() if to == peer(number)]

    def told(self) -> dict[int, list[Rpc]]:
        """Everything sent, by peer number."""
        found: dict[int, list[Rpc]] = {}
        names = {peer(n): n for n in range(100)}
        for to, msg in self.ctx.sent():
            found.setdefault(names[to], []).append(msg)
        return found

    @property
    def mesh(self) -> set[int]:
        names = {peer(n): n for n in range(100)}
        return {names[one] for one in self.machine.mesh["t"]}

    def behaviour(self, number: int) -> float:
        assert self.machine.scores is not None
        return self.machine.scores.behaviour(peer(number))


def said(number: int = 0, data: bytes = b"hello", topic: str = "t") -> Publication:
    return Publication(topic, data, AUTHOR, number.to_bytes(8, "big"), b"signature")


def carrying(*publications: Publication) -> Rpc:
    return Rpc(publish=publications)

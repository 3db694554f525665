"""A few real nodes on loopback that know each other: for tests and benchmarks with processes.

    group = Loopback(seed=78, ports=free_ports(3))
    settings = {**group.settings(0), "roles.consensus": "raft", "plugins.raft.voters": group.peers}
    node = Node.from_profile("validator", data=…, identity=group.identity(0), set=settings)

Every process makes the same group from the same seed and ports, and takes its own number of it.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from random import Random
from typing import Any

from grove_core.identity import Identity, peer_text

UNCLAIMED = range(10_000, 32_768)
"""Ports below those that Linux, macOS and Windows give to whoever dials: a node that is killed and begun
again must not find its port taken by somebody's outgoing connection."""


def free_ports(count: int) -> list[int]:
    """TCP ports of loopback that nobody has now, all of them different."""
    with ExitStack() as stack:
        found: list[int] = []
        for port in Random().sample(UNCLAIMED, len(UNCLAIMED)):  # other processes look too
            if len(found) == count:
                break
            one = stack.enter_context(socket.socket())
            with suppress(OSError):
                one.bind(("127.0.0.1", port))
                found.append(port)
        return found


@dataclass(frozen=True, slots=True)
class Loopback:
    """Nodes numbered from 0, one a port.

    seed: 0 … 255, makes the identities, so that groups of different tests are strangers.
    ports: where they listen, at most 256.
    """

    seed: int
    ports: Sequence[int]

    def identity(self, number: int) -> Identity:
        return Identity.from_seed(bytes([self.seed, number]) * 16)

    @property
    def peers(self) -> list[str]:
        """Their peer ids as text, by number."""
        return [peer_text(self.identity(number).peer) for number in range(len(self.ports))]

    def settings(self, number: int, through: Sequence[int] | None = None) -> dict[str, Any]:
        """What `Node.from_profile(set=…)` takes: TCP between them and nobody else, no overlay.

        through: ports at which `number` dials the others, by their number, where these are not their own:
        a test that cuts wires stands in between.
        """
        dialled = self.ports if through is None else through
        return {
            "node.listen": [f"/ip4/127.0.0.1/tcp/{self.ports[number]}"],
            "node.peers": [
                f"/ip4/127.0.0.1/tcp/{dialled[other]}/p2p/{peer}"
                for other, peer in enumerate(self.peers)
                if other != number
            ],
            "roles.transport": ["tcp"],
            "roles.membership": [],
            "roles.broadcast": [],
        }

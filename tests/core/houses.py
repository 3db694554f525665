"""Nodes on the memory transport for the tests of the asyncio driver's parts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from grove_core import Node
from grove_core.identity import Identity
from grove_core.node import Limits, Plan, Settings
from grove_core.specs import Part
from grove_core.testing.memory import MemoryConfig, MemoryNetwork
from tests.core.rogue import until


def plan(
    network: MemoryNetwork,
    folder: Path,
    number: int,
    *parts: Part,
    limits: Limits | None = None,
    services: tuple[Any, ...] = (),
    **settings: Any,
) -> Plan:
    return Plan(
        profile="test",
        settings=Settings(data=str(folder / str(number)), **settings),
        limits=limits or Limits(),
        parts=parts,
        transports=((network.spec(), MemoryConfig(listen=(f"/memory/{number}",))),),
        services=services,
    )


def node(network: MemoryNetwork, folder: Path, number: int, *parts: Part, **more: Any) -> Node:
    """A node with a fixed identity that listens at /memory/<number>."""
    identity = Identity.from_seed(bytes(31) + bytes((number,)))
    return Node(plan(network, folder, number, *parts, **more), identity=identity)


def know(*nodes: Node) -> None:
    """Let nodes know each other's addresses."""
    for one in nodes:
        for other in nodes:
            if one is not other:
                one.peers.learn(other.peer, addresses=other.addresses)


async def idled(of: Node) -> None:
    """Wait until a node has looked for what is idle so often that anything idle would be gone.

    It looks four times in the time after which something counts as idle.
    """
    swarm: Any = of._swarm
    sweep, looks = swarm.sweep, 0

    def counting() -> None:
        nonlocal looks
        looks += 1
        sweep()

    swarm.sweep = counting
    await until(lambda: looks > 8)


def run(work: Callable[[], Coroutine[Any, Any, None]], seconds: float = 20.0) -> None:
    """Run a test's coroutine, bounded."""

    async def bounded() -> None:
        async with asyncio.timeout(seconds):
            await work()

    asyncio.run(bounded())

"""The same machines on real nodes: views of names over TCP on loopback, and gossip over them."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from grove_core import Node
from grove_core.events import Delivered

PACE: dict[str, dict[str, Any]] = {
    "cyclon": {"plugins.cyclon.shuffle_interval": 0.3},
    "scamp": {"plugins.scamp.heartbeat_interval": 0.3, "plugins.scamp.isolation": 2.0},
}


@pytest.mark.parametrize(
    ("membership", "acknowledged"), [("cyclon", False), ("cyclon", True), ("scamp", False)]
)
def test_five_nodes_over_tcp_learn_of_each_other_and_hear_a_message(
    membership: str, acknowledged: bool, tmp_path: Path
) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), AsyncExitStack() as stack:
            nodes: list[Node] = []
            for number in range(5):
                settings = {
                    "roles.membership": membership,
                    "roles.broadcast": "gossip",
                    "plugins.gossip.fanout": 16,
                    "plugins.gossip.acknowledged": acknowledged,
                    "node.listen": ["/ip4/127.0.0.1/tcp/0"],
                    "node.peers": [str(nodes[0].addresses[0])] if nodes else [],
                }
                node = Node.from_profile(
                    "lan", data=tmp_path / str(number), set={**settings, **PACE[membership]}
                )
                nodes.append(await stack.enter_async_context(node))
                node.broadcast.subscribe("t")
            while not all(len(node.membership.neighbors()) >= 2 for node in nodes):
                await asyncio.sleep(0.02)
            heard = [await stack.enter_async_context(node.watch(Delivered)) for node in nodes]
            waiting = [asyncio.ensure_future(events.next()) for events in heard]
            sent: list[bytes] = []
            while not all(one.done() for one in waiting):
                # Views change with every shuffle, and gossip promises no single message to anybody.
                sent.append(nodes[1].broadcast.publish("t", b"over temporary connections"))
                await asyncio.wait(waiting, timeout=2.0)
            for one in waiting:
                event = one.result()
                assert isinstance(event, Delivered)
                assert event.id in sent
                assert event.author == nodes[1].peer

    asyncio.run(main())

"""The same machine in virtual time, over asyncio, and over TCP: real signatures and records."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from grove_hierarchy import SPEC
from grove_hierarchy.config import Config

from grove_core import Node
from grove_core.identity import Identity, peer_text
from grove_core.machine import PeerId
from grove_core.specs import Part
from grove_core.testing.parts import part
from tests.core.stages import STAGES

VARIANTS = ["trusting", "certified"]
PBFT = {"request_timeout": 1.0, "rebroadcast": 0.3, "reconnect": 0.2}
RAFT = {"election_timeout": 0.6, "heartbeat": 0.2, "reconnect": 0.2}
SLOW = {"election_timeout": 1.5, "heartbeat": 0.5, "reconnect": 0.2}
"""Above, where each message is a decision of a group or two."""


@pytest.fixture(params=STAGES)
def stage(request: pytest.FixtureRequest) -> Iterator[Any]:
    made = request.param()
    yield made
    made.close()


@pytest.mark.claim("hierarchy.one-object")
@pytest.mark.parametrize("variant", VARIANTS)
def test_two_groups_agree_lose_a_member_and_take_it_back(stage: Any, variant: str) -> None:
    scout = type(stage)()
    ids = [peer_text(scout.peer(scout.add())) for _ in range(6)]  # a stage's ids are always the same
    scout.close()
    settings = msgspec.convert(
        {"variant": variant, "groups": [ids[:3], ids[3:]], "observe": 0.4, "patience": 0.2}, Config
    )
    hosted = {"group": part("raft", **RAFT), "leaders": part("raft", **SLOW)}
    nodes = [stage.add(Part(SPEC, settings, hosted)) for _ in ids]

    def ordered(node: Any) -> int:
        number: int = stage.machine(node, "hierarchy").number
        return number

    for node in nodes:
        stage.act(node, lambda machine, ctx: machine.propose(ctx, b"x"), "hierarchy")
    stage.until(lambda: all(ordered(node) >= 6 for node in nodes))
    victim = next(
        node for node in nodes if stands_back(stage.machine(node, "hierarchy"), stage.peer(node))
    )
    rest = [node for node in nodes if node is not victim]
    stage.crash(victim)
    before = max(ordered(node) for node in rest)
    stage.act(rest[-1], lambda machine, ctx: machine.propose(ctx, b"y"), "hierarchy")
    stage.until(lambda: all(ordered(node) > before for node in rest))
    stage.restart(victim)

    def is_one() -> bool:
        chains = {stage.machine(node, "hierarchy").chain for node in nodes}
        return ordered(victim) > before and len(chains) == 1

    stage.until(is_one)


def stands_back(machine: Any, me: PeerId) -> bool:
    """Whether a member leads nothing: of two groups' seats above, none can be spared."""
    return me not in (machine.guest(machine.inside).leader(), *getattr(machine, "upper", ()))


def home(folder: Path, number: int, ids: list[str], variant: str, cut: int) -> Node:
    return Node.from_profile(
        "validator",
        data=str(folder / str(number)),
        identity=Identity.from_seed(bytes([88, number]) * 16),
        set={
            "node.listen": ["/ip4/127.0.0.1/tcp/0"],
            "roles.transport": ["tcp"],
            "roles.membership": [],
            "roles.broadcast": [],
            "roles.consensus": "hierarchy",
            "roles.service": ["libp2p"],
            "plugins.hierarchy.variant": variant,
            "plugins.hierarchy.groups": [ids[:cut], ids[cut : 2 * cut]],
            "plugins.hierarchy.size": cut,
            "plugins.hierarchy.observe": 0.5,
            **{f"plugins.pbft.{key}": value for key, value in PBFT.items()},
            **{f"plugins.raft.{key}": value for key, value in SLOW.items()},
        },
    )


def introduce(nodes: Sequence[Node]) -> None:
    """Tell everybody where everybody is."""
    for node in nodes:
        for other in nodes:
            if node is not other:
                node.peers.learn(other.peer, addresses=other.addresses)


@pytest.mark.claim("hierarchy.sockets")
@pytest.mark.parametrize("variant", VARIANTS)
def test_nine_nodes_over_tcp_agree_lose_one_take_it_back_and_let_another_in(
    variant: str, tmp_path: Path
) -> None:
    """Two groups of four by PBFT with real signatures, Raft between them, and a newcomer."""

    async def main() -> None:
        ids = [peer_text(Identity.from_seed(bytes([88, number]) * 16).peer) for number in range(9)]
        async with AsyncExitStack() as stack, asyncio.timeout(60):
            nodes = [home(tmp_path, number, ids, variant, 4) for number in range(9)]
            for node in nodes:
                await stack.enter_async_context(node)
            introduce(nodes)
            members = nodes[:8]

            def machine(node: Node) -> Any:
                return node.plugin("hierarchy").machine

            async def until(done: Callable[[], bool]) -> None:
                while not done():
                    await asyncio.sleep(0.01)

            for node in members:
                node.consensus.propose(b"from " + node.peer)
            await until(lambda: all(machine(node).number >= 8 for node in members))
            away = next(node for node in members[2:] if stands_back(machine(node), node.peer))
            await away.stop()
            alive = [node for node in members if node is not away]
            before = machine(nodes[0]).number
            alive[-1].consensus.propose(b"without one")
            await until(lambda: all(machine(node).number > before for node in alive))
            # Back before an epoch begins: that may draw it for one of the two seats above, and of two
            # neither can be spared.
            back = home(tmp_path, nodes.index(away), ids, variant, 4)
            await stack.enter_async_context(back)
            everybody = (*alive, back, nodes[8])
            introduce(everybody)
            for node in nodes[:2]:
                node.consensus.reconfigure((*machine(node).voters(), nodes[8].peer))
            await until(lambda: all(machine(node).opening.epoch == 1 for node in everybody))
            before = machine(nodes[0]).number
            nodes[8].consensus.propose(b"of the newcomer")
            await until(lambda: all(machine(node).number > before for node in everybody))
            # Asked under load, more may have been ordered meanwhile, here sooner than there.
            await until(lambda: len({machine(node).number for node in everybody}) == 1)
            assert len({machine(node).chain for node in everybody}) == 1

    asyncio.run(main())

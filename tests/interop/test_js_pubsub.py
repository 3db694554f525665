"""GossipSub of Grove nodes and of js-libp2p in one mesh (issue 3, acceptance 4)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests.interop import results
from tests.interop.conftest import StartJs
from tests.interop.js_village import LISTEN, JsVillage, Village, Villager, meet, payload, village
from tests.interop.lines import Way, line
from tests.interop.test_js import run

TOPIC = "village"
SIZE = 1024  # bytes of a message
EACH_WAY = 1000
AT_ONCE = 25
"""Messages published before the village is asked whether it keeps up."""

LONG = 120.0  # s; a mesh of ten needs 10 on an idle machine
ALONE = {"degree": 0, "degree_low": 0, "degree_high": 0, "degree_out": 0, "degree_score": 0}
"""A mesh that nobody is in."""

StartVillage = Callable[..., JsVillage]


@pytest.fixture
def js_village(start_js: StartJs) -> Iterator[StartVillage]:
    """Start js nodes for one test."""
    start_js()  # skips, or fails, where js cannot run
    with ExitStack() as closers:

        def start(way: Way, nodes: int = 1, **options: Any) -> JsVillage:
            found = closers.enter_context(
                closing(JsVillage(nodes=nodes, listen=[LISTEN[way.transport]], scored=TOPIC, **options))
            )
            results.versions(found.versions)
            return found

        yield start


async def exchange(grove: Village, js: JsVillage, *, count: int = EACH_WAY, size: int = SIZE) -> None:
    """A Grove node and a js node publish; everybody hears everything, and once."""

    async def ours() -> None:
        broadcast = grove[0].node.broadcast
        for first in range(0, count, AT_ONCE):
            for number in range(first, first + AT_ONCE):
                broadcast.publish(TOPIC, payload("grove", number, size))
            told = min(first + AT_ONCE, count)
            await js.do("hear", tag="grove", count=told, timeout=LONG)
            await grove.until(lambda told=told: all(m.count("grove") >= told for m in grove.members))

    async def theirs() -> None:
        last = js.size - 1
        for first in range(0, count, AT_ONCE):
            given = {"topic": TOPIC, "tag": "js", "first": first, "count": AT_ONCE, "size": size}
            await js.do("publish", node=last, **given, timeout=LONG)
            told = min(first + AT_ONCE, count)
            await grove.until(lambda told=told: all(m.count("js") >= told for m in grove.members))
            await js.do("hear", tag="js", count=told, **{"except": last}, timeout=LONG)

    await asyncio.gather(ours(), theirs())
    for member in grove.members:
        for tag in ("grove", "js"):
            assert dict(member.heard[tag]) == dict.fromkeys(range(count), 1)
    heard = await js.do("heard", tag="grove")
    assert heard["counts"] == [count] * js.size
    assert heard["twice"] == [0] * js.size


async def nobody_is_blamed(grove: Village, js: JsVillage) -> None:
    """No P4 and no P7 in any scorer."""
    for told in await js.do("scores"):
        assert told
        assert [(one["invalid"], one["misbehaviour"]) for one in told] == [(0, 0)] * len(told)
    for member in grove.members:
        scores = member.machine.scores
        assert scores is not None
        for peer in member.machine.peers:
            counted = scores.counters(peer, TOPIC)
            assert counted is None or counted.invalid == 0
            assert scores.behaviour(peer) == 0


def gathered(
    way: Way, js: JsVillage, data: Path, count: int, test: Callable[[Village], Any], **gossipsub: Any
) -> None:
    """Run a test with so many Grove nodes and the js ones, all connected and subscribed."""

    async def main() -> None:
        async with village(count, way.transport, data, **gossipsub) as grove:
            await meet(grove, js, grove_dials=way.grove_dials)
            grove.subscribe(TOPIC)
            await js.do("subscribe", topic=TOPIC)
            others = count + js.size - 1
            await grove.settle(TOPIC, subscribers=others)
            await js.do("settle", topic=TOPIC, subscribers=others)
            await test(grove)

    run(main(), LONG)


def meshes(way: Way, js: JsVillage, data: Path, count: int, **gossipsub: Any) -> None:
    async def test(grove: Village) -> None:
        least = 3
        await grove.settle(TOPIC, mesh=least)
        await js.do("settle", topic=TOPIC, mesh=least)
        across = [peer for member in grove.members for peer in member.machine.mesh[TOPIC]]
        assert any(js.peer_of(index) in across for index in range(js.size))
        await exchange(grove, js)
        await nobody_is_blamed(grove, js)

    gathered(way, js, data, count, test, **gossipsub)


@line("mesh-2-2")
def test_four_in_a_mesh(way: Way, js_village: StartVillage, tmp_path: Path) -> None:
    meshes(way, js_village(way, 2), tmp_path, 2)


@line("mesh-5-5")
def test_ten_in_a_mesh(way: Way, js_village: StartVillage, tmp_path: Path) -> None:
    """With D 4 and not 6, so that among nine others a mesh is a choice, and js has less to do."""
    degrees = {"degree": 4, "degree_low": 3, "degree_high": 8, "degree_score": 3, "degree_out": 1}
    js = js_village(way, 5, gossipsub={"D": 4, "Dlo": 3, "Dhi": 8, "Dscore": 3, "Dout": 1})
    meshes(way, js, tmp_path, 5, **degrees)


@line("unsigned")
def test_without_signatures(way: Way, js_village: StartVillage, tmp_path: Path) -> None:
    js = js_village(way, signing="none")

    async def test(grove: Village) -> None:
        await exchange(grove, js, count=50)
        await nobody_is_blamed(grove, js)

    gathered(way, js, tmp_path, 2, test, signing="none")


@line("floodsub")
def test_a_floodsub_peer_gets_and_gives_everything(
    way: Way, js_village: StartVillage, tmp_path: Path
) -> None:
    """js floodsub writes its random seqno without leading zeros: one message in 256 has not the eight
    bytes that js and rust gossipsub ask for too, and is refused."""
    js = js_village(way, router="floodsub")

    async def test(grove: Village) -> None:
        for number in range(100):
            grove[0].node.broadcast.publish(TOPIC, payload("grove", number, SIZE))
        await js.do("hear", tag="grove", count=100)
        await js.do("publish", topic=TOPIC, tag="js", count=10, size=SIZE)
        await grove.until(lambda: all(m.count("js") >= 5 for m in grove.members))
        assert all(m.machine.peers[js.peer_of(0)].version == 0 for m in grove.members)
        assert all(js.peer_of(0) not in m.machine.mesh[TOPIC] for m in grove.members)

    gathered(way, js, tmp_path, 2, test)


@line("gossip-repair")
def test_what_no_mesh_carried_is_asked_for(way: Way, js_village: StartVillage, tmp_path: Path) -> None:
    """Grove takes nobody into its mesh and floods nothing; js 0 stands between it and js 1."""
    js = js_village(way, 2)

    async def main() -> None:
        async with village(1, way.transport, tmp_path, flood_publish=False, **ALONE) as grove:
            (node,) = grove.members
            grove.subscribe(TOPIC)
            await js.do("subscribe", topic=TOPIC)
            await js.do("connect")
            await js.do("dial", node=0, addr=str(node.node.addresses[0].with_peer(node.node.peer)))
            await js.do("settle", topic=TOPIC, subscribers=1)
            await js.do("settle", topic=TOPIC, mesh=1)
            await grove.settle(TOPIC, subscribers=1)
            await js.do("pruned", topic=TOPIC, peer=node.peer)
            node.node.broadcast.publish(TOPIC, payload("grove", 0, SIZE))
            await js.do("publish", node=1, topic=TOPIC, tag="js", size=SIZE)
            await js.do("hear", tag="grove", count=1)
            await grove.until(lambda: node.count("js") == 1)
            assert not node.machine.mesh[TOPIC]
            traffic = await js.do("traffic", peer=node.peer)
            for direction in ("in", "out"):
                assert traffic[direction]["ihave"] >= 1
                assert traffic[direction]["iwant"] == 1
                assert traffic[direction]["messages"] == 1
            await nobody_is_blamed(grove, js)

    run(main(), LONG)


@line("idontwant")
def test_a_copy_that_is_not_wanted_is_not_sent(
    way: Way, js_village: StartVillage, tmp_path: Path
) -> None:
    """The middle one of three holds the message back until the last one has said it has it."""
    js = js_village(way, 2, gossipsub={"asyncValidation": True})

    async def grove_says(grove: Village) -> None:
        """Grove 0 publishes to all; js 0 holds it; Grove 1 has it and says so."""
        asked = await js.do("traffic", peer=grove[1].peer)
        grove[0].node.broadcast.publish(TOPIC, payload("grove", 0, SIZE))
        await js.do("hear", tag="grove", count=1)
        await grove.until(lambda: grove[1].count("grove") == 1)
        while not await js.do("unwanted", node=0, peer=grove[1].peer):
            pass
        await js.do("release", node=0)
        told = await js.do("traffic", peer=grove[1].peer)
        assert told["out"].get("messages", 0) == asked["out"].get("messages", 0)
        assert told["in"]["idontwant"] >= 1

    async def js_says(grove: Village) -> None:
        """js 1 publishes to all; Grove 0 holds it; js 0 has it and says so."""
        node: Villager = grove[0]
        node.node.broadcast.call(lambda machine, ctx: machine.ask_application(ctx, TOPIC))
        before = await js.do("traffic", node=0, peer=node.peer)
        await js.do("publish", node=1, topic=TOPIC, tag="js", size=SIZE)
        await js.do("hear", tag="js", count=1, **{"except": 1})
        await grove.until(lambda: len(node.machine.pending) == 1)
        (mid,) = node.machine.pending
        await grove.until(lambda: mid in (node.machine.peers[js.peer_of(0)].unwanted or ()))
        node.node.broadcast.call(lambda machine, ctx: machine.validated(ctx, mid, "accept"))
        await grove.until(lambda: node.count("js") == 1)
        await js.do("publish", node=1, topic=TOPIC, tag="behind", size=8)  # small: no IDONTWANT
        await js.do("hear", tag="behind", count=1, **{"except": 1})
        after = await js.do("traffic", node=0, peer=node.peer)
        assert after["in"].get("messages", 0) == before["in"].get("messages", 0)

    async def test(grove: Village) -> None:
        await grove.settle(TOPIC, mesh=3)
        await js.do("settle", topic=TOPIC, mesh=3)
        await grove_says(grove)
        await js_says(grove)

    gathered(way, js, tmp_path, 2, test)


@line("resubscribe")
def test_a_reset_stream_is_opened_again_and_told_everything(
    way: Way, js_village: StartVillage, tmp_path: Path
) -> None:
    js = js_village(way)

    async def test(grove: Village) -> None:
        (node,) = grove.members
        await js.do("reset", peer=node.peer)
        await js.do("publish", topic=TOPIC, tag="lost", size=8)
        await js.do("settle", topic=TOPIC, subscribers=1)
        await exchange(grove, js, count=25)

    gathered(way, js, tmp_path, 1, test)

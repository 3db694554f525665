"""The same machine on real nodes: streams, real signatures, several versions in one mesh."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from grove_gossipsub.messages import Publication, Rpc, signed_bytes

from grove_core.specs import Part
from grove_core.testing import part
from grove_core.testing.meshed import MESHED
from tests.core.stages import STAGES

NAME = "gossipsub"


@pytest.fixture(params=STAGES)
def stage(request: pytest.FixtureRequest) -> Iterator[Any]:
    made = request.param()
    yield made
    made.close()


def speaking(*protocols: str, **config: Any) -> Part:
    """A GossipSub that knows no later version than these."""
    whole = part(NAME, heartbeat=0.1, **config)
    return Part(msgspec.structs.replace(whole.spec, protocols=protocols), whole.config)


def hear(heard: list[bytes], gossipsub: Part) -> Part:
    """The same part, that keeps the data of what is delivered."""

    class Hearing(gossipsub.spec.build):  # type: ignore[name-defined, misc]
        def _judged(self, ctx: Any, sender: Any, mid: bytes, rpc: Rpc, verdict: Any) -> None:
            if verdict == "accept":
                heard.append(rpc.publish[0].data)
            super()._judged(ctx, sender, mid, rpc, verdict)

    return Part(msgspec.structs.replace(gossipsub.spec, build=Hearing), gossipsub.config)


def act(stage: Any, node: Any, what: Callable[[Any, Any], Any]) -> Any:
    return stage.act(node, what, NAME)


def mesh(stage: Any, node: Any) -> int:
    return len(stage.machine(node, NAME).mesh.get("t", ()))


@pytest.mark.claim("gossipsub.versions-mix")
def test_versions_find_common_ground_in_one_mesh(stage: Any) -> None:
    ids = ["/meshsub/1.3.0", "/meshsub/1.2.0", "/meshsub/1.1.0", "/meshsub/1.0.0", "/floodsub/1.0.0"]
    heard: list[list[bytes]] = [[] for _ in ids]
    parts = [hear(heard[n], speaking(*ids[n:])) for n in range(5)]
    nodes = [stage.add(MESHED, one) for one in parts]
    for node in nodes:
        act(stage, node, lambda machine, ctx: machine.subscribe(ctx, "t"))
    for one, node in enumerate(nodes):
        for other in nodes[:one]:
            stage.link(node, other)
    stage.until(lambda: all(mesh(stage, node) == 3 for node in nodes[:4]))
    assert mesh(stage, nodes[4]) == 0
    first = stage.machine(nodes[0], NAME)
    versions = [first.peers[stage.peer(node)].version for node in nodes[1:]]
    assert versions == [12, 11, 10, 0]
    for index, node in enumerate(nodes):
        data = b"%d" % index * 3000
        act(stage, node, lambda machine, ctx, data=data: machine.publish(ctx, "t", data))
    stage.until(lambda: all(len(one) == 4 for one in heard))
    stage.run(0.3)
    for index, one in enumerate(heard):
        assert sorted(one) == sorted(b"%d" % n * 3000 for n in range(5) if n != index)


@pytest.mark.claim("gossipsub.forgery-is-p4")
def test_a_relayed_forgery_costs_a_score_and_not_the_connection(stage: Any) -> None:
    heard: list[bytes] = []
    liar = stage.add(MESHED, speaking("/meshsub/1.2.0"))
    node = stage.add(MESHED, hear(heard, speaking("/meshsub/1.2.0", score="js")))
    for one in (liar, node):
        act(stage, one, lambda machine, ctx: machine.subscribe(ctx, "t"))
    stage.link(liar, node)

    def lie(machine: Any, ctx: Any) -> None:
        def said(data: bytes, signature: bytes = b"") -> Publication:
            bare = Publication("t", data, ctx.me, bytes(7) + data[:1])
            return msgspec.structs.replace(bare, signature=signature or ctx.sign(signed_bytes(bare)))

        ctx.send(stage.peer(node), Rpc(publish=(said(b"true"), said(b"forged", bytes(64)), said(b"too"))))

    act(stage, liar, lie)
    stage.until(lambda: len(heard) == 2)
    assert heard == [b"true", b"too"]
    machine = stage.machine(node, NAME)
    counters = machine.scores.counters(stage.peer(liar), "t")
    assert counters.invalid == 1.0
    assert stage.peer(liar) in machine.peers
    assert machine.score(stage.peer(liar)) < 10.0


def test_gossip_repairs_what_the_mesh_lost(stage: Any) -> None:
    """The receiver is in no mesh: it hears of the message by IHAVE and asks for it."""
    heard: list[bytes] = []
    source = stage.add(MESHED, speaking("/meshsub/1.2.0", flood_publish=False))
    alone = {"degree": 0, "degree_low": 0, "degree_high": 0, "degree_out": 0, "degree_score": 0}
    node = stage.add(MESHED, hear(heard, speaking("/meshsub/1.2.0", **alone)))
    for one in (source, node):
        act(stage, one, lambda machine, ctx: machine.subscribe(ctx, "t"))
    stage.link(source, node)
    stage.run(0.5)
    assert mesh(stage, source) == 0  # its GRAFT was answered by PRUNE
    act(stage, source, lambda machine, ctx: machine.publish(ctx, "t", b"late"))
    stage.until(lambda: heard == [b"late"])

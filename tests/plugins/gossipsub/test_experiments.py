"""What was measured of GossipSub elsewhere, measured here, scaled down; GROVE_FULL=1 is full size."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from statistics import fmean
from typing import Any

import msgspec
import pytest
from grove_gossipsub.events import ValidationRequested
from grove_gossipsub.machine import GossipSub
from grove_gossipsub.messages import Graft, Publication, Rpc
from grove_gossipsub.presets import FILECOIN, eth2_2022
from grove_gossipsub.scoring import Params

from grove_core.drive.virtual import VirtualNode, uniform
from grove_core.machine import Event, PeerId
from grove_core.specs import Part
from grove_core.testing import assert_deterministic, part, peer
from tests.plugins.gossipsub.scene import Scene, carrying, said
from tests.plugins.gossipsub.villages import TOPIC, Field

FULL = os.environ.get("GROVE_FULL") == "1"
N = 1000 if FULL else 300
D6 = {"degree": 6, "degree_low": 5, "degree_high": 12}
D8 = {"degree": 8, "degree_low": 6, "degree_high": 12}


class Silent(GossipSub):
    """Takes part in meshes and passes nothing on that is not its own."""

    def _judged(self, ctx: Any, sender: PeerId, mid: bytes, rpc: Rpc, verdict: Any) -> None:
        pass


def counting(arrivals: Counter[bytes], gossipsub: Part) -> Part:
    """The same part, that counts every payload that arrives."""

    class Counting(GossipSub):
        def _message(
            self, ctx: Any, peer: PeerId, rpc: Rpc, publication: Publication, *, is_forged: bool
        ) -> None:
            arrivals[publication.data] += 1
            super()._message(ctx, peer, rpc, publication, is_forged=is_forged)

    return Part(msgspec.structs.replace(gossipsub.spec, build=Counting), gossipsub.config)


@pytest.mark.claim("gossip.26-mesh-degrees")
@pytest.mark.parametrize(("config", "mean"), [(D6, 7.2), (D8, 8.45)], ids=["D6", "D8"])
def test_meshes_settle_within_their_bounds_and_are_symmetric(
    config: dict[str, int], mean: float, record_property: Callable[[str, object], None]
) -> None:
    found = []
    for seed in range(1, 6 if FULL else 3):
        field = Field(N, 20, seed=seed, **config)
        degrees = field.degrees()
        assert config["degree_low"] <= min(degrees), f"seed {seed}"
        assert max(degrees) <= config["degree_high"] - 1, f"seed {seed}"
        by_peer = field.world.nodes
        for node in field.nodes:
            mesh = node.machine("broadcast").mesh[TOPIC]
            assert sum(mesh.values()) >= 2, f"seed {seed}: fewer than D_out that we dialled"
            for other in mesh:
                assert node.peer in by_peer[other].machine("broadcast").mesh[TOPIC], f"seed {seed}"
        found.append(fmean(degrees))
    record_property("setup", f"n = {N:,}, seeds 1 to {len(found)}")
    record_property("measured", f"mean degree {fmean(found):.2f} ({min(found):.2f}-{max(found):.2f})")
    assert abs(fmean(found) - mean) <= 0.3


@pytest.mark.claim("gossip.27-duplicates-identity")
@pytest.mark.parametrize("config", [D6, D8], ids=["D6", "D8"])
def test_copies_beyond_the_first_are_the_mean_degree_less_two(
    config: dict[str, int], record_property: Callable[[str, object], None]
) -> None:
    """Each node sends to its mesh but for one link, the author to all: n (d - 1) + 1 copies in all."""
    arrivals: Counter[bytes] = Counter()
    bare = {"idontwant": False, "flood_publish": False, "degree_lazy": 0, "gossip_factor": 0.0}
    field = Field(N, 20, gossipsub=counting(arrivals, part("gossipsub", **config, **bare)))
    field.world.run_for(120)  # backoffs are over and nothing is mended any more
    for number in range(5):
        mid = field.publish(number * 7, b"%d" % number)
        assert len(field.delivered[mid]) == N
    expected = fmean(field.degrees()) - 2
    found = fmean(arrivals.values()) / (N - 1) - 1
    record_property("setup", f"n = {N:,}, seed 1")
    record_property("measured", f"{found:.3f} copies beyond the first, mean degree - 2 = {expected:.3f}")
    assert abs(found - expected) <= 0.05


@pytest.mark.claim("gossip.31-gossip-coverage")
def test_a_message_is_gossiped_to_58_percent_of_the_peers_outside_the_mesh(
    record_property: Callable[[str, object], None],
) -> None:
    """1 - (1 - 0.25)^3: a factor of 0.25, in each of three heartbeats."""
    told: dict[bytes, dict[PeerId, None]] = {}

    class Listening(GossipSub):
        def _ihave(self, ctx: Any, peer: PeerId, neighbor: Any, ihaves: Any) -> None:
            if ctx.me != sender:
                for ihave in ihaves:
                    for mid in ihave.ids:
                        if peer == sender:
                            told.setdefault(mid, {})[ctx.me] = None
            super()._ihave(ctx, peer, neighbor, ihaves)

    sender = PeerId(b"")
    gossipsub = part("gossipsub", flood_publish=False)
    listening = Part(msgspec.structs.replace(gossipsub.spec, build=Listening), gossipsub.config)
    field = Field(100, 60, gossipsub=listening)
    node = field.nodes[0]
    sender = node.peer
    machine = node.machine("broadcast")
    shares = []
    for number in range(60 if FULL else 30):
        outside = [peer for peer in machine.peers if peer not in machine.mesh[TOPIC]]
        assert len(outside) >= 40
        mid = field.publish(0, b"%d" % number, 5.0)
        shares.append(len(told.get(mid, ())) / len(outside))
    record_property("measured", f"{100 * fmean(shares):.1f} %")
    assert abs(fmean(shares) - 0.578) <= 0.02


@pytest.mark.claim("gossip.28-hop-bound")
def test_a_message_is_everywhere_within_five_hops(
    record_property: Callable[[str, object], None],
) -> None:
    """Links of 25 ms each, so that a delivery's time counts its hops. n = 1,000 at full size."""
    field = Field(N, 20, delay=0.025, flood_publish=False, **D8)
    longest = 0.0
    for number in range(5):
        start = field.world.now
        mid = field.publish(number * 11, b"%d" % number, 0.5)  # before any gossip is answered
        assert len(field.delivered[mid]) == N
        longest = max(longest, max(field.delivered[mid].values()) - start)
    record_property("measured", f"{longest / 0.025:.0f} hops at n = {N}")
    assert round(longest / 0.025) <= 5


@pytest.mark.claim("gossip.29-idontwant-needs-delay")
def test_idontwant_saves_nothing_where_validation_is_instant_and_a_third_at_50_ms(
    record_property: Callable[[str, object], None],
) -> None:
    """A negative control: with bandwidth unbounded, copies are spared only while others validate."""
    found = []
    for delay in (0.0, 0.01, 0.05):
        copies = {spared: _copies(delay, spared) for spared in (False, True)}
        found.append(100 * (1 - copies[True] / copies[False]))
    record_property("measured", " / ".join(f"{saved:.1f} %" for saved in found))
    assert all(abs(saved - wanted) <= 3 for saved, wanted in zip(found, (0, 7, 34), strict=True)), found


def _copies(validation: float, spared: bool) -> float:
    """Copies beyond the first per node, links U(40, 130) ms, with a validation that takes so long."""
    arrivals: Counter[bytes] = Counter()
    bare = {"flood_publish": False, "degree_lazy": 0, "gossip_factor": 0.0, "idontwant": spared}
    gossipsub = counting(arrivals, part("gossipsub", **D8, **bare))
    field = Field(N, 20, delay=uniform(0.04, 0.13, 1), gossipsub=gossipsub)
    if validation:
        for node in field.nodes:
            node.broadcast.call(lambda machine, ctx: machine.ask_application(ctx, TOPIC))
        field.world.sinks.append(_validate_after(validation))
    for number in range(5):
        mid = field.publish(number * 7, b"%d" % number * 2000, 3.0)
        assert len(field.delivered[mid]) == N
    return sum(arrivals.values()) / (5 * N) - 1


def _validate_after(seconds: float) -> Callable[[VirtualNode, Event], None]:
    def sink(node: VirtualNode, event: Event) -> None:
        if isinstance(event, ValidationRequested):
            say = node.broadcast.call
            node.world.at(
                node.world.now + seconds,
                lambda: say(lambda machine, ctx: machine.validated(ctx, event.id, "accept")),
            )

    return sink


@pytest.mark.claim("gossip.34-silent-sybil")
def test_silent_peers_leave_every_mesh_after_their_activation_and_do_not_come_back() -> None:
    """A tenth is silent. Links are alike, so that honest copies come within the 5 ms that count."""
    scores = part("gossipsub", score="hardening")
    silent = Part(msgspec.structs.replace(scores.spec, build=Silent), scores.config)
    field = Field(
        40, 8, delay=0.025, settle=5.0, gossipsub=lambda index: silent if index % 10 == 9 else scores
    )
    silents = {node.peer for node in field.nodes if node.index % 10 == 9}
    honest = [node for node in field.nodes if node.peer not in silents]

    def held() -> set[tuple[int, PeerId]]:
        return {(n.index, p) for n in honest for p in n.machine("broadcast").mesh[TOPIC] if p in silents}

    early = held()
    assert len(early) > 12
    for number in range(1300):
        field.publish(honest[number % len(honest)].index, b"%d" % number, 0.1)
        if field.world.now < 60.0:
            assert early <= held()  # nothing counts before the activation
        elif field.world.now > 70.0:
            assert not early & held(), f"at {field.world.now:.1f} s"  # and they do not come back
    assert all(len(node.machine("broadcast").mesh[TOPIC]) >= 5 for node in honest)


def _withholding(params: Params, topics: list[str], withheld: str, seconds: int) -> tuple[bool, float]:
    """A victim's view of a peer that delivers in all topics but one: (still in that mesh, its score)."""
    scene = Scene(subscribe=False, scores=params)
    for topic in topics:
        scene.machine.subscribe(scene.ctx, topic)
    scene.meet(1, topics=topics)
    scene.hear(1, Rpc(graft=tuple(map(Graft, topics))))
    assert all(peer(1) in scene.machine.mesh[topic] for topic in topics)
    number = 0
    for _ in range(seconds):
        for topic in topics:
            if topic != withheld:
                for _ in range(10):
                    number += 1
                    scene.hear(1, carrying(said(number, topic=topic)))
        scene.ctx.take()
        scene.beat()
    return peer(1) in scene.machine.mesh[withheld], scene.machine.score(peer(1))


@pytest.mark.claim("gossip.39-filecoin-and-eth2")
def test_who_starves_one_of_twelve_subnets_stays_in_the_mesh_under_eth2_of_2022() -> None:
    topics = ["/eth2/x/beacon_block/y", "/eth2/x/beacon_aggregate_and_proof/y"]
    topics += [f"/eth2/x/beacon_attestation_{n}/y" for n in range(12)]
    is_in, score = _withholding(eth2_2022(12), topics, topics[5], 110)
    assert is_in
    assert score > 0


@pytest.mark.claim("gossip.39-filecoin-and-eth2")
def test_a_repaired_filecoin_prunes_who_starves_a_topic_right_after_activation() -> None:
    """w3 = w3b = w4 = -1000, threshold 2, cap 10, topic weight 0.5 (the model's repair)."""
    repaired = msgspec.structs.replace(
        FILECOIN,
        topics={
            name: msgspec.structs.replace(
                p, weight=0.5, mesh_weight=-1000.0, failure_weight=-1000.0, invalid_weight=-1000.0,
                mesh_threshold=2.0, mesh_cap=10.0, mesh_activation=20.0, mesh_decay=0.5,
            )
            for name, p in FILECOIN.topics.items()
        },
    )  # fmt: skip
    topics = ["/fil/blocks/net", "/fil/msgs/net"]
    assert _withholding(repaired, topics, topics[0], 20)[0]
    is_in, score = _withholding(repaired, topics, topics[0], 23)
    assert not is_in
    assert score < 0


def scene_digest() -> str:
    """A busy world's history, for processes with other hash seeds."""
    field = Field(30, 5, settle=10.0, trace=True, score="js")
    for number in range(10):
        field.publish(number, bytes(2000), 0.7)
    field.world.run_for(20)
    return field.world.digest()


@pytest.mark.claim("gossip.41-determinism")
def test_one_seed_gives_one_history_whatever_the_hash_seed() -> None:
    assert_deterministic("tests.plugins.gossipsub.test_experiments:scene_digest", hash_seeds=(0, 7))

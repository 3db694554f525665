"""Score parameters that networks run, by name: ``score = "filecoin"`` in ``[plugins.gossipsub]``.

They are other networks' answers to other networks' traffic. What is known of them is told with each.
"""

from __future__ import annotations

from typing import Final, Literal

from grove_gossipsub.scoring import Params, TopicParams, decay

Preset = Literal["off", "hardening", "filecoin", "eth2", "js"]

TEN_MINUTES: Final = decay(600.0)
HOUR: Final = decay(3600.0)

HARDENING: Final = Params(
    topics={
        "": TopicParams(
            weight=0.25,
            time_weight=0.0027,
            time_quantum=1.0,
            time_cap=3600.0,
            first_weight=0.664,
            first_decay=0.9916,
            first_cap=1500.0,
            mesh_weight=-0.25,
            mesh_decay=0.997,
            mesh_cap=400.0,
            mesh_threshold=10.0,
            mesh_window=0.005,
            mesh_activation=60.0,
            failure_weight=-0.25,
            failure_decay=0.997,
            invalid_weight=-99.0,
            invalid_decay=0.9994,
        )
    },
    decay_interval=1.0,
    decay_to_zero=0.01,
    retain=30.0,
    gossip_threshold=-4000.0,
    publish_threshold=-5000.0,
    graylist_threshold=-10_000.0,
    accept_px_threshold=0.0,
    opportunistic_graft_threshold=0.0,
)
"""The testbed of "GossipSub: Attack-Resilient Message Propagation" (arXiv 2007.02754): 1,000 nodes,
120 messages/s. A silent peer in a mesh is pruned at the first heartbeat after 60 s, and its score stays
below 0 for 51 minutes, unless it reconnects after the 30 s for which it is remembered."""

FILECOIN: Final = Params(
    topics={
        "/fil/blocks/": TopicParams(
            weight=0.1,
            time_weight=0.00027,
            time_quantum=1.0,
            time_cap=1.0,
            first_weight=5.0,
            first_decay=HOUR,
            first_cap=100.0,
            invalid_weight=-1000.0,
            invalid_decay=HOUR,
        ),
        "/fil/msgs/": TopicParams(
            weight=0.1,
            time_weight=0.0002778,
            time_quantum=1.0,
            time_cap=1.0,
            first_weight=0.5,
            first_decay=TEN_MINUTES,
            first_cap=100.0,
            invalid_weight=-1000.0,
            invalid_decay=HOUR,
        ),
    },
    app_weight=1.0,
    ip_weight=-100.0,
    ip_threshold=5,
    behaviour_weight=-10.0,
    behaviour_threshold=6.0,
    behaviour_decay=HOUR,
    decay_interval=1.0,
    decay_to_zero=0.01,
    retain=6 * 3600.0,
    gossip_threshold=-500.0,
    publish_threshold=-1000.0,
    graylist_threshold=-2500.0,
    accept_px_threshold=1000.0,
    opportunistic_graft_threshold=3.5,
)
"""Lotus, node/modules/lp2p/pubsub.go. P3 and P3b are off, so a peer that passes nothing on is never
below 0: it has all the properties that Kumar et al. ask for, and cannot see silence."""

EPOCH: Final = 32 * 12.0
SLOT: Final = 12.0


def _epochs(count: float) -> float:
    return decay(count * EPOCH, SLOT)


def _eth2_topic(
    weight: float, time_cap: float, first: tuple[float, float, float], invalid: float
) -> TopicParams:
    first_weight, first_epochs, first_cap = first
    return TopicParams(
        weight=weight,
        time_weight=0.0324,
        time_quantum=SLOT,
        time_cap=time_cap,
        first_weight=first_weight,
        first_decay=_epochs(first_epochs),
        first_cap=first_cap,
        invalid_weight=invalid,
        invalid_decay=_epochs(50),
    )


ETH2: Final = Params(
    topics={
        "/beacon_block/": _eth2_topic(0.8, 300.0, (1.0, 20, 23.0), -140.4475),
        "/beacon_aggregate_and_proof/": _eth2_topic(0.5, 300.0, (0.128, 1, 179.0), -140.4475),
        "/beacon_attestation_": _eth2_topic(1 / 64, 300.0, (0.955, 1, 24.0), -4544.0),
    },
    topic_cap=32.72,
    app_weight=1.0,
    ip_weight=-35.11,
    ip_threshold=10,
    behaviour_weight=-15.92,
    behaviour_threshold=6.0,
    behaviour_decay=_epochs(10),
    decay_interval=SLOT,
    decay_to_zero=0.01,
    retain=100 * EPOCH,
    gossip_threshold=-4000.0,
    publish_threshold=-8000.0,
    graylist_threshold=-16_000.0,
    accept_px_threshold=100.0,
    opportunistic_graft_threshold=5.0,
)
"""Prysm, beacon-chain/p2p/gossip_scoring_params.go, with P3 and P3b at 0 as it has them now: removing
them trades false positives for silence. The subnet's cap and decays are those of the model below."""


def eth2_2022(subnets: int) -> Params:
    """Eth2 as Kumar et al. modelled it (arXiv 2212.05197): P3 on, and open to their attacks.

    subnets: 1 or more. The model counts time in the mesh in slots, which we keep as seconds, and has
    300 validators spread over the subnets.
    """
    share = 300 / subnets
    block = TopicParams(
        weight=0.8, time_weight=0.0324, time_quantum=1.0, time_cap=300.0,
        first_weight=1.0, first_decay=0.794, first_cap=23.0,
        mesh_weight=-0.717, mesh_decay=0.398, mesh_cap=50.0, mesh_threshold=5.0, mesh_window=2.0,
        mesh_activation=4.0, failure_weight=-0.717, failure_decay=0.398,
        invalid_weight=-140.4475, invalid_decay=0.912,
    )  # fmt: skip
    aggregate = TopicParams(
        weight=0.5, time_weight=0.0324, time_quantum=1.0, time_cap=300.0,
        first_weight=0.128, first_decay=0.01, first_cap=179.0,
        mesh_weight=-0.064, mesh_decay=0.01, mesh_cap=500.0, mesh_threshold=10.0, mesh_window=2.0,
        mesh_activation=32.0, failure_weight=-0.064, failure_decay=0.01,
        invalid_weight=-140.4475, invalid_decay=0.912,
    )  # fmt: skip
    subnet = TopicParams(
        weight=1 / subnets, time_weight=0.0324, time_quantum=30 / subnets, time_cap=300.0,
        first_weight=0.955, first_decay=0.316, first_cap=24.0,
        mesh_weight=-37.55, mesh_decay=0.749, mesh_cap=share, mesh_threshold=share / 50,
        mesh_window=2.0, mesh_activation=17.0, failure_weight=-37.55, failure_decay=0.749,
        invalid_weight=-4544.0, invalid_decay=0.912,
    )  # fmt: skip
    return Params(
        topics={
            "/beacon_block/": block,
            "/beacon_aggregate_and_proof/": aggregate,
            "/beacon_attestation_": subnet,
        },
        topic_cap=32.72,
        app_weight=1.0,
        ip_weight=-35.11,
        ip_threshold=10,
        behaviour_weight=-15.92,
        behaviour_threshold=6.0,
        behaviour_decay=0.63,
        gossip_threshold=-4000.0,
        publish_threshold=-8000.0,
        graylist_threshold=-16_000.0,
        accept_px_threshold=100.0,
        opportunistic_graft_threshold=5.0,
    )


JS: Final = Params(
    topics={
        "": TopicParams(
            weight=0.5,
            time_weight=1.0,
            time_quantum=0.001,
            time_cap=3600.0,
            first_weight=1.0,
            first_decay=0.5,
            first_cap=2000.0,
            mesh_weight=-1.0,
            mesh_decay=0.5,
            mesh_cap=100.0,
            mesh_threshold=20.0,
            mesh_window=0.01,
            mesh_activation=5.0,
            failure_weight=-1.0,
            failure_decay=0.5,
            invalid_weight=-1.0,
            invalid_decay=0.3,
        )
    },
    topic_cap=10.0,
    app_weight=10.0,
    ip_weight=-5.0,
    ip_threshold=10,
    behaviour_weight=-10.0,
    behaviour_threshold=0.0,
    behaviour_decay=0.2,
    decay_interval=1.0,
    decay_to_zero=0.1,
    retain=3600.0,
    gossip_threshold=-10.0,
    publish_threshold=-50.0,
    graylist_threshold=-80.0,
    accept_px_threshold=10.0,
    opportunistic_graft_threshold=20.0,
)
"""js-libp2p's defaults (rust's differ in the cap, 3600). With a quantum of 1 ms any member of a mesh has
all of P1 within 3.6 s: good for golden vectors, not for a network."""

PRESETS: Final[dict[str, Params]] = {
    "hardening": HARDENING,
    "filecoin": FILECOIN,
    "eth2": ETH2,
    "js": JS,
}

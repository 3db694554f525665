"""What can be set about GossipSub: the table ``[plugins.gossipsub]``.

Defaults are the specification's where it has one; what is marked "guess" has no better source.
Durations are seconds.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from grove_core.identity import parse_peer
from grove_core.machine import PeerId
from grove_gossipsub.messages import MAX_RPC, OVERHEAD, SEND_RPC
from grove_gossipsub.presets import PRESETS, Preset
from grove_gossipsub.scoring import Params

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Degree = Annotated[int, Meta(ge=0, le=1000)]
Count = Annotated[int, Meta(ge=1, le=10_000_000)]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of one GossipSub machine. ValueError if degrees or score parameters contradict."""

    signing: Literal["strict", "none"] = "strict"
    """StrictSign: every message has author, seqno and signature. StrictNoSign: none may have any."""

    message_id: Literal["content", "libp2p", "head"] = "content"
    """content: SHA-256 of the signed bytes, the same in every stack that is told to. libp2p: author and
    seqno, as go and py; js and rust each have another default, and then IHAVE, IWANT and IDONTWANT
    speak of nothing between them. head: the first 8 bytes of the data, as gossipsub-interop has it."""

    max_payload: Annotated[int, Meta(ge=1, le=MAX_RPC - OVERHEAD)] = SEND_RPC - OVERHEAD
    """Bytes of one message's data, ours and others'. rust's default peers refuse RPCs above 64 KiB."""

    degree: Degree = 6
    """D: peers in the mesh of a topic."""

    degree_low: Degree = 5
    """D_lo: below, peers are grafted up to D. go and rust 5, the specification and js 4."""

    degree_high: Degree = 12
    """D_hi: from here on, peers are pruned down to D."""

    degree_score: Degree = 4
    """D_score: of the kept ones, so many are the best by score."""

    degree_out: Degree = 2
    """D_out: of the mesh, at least so many we dialled. Below degree_low, at most half of degree."""

    degree_lazy: Degree = 6
    """D_lazy: at least so many peers outside the mesh hear what we have."""

    gossip_factor: Annotated[float, Meta(ge=0, le=1)] = 0.25
    """Share of the peers outside the mesh that hear, if that is more."""

    heartbeat: Annotated[float, Meta(ge=0.01, le=3600)] = 1.0
    """Between two rounds of upkeep. Eth2 0.7."""

    heartbeat_start: Annotated[float, Meta(ge=0, le=3600)] = 0.1
    """From the start to the first one."""

    mcache_len: Annotated[int, Meta(ge=1, le=100)] = 5
    """Heartbeats for which messages can be asked for with IWANT."""

    mcache_gossip: Annotated[int, Meta(ge=1, le=100)] = 3
    """Heartbeats for which messages are announced with IHAVE."""

    mcache_bytes: Annotated[int, Meta(ge=1 << 16, le=1 << 32)] = 16 << 20
    """Bytes of messages kept for that. Guess."""

    seen_ttl: Seconds = 120.0
    """For which an id is remembered so that its message is not delivered twice."""

    seen_messages: Count = 262_144
    """Ids remembered; about 200 bytes each."""

    fanout_ttl: Seconds = 60.0
    """For which peers of a topic we publish to and do not subscribe to are kept."""

    fanout_topics: Count = 256
    """Topics published to without a subscription; the longest unused makes room. Guess."""

    prune_backoff: Seconds = 60.0
    """For which a pruned peer must not be grafted."""

    unsubscribe_backoff: Seconds = 10.0
    """The same after we left the topic."""

    graft_flood: Seconds = 10.0
    """A GRAFT so soon after the PRUNE is punished twice."""

    backoffs: Count = 8192
    """Pruned peers remembered per topic. Guess."""

    flood_publish: bool = True
    """Own messages go to every subscriber with a good score, not only to the mesh."""

    peer_exchange: bool = False
    """Name other peers in PRUNE. For well-connected nodes that newcomers meet first."""

    prune_peers: Annotated[int, Meta(ge=0, le=64)] = 16
    """Peers named in a PRUNE, and believed from one."""

    retransmissions: Annotated[int, Meta(ge=1, le=100)] = 3
    """Times one peer is given one message on IWANT."""

    max_ihave_ids: Annotated[int, Meta(ge=1, le=100_000)] = 5000
    """Ids asked of one peer between two heartbeats, and announced to one in a topic."""

    max_ihave_messages: Annotated[int, Meta(ge=1, le=1000)] = 10
    """RPCs with IHAVE listened to from one peer between two heartbeats."""

    iwant_followup: Seconds = 3.0
    """Within which an announced message must come after IWANT; else it is a broken promise (P7)."""

    idontwant: bool = True
    """Tell mesh peers of large messages that we have them (1.2)."""

    idontwant_size: Annotated[int, Meta(ge=0, le=MAX_RPC)] = 1024
    """Bytes of data from which on a message is large. go 1024, js 512, rust 1000."""

    max_idontwant_messages: Annotated[int, Meta(ge=0, le=10_000)] = 10
    """RPCs with IDONTWANT listened to from one peer between two heartbeats. go 10."""

    max_idontwant_ids: Annotated[int, Meta(ge=0, le=100_000)] = 1000
    """Ids believed from one peer between two heartbeats. go 1000."""

    idontwant_heartbeats: Annotated[int, Meta(ge=1, le=100)] = 3
    """Heartbeats for which an IDONTWANT is remembered."""

    opportunistic_ticks: Annotated[int, Meta(ge=1, le=100_000)] = 60
    """Heartbeats between two looks at the median score of a mesh."""

    opportunistic_peers: Annotated[int, Meta(ge=0, le=100)] = 2
    """Better peers grafted then."""

    direct: tuple[str, ...] = ()
    """Peer ids, as text, that always get our messages and are kept connected; no mesh, no scores."""

    direct_ticks: Annotated[int, Meta(ge=1, le=100_000)] = 300
    """Heartbeats between two attempts to connect them."""

    topics_per_peer: Count = 1024
    """Topics one peer may be subscribed to; the others are ignored. Guess."""

    peers: Count = 8192
    """Peers known at a time; messages of others are ignored. Guess."""

    validations: Count = 1024
    """Messages that may wait for the application's verdict; the next one is ignored. go 1024."""

    validation_timeout: Seconds = 30.0
    """After which a message without a verdict is ignored. Guess."""

    score: Preset = "off"
    """Named score parameters; `scores` wins. off: nobody is scored."""

    scores: Params | None = None
    """Score parameters in full."""

    def __post_init__(self) -> None:
        if not self.degree_low <= self.degree <= self.degree_high:
            raise ValueError(
                f"degree_low {self.degree_low} <= degree {self.degree} <= degree_high"
                f" {self.degree_high} must hold"
            )
        if self.degree and not (
            self.degree_out < self.degree_low and self.degree_out <= self.degree // 2
        ):
            raise ValueError(
                f"degree_out {self.degree_out} must be below degree_low {self.degree_low}"
                f" and at most half of degree {self.degree}"
            )
        if self.degree_score > self.degree:
            raise ValueError(f"degree_score {self.degree_score} exceeds degree {self.degree}")
        if self.mcache_gossip > self.mcache_len:
            raise ValueError(f"mcache_gossip {self.mcache_gossip} exceeds mcache_len {self.mcache_len}")

    @property
    def direct_peers(self) -> tuple[PeerId, ...]:
        """`direct` as ids. Raises RemoteProtocolError for what is none."""
        return tuple(map(parse_peer, self.direct))

    @property
    def params(self) -> Params | None:
        """The score parameters that hold, or None."""
        return self.scores if self.scores is not None else PRESETS.get(self.score)

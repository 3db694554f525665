"""Scripts of gossipsub-interop (libp2p/test-plans): what each node of an experiment does, and when.

A script is one list for all nodes. `ifNodeIDEquals` is for one of them, `waitUntil` counts seconds from
the start, and everything else takes place at once, in order. So each node's part is a list of moments:

    {"script": [{"type": "waitUntil", "elapsedSeconds": 120}, {"type": "publish", …}, …]}

Sizes are bytes; durations in `gossipSubParams` are nanoseconds, as go-libp2p-pubsub has them. What go
can be told and has no counterpart here (how it dials, its warnings) is read and changes nothing. Partial
messages are no part of GossipSub 1.3 and are refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from grove_core.errors import LocalProtocolError

NodeId = Annotated[int, Meta(ge=0, le=(1 << 31) - 1)]
Seconds = Annotated[float, Meta(ge=0, le=86_400)]

SETTINGS: Final = {
    "D": "degree",
    "Dlo": "degree_low",
    "Dhi": "degree_high",
    "Dscore": "degree_score",
    "Dout": "degree_out",
    "Dlazy": "degree_lazy",
    "GossipFactor": "gossip_factor",
    "GossipRetransmission": "retransmissions",
    "HistoryLength": "mcache_len",
    "HistoryGossip": "mcache_gossip",
    "HeartbeatInitialDelay": "heartbeat_start",
    "HeartbeatInterval": "heartbeat",
    "FanoutTTL": "fanout_ttl",
    "PrunePeers": "prune_peers",
    "PruneBackoff": "prune_backoff",
    "UnsubscribeBackoff": "unsubscribe_backoff",
    "GraftFloodThreshold": "graft_flood",
    "MaxIHaveLength": "max_ihave_ids",
    "MaxIHaveMessages": "max_ihave_messages",
    "MaxIDontWantLength": "max_idontwant_ids",
    "MaxIDontWantMessages": "max_idontwant_messages",
    "IWantFollowupTime": "iwant_followup",
    "IDontWantMessageThreshold": "idontwant_size",
    "IDontWantMessageTTL": "idontwant_heartbeats",
    "OpportunisticGraftTicks": "opportunistic_ticks",
    "OpportunisticGraftPeers": "opportunistic_peers",
    "DirectConnectTicks": "direct_ticks",
}
"""go-libp2p-pubsub's parameter -> ours."""
NANOSECONDS: Final = (
    "HeartbeatInitialDelay", "HeartbeatInterval", "FanoutTTL", "PruneBackoff", "UnsubscribeBackoff",
    "GraftFloodThreshold", "IWantFollowupTime",
)  # fmt: skip


class InitGossipSub(msgspec.Struct, frozen=True, tag_field="type", tag="initGossipSub"):
    gossipSubParams: dict[str, int | float | None] = {}

    @property
    def settings(self) -> dict[str, Any]:
        """For the table [plugins.gossipsub]."""
        return {
            SETTINGS[name]: value / 1e9 if name in NANOSECONDS else value
            for name, value in self.gossipSubParams.items()
            if name in SETTINGS and value is not None
        }


class Connect(msgspec.Struct, frozen=True, tag_field="type", tag="connect"):
    connectTo: tuple[NodeId, ...]


class WaitUntil(msgspec.Struct, frozen=True, tag_field="type", tag="waitUntil"):
    elapsedSeconds: Seconds


class SubscribeToTopic(msgspec.Struct, frozen=True, tag_field="type", tag="subscribeToTopic"):
    topicID: str
    partial: bool = False


class SetTopicValidationDelay(
    msgspec.Struct, frozen=True, tag_field="type", tag="setTopicValidationDelay"
):
    topicID: str
    delaySeconds: Seconds


class Publish(msgspec.Struct, frozen=True, tag_field="type", tag="publish"):
    messageID: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    messageSizeBytes: Annotated[int, Meta(ge=8)]
    topicID: str

    @property
    def data(self) -> bytes:
        """The id, big-endian in 8 bytes, and zeros."""
        return self.messageID.to_bytes(8, "big").ljust(self.messageSizeBytes, b"\0")


class AddPartialMessage(msgspec.Struct, frozen=True, tag_field="type", tag="addPartialMessage"):
    pass


class PublishPartial(msgspec.Struct, frozen=True, tag_field="type", tag="publishPartial"):
    pass


Plain = (
    InitGossipSub | Connect | WaitUntil | SubscribeToTopic | SetTopicValidationDelay | Publish
    | AddPartialMessage | PublishPartial
)  # fmt: skip


class IfNodeIDEquals(msgspec.Struct, frozen=True, tag_field="type", tag="ifNodeIDEquals"):
    nodeID: NodeId
    instruction: Plain | IfNodeIDEquals


class Script(msgspec.Struct, frozen=True):
    script: tuple[Plain | IfNodeIDEquals, ...]

    def of(self, node: int) -> list[tuple[float, Any]]:
        """A node's part: (seconds from the start, instruction), in order. LocalProtocolError for what
        Grove cannot do."""
        now, found = 0.0, []
        for one in self.script:
            while isinstance(one, IfNodeIDEquals) and one.nodeID == node:
                one = one.instruction
            if isinstance(one, WaitUntil):
                now = max(now, one.elapsedSeconds)
            elif isinstance(one, AddPartialMessage | PublishPartial) or getattr(one, "partial", False):
                raise LocalProtocolError(
                    "the script wants partial messages, which Grove's GossipSub does not have"
                )
            elif not isinstance(one, IfNodeIDEquals):
                found.append((now, one))
        return found

    @property
    def ends(self) -> float:
        """Seconds from the start until the last wait is over."""
        return max((one.elapsedSeconds for one in self.script if isinstance(one, WaitUntil)), default=0.0)


def read(data: bytes) -> Script:
    """params.json. LocalProtocolError if it is none, with the place."""
    try:
        return msgspec.json.decode(data, type=Script)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LocalProtocolError(f"no script of gossipsub-interop: {error}") from None

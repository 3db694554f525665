"""What can be set about hierarchical consensus: the table ``[plugins.hierarchy]``. Durations are seconds.

What the protocols inside are set to stands in their own tables, but for who votes in them and how their
groups are called: that follows from here. All members set everything here alike.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

MAX_MEMBERS = 1024
MAX_GROUP = 128

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Peers = Annotated[tuple[str, ...], Meta(max_length=MAX_MEMBERS)]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of one member. ValueError for settings that contradict each other."""

    variant: Literal["trusting", "certified"] = "certified"
    """"trusting": the groups' leaders run the upper protocol in their own names, as DLCA_R_P is
    published; one that lies can fork the order. "certified": each group runs it as one, and what a group
    says carries the signatures of a quorum of its members."""

    group: str = "pbft"
    """The consensus plugin inside each group."""

    leaders: str = "raft"
    """The consensus plugin between the groups."""

    flow: Literal["one", "all"] = "one"
    """trusting: who agrees on an entry before it is ordered: the group it comes from, as published, or
    every group (consensus.md 1.3), so that members have it from their own group. Under "certified" every
    group decides on every message anyway."""

    village: Annotated[str, Meta(max_length=200)] = ""
    """Names the whole; what other villages say counts for nothing."""

    members: Peers = ()
    """Peer ids to be cut into groups. Empty: `groups` says it; if that is empty too, this node is in none
    and its proposals are rejected."""

    size: Annotated[int, Meta(ge=1, le=MAX_GROUP)] = 16
    """Members of one group, at least, when groups are formed. Below 16 strangers are soon captured: of
    100 members with 10 liars some group of 10 has more than it tolerates in 8 % of all draws."""

    seed: Annotated[str, Meta(max_length=256)] = ""
    """Who is with whom follows from this and the members; nobody who lies should have chosen it. Later
    epochs draw from what was ordered until they began."""

    groups: Annotated[tuple[Annotated[tuple[str, ...], Meta(min_length=1, max_length=MAX_GROUP)], ...],
                      Meta(max_length=256)] = ()  # fmt: skip
    """The groups themselves, if they are not to be drawn."""

    observe: Seconds = 2.0
    """trusting: how often a member asks its leader what it missed, and a leader takes up again what the
    upper protocol did not answer. Two silences in a row make the group look for another leader."""

    patience: Seconds = 1.0
    """certified: how long the others leave it to f + 1 of them to say that a timer is due or that a
    message came, and when they say it again. trusting: how long a member to whom an entry was only named
    waits for its group's decision before it asks the leader for the entry, and asks again. Guess."""

    pending: Annotated[int, Meta(ge=1, le=1 << 20)] = 4096
    """Decisions of the own group that wait for the upper protocol, and entries that wait for earlier
    ones to be fetched; the oldest give way."""

    snapshot_every: Annotated[int, Meta(ge=16, le=1 << 30)] = 1024
    """Positions between two states asked of the state machine. Once enough members vouch for one, which
    takes some positions itself, what came before is forgotten, above and below."""

    history: Annotated[int, Meta(ge=1, le=1 << 30)] = 8192
    """Positions after which the past is forgotten though no state machine ever handed in a state;
    newcomers then do not get it."""

    sponsors: Literal["weak", "one"] = "weak"
    """Members of one group that must ask alike to let somebody in, or to send somebody else away: f + 1,
    so that a correct one is among them, or any single one. Who leaves asks alone."""

    absence: Seconds = 30.0
    """A member that answers nobody for so long is absent. Each group watches the one before it."""

    spare: Annotated[int, Meta(ge=0, le=MAX_GROUP)] = 0
    """Regroup when fewer than a quorum and so many more of a group are present: 0 waits until it can
    decide nothing any more."""

    handovers: Annotated[int, Meta(ge=1, le=10_000)] = 256
    """Epochs remembered with their proof, so that who slept through fewer finds its way back."""

    def __post_init__(self) -> None:
        if self.members and self.groups:
            raise ValueError("set either members (and size) or groups, and not both")
        everybody = self.members or tuple(peer for group in self.groups for peer in group)
        if len(set(everybody)) != len(everybody):
            raise ValueError("a peer is named twice")
        if self.flow == "all" and self.variant == "certified":
            raise ValueError(
                'flow = "all" is for variant = "trusting": certified groups all decide anyway'
            )
        if self.history < 2 * self.snapshot_every:
            raise ValueError(
                f"history {self.history} is less than twice snapshot_every {self.snapshot_every}: a "
                "state machine would have no time to answer"
            )
        if self.members and self.size > len(self.members):
            raise ValueError(f"size {self.size} is more than the {len(self.members)} members")

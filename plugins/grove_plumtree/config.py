"""What can be set about Plumtree: the table ``[plugins.plumtree]``.

The paper publishes no timer; what is marked "guess" has no better source. Durations are seconds.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from grove_plumtree.messages import MAX_PAYLOAD

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Count = Annotated[int, Meta(ge=1, le=10_000_000)]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of one Plumtree machine. ValueError if graft_min > graft_max."""

    max_payload: Annotated[int, Meta(ge=1, le=MAX_PAYLOAD)] = MAX_PAYLOAD
    """Bytes of one message's data, ours and others'. Larger things belong in storage, their hash here."""

    ihave_interval: Annotated[float, Meta(ge=0, le=60)] = 0.05
    """How long announcements gather before one IHAVE carries them; 0 sends each at once, as in the
    paper's figures. iroh-gossip takes 5 ms, Partisan 1 s. Guess."""

    graft_start: Seconds = 1.0
    """T1 before anything was measured: from the first announcement to GRAFT. sile/plumtree takes 0.5 s,
    which over links of 100 ms grafts needlessly, and that deepens the tree (timing.py)."""

    graft_min: Seconds = 0.1
    """Least T1, whatever was measured; also the least T2. Guess."""

    graft_max: Seconds = 3.0
    """Greatest T1 and T2, whatever was measured. A payload that waited for somebody else's repair is late
    too, so after a failure T1 grows from node to node; with 10 s here messages were under way for longer
    when half of 500 nodes had crashed. Links of half a second each way want the 10 s all the same."""

    optimise_after: Annotated[int, Meta(ge=0, le=1000)] = 0
    """Hops by which an announcement must beat the payload to replace the link it came by; 0 never.
    The paper: 3 for one sender, 7 for many. Off: with many senders it cost the paper 48,975 messages
    instead of 39,989, and over links of unequal latency fewer hops are not less time (measured:
    540 ms to the last of 10,000 nodes instead of 373)."""

    catch_up: Annotated[float, Meta(ge=0, le=3600)] = 10.0
    """A new neighbour is told of payloads not older than this, so that what passed between the loss of
    a link and its repair is not missed; 0 tells nothing, as in the paper. Guess."""

    kept_messages: Count = 1024
    """Payloads kept to answer GRAFT."""

    kept_bytes: Annotated[int, Meta(ge=MAX_PAYLOAD, le=1 << 32)] = 8 << 20
    """Bytes of payload kept to answer GRAFT."""

    kept_for: Seconds = 60.0
    """Age at which a payload may be forgotten, and is within half as much again. iroh-gossip: 30 s."""

    seen_messages: Count = 65_536
    """Ids remembered so that nothing is delivered twice; about 200 bytes each."""

    seen_for: Seconds = 600.0
    """Age at which an id may be forgotten. A message replayed later than this is delivered again."""

    missing: Count = 4096
    """Announced messages waited for; announcements beyond are ignored."""

    missing_per_peer: Count = 1024
    """Open announcements of one neighbour; beyond, ignored, so that one liar cannot fill the table."""

    def __post_init__(self) -> None:
        if self.graft_min > self.graft_max:
            raise ValueError(f"graft_min {self.graft_min} s exceeds graft_max {self.graft_max} s")
        if self.seen_for < self.kept_for:
            raise ValueError(f"seen_for {self.seen_for} s is less than kept_for {self.kept_for} s")

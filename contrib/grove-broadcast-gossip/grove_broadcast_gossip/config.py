"""What can be set about gossip: the table ``[plugins.gossip]``."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from grove_broadcast_gossip.messages import MAX_PAYLOAD


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of one machine."""

    fanout: Annotated[int, Meta(ge=1, le=1024)] = 4
    """Neighbours a message is pushed to, drawn anew for each. Paper."""

    acknowledged: bool = False
    """Ask for a receipt of each push, and tell the membership who gave none. Paper: CyclonAcked."""

    ack_timeout: Annotated[float, Meta(gt=0, le=86_400)] = 5.0
    """Seconds until a push without a receipt has failed. The paper's simulator notices at once. Guess."""

    retries: Annotated[int, Meta(ge=0, le=1024)] = 0
    """Other neighbours tried in place of one that did not answer. The paper's figure 3, in which
    CyclonAcked needs 25 messages to recover from 70 % failures, fits none."""

    awaiting: Annotated[int, Meta(ge=1, le=1_000_000)] = 4096
    """Receipts awaited at a time; pushes beyond go without one."""

    max_payload: Annotated[int, Meta(ge=1, le=MAX_PAYLOAD)] = MAX_PAYLOAD
    """Bytes of one message's data, ours and others'."""

    seen_messages: Annotated[int, Meta(ge=1, le=10_000_000)] = 65_536
    """Ids remembered so that nothing is delivered twice; about 200 bytes each."""

    seen_for: Annotated[float, Meta(gt=0, le=86_400)] = 600.0
    """Seconds after which an id may be forgotten; a message replayed later is delivered again."""

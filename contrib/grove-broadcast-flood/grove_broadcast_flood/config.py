"""What can be set about flooding: the table ``[plugins.flood]``."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from grove_broadcast_flood.messages import MAX_PAYLOAD


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of one machine."""

    max_payload: Annotated[int, Meta(ge=1, le=MAX_PAYLOAD)] = MAX_PAYLOAD
    """Bytes of one message's data, ours and others'."""

    seen_messages: Annotated[int, Meta(ge=1, le=10_000_000)] = 65_536
    """Ids remembered so that nothing is delivered twice; about 200 bytes each."""

    seen_for: Annotated[float, Meta(gt=0, le=86_400)] = 600.0
    """Seconds after which an id may be forgotten; a message replayed later is delivered again."""

"""What GossipSub says beyond Delivered: a message waits for the application's verdict."""

from __future__ import annotations

from typing import Literal

from grove_core.machine import Event, PeerId

Verdict = Literal["accept", "reject", "ignore"]
"""accept: deliver and pass on. reject: drop, and blame who brought it (P4). ignore: drop."""


class ValidationRequested(Event, frozen=True, gc=False):
    """Answer with `GossipSub.validated(ctx, id, verdict)`; until then nobody gets the message.

    sender: the peer that brought it. author: who signed it, empty under StrictNoSign.
    """

    id: bytes
    topic: str
    author: PeerId
    data: bytes
    sender: PeerId

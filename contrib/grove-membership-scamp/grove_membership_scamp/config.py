"""What can be set about Scamp: the table ``[plugins.scamp]``. Durations are seconds.

HyParView's comparison (TR DI-FCUL 07-13) gives c; no source read here gives a duration.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from grove_membership_scamp.messages import MAX_HOPS, MAX_REDIRECTS, MAX_VIEW

Seconds = Annotated[float, Meta(gt=0, le=86_400)]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of one Scamp machine."""

    c: Annotated[int, Meta(ge=0, le=64)] = 4
    """Copies of a subscription beyond one for each of the contact's entries. Paper."""

    indirection: Annotated[int, Meta(ge=0, le=MAX_REDIRECTS)] = 4
    """Random hops from the contact asked to the one that acts, so that newcomers who all ask one node
    do not all stand beside it. 0 where contacts are random anyway, as in the paper. Guess."""

    walk_max: Annotated[int, Meta(ge=1, le=MAX_HOPS)] = 1024
    """Hops after which a copy that nobody kept is dropped; a walk takes about one per entry of a view.
    Without it, copies walk for ever where everybody knows the newcomer (PeerSim's port caps at 2n)."""

    view_max: Annotated[int, Meta(ge=1, le=MAX_VIEW)] = 256
    """Entries of the view, and of those who have us in theirs; (c + 1) ln n is 69 at a million."""

    lease: Seconds = 1800.0
    """How long an entry lasts, and how often its owner subscribes anew. Guess."""

    heartbeat_interval: Seconds = 60.0
    """Between two heartbeats to everybody in the view. Guess."""

    isolation: Seconds = 180.0
    """Without any heartbeat for so long, a node takes itself for forgotten. Guess."""

    answer_timeout: Seconds = 10.0
    """Until a contact that does not answer is given up. Guess."""

    contacts: Annotated[int, Meta(ge=1, le=256)] = 16
    """Peers remembered as ways back in: those given to `join`."""

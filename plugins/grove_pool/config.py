"""What can be set about the pool: the table ``[plugins.pool]``. Durations are seconds."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=1, le=65_536)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of one pool. ValueError unless outbound <= low <= high."""

    low: Count = 20
    """Below so many held connections the pool dials. GossipSub experiments dial 20."""

    high: Count = 40
    """Beyond so many none is taken, and what was dialled meanwhile is pruned. Guess: twice `low`."""

    outbound: Annotated[int, Meta(ge=0, le=65_536)] = 6
    """Held connections that we dialled ourselves, at least: those who dial us cannot fill the pool.
    Pruning spares them. GossipSub v1.1 asks for D_out of its mesh; this is its source of them."""

    dials: Count = 8
    """Dials in flight. The driver paces them besides (`limits.dials_per_second`)."""

    fill_interval: Seconds = 5.0
    """Between two looks at whether somebody should be dialled. Guess."""

    backoff_min: Seconds = 10.0
    """Wait after the first failed dial of a peer; doubles with each. Guess."""

    backoff_max: Seconds = 600.0
    """Longest wait after a failed dial. Guess."""

    give_up: Count = 8
    """Failed dials in a row after which a peer is forgotten until it is found again. Guess."""

    candidates: Count = 1024
    """Peers kept in reserve; beyond, the one with the most failures, then the oldest, makes room."""

    save_delay: Annotated[float, Meta(ge=0, le=86_400)] = 30.0
    """How long changes gather before the held peers are made durable; 0 keeps nothing."""

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low {self.low} exceeds high {self.high}")
        if self.outbound > self.low:
            raise ValueError(f"outbound {self.outbound} exceeds low {self.low}")

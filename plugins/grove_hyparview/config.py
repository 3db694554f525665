"""What can be set about HyParView: the table ``[plugins.hyparview]``.

The defaults are the paper's for n = 10,000 (TR DI-FCUL 07-13). Its sizing rule, for
other villages: active = log10(n) + 1, passive = 6 * (log10(n) + 1). Durations are seconds.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Ttl = Annotated[int, Meta(ge=0, le=16)]
Sample = Annotated[int, Meta(ge=0, le=15)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of one HyParView machine. ValueError if prwl > arwl."""

    active_size: Annotated[int, Meta(ge=1, le=64)] = 5
    """Links kept open: fanout + 1. Paper."""

    passive_size: Annotated[int, Meta(ge=1, le=1024)] = 30
    """Peers kept in reserve. Paper."""

    arwl: Ttl = 6
    """Active random walk length: hops a FORWARDJOIN may take. Paper."""

    prwl: Ttl = 3
    """Passive random walk length: the ttl at which a newcomer also enters a passive view. Paper."""

    ka: Sample = 3
    """Ids of the active view in a SHUFFLE. Paper."""

    kp: Sample = 4
    """Ids of the passive view in a SHUFFLE. Paper."""

    shuffle_ttl: Annotated[int, Meta(ge=1, le=16)] = 6
    """Hops a SHUFFLE may take. The paper gives none; ARWL, as Partisan and iroh-gossip do."""

    shuffle_interval: Seconds = 60.0
    """The paper's cycle. It has no length there; 60 s is iroh-gossip's guess, Partisan takes 10 s.
    A shuffle costs about 7 messages of at most 9 KB in the whole village."""

    refill: Literal["now", "cycle"] = "now"
    """When a slot freed by DISCONNECT is filled again: at once, or in the next cycle. The paper does
    not say; its figures fit "cycle" (degree 4.0 after joins, clustering 0.0015), but a home should
    not stay a link short for a whole minute, so "now" (4.8, 0.0003). A broken link is always
    repaired at once."""

    repair: bool = True
    """Fill free slots at all. False freezes the views: the negative control of experiments."""

    attempts: Annotated[int, Meta(ge=1, le=1024)] = 30
    """Passive peers asked to become neighbours between two cycles (or two broken links) before
    giving up until the next. The paper asks all of the passive view."""

    pending: Annotated[int, Meta(ge=1, le=256)] = 16
    """Peers that are being dialled or asked at a time; a FORWARDJOIN beyond goes to the passive view."""

    neighbor_timeout: Seconds = 5.0
    """Until a peer that does not answer JOIN or NEIGHBOR is given up. The paper has none;
    iroh-gossip takes 0.5 s, too short for a home behind a slow line. Guess."""

    join_rate: Annotated[float, Meta(gt=0, le=1e6)] = 20.0
    """Newcomers per second that may walk from here or push a neighbour out; others are refused and
    told of other contacts. Not in the paper: it bounds a storm of JOINs. Guess."""

    join_burst: Annotated[int, Meta(ge=1, le=1_000_000)] = 40
    """Newcomers admitted at once before `join_rate` binds. Guess."""

    rejoin_min: Seconds = 1.0
    """First wait before a node that is alone joins again; doubles up to `rejoin_max`. The paper has
    no way back from isolation (n0-computer/iroh-gossip#86). Guess."""

    rejoin_max: Seconds = 60.0
    """Longest wait between two attempts to join again. Guess."""

    contacts: Annotated[int, Meta(ge=1, le=256)] = 16
    """Peers remembered as ways back in: those given to `join`, then former neighbours."""

    save_delay: Annotated[float, Meta(ge=0, le=86_400)] = 30.0
    """How long changes of the views gather before they are made durable; 0 keeps nothing."""

    def __post_init__(self) -> None:
        if self.prwl > self.arwl:
            raise ValueError(f"prwl {self.prwl} exceeds arwl {self.arwl}: no walk would ever pass it")

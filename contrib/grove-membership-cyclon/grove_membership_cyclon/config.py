"""What can be set about Cyclon: the table ``[plugins.cyclon]``.

The defaults are those of HyParView's comparison (TR DI-FCUL 07-13, n = 10,000). Durations are seconds.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from grove_membership_cyclon.messages import MAX_ENTRIES

Seconds = Annotated[float, Meta(gt=0, le=86_400)]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of one Cyclon machine. ValueError if a shuffle is longer than the view."""

    view_size: Annotated[int, Meta(ge=1, le=256)] = 35
    """Entries of the view: the paper's c. As many as HyParView's two views together."""

    shuffle_size: Annotated[int, Meta(ge=1, le=MAX_ENTRIES)] = 14
    """Entries in one shuffle, our own included: the paper's l."""

    walk_length: Annotated[int, Meta(ge=0, le=16)] = 5
    """Hops of each of the `view_size` walks that bring in a newcomer. Paper."""

    shuffle_interval: Seconds = 60.0
    """The paper's cycle, which has no length there; HyParView's default here. A shuffle is a question
    and an answer of at most 14 KB each."""

    answer_timeout: Seconds = 10.0
    """Until a peer that does not answer a shuffle or a JOIN is given up. Guess."""

    contacts: Annotated[int, Meta(ge=1, le=256)] = 16
    """Peers remembered as ways back in: those given to `join`."""

    save_cycles: Annotated[int, Meta(ge=0, le=10_000)] = 10
    """Cycles between two records of the view; 0 keeps none. Ours: the paper's nodes do not restart."""

    def __post_init__(self) -> None:
        if self.shuffle_size > self.view_size:
            raise ValueError(f"shuffle_size {self.shuffle_size} exceeds view_size {self.view_size}")

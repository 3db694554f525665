"""What PBFT tells besides the words of its role."""

from __future__ import annotations

from grove_core.machine import Event


class Answered(Event, frozen=True, gc=False):
    """f + 1 voters told this node, which does not vote, that they executed its proposal (PBFT §2).

    The Committed event comes with the decision itself; if that is earlier, this one is left out.
    """

    id: bytes

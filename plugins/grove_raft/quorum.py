"""Majorities, and majorities of both halves of a joint configuration (§3.4, §4.3).

Pure functions over voters and what each is known to hold or to have said. A quorum is floor(n/2) + 1
voters; where a configuration is joint, a quorum of each half. A half without voters decides nothing
and stands in nobody's way (so an unused half is simply empty).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, TypeAlias

from grove_core.machine import PeerId

Outcome: TypeAlias = Literal["won", "lost", "open"]

NO_LIMIT: Final = 1 << 62
"""What a half without voters has agreed on: anything."""


def size(voters: int) -> int:
    """How many of so many voters are a quorum."""
    return voters // 2 + 1


def agreed(voters: Sequence[PeerId], held: Mapping[PeerId, int]) -> int:
    """The greatest number that a quorum holds or exceeds; who is not in `held` holds 0.

    NO_LIMIT without voters.
    """
    if not voters:
        return NO_LIMIT
    ascending = sorted([held.get(voter, 0) for voter in voters])
    return ascending[len(ascending) - size(len(ascending))]


def agreed_jointly(
    voters: Sequence[PeerId], outgoing: Sequence[PeerId], held: Mapping[PeerId, int]
) -> int:
    """What both halves agree on."""
    if not outgoing:
        return agreed(voters, held)
    return min(agreed(voters, held), agreed(outgoing, held))


def tally(voters: Sequence[PeerId], votes: Mapping[PeerId, bool]) -> Outcome:
    """How an election stands: each voter counts once, whoever else spoke does not count."""
    if not voters:
        return "won"
    quorum = size(len(voters))
    yes = sum(1 for voter in voters if votes.get(voter) is True)
    no = sum(1 for voter in voters if votes.get(voter) is False)
    if yes >= quorum:
        return "won"
    return "lost" if len(voters) - no < quorum else "open"


def tally_jointly(
    voters: Sequence[PeerId], outgoing: Sequence[PeerId], votes: Mapping[PeerId, bool]
) -> Outcome:
    """Won in both halves, or lost in one."""
    halves = (tally(voters, votes), tally(outgoing, votes))
    if halves == ("won", "won"):
        return "won"
    return "lost" if "lost" in halves else "open"

"""Who decides and who listens, as agreed state: joins, exits, promotions and demotions.

NG-PBFT (ICCBN 2024) separates a consensus group from an observation group and lets nodes come and go
without a restart; beyond that sentence this design is ours. A change is a command like any other.
Executed in the interval that ends with checkpoint kK, it takes effect at the one after, (k+1)K: whoever
may vote on a number beyond (k+1)K has the checkpoint kK behind it, because the window is 2K, and so
knows of the change. There the voters, the quorum and the configuration's name switch together, and the
view begins at 0 again.

Rules:
1. Anybody may leave, and step down from voter to observer, by its own request; any member brings in an
   observer. A promotion, or somebody else's exit or demotion, wants sponsors: the same request by f + 1
   voters, so that a correct one is among them. A voter renews itself: nothing changes but the number.
2. At one switch at most max(1, f) voters come or go; what is left waits for the next checkpoint. So the
   members that stay are a quorum of those before, and hand the state over.
3. There is always a voter; never more than 512. Who is asked to be promoted must be an observer by then.
"""

from __future__ import annotations

from typing import Final

import msgspec

from grove_core.machine import PeerId
from grove_pbft.messages import MAX_LEARNERS, MAX_VOTERS, Change, Membership, Sponsored
from grove_pbft.quorum import faults

RENEW: Final = "renew"
ACTS: Final = ("join", "exit", "promote", "demote", RENEW)
MAX_WAITING: Final = 256
"""Changes that are agreed and wait for a checkpoint."""
MAX_SPONSORED: Final = 32
"""Changes that wait for sponsors; the oldest gives way."""

WAITING: Final = "waiting"
SPONSORED: Final = "sponsored"


def ask(
    now: Membership, client: PeerId, changes: tuple[Change, ...], sponsors: int, every: int, seq: int
) -> tuple[Membership, str]:
    """A member's request for changes, executed at seq. Gives the membership and what became of the
    request: "waiting" for the checkpoint, "sponsored" (more voters must ask), or why it is refused.

    sponsors: voters that must ask for what concerns others. every: K.
    """
    if not changes:
        return now, "no change was asked for"
    refusal = _refusal(now, changes)
    if refusal:
        return now, refusal
    if any(change.act == RENEW and change in now.waiting for change in changes):
        return now, "the renewal is waiting already"
    if not all(one.act == "join" or (one.act != "promote" and one.peer == client) for one in changes):
        if client not in now.voters:
            return now, "only voters can ask for what concerns others"
        now, count = _sponsor(now, client, changes)
        if count < sponsors:
            return now, SPONSORED
        now = _changed(now, sponsored=tuple(s for s in now.sponsored if s.changes != changes))
    if len(now.waiting) + len(changes) > MAX_WAITING:
        return now, f"{len(now.waiting)} changes are waiting; limit {MAX_WAITING}. Ask again later"
    switch = now.switch or ((seq + every - 1) // every + 1) * every
    return _changed(now, waiting=now.waiting + changes, switch=switch), WAITING


def switch(now: Membership, every: int) -> Membership:
    """The membership from the checkpoint `now.switch` on. The number is one more if the voters changed,
    or one was renewed."""
    voters, learners = list(now.voters), list(now.learners)
    left = max(1, faults(len(voters)))
    waiting = list(now.waiting)
    is_renewed = False
    while waiting:
        change = waiting[0]
        costs = change.act in ("promote", "demote", RENEW) or (
            change.act == "exit" and change.peer in voters
        )
        if costs and not left:
            break
        left -= costs
        is_renewed |= change.act == RENEW and change.peer in voters
        _apply(waiting.pop(0), voters, learners)
    at = now.switch
    is_new = is_renewed or tuple(voters) != now.voters
    return Membership(
        number=now.number + is_new,
        voters=tuple(voters),
        learners=tuple(learners),
        base=at if is_new else now.base,
        switch=at + every if waiting else 0,
        waiting=tuple(waiting),
        sponsored=tuple(s for s in now.sponsored if not _refusal_of(voters, learners, s.changes)),
    )


def expected(now: Membership) -> tuple[list[PeerId], list[PeerId]]:
    """Voters and learners once everything that waits has taken effect."""
    voters, learners = list(now.voters), list(now.learners)
    for change in now.waiting:
        _apply(change, voters, learners)
    return voters, learners


def difference(
    now: Membership, voters: tuple[PeerId, ...], learners: tuple[PeerId, ...]
) -> tuple[Change, ...]:
    """The steps from what is expected to be to the wanted voters and learners."""
    had, listened = expected(now)
    changes = [Change("join", peer) for peer in voters + learners if peer not in had + listened]
    changes += [Change("promote", peer) for peer in voters if peer not in had]
    changes += [Change("demote", peer) for peer in had if peer in learners]
    changes += [Change("exit", peer) for peer in had + listened if peer not in voters + learners]
    return tuple(dict.fromkeys(changes))


def _refusal(now: Membership, changes: tuple[Change, ...]) -> str:
    return _refusal_of(*expected(now), changes)


def _refusal_of(voters: list[PeerId], learners: list[PeerId], changes: tuple[Change, ...]) -> str:
    voters, learners = list(voters), list(learners)
    for change in changes:
        act, peer = change.act, change.peer
        if act not in ACTS:
            return f"no change is called {act!r}; there are {', '.join(ACTS)}"
        if act == "join" and (peer in voters or peer in learners):
            return "who joins is a member already"
        if act == "exit" and peer not in voters and peer not in learners:
            return "who exits is no member"
        if act == "promote" and peer not in learners:
            return "who is promoted is no observer"
        if act in ("demote", RENEW) and peer not in voters:
            return f"who is {act}{'ed' if act == RENEW else 'd'} is no voter"
        if act in ("exit", "demote") and voters == [peer]:
            return "the last voter cannot go"
        _apply(change, voters, learners)
    if len(voters) > MAX_VOTERS or len(learners) > MAX_LEARNERS:
        return (
            f"{len(voters)} voters and {len(learners)} observers; limits {MAX_VOTERS} and {MAX_LEARNERS}"
        )
    return ""


def _apply(change: Change, voters: list[PeerId], learners: list[PeerId]) -> None:
    """Take one step. One that makes no sense any more is no step."""
    act, peer = change.act, change.peer
    if act == "join" and peer not in voters and peer not in learners:
        learners.append(peer)
    elif act == "promote" and peer in learners:
        learners.remove(peer)
        voters.append(peer)
    elif peer in voters and len(voters) > 1 and act in ("demote", "exit"):
        voters.remove(peer)
        if act == "demote":
            learners.append(peer)
    elif act == "exit" and peer in learners:
        learners.remove(peer)
    voters.sort()
    learners.sort()


def _sponsor(now: Membership, client: PeerId, changes: tuple[Change, ...]) -> tuple[Membership, int]:
    """Count a voter among those who asked for exactly this; only who still votes counts."""
    asked: tuple[PeerId, ...] = ()
    others = []
    for one in now.sponsored:
        if one.changes == changes:
            asked = tuple(voter for voter in one.voters if voter in now.voters)
        else:
            others.append(one)
    if client not in asked:
        asked = tuple(sorted((*asked, client)))
    sponsored = (*others, Sponsored(changes, asked))[-MAX_SPONSORED:]
    return _changed(now, sponsored=sponsored), len(asked)


def _changed(now: Membership, **fields: object) -> Membership:
    changed: Membership = msgspec.structs.replace(now, **fields)
    return changed

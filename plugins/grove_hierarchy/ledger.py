"""What follows from the global order besides commands: who is a member, what may be forgotten.

A `Roll` is all that is agreed of it as of a position, and `follow` goes one position on. Every member
that has the same order has the same roll, so what is derived from it needs no further word:

    CHANGE   asked by whoever leaves, or by `sponsors` members of one group alike: the epoch ends here.
             The next one has the new members, in groups drawn from a seed that is the chain itself
    MARK     said by f + 1 members of one group alike, of whom one is correct: the state as of that
             position has this digest, and the past up to it may be forgotten

Invariants:
1. The chain commits to every entry in order: two rolls with one chain have one history.
2. An epoch's last position is final before the first of the next: nothing is followed beyond it until
   the next epoch's groups order it.
3. What waits for more members to ask alike is bounded: the oldest gives way.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

import msgspec

from grove_core.machine import PeerId
from grove_hierarchy.config import Config
from grove_hierarchy.groups import Village, form
from grove_hierarchy.messages import (
    CHANGE,
    DOMAIN,
    MARK,
    MAX_MEMBERS,
    NO_MARK,
    Backed,
    Change,
    Entry,
    Roll,
    decode_change,
    decode_mark,
    encode,
)

MAX_BACKED: Final = 64
"""Changes and marks that wait for more members to ask alike."""


def first_roll(village: Village) -> Roll:
    """The roll of a village whose order is empty."""
    genesis = sha256(DOMAIN + b"chain:" + village.name).digest()
    return Roll(0, genesis, 0, 0, genesis, village.members, (), NO_MARK)


def village_of(config: Config, roll: Roll) -> Village:
    """The groups of a roll's epoch."""
    if roll.epoch == 0:
        return Village(config)
    return Village(config, roll.epoch, form(roll.members, config.size, roll.seed))


def link(chain: bytes, entry: Entry) -> bytes:
    """The chain with one entry more."""
    return sha256(chain + encode(entry)).digest()


def follow(config: Config, village: Village, roll: Roll, entry: Entry) -> tuple[Roll, str]:
    """The roll after one entry more, and why the entry was refused, if it asked for what cannot be."""
    roll = _changed(roll, position=roll.position + 1, chain=link(roll.chain, entry))
    if entry.kind == CHANGE:
        return _follow_change(config, village, roll, entry)
    if entry.kind == MARK:
        return _follow_mark(config, village, roll, entry), ""
    return roll, ""


def refusal(members: tuple[PeerId, ...], change: Change) -> str:
    """Why a change cannot be made; empty if it can."""
    if any(peer in members for peer in change.join):
        return "who joins is a member already"
    if any(peer not in members for peer in change.leave):
        return "who leaves is no member"
    left = len(members) + len(change.join) - len(change.leave)
    if not 0 < left <= MAX_MEMBERS:
        return f"{left} members would be left; at least one, at most {MAX_MEMBERS}"
    return ""


def _follow_change(config: Config, village: Village, roll: Roll, entry: Entry) -> tuple[Roll, str]:
    change = decode_change(entry.command)
    if change is None:
        return roll, "no change could be read"
    change = Change(tuple(sorted(set(change.join))), tuple(sorted(set(change.leave))))
    reason = refusal(roll.members, change)
    if reason:
        return roll, reason
    if change != Change((), (entry.proposer,)):
        group = village.of.get(entry.proposer)
        if group is None:
            return roll, "only members can ask for what concerns others"
        needed = group.weak if config.sponsors == "weak" else 1
        roll, count = _back(village, roll, entry, encode(change))
        if count < needed:
            return roll, ""
    members = [peer for peer in roll.members if peer not in change.leave]
    return (
        _changed(
            roll,
            epoch=roll.epoch + 1,
            opened=roll.position,
            seed=roll.chain,
            members=tuple(sorted((*members, *change.join))),
            backed=(),
        ),
        "",
    )


def _follow_mark(config: Config, village: Village, roll: Roll, entry: Entry) -> Roll:
    mark, group = decode_mark(entry.command), village.of.get(entry.proposer)
    if mark is None or group is None or mark.position % config.snapshot_every:
        return roll
    if not roll.mark.position < mark.position < roll.position:
        return roll
    roll, count = _back(village, roll, entry, encode(mark))
    if count < group.weak:
        return roll
    backed = tuple(one for one in roll.backed if one.kind != MARK)
    return _changed(roll, mark=mark, backed=backed)


def _back(village: Village, roll: Roll, entry: Entry, what: bytes) -> tuple[Roll, int]:
    """Count a member among those of its group who asked for exactly this. One asks for one change and one
    mark at a time: an older wish of its is withdrawn."""
    place = village.of[entry.proposer].number
    by: tuple[PeerId, ...] = (entry.proposer,)
    others: list[Backed] = []
    for one in roll.backed:
        if (one.kind, one.what, one.group) == (entry.kind, what, place):
            by = tuple(sorted({*one.by, entry.proposer}))
        elif one.kind == entry.kind and entry.proposer in one.by:
            left = tuple(peer for peer in one.by if peer != entry.proposer)
            others += [Backed(one.kind, one.what, one.group, left)] if left else []
        else:
            others.append(one)
    backed = (*others, Backed(entry.kind, what, place, by))[-MAX_BACKED:]
    return _changed(roll, backed=backed), len(by)


def _changed(roll: Roll, **fields: object) -> Roll:
    changed: Roll = msgspec.structs.replace(roll, **fields)
    return changed

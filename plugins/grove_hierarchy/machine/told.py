"""What a leader told its group of the order, until it can be followed.

A leader names an entry that its group decided on (`Named`) and sends any other whole (`Down`): nobody is
sent a body that it has from the group's own protocol. Names overtake decisions, since a leader may know
of one first, so what is told waits here for the position before it and for its body.

Invariants:
1. Held are at most MAX_TOLD positions, all behind the one that was taken last.
2. A body is what was named only if it has the digest that the leader gave: an id says nothing, its owner
   may have used it twice.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Final

from grove_hierarchy.messages import Entry, Named, encode

MAX_TOLD: Final = 64
"""Positions told ahead that are kept, of at most a command's length each; others are asked for later."""


class Told:
    """Positions of the global order -> what the leader said is there."""

    __slots__ = ("_at", "last")

    def __init__(self) -> None:
        self._at: dict[int, Entry | Named] = {}
        self.last = 0
        """The last position we were told of, kept or not."""

    def put(self, position: int, taken: int, what: Entry | Named) -> None:
        """Keep what is said of a position, if that is soon. taken: the last one that was taken."""
        self.last = max(self.last, position)
        is_known = isinstance(self._at.get(position), Entry)
        if taken < position <= taken + MAX_TOLD and not is_known:
            self._at[position] = what

    def following(self, taken: int, decided: Callable[[bytes], Entry | None]) -> Entry | None:
        """The next entry, if it is here; forgets the positions up to `taken`.

        decided: what the own group decided on under an id, if that is not ordered yet."""
        for position in [position for position in self._at if position <= taken]:
            del self._at[position]
        what = self._at.get(taken + 1)
        if not isinstance(what, Named):
            return what
        entry = decided(what.id)
        return entry if entry is not None and digest_of(entry) == what.digest else None

    def has_gap(self, taken: int) -> bool:
        """Whether the leader spoke of later positions and not of the next one."""
        return self.last > taken and taken + 1 not in self._at


def digest_of(entry: Entry) -> bytes:
    """What names an entry besides its id: 32 bytes."""
    return sha256(encode(entry)).digest()

"""Who is with whom: groups formed from the members and a seed, and what each tolerates.

A member's place is the rank of the hash of seed and member, so every member draws the same groups without
a word; each epoch draws anew, from what was ordered until it began. The cut gives groups of `size`
members or more, whose sizes differ by at most one.

f_g = floor((g - 1) / 3) members of a group of g may do anything; a group with more is captured, and
speaks in its own name whatever its captors like. No variant survives that (consensus.md 3.6).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final

from grove_core.identity import parse_peer
from grove_core.machine import PeerId
from grove_hierarchy.config import Config
from grove_hierarchy.messages import DOMAIN


class Group:
    """One group. members: ascending. id: what it is called as one voter of the upper protocol."""

    __slots__ = ("id", "members", "number", "quorum", "rank", "weak")

    def __init__(self, village: bytes, number: int, members: Iterable[PeerId]) -> None:
        self.number: Final = number
        self.members: Final = tuple(sorted(members))
        g = len(self.members)
        f = (g - 1) // 3
        self.weak: Final = f + 1
        """Members of whom one is correct."""
        self.quorum: Final = (g + f + 2) // 2
        """Members of whom any two such sets share a correct one: 2f + 1 when g = 3f + 1."""
        self.rank: Final = {peer: rank for rank, peer in enumerate(self.members)}
        name = sha256(DOMAIN + b"group:" + village + number.to_bytes(4, "big")).digest()
        self.id: Final = PeerId(b"\x12\x20" + name)

    def first(self, number: int, count: int) -> tuple[PeerId, ...]:
        """So many members, beginning at another one for each number."""
        g = len(self.members)
        return tuple(self.members[(number + step) % g] for step in range(min(count, g)))


class Village:
    """All groups of one epoch. name: 16 bytes that stand in everything that is signed."""

    __slots__ = ("by_id", "epoch", "groups", "members", "name", "of")

    def __init__(self, config: Config, epoch: int = 0, cut: Sequence[Sequence[PeerId]] = ()) -> None:
        """The founding epoch's groups are the configuration's, later ones are drawn: `cut`."""
        if not cut and config.groups:
            cut = [[parse_peer(text) for text in group] for group in config.groups]
        elif not cut:
            seed = sha256(config.seed.encode()).digest()
            cut = form([parse_peer(text) for text in config.members], config.size, seed)
        said = b"".join(
            bytes((len(peer),)) + peer + number.to_bytes(4, "big")
            for number, group in enumerate(cut)
            for peer in sorted(group)
        )
        head = f"{config.village}/{config.variant}/{config.group}/{config.leaders}/{epoch}:".encode()
        self.epoch: Final = epoch
        self.name: Final = sha256(DOMAIN + b"village:" + head + said).digest()[:16]
        self.groups: Final = tuple(Group(self.name, number, group) for number, group in enumerate(cut))
        self.of: Final = {peer: group for group in self.groups for peer in group.members}
        self.by_id: Final = {group.id: group for group in self.groups}
        self.members: Final = tuple(sorted(self.of))

    def is_majority(self, signers: Iterable[PeerId]) -> bool:
        """Whether f_g + 1 members of more than half of the groups are among these: the word of a village
        most of whose groups are not captured."""
        counts = [0] * len(self.groups)
        for signer in dict.fromkeys(signers):
            if signer in self.of:
                counts[self.of[signer].number] += 1
        spoke = sum(count >= group.weak for count, group in zip(counts, self.groups, strict=True))
        return 2 * spoke > len(self.groups)


def form(members: Sequence[PeerId], size: int, seed: bytes) -> list[list[PeerId]]:
    """Cut the members into groups of at least `size`; the same for any order of the members.

    seed: 32 bytes."""
    salt = DOMAIN + b"form:" + seed
    drawn = sorted(members, key=lambda peer: sha256(salt + peer).digest())
    count = min(len(drawn), max(1, len(drawn) // size))
    return [drawn[number::count] for number in range(count)]

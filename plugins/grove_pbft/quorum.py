"""How many are enough: n, f, quorums and certificates of one configuration (PBFT §2, TOCS'02 §2.2).

n voters tolerate f = floor((n - 1) / 3) that do anything at all. Two quorums of ceil((n + f + 1) / 2)
share a correct voter; f + 1 (a weak quorum) contain one. For n = 3f + 1 the quorum is 2f + 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from grove_core.machine import PeerId
from grove_pbft.messages import DOMAIN, Certificate, Signature, Signatures


class Configuration:
    """The voters between two changes. name: 16 bytes that stand in every one of their votes.

    group: hash of what the group's members agreed to run. number: ascending. voters: ascending, n of
    them.
    """

    __slots__ = ("f", "n", "name", "number", "quorum", "rank", "voters", "weak")

    def __init__(self, group: bytes, number: int, voters: tuple[PeerId, ...]) -> None:
        self.number: Final = number
        self.voters: Final = voters
        self.rank: Final = {voter: rank for rank, voter in enumerate(voters)}
        self.n: Final = len(voters)
        self.f: Final = faults(self.n)
        self.quorum: Final = quorum(self.n)
        self.weak: Final = self.f + 1
        said = b"".join(len(voter).to_bytes(1, "big") + voter for voter in voters)
        head = DOMAIN + b"configuration:" + group + number.to_bytes(8, "big")
        self.name: Final = sha256(head + said).digest()[:16]

    def primary(self, view: int) -> PeerId:
        """Who leads a view: voter view mod n."""
        return self.voters[view % self.n]

    def is_certified(self, one: Certificate) -> bool:
        """Whether a quorum of these voters signed; their signatures were checked on the way in."""
        return one.configuration == self.name and self.is_quorum(one.signatures)

    def is_quorum(self, signatures: Signatures) -> bool:
        """Whether signatures, of distinct signers, are of at least a quorum of voters and of nobody
        else."""
        return len(signatures) >= self.quorum and all(one.voter in self.rank for one in signatures)

    def certificate(
        self, view: int, seq: int, digest: bytes, signatures: Mapping[PeerId, bytes], first: PeerId | None
    ) -> Certificate:
        """A certificate with exactly a quorum of signatures, `first` among them if given."""
        chosen = sorted(signatures, key=lambda voter: (voter != first, voter))[: self.quorum]
        signed = tuple(Signature(voter, signatures[voter]) for voter in sorted(chosen))
        return Certificate(self.name, view, seq, digest, signed)


def faults(n: int) -> int:
    """f: Byzantine voters that n voters tolerate."""
    return (n - 1) // 3


def quorum(n: int) -> int:
    """Voters of whom any two such sets share a correct one: ceil((n + f + 1) / 2)."""
    return (n + faults(n) + 2) // 2

"""The log between the watermarks: per sequence number, what was accepted, voted, prepared, committed."""

from __future__ import annotations

import msgspec

from grove_core.machine import PeerId
from grove_pbft.messages import Batch, Certificate, Digest, PrePrepare, Sig, View


class Accepted(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A PRE-PREPARE that we stand by: in its view there is no other for this number. signature: the
    primary's."""

    view: View
    digest: Digest
    signature: Sig


class SlotRecord(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What must outlive a crash so that we neither contradict nor forget what we signed."""

    accepted: Accepted | None
    prepared: Certificate | None


class Votes:
    """Votes of one kind for one number: each voter's first in the highest view it voted in.

    So a voter counts once, whoever repeats or contradicts itself, and n votes are the most there can be.
    """

    __slots__ = ("_by_statement", "_last")

    def __init__(self) -> None:
        self._last: dict[PeerId, tuple[int, bytes]] = {}
        self._by_statement: dict[tuple[int, bytes], dict[PeerId, bytes]] = {}

    def add(self, voter: PeerId, view: int, digest: bytes, signature: bytes) -> bool:
        """Whether the vote is the voter's newest and was not known."""
        last = self._last.get(voter)
        if last is not None:
            if last[0] >= view:
                return False
            group = self._by_statement[last]
            del group[voter]
            if not group:
                del self._by_statement[last]
        said = (view, digest)
        self._last[voter] = said
        self._by_statement.setdefault(said, {})[voter] = signature
        return True

    def of(self, view: int, digest: bytes) -> dict[PeerId, bytes]:
        """Who said exactly this, with their signatures."""
        return self._by_statement.get((view, digest), {})

    def said(self, view: int) -> tuple[bytes, ...]:
        """The digests that anybody voted for in a view."""
        return tuple(digest for other, digest in self._by_statement if other == view)

    def __len__(self) -> int:
        return len(self._last)


class Slot:
    """One sequence number. Batches are kept while something refers to them: at most three."""

    __slots__ = ("accepted", "batches", "commits", "committed", "early", "prepared", "prepares")

    def __init__(self) -> None:
        self.accepted: Accepted | None = None
        self.prepares = Votes()
        self.commits = Votes()
        self.prepared: Certificate | None = None
        """The one of the highest view: what P of our next VIEW-CHANGE says."""
        self.committed: Certificate | None = None
        self.batches: dict[bytes, Batch] = {}
        self.early: PrePrepare | None = None
        """A PRE-PREPARE that came before we could accept it: beyond the window, or of the view to
        come."""

    def referred(self) -> tuple[bytes, ...]:
        """Digests of the batches that are still needed."""
        held = (self.accepted, self.prepared, self.committed)
        return tuple(dict.fromkeys(one.digest for one in held if one is not None))

    def record(self) -> bytes:
        """The durable part."""
        return msgspec.msgpack.encode(SlotRecord(self.accepted, self.prepared))

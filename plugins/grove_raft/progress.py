"""What a leader knows of one other member: what it holds, what is on its way, whether it lives (§3.5).

Three ways to send, as in etcd/raft:

    probe       one append at a time, to find where the logs agree
    replicate   appends follow each other without waiting (pipelining, §10.2.2), within a window
    snapshot    what it needs is forgotten here: it gets the snapshot in pieces
"""

from __future__ import annotations

from collections import deque
from typing import Literal


class Progress:
    """A leader's account of one member.

    match: it is known to hold our log up to here. next: what to send next. told: the commit index it
    was last sent. is_paused: a probe is out. inflight: (last index, bytes) of appends not acknowledged.
    is_active: heard since quorum was last checked. round: newest heartbeat it answered; matched: the
    round in which match last grew. snapshot: which one it is being sent; taken, sent: bytes; taken_in:
    the round in which taken last changed. loss: of what it forgot, while it counts for nothing; noted:
    index at which our log takes note; noted_at: when.
    """

    __slots__ = (
        "inflight",
        "inflight_bytes",
        "inflight_entries",
        "is_active",
        "is_paused",
        "loss",
        "match",
        "matched",
        "next",
        "noted",
        "noted_at",
        "round",
        "sent",
        "snapshot",
        "state",
        "taken",
        "taken_in",
        "told",
    )

    def __init__(self, following: int) -> None:
        self.match = 0
        self.next = following
        self.told = 0
        self.state: Literal["probe", "replicate", "snapshot"] = "probe"
        self.is_paused = False
        self.is_active = False
        self.round = 0
        self.matched = 0
        self.inflight: deque[tuple[int, int, int]] = deque()
        self.inflight_entries = 0
        self.inflight_bytes = 0
        self.snapshot = 0
        self.sent = 0
        self.taken = 0
        self.taken_in = 0
        self.loss = b""
        self.noted = 0
        self.noted_at = 0.0

    def sending(self, last: int, entries: int, size: int) -> None:
        """An append with entries up to last is on its way."""
        self.inflight.append((last, entries, size))
        self.inflight_entries += entries
        self.inflight_bytes += size
        self.next = last + 1

    def acknowledged(self, index: int) -> bool:
        """It holds our log up to index; whether that is news."""
        inflight = self.inflight
        while inflight and inflight[0][0] <= index:
            _, entries, size = inflight.popleft()
            self.inflight_entries -= entries
            self.inflight_bytes -= size
        if index <= self.match:
            return False
        self.match = index
        self.next = max(self.next, index + 1)
        return True

    def probe(self, following: int) -> None:
        """Look for the place where the logs agree, from here on."""
        self.state = "probe"
        self.is_paused = False
        self.next = max(following, self.match + 1)
        self._clear()

    def replicate(self) -> None:
        """The logs agree at match: send on without waiting."""
        self.state = "replicate"
        self.is_paused = False
        self.next = self.match + 1
        self._clear()

    def send_snapshot(self, index: int) -> None:
        self.state = "snapshot"
        self.snapshot = index
        self.sent = self.taken = self.taken_in = 0
        self._clear()

    def takes(self, offset: int, round: int) -> None:
        """It has so many bytes of the snapshot, as it answers in a round."""
        self.taken, self.taken_in = offset, round

    def _clear(self) -> None:
        self.inflight.clear()
        self.inflight_entries = self.inflight_bytes = 0

"""What the commons tell: the answers to a node's own asks, and what changed for everybody.

All but `Answered` and `ClaimLost` are news that every member hears, in the order of the log. What
happened while a node was away is not told one by one when it is given a whole state (Restored).
"""

from __future__ import annotations

from typing import Literal

from grove_commons.outcomes import Outcome
from grove_core.machine import Event, PeerId


class Answered(Event, frozen=True, gc=False):
    """An ask of this node came to an end, once.

    id: as the ask returned it. until: for a granted or renewed claim, when its holder must have
    stopped, by this node's clock (`ctx.now`); otherwise 0.
    """

    id: bytes
    outcome: Outcome
    until: float = 0.0


class Read(Event, frozen=True, gc=False):
    """A linearizable read of this node may be taken now: what `peek` and `held` say is as of now.

    failed: why not, or empty.
    """

    id: bytes
    failed: str = ""


class KeyWritten(Event, frozen=True, gc=False):
    """A key has a new value. version: the index of the write."""

    key: str
    value: bytes
    version: int
    writer: PeerId


class KeyDeleted(Event, frozen=True, gc=False):
    """A key has no value any more."""

    key: str
    index: int
    writer: PeerId


class ClaimGranted(Event, frozen=True, gc=False):
    """A task is one agent's alone. token: higher than any before. ttl: seconds."""

    task: str
    holder: PeerId
    agent: str
    token: int
    ttl: float


class ClaimRenewed(Event, frozen=True, gc=False):
    """A lease began anew."""

    task: str
    holder: PeerId
    agent: str
    token: int


class ClaimEnded(Event, frozen=True, gc=False):
    """A claim is over without a result; its task is free."""

    task: str
    holder: PeerId
    agent: str
    token: int
    reason: Literal["released", "expired"]


class TaskDone(Event, frozen=True, gc=False):
    """A result was accepted; the task is nobody's to do any more."""

    task: str
    holder: PeerId
    agent: str
    token: int
    result: bytes


class ResultRefused(Event, frozen=True, gc=False):
    """A result came with a token that is not current. current: the one that is, or 0."""

    task: str
    sender: PeerId
    token: int
    current: int


class ClaimLost(Event, frozen=True, gc=False):
    """A claim that this node keeps can no longer be counted on: its agent must stop.

    reason: "silence" (no renewal was confirmed in time; others may hold the task soon), "expired",
    "released" or "replaced" (a whole state came, and it is not in it).
    """

    task: str
    agent: str
    token: int
    reason: Literal["silence", "expired", "released", "replaced"]

"""What becomes of a command, and how a refusal is told to people.

An outcome is part of the replicated state: it is kept until its proposer has closed the ask, so it
holds no value, no result and no sentence, only what a sentence needs.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

from grove_core.identity import short
from grove_core.machine import PeerId


class Outcome(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Base of what becomes of a command. index: its place in the agreed sequence."""


class Done(Outcome, frozen=True, gc=False):
    """It took effect. For a key: index is its new version."""

    index: int


class Granted(Outcome, frozen=True, gc=False):
    """The task is the proposer's. The index of this commit is the fencing token."""

    token: int
    ttl: int


class Accepted(Outcome, frozen=True, gc=False):
    """The result stands. index: of the commit that first accepted it."""

    index: int


Code: TypeAlias = Literal[
    "differs",  # compare-and-set: the key is not as expected; current: its version, 0 if absent
    "held",  # claim: somebody holds the task
    "finished",  # the task is done; current: the token its result came with
    "taken",  # renew, release, submit: somebody else holds it now, with the token `current`
    "ended",  # renew, release, submit: the claim was released or ran out, and nobody holds it
    "not-yours",  # renew, release, submit: right token, but another node's
    "lease",  # claim: the length is out of the agreed bounds
    "full",  # an agreed bound is reached; limit: which
    "renewed",  # expire: too late, the lease was renewed
]


class Refused(Outcome, frozen=True, gc=False):
    """It had no effect, and why. holder, agent: who has the task, or finished it."""

    code: Code
    name: str
    holder: PeerId = PeerId(b"")
    agent: str = ""
    current: int = 0
    yours: int = 0
    limit: int = 0


class Renewed(Outcome, frozen=True, gc=False):
    """The leases begin anew at index, but those of `lost` claims, which are over."""

    index: int
    lost: tuple[Refused, ...] = ()


class Unknown(Outcome, frozen=True, gc=False):
    """No outcome came in time: it may have taken effect, or may yet. Never part of the state."""

    reason: str


class Impossible(Outcome, frozen=True, gc=False):
    """It did not take effect and will not: consensus refused it. Never part of the state."""

    reason: str


AnyOutcome: TypeAlias = Done | Granted | Accepted | Renewed | Refused
"""Outcomes that every member knows."""

STALE: Final = frozenset(("taken", "ended", "finished", "not-yours"))
"""Refusals of a token that is not current."""


def who(holder: PeerId, agent: str) -> str:
    """A holder for people: agent birch at 12D3…h7Qz."""
    at = short(holder) if holder else "nobody"
    return f"agent {agent} at {at}" if agent else f"the agent at {at}"


def sentence(refused: Refused, ago: float | None = None) -> str:
    """A refusal for people. ago: seconds since what it speaks of happened here, if that is known."""
    task, since = refused.name, "" if ago is None else f" {_span(ago)} ago"
    holder = who(refused.holder, refused.agent)
    match refused.code:
        case "differs":
            is_now = f"version {refused.current}" if refused.current else "absent"
            return f"Key {task} is not as expected: it is {is_now}. Nothing was written."
        case "held":
            return (
                f"Task {task} is held by {holder} since fence {refused.current}{since}. "
                "It becomes free when that agent submits, releases, or falls silent for its lease."
            )
        case "finished" if refused.yours:
            return (
                f"Task {task} was finished by {holder}{since} (fence {refused.current}, yours is "
                f"{refused.yours}). Your result was not accepted."
            )
        case "finished":
            return f"Task {task} is done: {holder} finished it{since} (fence {refused.current})."
        case "taken":
            return (
                f"Task {task} was taken over by {holder}{since} (fence {refused.current}, yours is "
                f"{refused.yours}). Your result was not accepted."
            )
        case "ended":
            return (
                f"Task {task} is not yours any more: the lease of fence {refused.yours} ran out or was "
                "released, and nobody holds it now. Your result was not accepted. Claim it again."
            )
        case "not-yours":
            return f"Fence {refused.yours} of task {task} belongs to {holder}; only that node may use it."
        case "lease" if refused.yours > refused.limit:
            return (
                f"A lease lasts at most {refused.limit / 1000:g} s in this village. Choose a shorter one."
            )
        case "lease":
            return (
                f"A lease lasts at least {refused.limit / 1000:g} s in this village. Choose a longer one."
            )
        case "full":
            return (
                f"The village holds as much as it agreed to (limit {refused.limit:,}); {task} found no "
                "room. Delete keys, or finish tasks, first."
            )
        case "renewed":
            return f"Task {task} is held by {holder}, who renewed the lease in time."


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"

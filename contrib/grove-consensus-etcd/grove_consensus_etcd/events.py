"""What the machine wants of the cluster. Heard by its companion (`link.py`), or a test's model."""

from __future__ import annotations

from grove_consensus_etcd.api import Request
from grove_core.machine import Event


class Asked(Event, frozen=True):
    """A request. Answered once, by `machine.answered(ctx, number, answer)`; number: never used again."""

    number: int
    request: Request


class Watched(Event, frozen=True, gc=False):
    """Tell what is written in a range from a revision on: `machine.heard(ctx, number, …)`, and once
    `machine.ended(ctx, number, …)`. Replaces the watch before."""

    number: int
    key: bytes
    end: bytes
    revision: int

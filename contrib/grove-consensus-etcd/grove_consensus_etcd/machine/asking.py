"""Requests to the cluster, and what is known of it: which it is, how far it is, since when it fails."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import msgspec

from grove_consensus_etcd.api import Answer, Done, Failed, Request
from grove_consensus_etcd.config import Config
from grove_consensus_etcd.events import Asked
from grove_consensus_etcd.layout import Layout
from grove_core.machine import Context, Machine

Ctx: TypeAlias = Context[Any]

CLUSTER: Final = "cluster "
"""Record: the cluster's id and a revision it has reached, 8 bytes each, per prefix."""

RETRY: Final = "retry"

NOTE_EVERY: Final = 4096
"""Revisions between two records of how far the cluster is."""

SOONEST, LATEST = 0.05, 2.0
"""Seconds until a failed request is made again: doubles from one to the other, with a jitter."""


class Open(msgspec.Struct, frozen=True):
    """A request under way. purpose: what its answer is for. revision: known when it was asked."""

    purpose: Any
    revision: int
    asked: float


class Asking(Machine[Any]):
    """Numbers, doubts and patience."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.layout = Layout(config.prefix)
        self.is_linked = False
        """Whether somebody carries requests; never in a world without a companion."""
        self.life = 0
        self.open: dict[int, Open] = {}
        self.number = 0
        self.cluster = 0
        self.revision = 0
        """The highest revision the cluster is known to have reached."""
        self.noted = 0
        self.broken = ""
        """Why the cluster is not believed any more; nothing is asked then."""
        self.failure = ""
        self.fails_since: float | None = None
        self.failures = 0

    def ask(self, ctx: Ctx, purpose: Any, request: Request) -> None:
        """Answered by `on_answer` with the same purpose."""
        self.number += 1
        self.open[self.number] = Open(purpose, self.revision, ctx.now)
        ctx.emit(Asked(self.number, request))

    def is_asking(self, kind: type) -> bool:
        return any(isinstance(one.purpose, kind) for one in self.open.values())

    def answered(self, ctx: Ctx, number: int, answer: Answer) -> None:
        """From the companion: the answer to a request."""
        one = self.open.pop(number, None)
        if one is None:
            return
        if isinstance(answer, Failed):
            self.failure = answer.reason
            self.failures += 1
            if self.fails_since is None:
                self.fails_since = one.asked
        elif not self.is_sound(ctx, answer.cluster):
            answer = Failed("refused", self.broken)
        elif isinstance(answer, Done) and answer.revision < one.revision:
            # Transactions are linearizable: none is older than what was known when it was asked.
            self.distrust(
                ctx,
                f"its revision went back from {one.revision} to {answer.revision}, as after a restored "
                "backup: commands that were agreed on are gone and tokens would be given out twice",
            )
            answer = Failed("refused", self.broken)
        else:
            self.fails_since, self.failures = None, 0
            if isinstance(answer, Done):
                self.reached(ctx, answer.revision)
        self.on_answer(ctx, one.purpose, answer, one.asked)

    def on_answer(self, ctx: Ctx, purpose: Any, answer: Answer, asked: float) -> None:
        """asked: when, by this node's clock."""
        raise AssertionError(f"nobody asked for {purpose!r}")

    # Whether to believe it.

    def is_sound(self, ctx: Ctx, cluster: int) -> bool:
        """Whether an answer is from the cluster we know; the first one says which that is."""
        if not self.cluster and cluster:
            self.cluster = cluster
            self.note(ctx)
        if cluster != self.cluster:
            self.distrust(
                ctx,
                f"the endpoints belong to cluster {cluster:x}, this node knew {self.cluster:x}: another "
                "cluster has another log, and its tokens begin anew",
            )
        return not self.broken

    def distrust(self, ctx: Ctx, why: str) -> None:
        self.broken = self.broken or (
            f"etcd is not believed: {why}. If that is meant, give the village a new plugins.etcd.prefix"
        )

    def reached(self, ctx: Ctx, revision: int) -> None:
        """The cluster is known to be that far."""
        self.revision = max(self.revision, revision)
        if self.revision >= self.noted + NOTE_EVERY:
            self.note(ctx)

    def note(self, ctx: Ctx) -> None:
        """So that a later life notices a cluster that went back."""
        self.noted = self.revision
        record = self.cluster.to_bytes(8, "big") + self.revision.to_bytes(8, "big")
        ctx.save(CLUSTER + self.config.prefix, record)

    # When it fails.

    def pause(self, ctx: Ctx) -> float:
        """Seconds until the next attempt."""
        wait = min(SOONEST * 2.0 ** min(max(0, self.failures - 1), 10), LATEST)
        return wait * ctx.rng.uniform(0.5, 1.0)

    def outage(self, ctx: Ctx) -> str:
        """What is wrong, for people."""
        if self.broken:
            return self.broken
        if not self.is_linked:
            return "nothing on this node carries requests to etcd (is it stopping, or simulated?)"
        if self.fails_since is None:
            return "etcd answers, but not about this"
        return (
            f"etcd does not do its work for {ctx.now - self.fails_since:.1f} s now ({self.failure}); "
            "look at it with etcdctl endpoint health, and at plugins.etcd.endpoints"
        )

"""Who asks consensus for something, and when it believes that it has it.

A member that proposes has its answer when it commits. A client that is nobody's member (`client =
"apart"`) asks a node over a line of its own, `away` long; whoever answers clients replies when it
commits, and f + 1 equal replies are an answer, since one of them is a correct node's: PBFT's rule
(OSDI '99, section 4.1). In a flat protocol all voters reply; where the asked node's machine has a group
of its own (`machine.group`, with `members` and `weak` = f + 1 of them), that group does. The client's
own line and processor cost nothing; replies go over the uplinks of those who send them.

A workload's `timeout` is the client's: an answer that comes later is none.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from grove_core.drive.virtual import VirtualNode
from grove_core.events import Committed
from grove_core.machine import PeerId
from grove_lab.metrics import quantile
from grove_lab.scenario import Workload

if TYPE_CHECKING:
    from grove_lab.stage import Stage

REPLY = 171
"""Bytes of a reply before what wraps it: a vote's, as in the cost model of the consensus survey, 3.1."""


class Wish:
    """Something asked for and not yet answered. answering: who may reply; missing: replies it takes."""

    __slots__ = ("answering", "asked", "missing", "workload")

    def __init__(
        self, workload: Workload, asked: float, answering: Iterable[PeerId], missing: int
    ) -> None:
        self.workload = workload
        self.asked = asked
        self.answering = dict.fromkeys(answering)
        self.missing = missing


class Clients:
    """Hears Committed; knows what was proposed."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.open: dict[bytes, Wish] = {}
        """By the proposal's id; one that was answered stays until all its replies have come."""
        self.asked = 0
        self.late = 0
        """Answered after their client had given up."""
        self.latencies: list[float] = []

    # Asking.

    def propose(self, workload: Workload, node: VirtualNode, data: bytes) -> None:
        """Let a client of this node want something."""
        self.stage.deliveries.published += 1
        self.asked += 1
        world = self.stage.world
        asked = world.now
        if workload.client == "member":
            self._submit(workload, node, data, asked)
        else:
            world.at(asked + workload.away, lambda: self._submit(workload, node, data, asked))

    def _submit(self, workload: Workload, node: VirtualNode, data: bytes, asked: float) -> None:
        if not node.alive:
            return  # nobody is at home, and the client will never know
        answering, missing = [node.peer], 1
        if workload.client == "apart" and workload.answers == "weak":
            answering, missing = self._answering(node)
        self.open[node.consensus.propose(data)] = Wish(workload, asked, answering, missing)

    def _answering(self, node: VirtualNode) -> tuple[list[PeerId], int]:
        """Who replies to a client of this node, and how many of them it must hear."""
        group: Any = getattr(node.machine("consensus"), "group", None)
        if group is not None and hasattr(group, "members") and hasattr(group, "weak"):
            return list(group.members), group.weak
        voters = list(node.consensus.voters())
        return voters, (len(voters) - 1) // 3 + 1

    def leader(self) -> int | None:
        """The node that leads, by what most of those that know one say; None if nobody does."""
        told: dict[PeerId, int] = {}
        for node in self.stage.world.order:
            leader = node.consensus.leader() if node.alive else None
            if leader is not None:
                told[leader] = told.get(leader, 0) + 1
        if not told:
            return None
        return self.stage.world.nodes[max(told, key=lambda peer: told[peer])].index

    # Answering.

    def committed(self, node: VirtualNode, event: Committed) -> None:
        wish = self.open.get(event.id)
        if wish is None or node.peer not in wish.answering:
            return
        del wish.answering[node.peer]
        if not wish.answering:
            del self.open[event.id]
        if wish.workload.client == "member":
            self._answered(wish)
            return
        stage, index = self.stage, node.index
        leaves = stage.world.now
        size = REPLY + stage.scenario.network.overhead
        if stage.processors is not None:
            stage.processors.sends(index)
        if stage.wires is not None:
            leaves = stage.wires.leaves(index, size)
        if stage.meter is not None:
            stage.meter.count_reply(node, size)
        stage.world.at(leaves + wish.workload.away, lambda: self._answered(wish))

    def _answered(self, wish: Wish) -> None:
        wish.missing -= 1
        if wish.missing:
            return
        latency = self.stage.world.now - wish.asked
        if wish.workload.timeout and latency > wish.workload.timeout:
            self.late += 1
        else:
            self.latencies.append(latency)

    # What came out.

    def measured(self, seconds: float) -> dict[str, float]:
        """Figures about so many seconds of asking. `capacity_per_s`: at how many a second the busiest
        core or uplink would never rest; all work since settling counts, whatever it was for."""
        if not self.asked:
            return {}
        done, stage = sorted(self.latencies), self.stage
        found = {"commit_ratio": len(done) / self.asked, "commits_per_s": len(done) / seconds}
        if not done:
            return found
        found["commit_mean_ms"] = 1e3 * sum(done) / len(done)
        found["commit_p50_ms"] = 1e3 * quantile(done, 0.5)
        found["commit_p99_ms"] = 1e3 * quantile(done, 0.99)
        if stage.meter is not None and stage.scenario.measure.traffic:
            found["messages_per_commit"] = stage.meter.sent / len(done)
            found["bytes_per_commit"] = stage.meter.bytes / len(done)
        busiest = 0.0
        if stage.processors is not None:
            busy = stage.processors.busy
            found["cpu_ms_per_commit"] = 1e3 * sum(busy) / len(done)
            busiest = max(busy)
            found["busiest_cpu_ms_per_commit"] = 1e3 * busiest / len(done)
        if stage.wires is not None and any(stage.uplinks):
            line = max(stage.wires.busy)
            found["busiest_uplink_ms_per_commit"] = 1e3 * line / len(done)
            busiest = max(busiest, line)
        if busiest:
            found["capacity_per_s"] = len(done) / busiest
        return found

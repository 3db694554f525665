"""Grove's commons over etcd's consensus, in virtual time, while everything happens to etcd.

The workloads are those that hold Raft and PBFT up (`tests/plugins/commons`), so this file runs from
Grove's own folder only.
"""

from __future__ import annotations

import os
from math import inf
from random import Random
from typing import Any

import msgspec
import pytest
from grove_consensus_etcd.machine import Etcd
from grove_consensus_etcd.machine.appending import Append
from grove_consensus_etcd.machine.looking import Look
from grove_consensus_etcd.testing.town import Town, Trouble

from grove_core.drive.virtual import VirtualNode
from grove_core.events import ReadReady, Restored
from grove_core.testing import part
from grove_core.testing.agreement import Disagreement
from grove_core.testing.linearizability import check

REASON = "needs the tests of Grove itself: run pytest in Grove's folder"
clients = pytest.importorskip("tests.plugins.commons.clients", reason=REASON)
village = pytest.importorskip("tests.plugins.commons.village", reason=REASON)

SEEDS = 100 if os.environ.get("GROVE_FULL") == "1" else 4


def run(seed: int, build: type[Etcd] = Etcd) -> str:
    """Clients of the map in trouble; what is wrong with what they saw, or nothing."""
    commons = part("commons", snapshot_every=64, patience=8.0, witness_delay=2.0)
    bounds = {"trailing": 0, "snapshot_delay": 1.0}
    town = Town(4, seed, (commons,), build=build, **bounds)
    asking = clients.Clients(town.world, town.nodes, Random(f"clients {seed}"), rate=5.0)
    asking.begin(at=2.0, until=40.0)
    Trouble(town, seed, until=35.0)
    try:
        town.agreement.run_for(70.0)
    except Disagreement as error:
        return str(error)
    history = asking.finished()
    answered = sum(operation.answer < inf for operation in history)
    restored = sum(1 for _, event in town.events if isinstance(event, Restored))
    print(f"seed {seed}: {asking.count} asks, {answered} answered, {restored} restored")
    if any(town.machine(n).broken for n in range(4)):
        return "a sound cluster is not believed"
    log = [key for key in town.etcd.model.created if b"/log/" in key]
    if any(town.etcd.model.created[key] != 1 for key in log):
        return "a proposal was created twice"
    if len({node.machine("commons").state.snapshot() for node in town.nodes}) != 1:
        return "states differ"
    if answered <= asking.count * 0.8:
        return f"{answered} of {asking.count} asks were answered"
    verdict = check(history, budget=1_000_000)
    return "" if verdict == "linearizable" else verdict


@pytest.mark.claim("etcd.linearizable")
@pytest.mark.parametrize("seed", range(SEEDS))
def test_the_map_over_it_is_linearizable_and_equal_whatever_happens(seed: int) -> None:
    assert run(seed) == "", f"seed {seed}"


# Bugs that somebody might write, one at a time. Each must be seen.


class CreatesWhatIsThere(Etcd):
    """A retry writes the command again."""

    def ask(self, ctx: Any, purpose: Any, request: Any) -> None:
        if isinstance(purpose, Append):
            request = msgspec.structs.replace(request, conditions=request.conditions[1:])
        super().ask(ctx, purpose, request)


class AppendsUnderAnyHead(Etcd):
    """A late request brings back what was trimmed."""

    def ask(self, ctx: Any, purpose: Any, request: Any) -> None:
        if isinstance(purpose, Append):
            request = msgspec.structs.replace(request, conditions=request.conditions[:1])
        super().ask(ctx, purpose, request)


class ReadsWhatItHas(Etcd):
    """A read is answered without waiting for what was agreed on."""

    def on_answer(self, ctx: Any, purpose: Any, answer: Any, asked: float) -> None:
        if isinstance(purpose, Look):
            for id in purpose.reads:
                self.wanted.pop(id, None)
                ctx.emit(ReadReady(id, self.followed))
        super().on_answer(ctx, purpose, answer, asked)


class IgnoresTheFloor(Etcd):
    """Who lags behind a trimmed log goes on with what is left of it."""

    def _know(self, ctx: Any, heads: Any) -> Any:
        head = super()._know(ctx, heads)
        return None if self.followed else head


class GoesOnFromNow(Etcd):
    """After a watch was lost, reading begins where the cluster is, not where handing over stopped."""

    def catch_up(self, ctx: Any) -> None:
        self.followed = self.revision
        super().catch_up(ctx)


class NeverMindsSilence(Etcd):
    """A watch that tells nothing is believed."""

    def expect(self, ctx: Any, index: int) -> None:
        pass


MUTANTS = [
    CreatesWhatIsThere,
    AppendsUnderAnyHead,
    ReadsWhatItHas,
    IgnoresTheFloor,
    GoesOnFromNow,
    NeverMindsSilence,
]


@pytest.mark.claim("etcd.mutants")
@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_bug_put_in_is_seen(mutant: type[Etcd]) -> None:
    for seed in range(100):
        problem = run(seed, mutant)
        if problem and problem != "unknown":
            print(f"{mutant.__name__}: seed {seed}: {problem}")
            return
    raise AssertionError(f"{mutant.__name__} goes unseen in 100 seeds")


@pytest.mark.claim("etcd.claims")
@pytest.mark.parametrize("seed", range(SEEDS))
def test_no_old_token_is_accepted_and_every_task_finishes(seed: int) -> None:
    commons = part("commons", snapshot_every=64, patience=8.0, witness_delay=2.0)
    town = Town(4, seed, (commons,), trailing=16, snapshot_delay=1.0, lease=2)
    agents = village.Village(
        town.world, town.nodes, 60, seed=seed, lease=5.0, work=1.0, pause=0.15, per_node=2
    )
    agents.begin(at=2.0)
    Trouble(town, seed, until=30.0)
    again = town.restart

    def restart(node: VirtualNode, after: float) -> None:
        again(node, after)
        town.world.at(town.world.now + after + 0.06, lambda: agents.rebegin(node))

    town.restart = restart  # type: ignore[method-assign]
    while len(agents.judge.done) < 60 and town.world.now < 600.0:
        town.run_for(1.0)
    print(f"seed {seed}: all done after {town.world.now:.0f} s, {agents.started} started")
    agents.verdict()

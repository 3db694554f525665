"""One random run of a Raft group in the weather that its seed draws."""

from __future__ import annotations

from math import inf
from random import Random
from typing import Any

from grove_raft.machine import Raft

from grove_core.drive.virtual import VirtualNode
from grove_core.events import LeaderChanged
from grove_core.testing import linearizability
from tests.plugins.raft.group import Clients, Group
from tests.plugins.raft.storm import Storm, Weather


class Violation(AssertionError):
    """A run went wrong. Names the seed and how to run it again."""


class Run:
    """What a run was and how it ended; verdict: of the clients' history."""

    def __init__(self, group: Group, clients: Clients) -> None:
        self.group = group
        self.clients = clients
        self.verdict: linearizability.Verdict = "unknown"


def run(
    seed: int,
    build: type[Raft] = Raft,
    *,
    seconds: float = 10.0,
    nodes: int | None = None,
    asks: int | None = None,
    amnesia: bool = False,
    live: bool = True,
    **config: Any,
) -> Run:
    """Run a group through a storm of so many virtual seconds, then let it heal.

    nodes: how many found the group; None: as the seed draws, as everything else. asks: how many the
    clients ask in that time, if enough of them are up to be asked; None: as drawn.
    live: also demand that it comes to life again. config: in place of what was drawn.
    Raises Disagreement, Violation or SimulationError.
    """
    rng = Random(f"raft storm {seed}")
    weather = Weather(rng)
    group = Group(
        nodes or weather.nodes,
        seed=seed,
        strangers=weather.strangers,
        snapshot_every=weather.snapshot_every,
        build=build,
        rates=weather.rates,
        delay=weather.delay,
        disk=weather.disk,
        **{**weather.config, **config},
    )
    group.world.sinks.append(lambda node, event: _leases_end(group, node, event))
    rate, most = (weather.rate, inf) if asks is None else (2.0 * asks / seconds, float(asks))
    clients = Clients(group, rng, rate, weather.keys, weather.loyal, most)
    storm = Storm(group, rng, weather, amnesia)
    group.run(seconds)
    storm.end()
    clients.is_stopped = True
    group.run(0.5)
    done = Run(group, clients)
    if live:
        _comes_to_life(group)
    done.verdict = linearizability.check(clients.finished(), budget=BUDGET)
    if done.verdict == "not linearizable":
        raise Violation(f"seed {seed}: the history is not linearizable")
    return done


PATIENCE = 8.0
"""Virtual seconds without a storm in which something must get better."""
BUDGET = 200_000
"""Steps of the linearizability checker per key."""


def _leases_end(group: Group, node: VirtualNode, event: Any) -> None:
    """§6.4.1: nobody takes office while another would answer reads from its lease."""
    if type(event) is not LeaderChanged or event.leader != node.peer:
        return
    for other in group.alive:
        raft = group.raft(other)
        if other is node or not raft.is_leader or raft.config.reads != "lease":
            continue
        if group.call(other, lambda machine, ctx: machine.may_read(ctx) and machine.has_lease(ctx)):
            raise Violation(
                f"seed {group.world.seed}, t = {group.world.now:.6f} s: node {node.index} leads term "
                f"{event.epoch} while node {other.index} has a lease in term {raft.log.term}"
            )


def _comes_to_life(group: Group) -> None:
    """After the storm: one leader, a fresh command committed at every member, no joint configuration.

    It has `PATIENCE` from when the members last came nearer to it: with a window of four entries one may
    have minutes of the storm to catch up with.
    """
    world = group.world

    def members() -> list[Any]:
        leader = group.leader()
        if leader is None or group.raft(leader).log.members.is_joint:
            return []
        wanted = group.raft(leader).log.members.everybody()
        found = [node for node in group.nodes if node.peer in wanted]
        return found if all(node.alive for node in found) else []

    def lag() -> float:
        """What the members lack of the leader's log, or have not applied; infinite without a leader."""
        leader = group.leader()
        everybody = members()
        if not everybody or leader is None:
            return inf
        last = group.raft(leader).log.last_index
        rafts = [group.raft(node) for node in everybody]
        return sum(abs(last - raft.log.last_index) + abs(last - raft.applied) for raft in rafts)

    def is_alive() -> bool:
        leader = group.leader()
        if leader is None or lag() > 0:
            return False
        return all(group.raft(node).leader() == leader.peer for node in members())

    least, end = inf, world.now + PATIENCE
    while not is_alive():
        behind = lag()
        if behind < least:
            least, end = behind, world.now + PATIENCE
        if world.now > end:
            states = [
                (node.index, raft.standing, raft.log.term, raft.commit, raft.log.last_index)
                for node in group.alive
                for raft in [group.raft(node)]
            ]
            raise Violation(
                f"seed {world.seed}: not alive and no nearer to it in {PATIENCE:g} s: {states}"
            )
        group.run(0.1)
    leader = group.leader()
    assert leader is not None
    before = group.raft(leader).commit
    leader.consensus.propose(b"\x94\xa5fresh\xa3cas\x01\x02")
    group.run(1.0)
    for node in members():
        if group.raft(node).applied <= before:
            raise Violation(f"seed {world.seed}: node {node.index} did not get a fresh command")

"""What every membership plugin must do: give live neighbours, keep the village whole, say so."""

from __future__ import annotations

from typing import Any

from grove_core.drive.virtual import VirtualNode, uniform
from grove_core.events import NeighborDown, NeighborUp
from grove_core.machine import PeerId
from grove_core.specs import Part
from grove_core.testing.conformance.protocol import ProtocolConformance, weight
from grove_core.testing.village import Village


class MembershipConformance(ProtocolConformance):
    """Set `part`. symmetric: whether a neighbour's neighbour is oneself once messages have settled."""

    nodes: int = 24
    settle: float = 60.0
    """Seconds in which joins, crashes and departures must have been dealt with."""
    symmetric: bool = True
    restores: bool = True
    """Whether the overlay of the survivors is whole again after a fifth of the nodes crashed."""

    def village(self, part: Part, seed: int = 1, **world: Any) -> Village:
        world.setdefault("delay", uniform(0.02, 0.08, seed))
        village = Village([part], self.nodes, seed=seed, spacing=0.5, **world)
        self.neighbours: dict[int, dict[PeerId, None]] = {}

        def follow(node: VirtualNode, event: object) -> None:
            mine = self.neighbours.setdefault(node.index, {})
            if isinstance(event, NeighborUp):
                assert event.peer not in mine, f"{node}: NeighborUp twice for one peer"
                mine[event.peer] = None
            elif isinstance(event, NeighborDown):
                assert event.peer in mine, f"{node}: NeighborDown for a peer that was not up"
                del mine[event.peer]

        village.world.sinks.append(follow)
        return village.grow(self.settle)

    def scene(self, part: Part, seed: int, **world: Any) -> Village:
        village = self.village(part, seed, **world)
        village.world.crash(village.nodes[3])
        return village.run_for(10.0)

    def test_everybody_who_joined_has_a_neighbour_and_the_village_is_whole(self) -> None:
        village = self.village(self.part)
        for node in village.nodes:
            assert node.membership.neighbors(), f"{node} is alone"
            assert node.peer not in node.membership.neighbors()
            assert node.peer not in node.membership.known()
        assert len(_reached(village)) == self.nodes

    def test_events_tell_exactly_what_neighbors_says(self) -> None:
        village = self.village(self.part)
        for node in village.nodes:
            assert sorted(self.neighbours.get(node.index, {})) == sorted(node.membership.neighbors())

    def test_neighbours_are_mutual(self) -> None:
        if not self.symmetric:
            return
        village = self.village(self.part)
        for node in village.nodes:
            for peer in node.membership.neighbors():
                assert node.peer in village.world.nodes[peer].membership.neighbors()

    def test_the_dead_are_dropped_and_the_living_stay_together(self) -> None:
        village = self.village(self.part)
        for index in range(4, self.nodes, 5):
            village.world.crash(village.nodes[index])
        village.run_for(self.settle)
        for node in village.alive:
            for peer in node.membership.neighbors():
                assert village.world.nodes[peer].alive, f"{node} still counts on a dead peer"
        if self.restores:
            assert len(_reached(village)) == len(village.alive)

    def test_who_leaves_is_missed_by_nobody(self) -> None:
        village = self.village(self.part)
        leaver = village.nodes[7]
        leaver.membership.leave()
        village.run_for(1.0)
        village.world.stop(leaver)
        village.run_for(self.settle)
        for node in village.alive:
            assert leaver.peer not in node.membership.neighbors()

    def test_a_node_that_crashed_can_come_back(self) -> None:
        village = self.village(self.part)
        node = village.nodes[5]
        village.world.crash(node)
        self.neighbours.pop(node.index, None)
        village.run_for(5.0)
        village.world.restart(node)
        village.run_for(0.1)
        village.enter(node)
        village.run_for(self.settle)
        assert node.membership.neighbors()
        assert len(_reached(village)) == self.nodes

    def test_state_stays_bounded_under_churn(self) -> None:
        village = self.village(self.part)
        weights = []
        for _ in range(3):
            for index in range(8, 16):
                node = village.nodes[index]
                village.world.crash(node)
                self.neighbours.pop(node.index, None)
                village.run_for(1.0)
                village.world.restart(node)
                village.run_for(0.1)
                village.enter(node)
                village.run_for(5.0)
            village.run_for(self.settle)
            weights.append(max(weight(node.machine("membership")) for node in village.nodes))
        assert weights[2] <= weights[0] * 1.5 + 100, f"objects after 8, 16, 24 restarts: {weights}"


def _reached(village: Village) -> dict[PeerId, None]:
    """Peers that can be reached from the first live node over neighbours, either way."""
    alive = {node.peer: node for node in village.alive}
    edges: dict[PeerId, list[PeerId]] = {peer: [] for peer in alive}
    for peer, node in alive.items():
        for other in node.membership.neighbors():
            if other in alive:
                edges[peer].append(other)
                edges[other].append(peer)
    start = village.alive[0].peer
    reached, waiting = {start: None}, [start]
    while waiting:
        for peer in edges[waiting.pop()]:
            if peer not in reached:
                reached[peer] = None
                waiting.append(peer)
    return reached

"""What every broadcast plugin must do: deliver once, to all subscribers, within bounds."""

from __future__ import annotations

from random import Random
from typing import Any

from grove_core.drive.virtual import uniform
from grove_core.events import Delivered
from grove_core.specs import Part
from grove_core.testing.conformance.protocol import ProtocolConformance, weight
from grove_core.testing.meshed import MESHED
from grove_core.testing.village import Village


class BroadcastConformance(ProtocolConformance):
    """Set `part`; `nodes` is the size of the village, `warmup` the seconds a mesh needs to form."""

    nodes: int = 16
    degree: int = 4
    warmup: float = 20.0
    within: float = 30.0
    """Seconds within which every live subscriber must have a message."""

    def village(self, part: Part, seed: int = 1, **world: Any) -> Village:
        """A ring with random chords, every node subscribed to "test"."""
        world.setdefault("delay", uniform(0.02, 0.08, seed))
        village = Village([MESHED, part], self.nodes, seed=seed, spacing=0.01, **world)
        village.world.run(village.settled)
        rng = Random(seed)
        nodes = village.nodes
        for index, node in enumerate(nodes):
            node.membership.join(nodes[(index + 1) % len(nodes)].peer)
            for _ in range((self.degree - 2) // 2):
                other = rng.choice(nodes)
                if other is not node:
                    node.membership.join(other.peer)
        return village.run_for(self.warmup)

    def scene(self, part: Part, seed: int, **world: Any) -> Village:
        village = self.village(part, seed, **world)
        for number in range(10):
            village.publish(village.nodes[number % 3], b"scene %d" % number)
            village.run_for(0.3)
        return village.run_for(5.0)

    def test_every_subscriber_gets_a_message_exactly_once(self) -> None:
        village = self.village(self.part)
        for number in range(20):
            message = village.publish(village.nodes[number % self.nodes], b"%d" % number)
            village.run_for(self.within)
            assert village.delivered[message] == dict.fromkeys(range(self.nodes), 1), f"message {number}"

    def test_many_senders_at_once_lose_and_double_nothing(self) -> None:
        village = self.village(self.part)
        messages = [village.publish(node, b"%d" % n) for n in range(5) for node in village.nodes]
        village.run_for(self.within)
        assert len(dict.fromkeys(messages)) == 5 * self.nodes, "message ids must differ"
        for message in messages:
            assert village.delivered[message] == dict.fromkeys(range(self.nodes), 1)

    def test_equal_payloads_published_twice_are_two_messages(self) -> None:
        village = self.village(self.part)
        first, second = village.publish(village.nodes[0], b"x"), village.publish(village.nodes[0], b"x")
        village.run_for(self.within)
        assert first != second
        assert village.reliability(first) == village.reliability(second) == 1.0

    def test_what_is_delivered_is_what_was_published(self) -> None:
        village = self.village(self.part)
        heard: list[Delivered] = []
        village.world.sinks.append(
            lambda node, event: heard.append(event) if isinstance(event, Delivered) else None
        )
        message = village.publish(village.nodes[3], bytes(range(256)))
        village.run_for(self.within)
        assert len(heard) == self.nodes
        for event in heard:
            assert (event.topic, event.id, event.author) == ("test", message, village.nodes[3].peer)
            assert event.data == bytes(range(256))
        assert 16 <= len(message) <= 64

    def test_only_subscribers_are_told(self) -> None:
        village = self.village(self.part)
        quiet = village.nodes[5]
        quiet.broadcast.unsubscribe("test")
        assert quiet.broadcast.topics() == ()
        village.run_for(self.warmup)
        message = village.publish(village.nodes[0])
        village.run_for(self.within)
        assert sorted(village.delivered[message]) == [i for i in range(self.nodes) if i != 5]

    def test_links_name_live_neighbours_only(self) -> None:
        village = self.village(self.part)
        for node in village.nodes:
            linked = [peer for kind in node.broadcast.links().values() for peer in kind]
            assert all(peer in village.world.nodes for peer in linked)
            assert node.peer not in linked

    def test_the_survivors_of_a_crash_still_hear_everything(self) -> None:
        village = self.village(self.part)
        village.publish(village.nodes[0])
        village.run_for(self.within)
        for node in (village.nodes[2], village.nodes[7], village.nodes[12]):
            village.world.crash(node)
        village.run_for(self.warmup)
        if not _connected(village):
            raise AssertionError("the test's own topology fell apart; choose another seed")
        for number in range(3):
            message = village.publish(village.alive[number])
            village.run_for(self.within)
            assert village.reliability(message) == 1.0, f"message {number} after the crash"

    def test_state_does_not_grow_with_the_number_of_messages(self) -> None:
        village = self.village(self.part)
        weights = []
        for _ in range(3):
            for number in range(150):
                village.publish(village.nodes[number % 4], b"%d" % number)
                village.run_for(0.05)
            village.run_for(600.0)  # whatever is kept for a while is let go
            weights.append(max(weight(node.machine("broadcast")) for node in village.nodes))
        assert weights[2] <= weights[0] * 1.5 + 100, f"objects after 150, 300, 450 messages: {weights}"


def _connected(village: Village) -> bool:
    alive = {node.peer: node for node in village.alive}
    start = village.alive[0]
    reached, waiting = {start.peer: None}, [start]
    while waiting:
        for peer in waiting.pop().links:
            if peer in alive and peer not in reached:
                reached[peer] = None
                waiting.append(alive[peer])
    return len(reached) == len(alive)

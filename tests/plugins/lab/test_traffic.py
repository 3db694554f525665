"""Wires: uplinks send one thing after the other, losses are delays, order on a link is kept."""

from __future__ import annotations

import pytest
from grove_lab.choice import parts_for
from grove_lab.stage import Stage
from grove_lab.traffic import MARK
from grove_lab.workload import payload

from grove_core.drive.virtual import VirtualNode
from grove_core.events import Delivered
from grove_core.machine import Event
from tests.plugins.lab.conftest import village

PAIR = ("nodes=2", "join.settle=20", "workloads.talk.stop=0.001", "network.latency=constant")


def pair(*sets: str, choice: str = "broadcast=flood") -> tuple[Stage, list[tuple[float, bytes]]]:
    """Two settled nodes, and what the second delivers, with the time after settling."""
    scenario = village("", *PAIR, "network.delay=0.05", "workloads.talk.rate=0.001", *sets)
    stage = Stage(scenario, 1, parts_for(choice, scenario))
    got: list[tuple[float, bytes]] = []

    def hear(node: VirtualNode, event: Event) -> None:
        if isinstance(event, Delivered) and node.index == 1 and event.author != node.peer:
            got.append((stage.world.now - stage.begins, event.data))

    stage.world.run(stage.begins + 1)
    stage.world.sinks.append(hear)
    return stage, got


def test_an_uplink_sends_one_message_after_the_other_at_its_rate() -> None:
    stage, got = pair("network.uplink=100000")
    for number in range(3):
        stage.world.order[0].broadcast.publish("lab", payload(number, 10_000))
    stage.world.run_for(2)
    times = [time - 1 for time, _ in got]
    takes = times[1] - times[0]
    assert 0.100 < takes < 0.103  # 10,000 bytes and what wraps them at 100 kB/s
    assert times == pytest.approx([0.05 + takes * (k + 1) for k in range(3)])


def test_without_a_limit_only_the_link_delays() -> None:
    stage, got = pair()
    stage.world.order[0].broadcast.publish("lab", payload(0, 10_000))
    stage.world.run_for(2)
    assert [time - 1 for time, _ in got] == [pytest.approx(0.05)]


@pytest.mark.claim("lab.loss-is-delay")
def test_what_is_lost_comes_later_and_everything_behind_it_waits() -> None:
    stage, got = pair("network.loss=0.4", "network.retransmit=0.2")
    for number in range(50):
        stage.world.order[0].broadcast.publish("lab", payload(number, 100))
        stage.world.run_for(0.01)
    stage.world.run_for(60)
    assert [data for _, data in got] == [payload(number, 100) for number in range(50)]
    late = [time - 1 - 0.01 * number for number, (time, _) in enumerate(got)]
    assert max(late) >= 0.25 - 1e-9  # at least one was repeated
    assert min(late) >= 0.05 - 1e-9


def test_jitter_never_reorders_a_link() -> None:
    stage, got = pair("network.jitter=1.0")
    for number in range(50):
        stage.world.order[0].broadcast.publish("lab", payload(number, 100))
        stage.world.run_for(0.001)
    stage.world.run_for(5)
    assert [data for _, data in got] == [payload(number, 100) for number in range(50)]


def test_the_meter_counts_what_the_codec_makes_and_the_headers() -> None:
    sizes = {}
    for overhead in (0, 60):
        stage, _ = pair(f"network.overhead={overhead}")
        assert stage.meter is not None
        before = stage.meter.by_type().get("grove_broadcast_flood.Flood", (0, 0))
        stage.world.order[0].broadcast.publish("lab", payload(1, 1000))
        stage.world.run_for(1)
        after = stage.meter.by_type()["grove_broadcast_flood.Flood"]
        assert after[0] - before[0] == 1
        sizes[overhead] = after[1] - before[1]
        assert stage.meter.payload_bytes >= 1000
    assert 1000 < sizes[0] < 1250
    assert sizes[60] == sizes[0] + 60


def test_payloads_are_known_by_their_mark_whatever_wraps_them() -> None:
    assert payload(7, 16).startswith(MARK)
    assert len(payload(7, 16)) == 16
    assert len(payload(7, 5000)) == 5000
    assert payload(7, 100) != payload(8, 100)


def test_messages_queue_for_a_busy_processor_and_none_overtakes() -> None:
    stage, got = pair("cpu.message=0.02")
    for number in range(5):
        stage.world.order[0].broadcast.publish("lab", payload(number, 100))
    stage.world.run_for(2)
    assert [data for _, data in got] == [payload(number, 100) for number in range(5)]
    assert [time - 1 for time, _ in got] == pytest.approx([0.05 + 0.02 * (k + 1) for k in range(5)])

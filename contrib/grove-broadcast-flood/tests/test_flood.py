"""Flooding: Grove's conformance suite for broadcast, and what is particular to it."""

from __future__ import annotations

from typing import Any

import pytest
from grove_broadcast_flood.config import Config
from grove_broadcast_flood.machine import Flooding
from grove_broadcast_flood.messages import Flood, message_id

from grove_core.errors import LocalProtocolError
from grove_core.events import Delivered, NeighborDown, NeighborUp
from grove_core.machine import LOST, PeerId
from grove_core.testing import Emit, Recorder, Send, Village, part, peer
from grove_core.testing.conformance import BroadcastConformance
from grove_core.testing.conformance.protocol import tapped

ME = peer(0)


class TestConformance(BroadcastConformance):
    part = part("flood")


def node(neighbors: int = 3, **config: Any) -> tuple[Flooding, Recorder]:
    machine, ctx = Flooding(Config(**config)), Recorder(ME)
    machine.on_start(ctx)
    machine.subscribe(ctx, "t")
    for number in range(1, neighbors + 1):
        machine.on_event(ctx, NeighborUp(peer(number)))
    ctx.take()
    return machine, ctx


def said(number: int = 0, author: PeerId = peer(90), hops: int = 0) -> Flood:  # noqa: B008
    return Flood(author, number, "t", b"hello", b"signature", hops)


def test_a_message_goes_to_all_neighbours_but_the_one_it_came_from() -> None:
    machine, ctx = node(3)
    machine.on_message(ctx, peer(2), said(hops=4))
    assert ctx.take(Emit, Send) == [
        Emit(Delivered("t", message_id(said()), peer(90), b"hello", 5)),
        Send(peer(1), said(hops=5)),
        Send(peer(3), said(hops=5)),
    ]


def test_a_second_copy_is_nothing() -> None:
    machine, ctx = node(3)
    machine.on_message(ctx, peer(2), said())
    ctx.take()
    machine.on_message(ctx, peer(1), said(hops=9))
    assert ctx.take() == []


def test_our_own_words_of_an_earlier_life_are_not_news() -> None:
    machine, ctx = node(3)
    machine.on_message(ctx, peer(2), said(author=ME))
    assert ctx.take(Emit, Send) == []


def test_lost_neighbours_get_nothing() -> None:
    machine, ctx = node(2)
    machine.on_event(ctx, NeighborDown(peer(1)))
    machine.publish(ctx, "t", b"x")
    assert [to for to, _ in ctx.sent()] == [peer(2)]
    assert machine.links() == {"flood": (peer(2),)}


def test_the_ids_remembered_are_bounded_by_count_and_age() -> None:
    machine, ctx = node(2, seen_messages=100, seen_for=60.0)
    for number in range(1000):
        machine.on_message(ctx, peer(1), said(number))
    assert len(machine.seen) == 100
    while ctx.timers:
        ctx.fire(machine, "forget")
    assert not machine.seen
    assert ctx.now <= 120.0


def test_sequence_numbers_survive_a_crash() -> None:
    machine, ctx = node(1)
    first = {machine.publish(ctx, "t", b"same") for _ in range(3)}
    again, life = Flooding(Config()), Recorder(ME, records=ctx.records)
    again.on_start(life)
    assert again.publish(life, "t", b"same") not in first


def test_after_the_disk_forgot_numbers_begin_where_none_was_used() -> None:
    machine, ctx = node(1)
    first = {machine.publish(ctx, "t", b"same") for _ in range(3)}
    again, life = Flooding(Config()), Recorder(ME, records={LOST: b"a loss"})
    again.on_start(life)
    assert again.publish(life, "t", b"same") not in first
    assert LOST not in life.records


def test_what_is_too_large_is_refused_with_the_limit() -> None:
    machine, ctx = node(1)
    with pytest.raises(LocalProtocolError, match="payload of 65537 bytes; limit 65536"):
        machine.publish(ctx, "t", bytes(65_537))


def test_flooding_over_hyparview_costs_about_four_payloads_per_node() -> None:
    received: list[Flood] = []
    flood = tapped(part("flood"), received)  # keeps the first 2,000
    village = Village([part("hyparview", shuffle_interval=2.0), flood], 200).grow(40.0)
    message = village.publish(village.nodes[11])
    village.run_for(1.0)
    assert village.delivered[message] == dict.fromkeys(range(200), 1)
    redundancy = len(received) / 199 - 1  # the paper: 3.00 with active views of 5
    assert 2.8 <= redundancy <= 3.1

"""Gossip: Grove's conformance suite for broadcast, and what is particular to it.

The suite asks that everybody gets everything, which gossip promises only if the fanout reaches all
neighbours; what a smaller one reaches is measured in tests/sim/test_cyclon.py.
"""

from __future__ import annotations

from typing import Any

import pytest
from grove_broadcast_gossip.config import Config
from grove_broadcast_gossip.machine import Gossip
from grove_broadcast_gossip.messages import Push, Receipt, message_id

from grove_core.errors import LocalProtocolError
from grove_core.events import Delivered, NeighborDown, NeighborFailed, NeighborUp
from grove_core.machine import LOST, PeerId, Token
from grove_core.testing import Emit, Recorder, Reply, Request, Send, Village, part, peer
from grove_core.testing.conformance import BroadcastConformance

ME = peer(0)


class TestConformance(BroadcastConformance):
    part = part("gossip", fanout=16)


class TestConformanceWithReceipts(BroadcastConformance):
    part = part("gossip", fanout=16, acknowledged=True)


def node(neighbors: int = 8, **config: Any) -> tuple[Gossip, Recorder]:
    machine, ctx = Gossip(Config(**config)), Recorder(ME)
    machine.on_start(ctx)
    machine.subscribe(ctx, "t")
    for number in range(1, neighbors + 1):
        machine.on_event(ctx, NeighborUp(peer(number)))
    ctx.take()
    return machine, ctx


def said(number: int = 0, author: PeerId = peer(90), hops: int = 0) -> Push:  # noqa: B008
    return Push(author, number, "t", b"hello", b"signature", hops)


def asked(ctx: Recorder) -> list[Request]:
    return [effect for effect in ctx.take(Request) if isinstance(effect, Request)]


def test_a_message_goes_to_fanout_neighbours_but_not_back() -> None:
    machine, ctx = node(8, fanout=7)
    machine.on_message(ctx, peer(3), said(hops=4))
    delivered, *sends = ctx.take(Emit, Send)
    assert delivered == Emit(Delivered("t", message_id(said()), peer(90), b"hello", 5))
    assert {one.peer for one in sends if isinstance(one, Send)} == {
        peer(n) for n in (1, 2, 4, 5, 6, 7, 8)
    }
    assert all(isinstance(one, Send) and one.msg == said(hops=5) for one in sends)


def test_targets_are_drawn_anew_for_each_message_and_evenly() -> None:
    machine, ctx = node(8, fanout=2)
    drawn: dict[PeerId, int] = {}
    for number in range(2000):
        machine.on_message(ctx, peer(99), said(number))
        targets = [to for to, _ in ctx.sent()]
        assert len(targets) == len(set(targets)) == 2
        for target in targets:
            drawn[target] = drawn.get(target, 0) + 1
    assert len(drawn) == 8
    assert max(abs(count - 500) for count in drawn.values()) < 100  # five sigma


def test_a_second_copy_is_nothing() -> None:
    machine, ctx = node()
    machine.on_message(ctx, peer(2), said())
    ctx.take()
    machine.on_message(ctx, peer(1), said(hops=9))
    assert ctx.take() == []


def test_our_own_words_of_an_earlier_life_are_not_news() -> None:
    machine, ctx = node()
    machine.on_message(ctx, peer(2), said(author=ME))
    assert ctx.take(Emit, Send) == []


def test_lost_neighbours_get_nothing() -> None:
    machine, ctx = node(2)
    machine.on_event(ctx, NeighborDown(peer(1)))
    machine.publish(ctx, "t", b"x")
    assert [to for to, _ in ctx.sent()] == [peer(2)]
    assert machine.links() == {"gossip": (peer(2),)}


# With receipts: CyclonAcked.


def test_a_push_that_asks_for_a_receipt_gets_it_even_if_it_is_no_news() -> None:
    machine, ctx = node(2)
    for token in (Token(1), Token(2)):
        machine.on_request(ctx, peer(1), said(), token)
    effects = ctx.take(Reply, Send)
    assert effects == [
        Reply(Token(1), Receipt()),
        Send(peer(2), said(hops=1)),
        Reply(Token(2), Receipt()),
    ]


def test_who_gives_no_receipt_is_reported_and_in_the_paper_nobody_takes_its_place() -> None:
    machine, ctx = node(8, fanout=4, acknowledged=True)
    machine.publish(ctx, "t", b"x")
    first, second, third, fourth = asked(ctx)
    machine.on_reply(ctx, first.key, first.peer, Receipt())
    machine.on_failure(ctx, second.key, second.peer, "timeout")
    machine.on_failure(ctx, third.key, third.peer, "unreachable")
    machine.on_failure(ctx, fourth.key, fourth.peer, "refused")  # it lives
    assert ctx.take() == [Emit(NeighborFailed(second.peer)), Emit(NeighborFailed(third.peer))]
    assert not machine.awaiting


def test_with_retries_each_failure_is_made_good_by_a_neighbour_not_tried_yet() -> None:
    machine, ctx = node(8, fanout=2, acknowledged=True, retries=3)
    machine.on_message(ctx, peer(8), said())
    tried = [peer(8)]
    waiting = asked(ctx)
    while waiting:
        push = waiting.pop(0)
        assert push.peer not in tried
        tried.append(push.peer)
        machine.on_failure(ctx, push.key, push.peer, "timeout")
        waiting += asked(ctx)
    assert len(tried) == 1 + 2 + 3
    assert not machine.awaiting


def test_receipts_awaited_are_bounded_and_pushes_beyond_go_without() -> None:
    machine, ctx = node(8, fanout=4, acknowledged=True, awaiting=10)
    for number in range(5):
        machine.on_message(ctx, peer(99), said(number))
    effects = ctx.take(Request, Send)
    assert [type(effect) for effect in effects] == [Request] * 10 + [Send] * 10
    assert len(machine.awaiting) == 10


def test_a_village_of_names_without_connections_is_told_who_is_dead() -> None:
    village = Village(
        [part("cyclon", shuffle_interval=5.0), part("gossip", fanout=16, acknowledged=True)],
        16,
        spacing=0.5,
    ).grow(60.0)
    assert not any(node.links for node in village.alive), "nobody holds a connection"
    dead = village.nodes[9]
    for node in village.nodes:  # no shuffles from here on
        node.membership.leave() if node is dead else None
    holders = [node for node in village.nodes if dead.peer in node.membership.neighbors()]
    assert holders
    village.world.crash(dead)
    for node in holders:
        village.publish(node)
    village.run_for(1.0)
    assert not any(dead.peer in node.membership.neighbors() for node in village.alive)


# Bounds and records.


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
    again, life = Gossip(Config()), Recorder(ME, records=ctx.records)
    again.on_start(life)
    assert again.publish(life, "t", b"same") not in first


def test_after_the_disk_forgot_numbers_begin_where_none_was_used() -> None:
    machine, ctx = node(1)
    first = {machine.publish(ctx, "t", b"same") for _ in range(3)}
    again, life = Gossip(Config()), Recorder(ME, records={LOST: b"a loss"})
    again.on_start(life)
    assert again.publish(life, "t", b"same") not in first
    assert LOST not in life.records


def test_what_is_too_large_is_refused_with_the_limit() -> None:
    machine, ctx = node(1)
    with pytest.raises(LocalProtocolError, match="payload of 65537 bytes; limit 65536"):
        machine.publish(ctx, "t", bytes(65_537))

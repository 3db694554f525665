"""Scamp: Grove's conformance suite for membership, and what is particular to it."""

from __future__ import annotations

from math import log
from statistics import mean
from typing import Any

from grove_membership_scamp.config import Config
from grove_membership_scamp.machine import BEAT, RENEW, SUBSCRIBE, Scamp
from grove_membership_scamp.messages import (
    Accept,
    Dropped,
    Forward,
    Heartbeat,
    Kept,
    Replace,
    Subscribe,
    Subscribed,
    Subscriber,
)

from grove_core.events import NeighborDown, NeighborFailed, NeighborUp
from grove_core.machine import Token
from grove_core.testing import Emit, Recorder, Reply, Request, Save, Send, Village, part, peer
from grove_core.testing.conformance import MembershipConformance

ME = peer(0)
NEW = Subscriber(peer(9))


class TestConformance(MembershipConformance):
    part = part(
        "scamp", c=2, indirection=2, walk_max=48, lease=20.0, heartbeat_interval=2.0, isolation=6.0
    )
    symmetric = False  # an entry is a name, and InView is told of it a message later


def node(entries: int = 0, **config: Any) -> tuple[Scamp, Recorder]:
    machine, ctx = Scamp(Config(**config)), Recorder(ME)
    machine.on_start(ctx)
    for number in range(1, entries + 1):
        machine._keep(ctx, Subscriber(peer(number)))
    ctx.take()
    return machine, ctx


# Subscription.


def test_a_contact_forwards_to_each_of_its_entries_and_c_copies_more() -> None:
    machine, ctx = node(5, c=4, indirection=0)
    machine.on_request(ctx, peer(9), Subscribe(NEW, 0, 0), Token(1))
    answer, accept, *copies = ctx.take()
    assert answer == Reply(Token(1), Subscribed(True))
    assert accept == Send(peer(9), Accept())
    assert [one.msg for one in copies if isinstance(one, Send)] == [Forward(NEW, 0)] * 9
    assert [one.peer for one in copies[:5] if isinstance(one, Send)] == [peer(n) for n in range(1, 6)]


def test_a_renewed_subscription_has_as_many_copies_as_entries_are_about_to_expire() -> None:
    machine, ctx = node(5, c=4, indirection=0)
    for renewed in (3, 8):
        machine.on_request(ctx, peer(9), Subscribe(NEW, 0, renewed), Token(1))
        assert [msg for _, msg in ctx.sent()] == [Forward(NEW, 0)] * renewed


def test_a_contact_that_knows_nobody_keeps_the_newcomer_itself() -> None:
    machine, ctx = node(0)
    machine.on_request(ctx, peer(9), Subscribe(NEW, 4, 0), Token(1))
    assert ctx.take(Send, Emit) == [
        Send(peer(9), Accept()),
        Send(peer(9), Kept()),
        Emit(NeighborUp(peer(9))),
    ]


def test_indirection_passes_a_subscription_on_to_a_random_entry() -> None:
    machine, ctx = node(5, indirection=3)
    machine.on_request(ctx, peer(9), Subscribe(NEW, 60, 0), Token(1))
    ((_, passed_on),) = ctx.sent()
    assert passed_on == Subscribe(NEW, 2, 0), "and never further than our own setting allows"


def test_nobody_can_subscribe_somebody_else_by_asking() -> None:
    machine, ctx = node(5)
    machine.on_request(ctx, peer(8), Subscribe(NEW, 0, 0), Token(1))
    assert ctx.take() == [Reply(Token(1), Subscribed(False))]


def test_a_copy_is_kept_with_probability_one_in_one_plus_the_entries() -> None:
    kept = 0
    for seed in range(3000):
        machine, ctx = Scamp(Config()), Recorder(ME, seed=seed)
        for number in range(1, 4):
            machine._keep(ctx, Subscriber(peer(number)))
        ctx.take()
        machine.on_message(ctx, peer(1), Forward(NEW, 7))
        ((to, msg),) = ctx.sent()
        if msg == Kept():
            assert to == peer(9)
            kept += 1
        else:
            assert msg == Forward(NEW, 8)
            assert to in machine.partial_view
    assert abs(kept - 750) < 5 * (3000 * 0.25 * 0.75) ** 0.5


def test_a_copy_of_whom_we_have_is_passed_on_until_it_has_walked_enough() -> None:
    machine, ctx = node(3, walk_max=10)
    machine.on_message(ctx, peer(1), Forward(Subscriber(peer(2)), 9))
    assert [msg for _, msg in ctx.sent()] == [Forward(Subscriber(peer(2)), 10)]
    machine.on_message(ctx, peer(1), Forward(Subscriber(peer(2)), 10))
    assert ctx.sent() == []


def test_a_newcomers_first_entry_is_the_contact_that_acted() -> None:
    machine, ctx = node()
    machine.join(ctx, peer(1))
    (asked,) = ctx.take(Request)
    assert asked == Request(peer(1), Subscribe(Subscriber(ME), 4, 0), SUBSCRIBE, 10.0)
    machine.on_message(ctx, peer(5), Accept())
    machine.on_message(ctx, peer(6), Accept())
    assert machine.neighbors() == (peer(5),)


def test_a_contact_that_does_not_answer_leaves_the_view_and_another_is_asked() -> None:
    machine, ctx = node(2)
    machine.on_message(ctx, peer(5), Heartbeat())
    machine.on_timer(ctx, RENEW)
    (asked,) = ctx.take(Request)
    assert isinstance(asked, Request)
    assert asked.msg.renewed == 1
    machine.on_failure(ctx, SUBSCRIBE, asked.peer, "unreachable")
    (again,) = ctx.take(Request)
    assert isinstance(again, Request)
    assert again.peer != asked.peer
    assert machine.neighbors() == (again.peer,)


# Unsubscription.


def test_who_leaves_is_replaced_by_its_entries_but_for_c_plus_1() -> None:
    machine, ctx = node(3, c=1)
    for number in range(11, 16):
        machine.on_message(ctx, peer(number), Heartbeat())
    machine.leave(ctx)
    sent = ctx.sent()
    assert [(to, msg.by.peer if msg.by else None) for to, msg in sent[:5]] == [
        (peer(11), peer(1)),
        (peer(12), peer(2)),
        (peer(13), peer(3)),
        (peer(14), None),
        (peer(15), None),
    ]
    assert sent[5:] == [(peer(number), Dropped()) for number in (1, 2, 3)]
    assert machine.neighbors() == machine.known() == ()


def test_only_an_entry_can_have_itself_replaced() -> None:
    machine, ctx = node(2)
    machine.on_message(ctx, peer(7), Replace(NEW))
    assert machine.neighbors() == (peer(1), peer(2))
    machine.on_message(ctx, peer(1), Replace(NEW))
    assert machine.neighbors() == (peer(2), peer(9))
    assert ctx.take(Send, Emit) == [
        Emit(NeighborDown(peer(1))),
        Send(peer(9), Kept()),
        Emit(NeighborUp(peer(9))),
    ]


# Leases, heartbeats, isolation.


def test_entries_expire_with_their_lease_and_the_rest_hears_a_heartbeat() -> None:
    machine, ctx = node(1, lease=100.0)
    ctx.advance(60.0)
    machine._keep(ctx, Subscriber(peer(2)))
    ctx.take()
    ctx.advance(40.0)
    machine.on_timer(ctx, BEAT)
    assert ctx.sent() == [(peer(1), Dropped()), (peer(2), Heartbeat())]
    assert machine.neighbors() == (peer(2),)


def test_a_node_nobody_has_in_view_subscribes_anew() -> None:
    machine, ctx = node(1, isolation=30.0)
    ctx.advance(20.0)
    machine.on_message(ctx, peer(5), Heartbeat())
    assert machine.known() == (peer(5),)
    ctx.advance(20.0)
    machine.on_timer(ctx, BEAT)
    assert ctx.take(Request) == []
    ctx.advance(20.0)
    machine.on_timer(ctx, BEAT)
    assert ctx.take(Request) == [Request(peer(1), Subscribe(Subscriber(ME), 4, 0), SUBSCRIBE, 10.0)]
    assert machine.known() == ()


def test_what_a_broadcast_reports_as_failed_leaves_the_view_at_once() -> None:
    machine, ctx = node(2)
    machine.on_event(ctx, NeighborFailed(peer(1)))
    machine.on_event(ctx, NeighborFailed(peer(7)))
    assert ctx.take() == [Emit(NeighborDown(peer(1)))]


def test_the_views_are_bounded_whoever_writes() -> None:
    machine, ctx = node(0, view_max=10)
    for number in range(1, 2000):
        machine.on_message(ctx, peer(number), Heartbeat())
        machine.on_message(ctx, peer(number), Forward(Subscriber(peer(number)), 0))
    assert len(machine.in_view) == len(machine.partial_view) == 10


def test_a_restarted_node_has_the_view_it_last_kept_and_subscribes_anew() -> None:
    machine, ctx = node(3)
    machine.on_stop(ctx)
    assert ctx.take(Save)
    again, life = Scamp(Config()), Recorder(ME, records=ctx.records)
    again.on_start(life)
    assert set(again.neighbors()) == {peer(1), peer(2), peer(3)}
    life.fire(again, RENEW)
    assert [one.peer in again.partial_view for one in life.take(Request) if isinstance(one, Request)] == [
        True
    ]


def test_views_size_themselves_and_leases_do_not_make_them_grow() -> None:
    scamp = part("scamp", c=2, lease=60.0, heartbeat_interval=20.0, isolation=60.0, walk_max=100)
    village = Village([scamp], 40, spacing=1.0).grow(5.0)
    sizes = []
    for _ in range(4):
        sizes.append(mean(len(one.membership.neighbors()) for one in village.nodes))
        village.run_for(120.0)
    expected = 3 * log(40)
    assert all(0.6 * expected < size < 1.5 * expected for size in sizes), sizes
    assert all(one.membership.neighbors() for one in village.nodes)
    assert not any(one.links for one in village.nodes), "no connection is held"

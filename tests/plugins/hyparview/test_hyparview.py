"""HyParView step by step, in the order of TR DI-FCUL 07-13: join, active view, passive view, and
what the paper leaves open. `me` is peer 0; peers 1 to 5 are its neighbours in most tests."""

from __future__ import annotations

import copy
from random import Random
from typing import Any

import msgspec
import pytest
from grove_hyparview import messages as wire
from grove_hyparview.config import Config
from grove_hyparview.machine import HyParView
from grove_hyparview.messages import (
    CODEC,
    Contact,
    ForwardJoin,
    Join,
    Neighbor,
    NeighborReply,
    Shuffle,
    ShuffleReply,
)

from grove_core.events import NeighborDown, NeighborUp, PeerFound
from grove_core.machine import CONNECT, PeerId
from grove_core.testing import Connect, Disconnect, Emit, Recorder, Save, Send, SetTimer, part, peer
from grove_core.testing.conformance import MembershipConformance
from tests.fuzz import survives

ME = peer(0)
NEWCOMER = peer(100)
STRANGER = peer(200)


def node(neighbors: int = 0, passive: int = 0, **config: Any) -> tuple[HyParView, Recorder]:
    """A machine with neighbours 1, 2, … and passive peers 51, 52, …, and nothing recorded yet."""
    machine, ctx = HyParView(Config(**config)), Recorder(ME)
    machine.on_start(ctx)
    for number in range(1, neighbors + 1):
        machine.on_message(ctx, peer(number), Neighbor(high=True))
        machine.on_peer_up(ctx, peer(number))
    for number in range(51, 51 + passive):
        machine.passive[peer(number)] = None
    ctx.take()
    return machine, ctx


def dialed(ctx: Recorder) -> list[PeerId]:
    return [effect.peer for effect in ctx.take(Connect) if isinstance(effect, Connect)]


def accepted(machine: HyParView, ctx: Recorder, number: int) -> None:
    """A peer that we asked has come up and agreed."""
    machine.on_peer_up(ctx, peer(number))
    machine.on_message(ctx, peer(number), NeighborReply(True))


class TestConformance(MembershipConformance):
    part = part("hyparview", shuffle_interval=5.0)


# Join


def test_a_newcomer_connects_to_its_contact_and_says_join() -> None:
    machine, ctx = node()
    machine.join(ctx, peer(1))
    assert ctx.take(Connect, Send) == [Connect(peer(1))]
    machine.on_peer_up(ctx, peer(1))
    assert ctx.sent() == [(peer(1), Join())]
    machine.on_message(ctx, peer(1), NeighborReply(True))
    assert ctx.emitted() == [NeighborUp(peer(1))]
    assert machine.neighbors() == (peer(1),)


def test_a_contact_always_admits_a_newcomer_even_if_one_must_be_dropped() -> None:
    machine, ctx = node(neighbors=5)
    machine.on_message(ctx, NEWCOMER, Join())
    effects = ctx.take(Send, Connect, Disconnect, Emit)
    (dropped,) = [e.event.peer for e in effects if isinstance(e, Emit) and type(e.event) is NeighborDown]
    assert effects[:4] == [
        Send(dropped, wire.Disconnect(alive=True)),
        Disconnect(dropped),
        Emit(NeighborDown(dropped)),
        Connect(NEWCOMER),
    ]
    assert Emit(NeighborUp(NEWCOMER)) in effects
    assert dropped in machine.known(), "the dropped peer moves to the passive view"
    assert len(machine.neighbors()) == 5


def test_a_contact_lets_the_newcomer_walk_from_each_other_active_peer() -> None:
    machine, ctx = node(neighbors=4)
    machine.on_message(ctx, NEWCOMER, Join(b"how to reach it"))
    walk = ForwardJoin(Contact(NEWCOMER, b"how to reach it"), ttl=6)
    sent = ctx.sent()
    assert sent == [(NEWCOMER, NeighborReply(True))] + [(peer(n), walk) for n in (1, 2, 3, 4)]


def test_records_of_newcomers_reach_the_driver() -> None:
    machine, ctx = node(neighbors=3)
    machine.on_message(ctx, NEWCOMER, Join(b"record"))
    assert PeerFound(NEWCOMER, b"record") in ctx.emitted()
    machine.on_message(ctx, peer(1), ForwardJoin(Contact(peer(7), b"another"), 6))
    assert PeerFound(peer(7), b"another") in ctx.emitted()


def test_a_walk_ends_at_ttl_zero_with_a_neighbor_request_that_must_be_granted() -> None:
    machine, ctx = node(neighbors=5)
    machine.on_message(ctx, peer(1), ForwardJoin(Contact(NEWCOMER), ttl=0))
    assert ctx.take(Send, Connect) == [Connect(NEWCOMER)]
    machine.on_peer_up(ctx, NEWCOMER)
    assert ctx.sent() == [(NEWCOMER, Neighbor(high=True))]
    assert NEWCOMER not in machine.neighbors(), "not before it agrees: it may be unreachable"
    machine.on_message(ctx, NEWCOMER, NeighborReply(True))
    assert NEWCOMER in machine.neighbors()
    assert len(machine.neighbors()) == 5


def test_a_walk_ends_at_a_node_with_one_active_peer() -> None:
    # The text of the paper says one; its Algorithm 1 says none, where no walk could ever arrive.
    machine, ctx = node(neighbors=1)
    machine.on_message(ctx, peer(1), ForwardJoin(Contact(NEWCOMER), ttl=6))
    assert ctx.take(Send, Connect) == [Connect(NEWCOMER)]


def test_a_walk_goes_on_to_a_random_active_peer_other_than_the_sender() -> None:
    machine, ctx = node(neighbors=5)
    reached = set()
    for _ in range(40):
        machine.on_message(ctx, peer(1), ForwardJoin(Contact(NEWCOMER), ttl=5))
        ((to, msg),) = ctx.sent()
        assert msg == ForwardJoin(Contact(NEWCOMER), ttl=4)
        reached.add(to)
    assert reached == {peer(2), peer(3), peer(4), peer(5)}
    assert NEWCOMER not in machine.known()


def test_at_prwl_the_newcomer_also_enters_the_passive_view() -> None:
    machine, ctx = node(neighbors=5)
    machine.on_message(ctx, peer(1), ForwardJoin(Contact(NEWCOMER), ttl=3))
    assert machine.known() == (NEWCOMER,)
    assert len(ctx.sent()) == 1


# Active view


def test_low_priority_is_granted_only_with_a_free_slot() -> None:
    machine, ctx = node(neighbors=4)
    machine.on_message(ctx, peer(8), Neighbor(high=False))
    assert ctx.sent() == [(peer(8), NeighborReply(True))]
    machine.on_message(ctx, peer(9), Neighbor(high=False))
    assert ctx.sent() == [(peer(9), NeighborReply(False))]
    assert peer(9) not in machine.neighbors()


def test_high_priority_is_always_granted() -> None:
    machine, ctx = node(neighbors=5)
    machine.on_message(ctx, peer(9), Neighbor(high=True))
    assert (peer(9), NeighborReply(True)) in ctx.sent()
    assert peer(9) in machine.neighbors()
    assert len(machine.neighbors()) == 5


def test_a_broken_link_is_replaced_from_the_passive_view() -> None:
    machine, ctx = node(neighbors=5, passive=1)
    machine.on_peer_down(ctx, peer(3))
    assert ctx.take(Emit, Connect, Disconnect) == [Emit(NeighborDown(peer(3))), Connect(peer(51))]
    assert peer(3) not in machine.known(), "taken for failed, so in neither view"
    machine.on_peer_up(ctx, peer(51))
    assert ctx.sent() == [(peer(51), Neighbor(high=False))]
    machine.on_message(ctx, peer(51), NeighborReply(True))
    assert peer(51) in machine.neighbors()
    assert machine.known() == ()


def test_priority_is_high_only_if_no_active_peer_is_left() -> None:
    machine, ctx = node(neighbors=1, passive=1)
    machine.on_peer_down(ctx, peer(1))
    machine.on_peer_up(ctx, peer(51))
    assert ctx.sent() == [(peer(51), Neighbor(high=True))]


def test_an_unreachable_candidate_is_forgotten_and_the_next_is_tried() -> None:
    machine, ctx = node(neighbors=5, passive=2)
    machine.on_peer_down(ctx, peer(3))
    (first,) = dialed(ctx)
    machine.on_failure(ctx, CONNECT, first, "unreachable")
    (second,) = dialed(ctx)
    assert {first, second} == {peer(51), peer(52)}
    assert machine.known() == (second,)


def test_a_candidate_that_refuses_stays_in_the_passive_view_and_another_is_tried() -> None:
    machine, ctx = node(neighbors=5, passive=2)
    machine.on_peer_down(ctx, peer(3))
    (first,) = dialed(ctx)
    machine.on_peer_up(ctx, first)
    machine.on_message(ctx, first, NeighborReply(False))
    effects = ctx.take(Disconnect, Connect)
    (second,) = [effect.peer for effect in effects if isinstance(effect, Connect)]
    assert Disconnect(first) in effects
    assert second != first
    assert set(machine.known()) == {first, second}
    machine.on_peer_up(ctx, second)
    machine.on_message(ctx, second, NeighborReply(False))
    assert dialed(ctx) == [], "who refused is not asked again in the same round"


def test_a_mute_candidate_is_given_up_after_neighbor_timeout() -> None:
    machine, ctx = node(neighbors=5, passive=2)
    machine.on_peer_down(ctx, peer(3))
    (first,) = dialed(ctx)
    machine.on_peer_up(ctx, first)
    assert SetTimer(first, 5.0) in ctx.take()
    ctx.fire(machine, first)
    effects = ctx.take(Disconnect, Connect)
    assert effects[0] == Disconnect(first)
    assert isinstance(effects[1], Connect)
    assert first not in machine.known()


@pytest.mark.parametrize(("refill", "dials"), [("now", 1), ("cycle", 0)])
def test_disconnect_moves_the_sender_to_the_passive_view(refill: str, dials: int) -> None:
    machine, ctx = node(neighbors=5, passive=3, refill=refill)
    machine.on_message(ctx, peer(2), wire.Disconnect())
    assert len(dialed(ctx)) == dials
    assert peer(2) not in machine.neighbors()
    assert peer(2) in machine.known()
    if refill == "cycle":
        ctx.fire(machine, "cycle")
        assert len(dialed(ctx)) == 1


def test_a_leaving_peer_is_kept_in_no_view() -> None:
    machine, ctx = node(neighbors=5, passive=1)
    machine.on_message(ctx, peer(2), wire.Disconnect(alive=False))
    machine.on_message(ctx, peer(51), wire.Disconnect(alive=False))
    assert peer(2) not in machine.neighbors() + machine.known()
    assert peer(51) not in machine.known()


# Passive view


def test_a_cycle_sends_a_shuffle_of_self_ka_active_and_kp_passive_ids() -> None:
    machine, ctx = node(neighbors=5, passive=30)
    ctx.fire(machine, "cycle")
    ((to, msg),) = ctx.sent()
    assert to in machine.neighbors()
    assert msg.origin == Contact(ME)
    assert msg.ttl == 6
    ids = [contact.peer for contact in msg.contacts]
    assert len(ids) == 7
    assert sum(one in machine.active for one in ids) == 3
    assert sum(one in machine.passive for one in ids) == 4
    assert ctx.timers["cycle"] == ctx.now + 60.0


def test_a_shuffle_walks_on_while_its_ttl_lasts() -> None:
    machine, ctx = node(neighbors=5)
    machine.on_message(ctx, peer(1), Shuffle(Contact(peer(70)), (Contact(peer(71)),), ttl=4))
    ((to, msg),) = ctx.sent()
    assert to in machine.neighbors()
    assert to != peer(1)
    assert msg == Shuffle(Contact(peer(70)), (Contact(peer(71)),), ttl=3)
    assert machine.known() == ()


def test_the_last_of_a_walk_answers_the_origin_with_as_many_ids_and_merges() -> None:
    machine, ctx = node(neighbors=5, passive=10)
    offered = tuple(Contact(peer(n)) for n in (71, 72, 73))
    machine.on_message(ctx, peer(1), Shuffle(Contact(peer(70)), offered, ttl=1))
    ((to, reply),) = ctx.sent()
    assert to == peer(70), "over a temporary connection, which ctx.send opens"
    assert len(reply.contacts) == 3
    assert {contact.peer for contact in reply.contacts} <= {peer(n) for n in range(51, 61)}
    assert {peer(70), peer(71), peer(72), peer(73)} <= set(machine.known())


def test_merging_skips_self_and_ids_already_known() -> None:
    machine, ctx = node(neighbors=5, passive=2)
    offered = tuple(Contact(one) for one in (ME, peer(2), peer(51), peer(71)))
    machine.on_message(ctx, peer(1), Shuffle(Contact(peer(3)), offered, ttl=1))
    assert set(machine.known()) == {peer(51), peer(52), peer(71)}


def test_a_full_passive_view_first_evicts_what_was_just_sent() -> None:
    machine, ctx = node(neighbors=5, passive=30)
    ctx.fire(machine, "cycle")
    ((to, msg),) = ctx.sent()
    sent = {contact.peer for contact in msg.contacts} & set(machine.known())
    kept = set(machine.known()) - sent
    machine.on_message(ctx, to, ShuffleReply(tuple(Contact(peer(n)) for n in range(171, 175))))
    assert set(machine.known()) == kept | {peer(n) for n in range(171, 175)}


def test_a_shuffle_reply_counts_once_and_only_if_it_was_asked_for() -> None:
    machine, ctx = node(neighbors=5, passive=5)
    poison = ShuffleReply((Contact(peer(71)),))
    machine.on_message(ctx, STRANGER, poison)
    assert peer(71) not in machine.known()
    ctx.fire(machine, "cycle")
    machine.on_message(ctx, STRANGER, poison)  # the end of the walk may be anybody
    assert peer(71) in machine.known()
    machine.on_message(ctx, STRANGER, ShuffleReply((Contact(peer(72)),)))
    assert peer(72) not in machine.known()


# Symmetry


@pytest.mark.parametrize(
    "walk", [ForwardJoin(Contact(peer(9)), 3), Shuffle(Contact(STRANGER), (), 3)], ids=["join", "shuffle"]
)
def test_a_walk_from_a_non_neighbour_ends_and_is_answered_with_disconnect(walk: Any) -> None:
    machine, ctx = node(neighbors=5)
    machine.on_message(ctx, STRANGER, walk)
    assert ctx.take() == [Send(STRANGER, wire.Disconnect())]


def test_a_disconnect_from_a_non_neighbour_is_not_answered() -> None:
    machine, ctx = node(neighbors=5)
    machine.on_message(ctx, STRANGER, wire.Disconnect())
    assert ctx.take() == []


def test_crossing_neighbor_requests_make_one_link() -> None:
    machine, ctx = node(neighbors=4, passive=1)
    machine.on_peer_down(ctx, peer(4))
    machine.on_peer_up(ctx, peer(51))
    machine.on_message(ctx, peer(51), Neighbor(high=False))
    machine.on_message(ctx, peer(51), NeighborReply(True))
    ups = [event for event in ctx.emitted() if event == NeighborUp(peer(51))]
    assert ups == [NeighborUp(peer(51))]
    assert machine.neighbors().count(peer(51)) == 1


def test_crossing_requests_of_which_one_was_refused_leave_no_link() -> None:
    machine, ctx = node(neighbors=4, passive=1)
    machine.on_peer_down(ctx, peer(4))
    machine.on_peer_up(ctx, peer(51))
    machine.on_message(ctx, peer(51), Neighbor(high=False))
    ctx.take()
    machine.on_message(ctx, peer(51), NeighborReply(False))
    assert (peer(51), wire.Disconnect()) in ctx.sent()
    assert peer(51) not in machine.neighbors()


def test_an_acceptance_that_comes_too_late_is_taken_back() -> None:
    machine, ctx = node(neighbors=4, passive=1)
    machine.on_peer_down(ctx, peer(4))
    machine.on_peer_up(ctx, peer(51))
    for number in (8, 9):  # meanwhile others took the free slots
        machine.on_message(ctx, peer(number), Neighbor(high=False))
    ctx.take()
    machine.on_message(ctx, peer(51), NeighborReply(True))
    assert ctx.take(Send, Disconnect) == [Send(peer(51), wire.Disconnect()), Disconnect(peer(51))]
    assert peer(51) in machine.known()


def test_a_neighbour_that_lost_its_views_is_granted_again_without_a_second_event() -> None:
    machine, ctx = node(neighbors=3)
    machine.on_message(ctx, peer(2), Neighbor(high=False))
    assert ctx.take() == [Send(peer(2), NeighborReply(True))]


# Isolation and restarts


def test_a_node_that_is_alone_joins_again_with_growing_waits() -> None:
    machine, ctx = node()
    machine.join(ctx, peer(1))
    waits = []
    for _ in range(10):
        machine.on_failure(ctx, CONNECT, peer(1), "unreachable")
        waits.append(ctx.timers["rejoin"] - ctx.now)
        ctx.take()
        ctx.fire(machine, "rejoin")
        assert dialed(ctx) == [peer(1)]
    assert 0.5 <= waits[0] <= 1.5
    assert all(0.5 * 2**n <= wait <= 1.5 * 2**n for n, wait in enumerate(waits[:6]))
    assert max(waits) <= 90.0


def test_a_node_that_lost_everybody_goes_back_through_former_neighbours() -> None:
    machine, ctx = node(neighbors=2)
    for number in (1, 2):
        machine.on_peer_down(ctx, peer(number))
    ctx.take()
    ctx.fire(machine, "rejoin")
    (way,) = dialed(ctx)
    machine.on_peer_up(ctx, way)
    assert ctx.sent() == [(way, Join())]


def test_discovery_offers_a_way_in_to_a_node_that_knows_nobody() -> None:
    machine, ctx = node()
    machine.on_event(ctx, PeerFound(peer(9)))
    assert dialed(ctx) == [peer(9)]
    machine.on_event(ctx, PeerFound(peer(10)))
    assert machine.known() == (peer(10),)


def test_a_restarted_node_goes_back_by_itself() -> None:
    machine, ctx = node(neighbors=3, passive=2)
    ctx.known = {peer(1): b"record of 1"}
    ctx.fire(machine, "save")
    (kept,) = ctx.take(Save)
    assert isinstance(kept, Save)
    assert kept.key == "views"
    again, life = HyParView(Config()), Recorder(ME, records=ctx.records)
    again.on_start(life)
    assert PeerFound(peer(1), b"record of 1") in [e.event for e in life.take(Emit) if isinstance(e, Emit)]
    assert set(again.dialing) == {peer(n) for n in (1, 2, 3, 51, 52)}
    accepted(again, life, 2)
    assert again.neighbors() == (peer(2),)


@pytest.mark.parametrize("torn", [b"", b"\xc1", msgspec.msgpack.encode([99, [], [], []])])
def test_records_it_cannot_read_are_ignored(torn: bytes) -> None:
    machine, ctx = HyParView(Config()), Recorder(ME, records={"views": torn})
    machine.on_start(ctx)
    assert machine.known() == ()


def test_leaving_tells_all_neighbours_and_forgets_everything() -> None:
    machine, ctx = node(neighbors=3, passive=2)
    machine.leave(ctx)
    effects = ctx.take(Send, Save)
    goodbyes = [Send(peer(n), wire.Disconnect(alive=False)) for n in (1, 2, 3)]
    assert effects == [*goodbyes, Save("views", None)]
    assert machine.neighbors() == machine.known() == ()
    machine.on_message(ctx, NEWCOMER, Join())
    assert ctx.sent() == [(NEWCOMER, NeighborReply(False))]


# Negative control


def test_with_repair_off_views_are_frozen() -> None:
    machine, ctx = node(neighbors=2, passive=5, repair=False)
    for number in (1, 2):
        machine.on_peer_down(ctx, peer(number))
    ctx.fire(machine, "cycle")
    assert dialed(ctx) == []


# Hostile input


@pytest.mark.claim("hyparview.hostile-input-is-bounded")
def test_a_storm_of_joins_pushes_out_no_more_than_join_rate_allows() -> None:
    machine, ctx = node(neighbors=5, passive=30)
    walks = drops = 0
    for number in range(10_000):  # within one second
        ctx.now = number / 10_000
        machine.on_message(ctx, peer(1000 + number), Join())
        for _, msg in ctx.sent():
            walks += type(msg) is ForwardJoin
            drops += type(msg) is wire.Disconnect
    assert drops <= 60, "join_burst 40 and join_rate 20 for one second"
    assert walks <= 60 * 4
    assert len(machine.neighbors()) == 5
    assert len(machine.known()) == 30
    assert len(machine.contacts) <= 16


def test_a_refused_newcomer_is_told_where_else_to_go() -> None:
    machine, ctx = node(neighbors=5, passive=30, join_burst=1, join_rate=0.001)
    machine.on_message(ctx, peer(100), Join())
    ctx.take()
    machine.on_message(ctx, peer(101), Join())
    ((_, reply),) = ctx.sent()
    assert not reply.accepted
    assert len(reply.contacts) == 7
    newcomer, its = HyParView(Config()), Recorder(peer(101))
    newcomer.join(its, ME)
    newcomer.on_peer_up(its, ME)
    its.take()
    newcomer.on_message(its, ME, reply)
    assert set(dialed(its)) <= {contact.peer for contact in reply.contacts}
    assert len(newcomer.dialing) == 5


@pytest.mark.claim("hyparview.hostile-input-is-bounded")
def test_whatever_happens_in_whatever_order_the_invariants_hold() -> None:
    machine, ctx = node()
    rng = Random(5)
    up: dict[PeerId, bool] = {}  # neighbours as the events tell
    for step in range(20_000):
        one, two = peer(rng.randrange(1, 60)), Contact(peer(rng.randrange(0, 60)))
        match rng.randrange(14):
            case 0:
                machine.on_message(ctx, one, Join())
            case 1 | 2:
                machine.on_message(ctx, one, ForwardJoin(two, rng.randrange(0, 17)))
            case 3:
                machine.on_message(ctx, one, Neighbor(rng.random() < 0.2))
            case 4 | 5:
                machine.on_message(ctx, one, NeighborReply(rng.random() < 0.7, (two,)))
            case 6:
                machine.on_message(ctx, one, wire.Disconnect(rng.random() < 0.7))
            case 7:
                machine.on_message(ctx, one, Shuffle(two, (Contact(one), Contact(ME)), rng.randrange(17)))
            case 8:
                machine.on_message(ctx, one, ShuffleReply((two, Contact(ME))))
            case 9:
                machine.on_peer_up(ctx, one)
            case 10:
                machine.on_peer_down(ctx, one)
            case 11:
                machine.on_failure(ctx, CONNECT, one, "unreachable")
            case 12:
                machine.on_event(ctx, PeerFound(one))
            case _:
                if ctx.timers:
                    ctx.fire(machine, rng.choice(list(ctx.timers)))
        if step % 5000 == 4999:
            machine.leave(ctx)
            machine.join(ctx, peer(1))
        for event in ctx.emitted():
            if isinstance(event, NeighborUp):
                assert not up.get(event.peer), f"seed 5, step {step}: up twice"
                up[event.peer] = True
            elif isinstance(event, NeighborDown):
                assert up.get(event.peer), f"seed 5, step {step}: down twice"
                up[event.peer] = False
        active, passive = machine.active.keys(), machine.passive.keys()
        assert active == {one for one, is_up in up.items() if is_up}, f"seed 5, step {step}"
        assert not active & passive
        assert ME not in active | passive | machine.dialing.keys() | machine.asked.keys()
        assert not active & (machine.dialing.keys() | machine.asked.keys()), f"seed 5, step {step}"
        assert not machine.dialing.keys() & machine.asked.keys()
        assert len(active) <= 5
        assert len(passive) <= 30
        assert len(machine.dialing) + len(machine.asked) <= 16 + 5 + 1
        assert machine.asked.keys() <= ctx.timers.keys(), "nobody is waited for without end"


@pytest.mark.claim("hyparview.hostile-input-is-bounded")
def test_a_flood_of_walks_and_giant_shuffles_leaves_all_tables_within_their_bounds() -> None:
    machine, ctx = node(neighbors=5, passive=30)
    everybody = iter(range(1000, 100_000))
    for _ in range(500):
        giant = tuple(Contact(peer(next(everybody))) for _ in range(wire.MAX_CONTACTS))
        machine.on_message(ctx, peer(1), Shuffle(Contact(peer(next(everybody))), giant, ttl=1))
        ((_, reply),) = ctx.sent()
        assert len(reply.contacts) <= 30
        machine.on_message(ctx, peer(1), ForwardJoin(Contact(peer(next(everybody))), ttl=0))
    assert len(machine.known()) == 30
    assert len(machine.dialing) + len(machine.asked) == 16
    assert machine.neighbors() == tuple(peer(n) for n in (1, 2, 3, 4, 5))


def test_oversized_messages_do_not_decode() -> None:
    from grove_core.errors import RemoteProtocolError

    def raw(*fields: object) -> bytes:
        return msgspec.msgpack.encode(fields)

    contact = [peer(1), b""]
    good = raw("Shuffle", contact, [contact] * 32, 6)
    assert len(CODEC.decode(good).contacts) == 32
    for bad in (
        raw("Shuffle", contact, [contact] * 33, 6),
        raw("Shuffle", contact, [], 17),
        raw("ForwardJoin", [b"", b""], 3),
        raw("ForwardJoin", [b"x" * 65, b""], 3),
        raw("Join", b"r" * 1025),
        raw("Neighbor", 1),
        raw("Hello"),
        b"\x00" * (CODEC.max_size + 1),
    ):
        with pytest.raises(RemoteProtocolError):
            CODEC.decode(bad)


@pytest.mark.claim("hyparview.bad-frames")
def test_mutated_frames_decode_or_are_refused() -> None:
    some = tuple(Contact(peer(n), b"record" * n) for n in range(8))
    corpus = [
        Join(b"record"),
        ForwardJoin(some[1], 6),
        Neighbor(True),
        NeighborReply(False, some),
        wire.Disconnect(False),
        Shuffle(some[0], some[1:], 6),
        ShuffleReply(some),
    ]
    assert survives(CODEC.decode, seed=11, corpus=[CODEC.encode(msg) for msg in corpus])


def test_a_prwl_beyond_arwl_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="prwl 5 exceeds arwl 4"):
        msgspec.convert({"prwl": 5, "arwl": 4}, Config)


def test_the_machine_can_be_copied() -> None:
    machine, ctx = node(neighbors=5, passive=3)
    twin = copy.deepcopy(machine)
    machine.on_peer_down(ctx, peer(1))
    assert twin.neighbors() != machine.neighbors()

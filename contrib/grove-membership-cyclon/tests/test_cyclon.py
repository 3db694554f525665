"""Cyclon: Grove's conformance suite for membership, and what is particular to it."""

from __future__ import annotations

from typing import Any

import pytest
from grove_membership_cyclon.config import Config
from grove_membership_cyclon.machine import CYCLE, JOIN, SHUFFLE, Cyclon
from grove_membership_cyclon.messages import (
    Entry,
    Join,
    Joining,
    Shuffle,
    Shuffled,
    Walk,
    Welcome,
)

from grove_core.events import NeighborDown, NeighborFailed, NeighborUp
from grove_core.machine import Token
from grove_core.testing import Emit, Recorder, Reply, Request, Save, Send, Village, part, peer
from grove_core.testing.conformance import MembershipConformance

ME = peer(0)


class TestConformance(MembershipConformance):
    part = part("cyclon", view_size=8, shuffle_size=4, shuffle_interval=1.0)
    symmetric = False  # an entry is a name: who is named is not told


def node(ages: dict[int, int] | None = None, **config: Any) -> tuple[Cyclon, Recorder]:
    """A machine whose view holds peers of the given ages."""
    config = {"view_size": 4, "shuffle_size": 3} | config
    machine, ctx = Cyclon(Config(**config)), Recorder(ME)
    machine.on_start(ctx)
    for number, age in (ages or {}).items():
        machine._insert(ctx, peer(number), age)
    ctx.take()
    return machine, ctx


def shuffle(machine: Cyclon, ctx: Recorder) -> Request:
    """Let a cycle begin; returns its question."""
    ctx.fire(machine, CYCLE)
    (asked,) = ctx.take(Request)
    assert isinstance(asked, Request)
    return asked


# Shuffling.


def test_a_shuffle_goes_to_the_oldest_entry_and_carries_ourselves_in_its_place() -> None:
    machine, ctx = node({1: 3, 2: 7, 3: 0, 4: 1})
    asked = shuffle(machine, ctx)
    assert (asked.peer, asked.key) == (peer(2), SHUFFLE)
    me, *others = asked.msg.entries
    assert me == Entry(ME, 0)
    assert len(others) == 2
    ages = {peer(1): 4, peer(3): 1, peer(4): 2}  # a cycle has passed
    assert all(ages[entry.peer] == entry.age for entry in others)
    assert peer(2) not in machine.neighbors()


def test_the_answerer_gives_as_many_and_takes_what_is_new_in_their_places() -> None:
    machine, ctx = node({1: 3, 2: 7, 3: 0, 4: 1})
    machine.on_request(ctx, peer(9), Shuffle((Entry(peer(9)), Entry(ME, 5), Entry(peer(8), 2))), Token(1))
    reply, *changes = ctx.take()
    assert isinstance(reply, Reply)
    given = {entry.peer for entry in reply.msg.entries}
    assert len(given) == 3
    gone = {
        one.event.peer for one in changes if isinstance(one, Emit) and isinstance(one.event, NeighborDown)
    }
    assert len(gone) == 2
    assert gone < given
    assert set(machine.neighbors()) == {peer(n) for n in (1, 2, 3, 4, 8, 9)} - gone


def test_an_entry_we_have_changes_nothing_its_age_included() -> None:
    machine, ctx = node({1: 3, 2: 7})
    machine.on_request(ctx, peer(9), Shuffle((Entry(peer(2), 1),)), Token(1))
    assert machine.view == {peer(1): -3, peer(2): -7}


def test_the_asker_fills_free_places_first_and_then_those_of_what_it_sent() -> None:
    machine, ctx = node({1: 3, 2: 7, 3: 0, 4: 1})
    asked = shuffle(machine, ctx)
    sent = {entry.peer for entry in asked.msg.entries[1:]}
    kept = {peer(1), peer(3), peer(4)} - sent
    machine.on_reply(ctx, SHUFFLE, peer(2), Shuffled((Entry(peer(5), 1), Entry(ME), Entry(peer(6), 4))))
    view = set(machine.neighbors())
    assert len(view) == 4
    assert kept | {peer(5), peer(6)} < view
    assert len(view & sent) == 1


def test_who_does_not_answer_has_left_the_view() -> None:
    machine, ctx = node({1: 3, 2: 7})
    asked = shuffle(machine, ctx)
    machine.on_failure(ctx, asked.key, asked.peer, "unreachable")
    assert machine.neighbors() == (peer(1),)


def test_who_answers_goes_back_into_a_view_with_room() -> None:
    machine, ctx = node({1: 3})
    shuffle(machine, ctx)
    machine.on_reply(ctx, SHUFFLE, peer(1), Shuffled((Entry(peer(2), 1),)))
    assert machine.neighbors() == (peer(2), peer(1))


def test_an_answer_longer_than_a_shuffle_is_cut() -> None:
    machine, ctx = node({1: 3})
    shuffle(machine, ctx)
    machine.on_reply(ctx, SHUFFLE, peer(1), Shuffled(tuple(Entry(peer(n)) for n in range(10, 42))))
    assert len(machine.neighbors()) == 4
    assert peer(12) in machine.neighbors()
    assert peer(13) not in machine.neighbors()


# Joining.


def test_a_contact_starts_as_many_walks_as_a_view_has_entries() -> None:
    machine, ctx = node({1: 0, 2: 0, 3: 0, 4: 0})
    machine.on_request(ctx, peer(9), Join(Entry(peer(9))), Token(1))
    answer, *walks = ctx.take()
    assert answer == Reply(Token(1), Joining(4))
    assert all(isinstance(one, Send) and one.msg == Walk(Entry(peer(9)), 4) for one in walks)
    assert len(walks) == 4


def test_nobody_can_ask_in_for_somebody_else() -> None:
    machine, ctx = node({1: 0})
    machine.on_request(ctx, peer(9), Join(Entry(peer(8))), Token(1))
    assert ctx.take() == [Reply(Token(1), Joining(0))]


def test_where_a_walk_ends_the_newcomer_is_exchanged_for_an_entry() -> None:
    machine, ctx = node({1: 5, 2: 5, 3: 5, 4: 5})
    machine.on_message(ctx, peer(1), Walk(Entry(peer(9)), 0))
    down, up, welcome = ctx.take()
    assert isinstance(down, Emit)
    assert isinstance(down.event, NeighborDown)
    assert up == Emit(NeighborUp(peer(9)))
    assert welcome == Send(peer(9), Welcome(Entry(down.event.peer, 5)))


def test_welcomes_count_only_as_long_as_they_are_owed() -> None:
    machine, ctx = node()
    machine.on_message(ctx, peer(5), Welcome(Entry(peer(6))))
    assert machine.neighbors() == ()
    machine.join(ctx, peer(1))
    assert ctx.take(Request) == [Request(peer(1), Join(Entry(ME)), JOIN, 10.0)]
    machine.on_reply(ctx, JOIN, peer(1), Joining(2))
    for number in (6, 7, 8):
        machine.on_message(ctx, peer(5), Welcome(Entry(peer(number))))
    assert machine.neighbors() == (peer(6), peer(7))


def test_a_node_that_is_alone_joins_again_in_its_next_cycle() -> None:
    machine, ctx = node()
    machine.join(ctx, peer(1))
    ctx.take()
    machine.on_failure(ctx, JOIN, peer(1), "unreachable")
    ctx.fire(machine, CYCLE)
    (asked,) = ctx.take(Request)
    assert isinstance(asked, Request)
    assert (asked.peer, asked.key) == (peer(1), JOIN)


# Failures and records.


def test_what_a_broadcast_reports_as_failed_leaves_the_view_at_once() -> None:
    machine, ctx = node({1: 0, 2: 0})
    machine.on_event(ctx, NeighborFailed(peer(1)))
    machine.on_event(ctx, NeighborFailed(peer(7)))
    assert ctx.take() == [Emit(NeighborDown(peer(1)))]
    assert machine.neighbors() == (peer(2),)


def test_a_restarted_node_has_the_view_it_last_kept() -> None:
    machine, ctx = node({1: 3, 2: 7, 3: 1}, save_cycles=1)
    ctx.fire(machine, CYCLE)
    assert ctx.take(Save)
    again, life = Cyclon(machine.config), Recorder(ME, records=ctx.records)
    again.on_start(life)
    assert set(again.neighbors()) == {peer(1), peer(2), peer(3)}


def test_who_leaves_gives_nothing_and_takes_nothing() -> None:
    machine, ctx = node({1: 3, 2: 7})
    machine.leave(ctx)
    ctx.take()
    machine.on_request(ctx, peer(1), Shuffle((Entry(peer(1)),)), Token(1))
    machine.on_request(ctx, peer(1), Join(Entry(peer(1))), Token(2))
    machine.on_message(ctx, peer(1), Walk(Entry(peer(9)), 3))
    assert ctx.take() == [Reply(Token(1), Shuffled((), here=False)), Reply(Token(2), Joining(0))]
    assert machine.neighbors() == ()


def test_a_shuffle_longer_than_the_view_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="shuffle_size 9 exceeds view_size 8"):
        Config(view_size=8, shuffle_size=9)


def test_a_village_of_two_does_not_lose_itself() -> None:
    village = Village([part("cyclon", shuffle_interval=1.0)], 2, spacing=1.0).grow(200.0)
    first, second = village.nodes
    assert first.membership.neighbors() or second.membership.neighbors()
    assert not first.links, "no connection is held"


def test_views_fill_and_in_degrees_even_out() -> None:
    village = Village(
        [part("cyclon", view_size=10, shuffle_size=5, shuffle_interval=1.0)], 200, spacing=0.05
    ).grow(30.0)
    inward: dict[Any, int] = {}
    for one in village.nodes:
        assert len(one.membership.neighbors()) >= 9  # one place is free while a shuffle is open
        for other in one.membership.neighbors():
            inward[other] = inward.get(other, 0) + 1
    assert len(inward) == 200
    assert min(inward.values()) >= 3
    assert max(inward.values()) <= 25

"""The pool between its water marks: dialling, taking, pruning, backing off, coming back."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
import pytest
from grove_pool.config import Config
from grove_pool.machine import Pool

from grove_core.drive.virtual import uniform
from grove_core.events import NeighborDown, NeighborUp, PeerFound
from grove_core.machine import CONNECT, Event, PeerId
from grove_core.testing import Connect, Disconnect, Recorder, Save, SetTimer, Village, part, peer
from grove_core.testing.conformance import MembershipConformance

ME = peer(0)


def node(**config: Any) -> tuple[Pool, Recorder]:
    machine, ctx = Pool(Config(**{"low": 4, "high": 6, "outbound": 2} | config)), Recorder(ME)
    machine.on_start(ctx)
    ctx.take()
    return machine, ctx


def find(machine: Pool, ctx: Recorder, *numbers: int) -> None:
    for number in numbers:
        machine.on_event(ctx, PeerFound(peer(number)))


def dialed(ctx: Recorder) -> list[PeerId]:
    return [effect.peer for effect in ctx.take(Connect) if isinstance(effect, Connect)]


def ups(ctx: Recorder) -> list[Event]:
    return [event for event in ctx.emitted() if isinstance(event, NeighborUp | NeighborDown)]


class TestConformance(MembershipConformance):
    part = part("pool", low=4, high=24, outbound=2)


def test_peers_that_discovery_reports_are_dialled_up_to_the_low_mark() -> None:
    machine, ctx = node()
    find(machine, ctx, *range(1, 10))
    assert len(dialed(ctx)) == 4
    assert len(machine.known()) == 5
    for one in list(machine.dialing):
        machine.on_peer_up(ctx, one)
    assert len(ups(ctx)) == 4
    assert len(machine.neighbors()) == 4


def test_dials_in_flight_are_bounded() -> None:
    machine, ctx = node(low=20, high=30, dials=3)
    find(machine, ctx, *range(1, 30))
    assert len(dialed(ctx)) == 3


def test_who_dials_us_is_held_up_to_the_high_mark() -> None:
    machine, ctx = node()
    for number in range(1, 10):
        machine.on_peer_up(ctx, peer(number))
    assert dialed(ctx) == [peer(number) for number in range(1, 7)], "connect: to hold what is open"
    assert len(machine.neighbors()) == 6


def test_inbound_peers_cannot_fill_the_pool() -> None:
    machine, ctx = node()
    for number in range(1, 7):
        machine.on_peer_up(ctx, peer(number))
    ctx.take()
    find(machine, ctx, 11, 12, 13)
    assert len(dialed(ctx)) == 2, "two of ours are wanted even though the pool is full"
    for one in list(machine.dialing):
        machine.on_peer_up(ctx, one)
    effects = ctx.take(Disconnect)
    assert len(effects) == 2
    assert sum(direction == "out" for direction in machine.held.values()) == 2
    assert len(machine.neighbors()) == 6


def test_a_lost_peer_is_reported_and_replaced() -> None:
    machine, ctx = node()
    find(machine, ctx, *range(1, 6))
    for one in list(machine.dialing):
        machine.on_peer_up(ctx, one)
    ctx.take()
    lost = machine.neighbors()[0]
    machine.on_peer_down(ctx, lost)
    assert ups(ctx) == [NeighborDown(lost)]
    ctx.fire(machine, "fill")
    (next_,) = dialed(ctx)
    assert next_ != lost, "the lost one waits"
    assert lost in machine.known()


def test_a_peer_that_cannot_be_dialled_waits_twice_as_long_each_time_and_is_then_forgotten() -> None:
    machine, ctx = node(low=1, outbound=0, backoff_min=10.0, give_up=5)
    find(machine, ctx, 1)
    waits = []
    while machine.dialing:
        started = ctx.now
        machine.on_failure(ctx, CONNECT, peer(1), "timeout")
        while "fill" in ctx.timers and not machine.dialing:
            ctx.fire(machine, "fill")
        waits.append(ctx.now - started)
    assert len(waits) == 5
    assert machine.known() == ()
    assert waits[:4] == sorted(waits[:4])
    for wait, full in zip(waits, (10, 20, 40, 80), strict=False):
        assert full / 2 <= wait <= full + 5.0, "the upper half, and one look further"


def test_an_idle_pool_has_no_timer() -> None:
    machine, ctx = node(save_delay=0.0)
    assert ctx.timers == {}
    find(machine, ctx, *range(1, 5))
    for one in list(machine.dialing):
        machine.on_peer_up(ctx, one)
    assert ctx.timers == {}


def test_join_dials_now() -> None:
    machine, ctx = node()
    machine.join(ctx, peer(9))
    machine.join(ctx, ME)
    machine.join(ctx, peer(9))
    assert dialed(ctx) == [peer(9)]


def test_leaving_lets_go_of_everything() -> None:
    machine, ctx = node()
    find(machine, ctx, *range(1, 9))
    machine.on_peer_up(ctx, next(iter(machine.dialing)))
    ctx.take()
    machine.leave(ctx)
    effects = ctx.take(Disconnect, Save)
    assert [type(effect) for effect in effects] == [Disconnect] * 4 + [Save]
    assert machine.neighbors() == machine.known() == ()
    find(machine, ctx, 20)
    machine.on_peer_up(ctx, peer(21))
    assert ctx.take() == []


def test_a_restarted_node_dials_the_peers_of_its_last_life() -> None:
    machine, ctx = node()
    ctx.known = {peer(2): b"record of 2"}
    find(machine, ctx, 1, 2, 3)
    for one in list(machine.dialing):
        machine.on_peer_up(ctx, one)
    assert SetTimer("save", 30.0) in ctx.take()
    ctx.fire(machine, "save")
    again, life = Pool(machine.config), Recorder(ME, records=ctx.records)
    again.on_start(life)
    assert PeerFound(peer(2), b"record of 2") in life.emitted()
    assert set(again.dialing) == {peer(1), peer(2), peer(3)}


@pytest.mark.parametrize("torn", [b"", b"\xc1", msgspec.msgpack.encode([2, []])])
def test_records_it_cannot_read_are_ignored(torn: bytes) -> None:
    machine, ctx = Pool(Config()), Recorder(ME, records={"held": torn})
    machine.on_start(ctx)
    assert ctx.take() == []


@pytest.mark.claim("pool.bounded")
def test_whatever_discovery_and_strangers_do_the_tables_keep_their_bounds() -> None:
    machine, ctx = node(candidates=50, dials=4)
    rng = Random(7)
    for _ in range(20_000):
        one = peer(rng.randrange(1, 400))
        match rng.randrange(4):
            case 0:
                machine.on_event(ctx, PeerFound(one))
            case 1:
                machine.on_peer_up(ctx, one)
            case 2:
                machine.on_peer_down(ctx, one)
            case _:
                machine.on_failure(ctx, CONNECT, one, "unreachable")
        ctx.advance(0.1)
        assert len(machine.held) <= 6, "seed 7"
        assert len(machine.dialing) <= 4
        assert len(machine.candidates) <= 50
        assert not machine.held.keys() & machine.candidates.keys()
        assert not machine.dialing.keys() & (machine.held.keys() | machine.candidates.keys())
        ctx.take()


@pytest.mark.parametrize(("low", "high", "outbound"), [(9, 8, 1), (4, 8, 5)])
def test_water_marks_must_be_in_order(low: int, high: int, outbound: int) -> None:
    with pytest.raises(msgspec.ValidationError, match="exceeds"):
        msgspec.convert({"low": low, "high": high, "outbound": outbound}, Config)


def test_plumtree_stands_on_a_pool() -> None:
    village = Village(
        [part("pool", low=5, high=10, outbound=2), part("plumtree")], 40, delay=uniform(0.01, 0.05)
    ).grow(5.0)
    rng = Random(3)
    for node in village.nodes:  # a discovery that reports eight random peers
        for other in rng.sample(village.nodes, 8):
            found = PeerFound(other.peer)
            node.membership.call(lambda pool, ctx, found=found: pool.on_event(ctx, found))
    village.run_for(30.0)
    assert all(5 <= len(node.membership.neighbors()) <= 10 for node in village.nodes)
    for number in range(4):
        message = village.publish(village.nodes[number * 9])
        village.run_for(10.0)
        assert village.delivered[message] == dict.fromkeys(range(40), 1)

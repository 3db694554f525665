"""trusting: a leader names to its group what that decided, and sends whole only what it did not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from grove_hierarchy.machine.told import MAX_TOLD, Told, digest_of
from grove_hierarchy.machine.trusting import Trusting
from grove_hierarchy.messages import COMMAND, Down, Entry, Named

from grove_core.drive.virtual import uniform
from grove_core.host import Envelope
from grove_core.testing import peer
from tests.plugins.hierarchy.village import Hamlet

UNASKED = {"observe": 600.0, "absence": 6000.0}
"""Nobody asks its leader but for what it lacks."""
PATIENCE = 1.0


def hamlet(m: int = 3, g: int = 4, config: dict[str, Any] | None = None, **more: Any) -> Hamlet:
    return Hamlet(m, g, "trusting", config={**UNASKED, **(config or {})}, **more).run(15)


def follower_of(found: Hamlet, leader: int) -> int:
    """Another member of its group."""
    group = [found.world.nodes[peer].index for peer in found.machine(leader).group.members]
    return next(index for index in group if index != leader)


def loses(found: Hamlet, index: int, is_lost: Callable[[Any], bool]) -> None:
    """From now on such messages do not reach this node."""
    machine: Any = found.machine(index)
    made = machine.on_message

    def on_message(ctx: Any, peer: Any, msg: Any) -> None:
        if not is_lost(msg):
            made(ctx, peer, msg)

    machine.on_message = on_message


def of_its_group(msg: Any) -> bool:
    return isinstance(msg, Envelope) and msg.guest.startswith("group")


@pytest.mark.claim("hierarchy.named")
@pytest.mark.parametrize(("flow", "named"), [("one", 3), ("all", 9)])
def test_a_group_is_sent_no_body_that_it_decided_on_itself(flow: str, named: int) -> None:
    found = hamlet(config={"flow": flow})
    found.world.sent.clear()
    found.propose(found.upper_leader(), b"x")
    found.run(3)
    assert all(found.tally(index) == [b"x"] for index in range(12))
    assert (found.world.sent["Named"], found.world.sent["Down"]) == (named, 9 - named)
    assert found.world.sent["Behind"] == 0


@pytest.mark.claim("hierarchy.named")
def test_a_name_that_overtakes_the_decision_waits_for_it_and_nobody_asks() -> None:
    found = hamlet(1, 7, delay=uniform(0.001, 0.05, 3))
    found.world.sent.clear()
    for number in range(30):
        found.propose(number % 7, b"%d" % number)
    waited = 0
    for _ in range(100):
        found.run(0.01)
        machines: list[Any] = [found.machine(index) for index in range(7)]
        waited += sum(machine._told.last > machine.roll.position for machine in machines)
    assert waited, "no name ever overtook a decision"
    assert len(found.tally(0)) == 30
    assert all(found.tally(index) == found.tally(0) for index in range(7))
    assert found.world.sent["Behind"] == 0


@pytest.mark.claim("hierarchy.named")
def test_a_member_that_never_saw_the_proposal_asks_once_for_the_body() -> None:
    found = hamlet()
    leader = found.upper_leader()
    poor = follower_of(found, leader)
    loses(found, poor, of_its_group)
    found.world.sent.clear()
    found.propose(leader, b"x")
    found.run(0.9 * PATIENCE)
    assert found.tally(leader) == [b"x"]
    assert found.tally(poor) == []
    found.run(0.4 * PATIENCE)
    assert found.tally(poor) == [b"x"]
    assert found.world.sent["Behind"] == 1
    found.run(60)
    assert found.world.sent["Behind"] == 1, "it asks for what it has"


@pytest.mark.claim("hierarchy.named")
def test_a_lost_answer_is_asked_for_again_once_a_patience() -> None:
    found = hamlet()
    leader = found.upper_leader()
    poor = follower_of(found, leader)
    lost: list[Any] = []

    def first_five(msg: Any) -> bool:
        if isinstance(msg, Down) and len(lost) < 5:
            lost.append(msg)
            return True
        return of_its_group(msg)

    loses(found, poor, first_five)
    found.world.sent.clear()
    found.propose(leader, b"x")
    found.run(5.5 * PATIENCE)
    assert found.tally(poor) == []
    assert found.world.sent["Behind"] == 5
    found.run(PATIENCE)
    assert found.tally(poor) == [b"x"]
    assert found.world.sent["Behind"] == 6


@pytest.mark.claim("hierarchy.named")
def test_what_comes_after_a_body_that_is_lacking_is_not_asked_for_again() -> None:
    found = hamlet()
    leader = found.upper_leader()
    poor = follower_of(found, leader)
    loses(found, poor, of_its_group)
    found.propose(leader, b"ours")
    found.run(0.3)
    found.world.sent.clear()
    stranger = next(i for i in range(12) if found.machine(i).group is not found.machine(leader).group)
    other = next(i for i in range(12) if found.machine(i).group is found.machine(stranger).group)
    found.propose(other, b"theirs")
    found.run(0.4)
    assert found.tally(leader) == [b"ours", b"theirs"]
    assert (found.tally(poor), found.world.sent["Behind"]) == ([], 0)
    found.run(PATIENCE)
    assert found.tally(poor) == [b"ours", b"theirs"]
    assert found.world.sent["Behind"] <= 2  # the answer had two entries: perhaps there are more


@pytest.mark.claim("hierarchy.named")
def test_a_leader_that_names_an_entry_and_dies_leaves_the_body_to_the_next_one() -> None:
    found = Hamlet(3, 4, "trusting").run(15)
    leader = found.upper_leader()
    poor = follower_of(found, leader)
    is_deaf = [True]
    loses(found, poor, lambda msg: is_deaf[0] and of_its_group(msg))
    found.propose(leader, b"x")
    while found.tally(leader) != [b"x"]:
        found.run(0.01)
    found.run(0.05)
    machine: Any = found.machine(poor)
    assert machine._told.last == 1, "it was not even named to it"
    found.crash(leader)
    is_deaf[0] = False
    found.run(60)
    assert found.tally(poor) == [b"x"]


@pytest.mark.claim("hierarchy.named")
def test_another_entry_under_the_same_id_is_not_taken_for_the_one_that_was_named() -> None:
    found = hamlet()
    leader = found.upper_leader()
    poor = follower_of(found, leader)
    group = found.machine(leader).group
    wanted = Entry(group.number, b"i" * 16, found.node(leader).peer, COMMAND, b"ordered")
    decided = Entry(group.number, b"i" * 16, found.node(leader).peer, COMMAND, b"decided")
    found.world.sent.clear()

    def name(machine: Trusting, ctx: Any) -> None:
        machine._waiting[decided.id] = decided
        named = Named(machine.roll.position + 1, wanted.id, digest_of(wanted), found.node(leader).peer, 1)
        machine.on_message(ctx, found.node(leader).peer, named)

    found.node(poor).plugin("hierarchy").call(name)
    found.run(1.5 * PATIENCE)
    assert found.tally(poor) == []
    assert found.world.sent["Behind"] == 1


@pytest.mark.claim("hierarchy.leader-unknown")
def test_who_woke_alone_in_a_later_view_learns_from_its_group_who_leads() -> None:
    """It wanted another view, which nobody else did, and restarted: its own protocol knows no leader."""
    found = Hamlet(3, 4, "trusting").run(15)
    leader = found.upper_leader()
    alone = follower_of(found, leader)
    machine: Any = found.machine(alone)
    machine.group_leader, machine.group_epoch = None, 0
    found.propose(leader, b"x")
    found.run(1)
    assert found.tally(alone) == []
    found.run(15)
    assert found.tally(alone) == [b"x"]


# What was told, by itself.

MINE = Entry(0, b"a" * 16, peer(1), COMMAND, b"mine")


def named(position: int, entry: Entry) -> Named:
    return Named(position, entry.id, digest_of(entry), peer(0), 1)


def test_what_is_told_is_bounded_and_a_gap_is_seen_also_behind_the_bound() -> None:
    told = Told()
    for position in range(5, 10_000):
        told.put(position, 3, MINE)
    assert len(told._at) == MAX_TOLD - 1
    assert told.following(3, lambda id: None) is None
    assert told.has_gap(3)
    told.put(4, 3, named(4, MINE))
    assert not told.has_gap(3), "it only lacks the body"
    far = Told()
    far.put(1_000, 3, MINE)
    assert len(far._at) == 0
    assert far.has_gap(3)


def test_a_body_is_not_given_up_for_a_name() -> None:
    told = Told()
    told.put(1, 0, named(1, MINE))
    assert told.following(0, lambda id: None) is None
    assert told.following(0, {MINE.id: MINE}.get) == MINE
    told.put(1, 0, MINE)
    told.put(1, 0, named(1, MINE))
    assert told.following(0, lambda id: None) == MINE
    assert told.following(1, lambda id: None) is None
    assert len(told._at) == 0

"""Consensus group and observer group: who comes, who goes, and nobody restarts (members.py; claim 22)."""

from __future__ import annotations

import os
from random import Random
from typing import Any

import pytest
from grove_pbft import members
from grove_pbft.messages import Change, Membership
from grove_pbft.quorum import Configuration, faults, quorum

from grove_core.events import Committed, MembersChanged, Rejected
from grove_core.machine import PeerId
from grove_core.testing import peer
from tests.plugins.pbft.group import Group

FULL = bool(os.environ.get("GROVE_FULL"))
P = sorted(peer(number) for number in range(20))


def start(voters: int = 4, learners: int = 2) -> Membership:
    return Membership(0, tuple(P[:voters]), tuple(P[voters : voters + learners]))


def ask(now: Membership, client: PeerId, *changes: Change, sponsors: int = 2) -> tuple[Membership, str]:
    return members.ask(now, client, changes, sponsors, 8, 13)


# Quorums


@pytest.mark.parametrize(
    ("n", "f", "enough"),
    [(1, 0, 1), (2, 0, 2), (3, 0, 2), (4, 1, 3), (5, 1, 4), (6, 1, 4), (7, 2, 5), (10, 3, 7), (16, 5, 11),
     (31, 10, 21), (64, 21, 43), (100, 33, 67)],
)  # fmt: skip
def test_quorums(n: int, f: int, enough: int) -> None:
    assert (faults(n), quorum(n)) == (f, enough)
    assert 2 * enough - n >= f + 1, "two quorums share a correct voter"
    assert n - f >= enough, "the correct voters are a quorum"


def test_a_configurations_name_tells_groups_numbers_and_voters_apart() -> None:
    one = Configuration(b"a", 0, tuple(P[:4])).name
    assert len({one, Configuration(b"b", 0, tuple(P[:4])).name, Configuration(b"a", 1, tuple(P[:4])).name,
                Configuration(b"a", 0, tuple(P[:5])).name}) == 4  # fmt: skip


# The rules


def test_any_member_brings_in_an_observer_at_the_checkpoint_after_the_next() -> None:
    now, what = ask(start(), P[5], Change("join", P[9]))
    assert what == members.WAITING
    assert now.switch == 24, "executed at 13, in the interval that ends at 16"
    after = members.switch(now, 8)
    assert after.learners == (*P[4:6], P[9])
    assert (after.number, after.switch) == (0, 0), "voters are the same, so the configuration is"


def test_a_promotion_wants_f_plus_1_sponsors() -> None:
    now, what = ask(start(), P[0], Change("promote", P[4]))
    assert what == members.SPONSORED
    now, what = ask(now, P[0], Change("promote", P[4]))
    assert what == members.SPONSORED, "asking twice is not two voters"
    now, what = ask(now, P[5], Change("promote", P[4]))
    assert "only voters" in what
    now, what = ask(now, P[1], Change("promote", P[4]))
    assert what == members.WAITING
    after = members.switch(now, 8)
    assert (after.number, after.voters, after.base) == (1, tuple(P[:5]), 24)


def test_leaving_and_stepping_down_are_ones_own_affair() -> None:
    now, what = ask(start(), P[0], Change("demote", P[0]))
    assert what == members.WAITING
    assert members.switch(now, 8).learners == (P[0], *P[4:6])
    assert ask(start(), P[0], Change("exit", P[1]))[1] == members.SPONSORED


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (Change("join", P[0]), "member already"),
        (Change("exit", P[9]), "no member"),
        (Change("promote", P[9]), "no observer"),
        (Change("demote", P[4]), "no voter"),
        (Change("crown", P[4]), "no change is called"),
    ],
)
def test_changes_that_make_no_sense_are_refused_by_all_alike(change: Change, reason: str) -> None:
    assert reason in ask(start(), P[0], change)[1]


def test_the_last_voter_cannot_go() -> None:
    now = start(voters=1, learners=2)
    assert "last voter" in ask(now, P[0], Change("exit", P[0]), sponsors=1)[1]


def test_at_one_checkpoint_no_more_than_f_voters_change() -> None:
    now = start(voters=7, learners=6)
    wanted = tuple(Change("promote", P[place]) for place in range(7, 12))
    now, _ = ask(now, P[0], *wanted, sponsors=1)
    sizes = []
    while now.switch:
        before = now
        now = members.switch(now, 8)
        assert len(set(now.voters) ^ set(before.voters)) <= max(1, faults(len(before.voters)))
        sizes.append(len(now.voters))
    assert sizes == [9, 11, 12]


def test_what_waits_is_bounded() -> None:
    now = start()
    for number in range(400):
        now, what = ask(now, P[4], Change("join", peer(1000 + number)))
    assert len(now.waiting) == members.MAX_WAITING
    assert "limit" in what
    for number in range(100):
        now, _ = ask(now, P[0], Change("exit", P[1]), Change("join", peer(5000 + number)))
    assert len(now.sponsored) <= members.MAX_SPONSORED


def test_random_changes_keep_groups_apart_and_numbers_ascending() -> None:
    for seed in range(50):
        rng = Random(seed)
        now = start(voters=rng.randint(1, 8), learners=3)
        for _ in range(200):
            change = Change(rng.choice(members.ACTS), rng.choice(P))
            now, _ = members.ask(now, rng.choice(P), (change,), 1, 8, now.base + 13)
            if now.switch and rng.random() < 0.5:
                before = now
                now = members.switch(now, 8)
                assert not set(now.voters) & set(now.learners), f"seed {seed}"
                assert now.voters, f"seed {seed}"
                renewed = [one.peer for one in before.waiting if one.act == members.RENEW]
                assert now.number - before.number in (0, 1), f"seed {seed}"
                if now.voters != before.voters:
                    assert now.number > before.number, f"seed {seed}"
                elif now.number > before.number:
                    assert set(renewed) & set(now.voters), f"seed {seed}"


def test_a_voter_renews_itself_and_nothing_changes_but_the_number() -> None:
    now = start()
    now, what = ask(now, P[1], Change("renew", P[1]), sponsors=2)
    assert what == members.WAITING
    assert ask(now, P[1], Change("renew", P[1]), sponsors=2)[1] == "the renewal is waiting already"
    later = members.switch(now, 8)
    assert (later.voters, later.learners) == (now.voters, now.learners)
    assert (later.number, later.base, later.switch) == (now.number + 1, now.switch, 0)
    assert ask(later, P[0], Change("renew", P[1]), sponsors=2)[1] == members.SPONSORED
    assert "no voter" in ask(later, P[4], Change("renew", P[4]), sponsors=2)[1]


# In a group


def test_an_observer_becomes_a_voter_and_a_voter_an_observer_without_a_restart() -> None:
    group = Group(4, observers=2, config={"sponsors": "one"})
    group.run(1.0)
    ids = [node.peer for node in group.nodes]
    group.nodes[1].consensus.reconfigure((*ids[1:4], ids[4]), (ids[0], ids[5]))
    group.run(6.0)
    for index in range(6):
        assert set(group.machine(index).voters()) == {*ids[1:5]}
        assert set(group.machine(index).learners()) == {ids[0], ids[5]}
    changed = group.seen(MembersChanged, 2)[-1]
    assert (set(changed.voters), set(changed.learners)) == ({*ids[1:5]}, {ids[0], ids[5]})
    for index in range(6):
        group.propose(index, b"%d" % index)
    group.run(2.0)
    assert all(len(group.commands(index)) == 6 for index in range(6))
    assert all(node.starts == 1 for node in group.nodes)
    group.assert_agreement()


def test_with_weak_sponsors_one_voter_alone_promotes_nobody() -> None:
    group = Group(4, observers=1)
    group.run(1.0)
    ids = [node.peer for node in group.nodes]
    group.nodes[0].consensus.reconfigure(tuple(ids), ())
    group.run(5.0)
    assert len(group.machine(1).voters()) == 4
    group.nodes[2].consensus.reconfigure(tuple(ids), ())
    group.run(5.0)
    assert len(group.machine(1).voters()) == 5


def test_who_is_refused_hears_why() -> None:
    group = Group(4, observers=1)
    group.run(1.0)
    ids = [node.peer for node in group.nodes]
    group.nodes[4].consensus.reconfigure(tuple(ids), ())
    group.run(2.0)
    (rejected,) = group.seen(Rejected, 4)
    assert "only voters" in rejected.reason


def test_a_newcomer_follows_once_a_member_has_let_it_in() -> None:
    group = Group(4, observers=1, strangers=1)
    group.run(1.0)
    for number in range(30):
        group.propose(0, b"%d" % number)
        group.run(0.05)
    group.nodes[4].consensus.call(
        lambda machine, ctx: machine.change(ctx, (Change("join", group.nodes[5].peer),))
    )
    group.run(5.0)
    assert len(group.commands(5)) == 30
    group.propose(5, b"hello")
    group.run(2.0)
    assert group.commands(0)[-1] == b"hello"


def test_who_left_is_answered_no_more_and_its_proposals_are_rejected() -> None:
    group = Group(5, config={"sponsors": "one"})
    group.run(1.0)
    gone = group.by_rank()[3]
    group.nodes[gone].consensus.call(lambda machine, ctx: machine.change(ctx, (Change("exit", ctx.me),)))
    group.run(5.0)
    group.propose(gone)
    (rejected,) = group.seen(Rejected, gone)
    assert "no member" in rejected.reason


@pytest.mark.claim("pbft.members")
def test_groups_change_under_load_without_restart_or_a_mixed_quorum() -> None:
    """Claim 22: 7 voters, 20 observers; joins, leaves and promotions while commands flow."""
    joins, leaves, promotions = (50, 50, 10) if FULL else (10, 10, 3)
    observers = 20
    group = Group(7, observers=observers, strangers=joins, seed=22, config={"sponsors": "one"})
    names = watch_names(group)
    group.run(1.0)
    rng = Random(22)
    ids = [node.peer for node in group.nodes]
    strangers = list(range(7 + observers, 7 + observers + joins))
    steps: list[Change] = [Change("join", ids[index]) for index in strangers]
    steps += [Change("exit", ids[index]) for index in strangers[: leaves - 5]]
    steps += [Change("exit", ids[7 + index]) for index in range(5)]
    steps += [Change("promote", ids[12 + index]) for index in range(promotions)]
    rate: dict[int, int] = {}
    number = 0
    base_until = 4.0
    start_time = group.world.now
    while steps or group.machine(0).membership.switch or group.world.now < start_time + base_until + 2:
        for _ in range(4):
            group.propose(rng.randrange(7), b"%d" % number)
            number += 1
        group.run(0.05)
        if steps and group.world.now > start_time + base_until and rng.random() < 0.5:
            step = steps.pop(0)
            group.nodes[rng.randrange(7)].consensus.call(
                lambda machine, ctx, step=step: machine.change(ctx, (step,))
            )
        assert group.world.now < 200.0
    group.run(3.0)
    for at, node in (seen for times in group.committed_at.values() for seen in times):
        if node == 0:
            rate[int(at)] = rate.get(int(at), 0) + 1
    machine = group.machine(0)
    assert len(machine.voters()) == 7 + promotions
    assert len(machine.learners()) == observers + joins - leaves - promotions
    assert all(node.starts == 1 for node in group.nodes)
    assert len(group.commands(0)) == number, "every command, although voters changed"
    group.assert_agreement([node.index for node in group.nodes if node.peer in machine.voters()])
    assert not names["mixed"]
    assert len(names["names"]) > promotions / 2, "certificates of several configurations were seen"
    # Throughput: 80 commands a second are asked for. A dip may last two checkpoint intervals, which
    # are shorter than a second here, so no second may lose more than 30 %.
    whole = [count for second, count in sorted(rate.items())][1:-4]
    assert min(whole) >= 0.7 * 80, whole


def watch_names(group: Group) -> dict[str, list[Any]]:
    """Check each certificate that a node executes by: all its signers voters of the one configuration."""
    found: dict[str, list[Any]] = {"mixed": [], "names": []}
    voters: dict[bytes, tuple[PeerId, ...]] = {}

    def look(node: Any, event: Any) -> None:
        if not isinstance(event, Committed):
            return
        machine = node.machine("pbft")
        slot = machine.slots.get(machine.executed)
        if slot is None or slot.committed is None:
            return
        name = slot.committed.configuration
        known = voters.setdefault(name, machine.configuration.voters)
        if name not in found["names"]:
            found["names"].append(name)
        signers = [one.voter for one in slot.committed.signatures]
        ok = name == machine.configuration.name and known == machine.configuration.voters
        if not ok or not set(signers) <= set(known) or len(signers) < quorum(len(known)):
            found["mixed"].append((machine.executed, signers))

    group.world.sinks.append(look)
    return found

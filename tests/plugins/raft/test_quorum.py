"""Majorities and joint majorities: tables restated from etcd-io/raft, and properties."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest
from grove_raft import quorum
from grove_raft.config import Config
from grove_raft.machine import Raft
from grove_raft.machine.state import ELECTION, WAKE
from grove_raft.messages import Appended, Members, Vote
from hypothesis import given
from hypothesis import strategies as st

from grove_core.errors import LocalProtocolError
from grove_core.events import Rejected
from grove_core.machine import PeerId
from grove_core.multibase import base58
from grove_core.testing import Recorder, peer

P = [peer(number) for number in range(10)]


def ids(*numbers: int) -> tuple[bytes, ...]:
    return tuple(P[number] for number in numbers)


NONE = None


@pytest.mark.parametrize(
    ("voters", "held", "agreed"),
    [
        ((), (), quorum.NO_LIMIT),  # the empty half agrees on anything
        ((1,), (NONE,), 0),
        ((1,), (12,), 12),
        ((1, 2), (NONE, NONE), 0),
        ((1, 2), (NONE, 5), 0),
        ((1, 2), (100, 101), 100),
        ((1, 2), (101, 100), 100),
        ((1, 2), (100, 100), 100),
        ((1, 2, 3), (NONE, NONE, NONE), 0),
        ((1, 2, 3), (12, NONE, NONE), 0),
        ((1, 2, 3), (12, 5, NONE), 5),
        ((1, 2, 3), (12, 5, 6), 6),
        ((1, 2, 3), (100, 101, 99), 100),
        ((1, 2, 3), (5, 5, 6), 5),
        ((1, 2, 3), (12, 12, NONE), 12),
        ((1, 2, 3, 4), (101, 104, 103, 103), 103),
        ((1, 2, 3, 4), (101, 102, 103, 104), 102),
        ((1, 2, 3, 4, 5), (101, 104, 103, 103, 102), 103),
        ((1, 2, 3, 4, 5), (101, 103, 103, 104, NONE), 103),
        ((1, 2, 3, 4, 5), (NONE, NONE, 103, 104, NONE), 0),
    ],
)
def test_a_majority_agrees_on_what_most_hold(
    voters: tuple[int, ...], held: tuple[int | None, ...], agreed: int
) -> None:
    known = {P[v]: h for v, h in zip(voters, held, strict=True) if h is not None}
    assert quorum.agreed(ids(*voters), known) == agreed


@pytest.mark.parametrize(
    ("new", "old", "held", "agreed"),
    [
        ((), (), {}, quorum.NO_LIMIT),
        ((1, 2, 3), (), {1: 100, 2: 101, 3: 99}, 100),
        ((1,), (1,), {1: 13}, 13),
        ((1,), (2,), {1: 100}, 0),  # disjoint, one unknown
        ((1,), (2,), {1: 100, 2: 101}, 100),
        ((1, 2), (3, 4), {1: 12, 2: 13, 3: 11, 4: 15}, 11),
        ((1, 2), (2, 3), {1: 12, 2: 13, 3: 11}, 11),
        ((1, 2), (2, 3), {2: 13, 3: 11}, 0),
        ((1, 2, 3), (4, 5, 6), {1: 12, 2: 13, 3: 14, 4: 11, 5: 15, 6: 17}, 13),
        ((1, 2, 3), (4, 5, 6), {1: 12, 2: 13, 4: 11, 5: 15}, 11),
        ((1, 2, 3, 4), (1, 2, 3), {1: 5, 2: 5, 3: 9, 4: 1}, 5),
        ((1, 2, 3), (1, 2, 3), {1: 12, 3: 14}, 12),
    ],
)
def test_a_joint_majority_is_one_of_both_halves(
    new: tuple[int, ...], old: tuple[int, ...], held: dict[int, int], agreed: int
) -> None:
    known = {P[v]: h for v, h in held.items()}
    assert quorum.agreed_jointly(ids(*new), ids(*old), known) == agreed
    assert old == () or quorum.agreed_jointly(ids(*old), ids(*new), known) == agreed


@pytest.mark.parametrize(
    ("voters", "votes", "outcome"),
    [
        ((), "", "won"),
        ((1,), "_", "open"),
        ((1,), "n", "lost"),
        ((1,), "y", "won"),
        ((1, 2), "__", "open"),
        ((1, 2), "n_", "lost"),
        ((1, 2), "y_", "open"),
        ((1, 2), "ny", "lost"),
        ((1, 2), "yy", "won"),
        ((1, 2, 3), "___", "open"),
        ((1, 2, 3), "n__", "open"),
        ((1, 2, 3), "ny_", "open"),
        ((1, 2, 3), "nn_", "lost"),
        ((1, 2, 3), "yy_", "won"),
        ((1, 2, 3), "nyy", "won"),
        ((1, 2, 3, 4), "ny__", "open"),
        ((1, 2, 3, 4), "nn__", "lost"),
        ((1, 2, 3, 4), "yyy_", "won"),
        ((1, 2, 3, 4, 5, 6, 7), "nnyy___", "open"),
        ((1, 2, 3, 4, 5, 6, 7), "yyynnny", "won"),
        ((1, 2, 3, 4, 5, 6, 7), "nnnn___", "lost"),
    ],
)
def test_an_election_is_won_lost_or_open(voters: tuple[int, ...], votes: str, outcome: str) -> None:
    said = {P[v]: c == "y" for v, c in zip(voters, votes, strict=True) if c != "_"}
    assert quorum.tally(ids(*voters), said) == outcome
    assert quorum.tally_jointly(ids(*voters), (), said) == outcome
    said[P[9]] = True  # not a voter: does not count
    assert quorum.tally(ids(*voters), said) == outcome


@pytest.mark.parametrize(
    ("new", "old", "votes", "outcome"),
    [
        ((1,), (2,), {}, "open"),
        ((1,), (2,), {1: True}, "open"),
        ((1,), (2,), {1: False}, "lost"),
        ((1,), (2,), {1: True, 2: True}, "won"),
        ((1,), (2,), {1: True, 2: False}, "lost"),
        ((1, 2), (3, 4), {1: True, 2: True, 3: True}, "open"),
        ((1, 2), (3, 4), {1: True, 2: True, 3: True, 4: True}, "won"),
        ((1, 2), (3, 4), {3: False}, "lost"),
        ((1, 2, 3), (1, 4, 5), {1: True, 2: True}, "open"),
        ((1, 2, 3), (1, 4, 5), {1: True, 2: True, 4: True}, "won"),
        ((1, 2, 3), (1, 4, 5), {4: False, 5: False, 1: True, 2: True}, "lost"),
    ],
)
def test_a_joint_election_needs_both_halves(
    new: tuple[int, ...], old: tuple[int, ...], votes: dict[int, bool], outcome: str
) -> None:
    said = {P[v]: vote for v, vote in votes.items()}
    assert quorum.tally_jointly(ids(*new), ids(*old), said) == outcome
    assert quorum.tally_jointly(ids(*old), ids(*new), said) == outcome


@pytest.mark.parametrize("count", range(1, 8))
def test_any_two_quorums_share_a_voter(count: int) -> None:
    groups = [set(c) for c in combinations(range(count), quorum.size(count))]
    assert all(a & b for a in groups for b in groups)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=7), st.integers(0, 21))
def test_what_is_agreed_is_held_by_a_quorum_and_nothing_greater_is(held: list[int], more: int) -> None:
    voters = P[: len(held)]
    agreed = quorum.agreed(voters, dict(zip(voters, held, strict=True)))
    assert sum(1 for h in held if h >= agreed) >= quorum.size(len(held))
    assert more <= agreed or sum(1 for h in held if h >= more) < quorum.size(len(held))


# The tables of etcd-io/raft.

TABLES = Path(__file__).parents[2] / "scenarios" / "raft"


def rows(name: str) -> list[list[str]]:
    lines = (TABLES / name).read_text().splitlines()
    return [[cell.strip() for cell in line.split("|")] for line in lines if line and line[0] != "#"]


QUORUM = rows("quorum.table")


@pytest.mark.claim("raft.tables")
def test_the_quorum_table_is_whole(record_property: Callable[[str, object], None]) -> None:
    record_property("measured", f"{len(QUORUM)} quorum cases, {len(rows('changes.table'))} changes")
    assert len(QUORUM) == 127


@pytest.mark.claim("raft.tables")
@pytest.mark.parametrize("row", QUORUM, ids=" ".join)
def test_a_row_of_the_quorum_table(row: list[str]) -> None:
    what, new, old, by_voter, outcome = row
    voters, outgoing = (tuple(int(word) for word in half.split()) for half in (new, old))
    everybody = dict.fromkeys(voters + outgoing)
    known = {voter: word for voter, word in zip(everybody, by_voter.split(), strict=True) if word != "-"}
    for a, b in ((voters, outgoing), (outgoing, voters)):  # the halves are equal before the law
        if what == "agreed":
            held = {voter: int(word) for voter, word in known.items()}
            found = quorum.agreed_jointly(a, b, held)  # type: ignore[arg-type]
            assert ("anything" if found == quorum.NO_LIMIT else str(found)) == outcome
        else:
            said = {voter: word == "y" for voter, word in known.items()}
            assert quorum.tally_jointly(a, b, said) == outcome  # type: ignore[arg-type]


M = sorted(peer(number) for number in range(1, 17))


def some(text: str) -> tuple[PeerId, ...]:
    return tuple(M[int(number) - 1] for number in text.split())


def both(text: str) -> tuple[tuple[PeerId, ...], tuple[PeerId, ...]]:
    voters, _, learners = text.partition("+")
    return some(voters), some(learners)


class Office:
    """A leader whose members acknowledge everything when they are asked to."""

    def __init__(self, voters: tuple[PeerId, ...], learners: tuple[PeerId, ...]) -> None:
        self.ctx = Recorder(voters[0])
        self.raft = Raft(Config(voters=tuple(map(base58, voters)), pre_vote=False))
        self.raft.on_start(self.ctx)
        self.ctx.fire(self.raft, WAKE)
        for other in M:
            if other != voters[0]:
                self.raft.on_peer_up(self.ctx, other)
        self.ctx.fire(self.raft, ELECTION)
        for other in voters[1:]:
            self.raft.on_message(self.ctx, other, Vote(self.raft.log.group, 1, True))
        self.acknowledge()
        if learners:
            self.raft.reconfigure(self.ctx, voters, learners)
            self.acknowledge()
        self.ctx.take()
        self.seen: list[Members] = []

    def acknowledge(self, until_joint: bool = False) -> None:
        raft = self.raft
        for _ in range(8):
            for other in tuple(raft.progress):
                if until_joint and raft.log.members.is_joint:
                    return
                last, round = raft.log.last_index, raft.round
                said = Appended(raft.log.group, raft.log.term, True, last, round)
                raft.on_message(self.ctx, other, said)

    def ask(self, text: str) -> str:
        """Ask for members; why not, if they are refused at once."""
        try:
            self.raft.reconfigure(self.ctx, *both(text))
        except LocalProtocolError as error:
            return str(error)
        reasons = [event.reason for event in self.ctx.emitted() if isinstance(event, Rejected)]
        return reasons[0] if reasons else ""


@pytest.mark.claim("raft.tables")
@pytest.mark.parametrize("row", rows("changes.table"), ids=" | ".join)
def test_a_row_of_the_table_of_changes(row: list[str]) -> None:
    start, wanted, joint, end = row
    office = Office(*both(start))
    first, _, second = wanted.partition("!")
    refused = office.ask(first)
    if not refused:
        office.acknowledge(until_joint=True)
    members = office.raft.log.members
    if joint:
        halves, _, rest = joint.partition("+")
        new, old = halves.split("&")
        learners, _, following = rest.partition(",")
        assert members == Members(some(new), some(old), some(learners), some(following))
    else:
        assert not members.is_joint
    if second.strip():
        refused = office.ask(second)
    if refused:
        assert end in refused
        return
    office.acknowledge()
    assert office.raft.log.members == Members(both(end)[0], (), both(end)[1])

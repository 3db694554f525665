"""The state machine of the commons: consensus reference 7.2, and what may never happen at any prefix."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from grove_commons import commands as c
from grove_commons.config import Config
from grove_commons.events import (
    ClaimEnded,
    ClaimGranted,
    ClaimRenewed,
    KeyDeleted,
    KeyWritten,
    ResultRefused,
    TaskDone,
)
from grove_commons.outcomes import Accepted, Done, Granted, Refused, Renewed, sentence
from grove_commons.state import MAX_OUTCOMES, NOTHING, State

from grove_core.errors import LocalProtocolError, RemoteProtocolError
from grove_core.machine import PeerId
from grove_core.testing.village import peer
from tests.fuzz import survives

ASH, BIRCH, CEDAR = peer(1), peer(2), peer(3)


class Log:
    """Commits one after the other, each a proposal of its own unless the test says otherwise."""

    def __init__(self, state: State | None = None) -> None:
        self.state = State() if state is None else state
        self.numbers: dict[PeerId, int] = {}
        self.news: list[Any] = []

    def commit(
        self, command: Any, by: PeerId = ASH, *, id: bytes | None = None, oldest: int | None = None
    ) -> Any:
        number = self.numbers[by] = self.numbers.get(by, 0) + 1
        id = c.Name16(1, number).pack() if id is None else id
        data = c.encode(command, number if oldest is None else oldest)
        applied = self.state.apply(self.state.index + 1, id, by, data)
        self.news = list(applied.news)
        self.state.check()
        return applied.outcome


@pytest.fixture
def log() -> Log:
    return Log()


# The map.


def test_a_key_has_the_value_last_put_and_its_index_as_version(log: Log) -> None:
    assert log.commit(c.Put("k", b"a")) == Done(1)
    assert log.news == [KeyWritten("k", b"a", 1, ASH)]
    assert log.commit(c.Put("k", b"b"), BIRCH) == Done(2)
    assert (log.state.keys["k"].data, log.state.keys["k"].version) == (b"b", 2)


def test_a_deleted_key_is_absent_and_deleting_twice_is_no_error(log: Log) -> None:
    log.commit(c.Put("k", b"a"))
    assert log.commit(c.Delete("k")) == Done(2)
    assert log.news == [KeyDeleted("k", 2, ASH)]
    assert log.commit(c.Delete("k")) == Done(3)
    assert log.news == []
    assert log.state.size == 0


def test_compare_and_set_by_value_changes_only_what_is_as_expected(log: Log) -> None:
    assert log.commit(c.CompareAndSet("k", b"a")) == Done(1)  # expected: absent
    assert log.commit(c.CompareAndSet("k", b"b")) == Refused("differs", "k", current=1)
    assert log.commit(c.CompareAndSet("k", b"b", b"x")) == Refused("differs", "k", current=1)
    assert log.commit(c.CompareAndSet("k", b"b", b"a")) == Done(4)
    assert log.commit(c.CompareAndSet("k", None, b"b")) == Done(5)
    assert "k" not in log.state.keys


def test_compare_and_set_by_version_sees_a_value_that_came_back(log: Log) -> None:
    for value in (b"a", b"b", b"a"):
        log.commit(c.Put("k", value))
    assert log.commit(c.CompareAndSet("k", b"c", version=1)) == Refused("differs", "k", current=3)
    assert log.commit(c.CompareAndSet("k", b"c", version=3)) == Done(5)
    assert log.commit(c.CompareAndSet("new", b"c", version=0)) == Done(6)


# Claims.


def test_a_claim_is_granted_once_and_its_token_is_the_index(log: Log) -> None:
    log.commit(c.Put("k", b""))
    assert log.commit(c.Claim("t", "ash", 30_000)) == Granted(2, 30_000)
    assert log.news == [ClaimGranted("t", ASH, "ash", 2, 30.0)]
    assert log.commit(c.Claim("t", "birch", 30_000), BIRCH) == Refused("held", "t", ASH, "ash", 2)
    assert log.commit(c.Claim("t", "ash", 30_000)) == Refused("held", "t", ASH, "ash", 2)


def test_two_agents_of_one_node_exclude_each_other(log: Log) -> None:
    log.commit(c.Claim("t", "one", 30_000))
    assert log.commit(c.Claim("t", "two", 30_000)) == Refused("held", "t", ASH, "one", 1)


def test_the_result_of_the_holder_is_accepted_and_the_task_is_done(log: Log) -> None:
    log.commit(c.Claim("t", "ash", 30_000))
    assert log.commit(c.Submit("t", 1, b"42")) == Accepted(2)
    assert log.news == [TaskDone("t", ASH, "ash", 1, b"42")]
    assert log.commit(c.Claim("t", "", 30_000), BIRCH) == Refused("finished", "t", ASH, "ash", 1)
    assert log.state.done["t"].result == b"42"


def test_submitting_again_with_the_same_token_is_accepted_and_changes_nothing(log: Log) -> None:
    log.commit(c.Claim("t", "ash", 30_000))
    log.commit(c.Submit("t", 1, b"first"))
    assert log.commit(c.Submit("t", 1, b"second")) == Accepted(2)
    assert log.news == []
    assert log.state.done["t"].result == b"first"


@pytest.mark.claim("commons.fenced")
def test_a_result_with_an_old_token_is_refused_and_says_who_took_over(log: Log) -> None:
    log.commit(c.Claim("17", "ash", 30_000))
    log.commit(c.Expire("17", 1, 1), CEDAR)
    log.commit(c.Claim("17", "birch", 30_000), BIRCH)
    refused = log.commit(c.Submit("17", 1, b"late"))
    assert refused == Refused("taken", "17", BIRCH, "birch", 3, 1)
    assert log.news == [ResultRefused("17", ASH, 1, 3)]
    assert sentence(refused, 12.0).startswith("Task 17 was taken over by agent birch at ")
    assert sentence(refused, 12.0).endswith(
        "12 s ago (fence 3, yours is 1). Your result was not accepted."
    )
    assert log.commit(c.Submit("17", 3, b"good"), BIRCH) == Accepted(5)
    assert log.commit(c.Submit("17", 1, b"later")) == Refused("finished", "17", BIRCH, "birch", 3, 1)


def test_a_result_is_refused_once_the_lease_ran_out_though_nobody_took_over(log: Log) -> None:
    log.commit(c.Claim("t", "", 30_000))
    log.commit(c.Expire("t", 1, 1))
    assert log.commit(c.Submit("t", 1, b"x")) == Refused("ended", "t", yours=1)


def test_another_node_cannot_use_the_token(log: Log) -> None:
    log.commit(c.Claim("t", "ash", 30_000))
    refused = Refused("not-yours", "t", ASH, "ash", 1, 1)
    assert log.commit(c.Submit("t", 1, b"x"), BIRCH) == refused
    assert log.commit(c.Release("t", 1), BIRCH) == refused
    assert log.commit(c.Renew((c.Holding("t", 1),)), BIRCH) == Renewed(4, (refused,))


def test_a_released_task_is_free_and_the_next_token_is_higher(log: Log) -> None:
    log.commit(c.Claim("t", "", 30_000))
    assert log.commit(c.Release("t", 1)) == Done(2)
    assert log.news == [ClaimEnded("t", ASH, "", 1, "released")]
    assert log.commit(c.Claim("t", "", 30_000), BIRCH) == Granted(3, 30_000)


def test_a_renewal_makes_an_expiry_void_that_did_not_know_of_it(log: Log) -> None:
    log.commit(c.Claim("t", "ash", 30_000))
    assert log.commit(c.Renew((c.Holding("t", 1),))) == Renewed(2)
    assert log.news == [ClaimRenewed("t", ASH, "ash", 1)]
    assert log.commit(c.Expire("t", 1, 1), BIRCH) == Refused("renewed", "t", ASH, "ash", 1, 1)
    assert log.commit(c.Expire("t", 1, 2), BIRCH) == Done(4)
    assert log.news == [ClaimEnded("t", ASH, "ash", 1, "expired")]


def test_one_renewal_names_many_claims_and_says_which_are_lost(log: Log) -> None:
    log.commit(c.Claim("a", "", 30_000))
    log.commit(c.Claim("b", "", 30_000))
    log.commit(c.Release("a", 1))
    outcome = log.commit(c.Renew((c.Holding("a", 1), c.Holding("b", 2))))
    assert outcome == Renewed(4, (Refused("ended", "a", yours=1),))


def test_as_many_witnesses_as_agreed_must_say_that_a_lease_ran_out(log: Log) -> None:
    log.commit(c.Found(c.Bounds(witnesses=2)))
    log.commit(c.Claim("t", "", 30_000))
    log.commit(c.Expire("t", 2, 2), BIRCH)
    log.commit(c.Expire("t", 2, 2), BIRCH)  # the same one twice is one
    assert "t" in log.state.claims
    log.commit(c.Renew((c.Holding("t", 2),)))  # what was said before a renewal counts no more
    log.commit(c.Expire("t", 2, 5), CEDAR)
    assert "t" in log.state.claims
    log.commit(c.Expire("t", 2, 5), BIRCH)
    assert "t" not in log.state.claims


@pytest.mark.parametrize("ttl", [1999, 86_400_001])
def test_a_lease_out_of_the_agreed_bounds_is_refused(log: Log, ttl: int) -> None:
    outcome = log.commit(c.Claim("t", "", ttl))
    assert outcome.code == "lease"
    assert ("at most 86400 s" if ttl > 2000 else "at least 2 s") in sentence(outcome)


# Once.


def test_the_second_commit_of_one_id_changes_nothing(log: Log) -> None:
    id = c.Name16(1, 1).pack()
    assert log.commit(c.Put("k", b"a"), id=id, oldest=1) == Done(1)
    assert log.commit(c.Put("k", b"b"), BIRCH) == Done(2)
    assert log.commit(c.Put("k", b"a"), id=id, oldest=1) is None
    assert log.state.keys["k"].data == b"b"


def test_a_proposal_below_what_its_proposer_has_closed_never_takes_place(log: Log) -> None:
    log.commit(c.Put("k", b"new"), id=c.Name16(1, 9).pack(), oldest=9)
    assert log.commit(c.Put("k", b"old"), id=c.Name16(1, 3).pack(), oldest=3) is None
    assert log.state.keys["k"].data == b"new"


def test_proposals_of_an_earlier_life_never_take_place(log: Log) -> None:
    assert log.commit(c.Put("k", b"new"), id=c.Name16(2, 1).pack(), oldest=1) == Done(1)
    assert log.commit(c.Put("k", b"old"), id=c.Name16(1, 7).pack(), oldest=7) is None
    assert log.state.life_of(ASH) == 2


def test_a_proposal_beyond_the_window_waits_until_earlier_ones_are_closed(log: Log) -> None:
    log.commit(c.Put("k", b"a"), id=c.Name16(1, 1).pack(), oldest=1)
    beyond = c.Name16(1, 1 + log.state.bounds.window).pack()
    assert log.commit(c.Put("k", b"b"), id=beyond, oldest=1) is None
    assert log.commit(c.Put("k", b"b"), id=beyond, oldest=2) == Done(3)


def test_the_outcome_is_kept_until_its_proposer_has_closed_it(log: Log) -> None:
    id = c.Name16(1, 1).pack()
    log.commit(c.Claim("t", "", 30_000), id=id, oldest=1)
    assert log.state.outcome_of(ASH, id) == Granted(1, 30_000)
    log.commit(c.Put("k", b""), id=c.Name16(1, 2).pack(), oldest=2)
    assert log.state.outcome_of(ASH, id) is None


def test_an_index_that_was_applied_is_not_applied_again(log: Log) -> None:
    log.commit(c.Put("k", b"a"))
    data = c.encode(c.Put("k", b"b"), 2)
    assert log.state.apply(1, c.Name16(1, 2).pack(), ASH, data) == NOTHING
    assert log.state.keys["k"].data == b"a"


def test_commands_of_others_in_the_same_log_are_passed_over(log: Log) -> None:
    for data in (b"", b"somebody else's", c.PREFIX, c.PREFIX + b"\xc1", c.PREFIX + b"\x92\x01\x90"):
        applied = log.state.apply(log.state.index + 1, c.Name16(1, 1).pack(), ASH, data)
        assert applied == NOTHING
    good = c.encode(c.Put("k", b""), 1)
    for id in (b"", b"\xff" * 16, b"x" * 15):
        assert log.state.apply(log.state.index + 1, id, ASH, good) == NOTHING
    assert not log.state.keys
    assert not log.state.sessions


# Bounds.


def test_the_bounds_are_those_of_whoever_founded_and_later_ones_are_only_a_wish(log: Log) -> None:
    log.commit(c.Found(c.Bounds(keys=2)))
    log.commit(c.Found(c.Bounds(keys=9)), BIRCH)
    assert log.state.bounds.keys == 2
    log.commit(c.Put("a", b""))
    log.commit(c.Put("b", b""))
    refused = log.commit(c.Put("c", b""))
    assert refused == Refused("full", "c", limit=2)
    assert "limit 2" in sentence(refused)
    assert log.commit(c.Put("a", b"other")) == Done(6)  # what is there may change


def test_founding_comes_too_late_once_something_is_held(log: Log) -> None:
    log.commit(c.Put("a", b""))
    log.commit(c.Found(c.Bounds(keys=0)))
    assert log.state.founded
    assert log.state.bounds == c.Bounds()


def test_the_built_in_bounds_are_the_documented_defaults() -> None:
    assert Config().bounds == c.Bounds()


def test_values_together_are_bounded_in_bytes(log: Log) -> None:
    log.commit(c.Found(c.Bounds(size=1 << 20)))
    for number in range(3):
        outcome = log.commit(c.Put(f"k{number}", bytes(c.MAX_VALUE)))
    assert outcome == Refused("full", "k2", limit=1 << 19)  # two would be beyond half by their names
    assert log.commit(c.Put("k0", b"")) == Done(5)


def test_live_claims_are_bounded(log: Log) -> None:
    log.commit(c.Found(c.Bounds(claims=1)))
    log.commit(c.Claim("a", "", 30_000))
    assert log.commit(c.Claim("b", "", 30_000)) == Refused("full", "b", limit=1)


def test_finished_tasks_are_forgotten_oldest_first(log: Log) -> None:
    log.commit(c.Found(c.Bounds(done=2, size=1 << 20)))
    for task in "abc":
        token = log.commit(c.Claim(task, "", 30_000)).token
        log.commit(c.Submit(task, token, bytes(10)))
    assert list(log.state.done) == ["b", "c"]
    token = log.commit(c.Claim("d", "", 30_000)).token
    log.commit(c.Submit("d", token, bytes(c.MAX_VALUE)))
    token = log.commit(c.Claim("e", "", 30_000)).token
    log.commit(c.Submit("e", token, bytes(c.MAX_VALUE)))
    assert list(log.state.done) == ["e"]  # half of the size, too


def test_sessions_are_bounded_least_recently_heard_first(log: Log) -> None:
    log.commit(c.Found(c.Bounds(sessions=2)))
    for by in (ASH, BIRCH, ASH, CEDAR):
        log.commit(c.Put("k", b""), by)
    assert list(log.state.sessions) == [ASH, CEDAR]


def test_outcomes_that_nobody_closes_are_bounded() -> None:
    log = Log()
    log.commit(c.Found(c.Bounds(window=4096)))
    data = c.encode(c.Delete("k"), 1)
    for liar in range(10):
        for number in range(1, 4097):
            id = c.Name16(1, number).pack()
            log.state.apply(log.state.index + 1, id, peer(100 + liar), data)
    log.state.check()
    assert sum(len(s.outcomes) for s in log.state.sessions.values()) <= MAX_OUTCOMES


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (c.Put("", b""), "key of 0 characters"),
        (c.Put("k" * 257, b""), "key of 257 characters; 1 to 256"),
        (c.Put("k", bytes(c.MAX_VALUE + 1)), "limit 262,144"),
        (c.Claim("t", "a" * 65, 2000), "agent of 65 characters"),
        (c.Claim("t", "", 0), "Claim"),
    ],
)
def test_what_is_too_long_is_refused_before_it_is_proposed(command: Any, said: str) -> None:
    with pytest.raises(LocalProtocolError, match=said):
        c.encode(command, 1)


# At any prefix.

TASKS = [f"t{number}" for number in range(4)]
PEERS = [peer(number) for number in range(1, 5)]


def drawn(rng: Random, log: Log) -> tuple[Any, PeerId]:
    """A command somebody might propose: sensible, late, mistaken or malicious."""
    by, task = rng.choice(PEERS), rng.choice(TASKS)
    held = log.state.claims.get(task)
    token = held.token if held and rng.random() < 0.7 else rng.randrange(0, log.state.index + 2)
    by = held.holder if held and rng.random() < 0.6 else by
    renewed = held.renewed if held and rng.random() < 0.8 else rng.randrange(0, log.state.index + 2)
    key, value = rng.choice("abc"), rng.choice([None, b"", b"x", rng.randbytes(rng.randrange(200))])
    return rng.choice(
        [
            c.Claim(task, rng.choice(["", "one"]), rng.choice([1000, 2000, 30_000])),
            c.Claim(task, "", 2000),
            c.Submit(task, token, b"by %d" % token),
            c.Release(task, token),
            c.Renew((c.Holding(task, token), c.Holding(rng.choice(TASKS), token))),
            c.Expire(task, token, renewed),
            c.Put(key, value or b""),
            c.Delete(key),
            c.CompareAndSet(key, value, rng.choice([None, b"", b"x"])),
            c.CompareAndSet(key, value, version=rng.randrange(0, log.state.index + 2)),
            c.Found(c.Bounds(keys=2, claims=3, done=2, window=8, sessions=3)),
        ]
    ), by


def history(seed: int, length: int) -> list[tuple[int, bytes, PeerId, bytes]]:
    """Commits: with gaps, retries under an old id, restarts of proposers, and other people's commands."""
    rng, log = Random(seed), Log()
    commits: list[tuple[int, bytes, PeerId, bytes]] = []
    numbers: dict[PeerId, tuple[int, int]] = {}
    index = 0
    for _ in range(length):
        index += rng.choice([1, 1, 1, 3])
        if commits and rng.random() < 0.15:
            _, id, by, data = rng.choice(commits[-20:])
        else:
            command, by = drawn(rng, log)
            life, number = numbers.get(by, (1, 0))
            life, number = (life + 1, 1) if rng.random() < 0.03 else (life, number + 1)
            numbers[by] = life, number
            id = c.Name16(life, number).pack()
            data = c.encode(command, max(1, number - rng.randrange(6)))
            if rng.random() < 0.03:
                data = rng.randbytes(30)
        commits.append((index, id, by, data))
        log.state.apply(*commits[-1])
    return commits


@pytest.mark.claim("commons.invariants")
@pytest.mark.parametrize("seed", range(30))
def test_the_invariants_hold_at_every_prefix(seed: int) -> None:
    state = State()
    tokens: dict[str, int] = {}
    live: dict[str, tuple[PeerId, int]] = {}
    accepted: set[tuple[str, int]] = set()
    kinds: set[type] = set()
    for commit in history(seed, 400):
        outcome, news = state.apply(*commit)
        state.check()
        kinds.add(type(outcome))
        for event in news:
            match event:
                case ClaimGranted(task, holder, _, token):
                    assert task not in live, "at most one live claim per task"
                    assert token > tokens.get(task, 0), "tokens rise"
                    tokens[task], live[task] = token, (holder, token)
                case ClaimEnded(task, holder, _, token):
                    assert live.pop(task) == (holder, token)
                case TaskDone(task, holder, _, token, result):
                    assert live.pop(task) == (holder, token), "a result needs the live claim"
                    assert result == b"by %d" % token
                    assert (task, token) not in accepted, "a result is accepted once"
                    accepted.add((task, token))
                case ResultRefused(task, sender, token):
                    assert live.get(task) != (sender, token), "a current token is not refused"
        assert {task: (held.holder, held.token) for task, held in state.claims.items()} == live
    assert accepted
    assert {Done, Granted, Refused, Renewed, Accepted, type(None)} <= kinds


@pytest.mark.claim("commons.snapshot")
@pytest.mark.parametrize("seed", range(8))
def test_a_snapshot_at_any_index_and_the_rest_give_the_same_bytes(seed: int) -> None:
    commits = history(seed, 150)
    whole = State()
    for commit in commits:
        whole.apply(*commit)
    for cut in range(0, len(commits) + 1, 7):
        first = State()
        for commit in commits[:cut]:
            first.apply(*commit)
        second = State.restore(first.snapshot())
        assert second.snapshot() == first.snapshot()
        outcomes = [(first.apply(*commit), second.apply(*commit)) for commit in commits[cut:]]
        assert all(one == other for one, other in outcomes)
        assert second.snapshot() == whole.snapshot()


def test_mutated_commands_are_refused_or_applied_and_never_anything_else(log: Log) -> None:
    corpus = [
        c.encode(command, 1)
        for command in (c.CompareAndSet("k", b"v", None, 3), c.Renew((c.Holding("t", 1),)),
                        c.Found(c.Bounds()), c.Submit("t", 1, b"r"), c.Claim("t", "a", 2000))
    ]  # fmt: skip

    def both(data: bytes) -> None:
        index = log.state.index + 1
        log.state.apply(index, c.Name16(1, index).pack(), ASH, data)
        log.state.check()
        c.decode(data)

    assert survives(both, 3, corpus) > 0


def test_mutated_snapshots_are_refused_or_whole() -> None:
    state = State()
    for commit in history(1, 60):
        state.apply(*commit)
    assert survives(lambda data: State.restore(data).check(), 4, [state.snapshot()]) > 0


def test_a_snapshot_of_a_later_version_is_refused_by_name() -> None:
    data = bytearray(State().snapshot())
    data[1] = 9
    with pytest.raises(RemoteProtocolError, match="version 9"):
        State.restore(bytes(data))

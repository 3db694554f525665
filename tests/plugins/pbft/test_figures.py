"""What PBFT costs, in figures: messages, latencies, bytes (consensus reference, 3 and 9)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import grove_pbft
import pytest
from grove_pbft.events import Answered
from grove_pbft.messages import CODEC, ViewChange

from grove_core.drive.virtual import uniform
from grove_core.events import LeaderChanged
from grove_core.testing import assert_deterministic
from grove_core.testing.purity import assert_pure
from tests.plugins.pbft.group import ORDERING, Group

FULL = bool(os.environ.get("GROVE_FULL"))
UPLINK = 12.5e6
"""Bytes per second: 100 Mbit/s."""


@pytest.mark.claim("pbft.messages")
@pytest.mark.parametrize(("n", "messages"), [(4, 28), (16, 496), (31, 1_891), (64, 8_128), (100, 19_900)])
def test_a_decision_costs_2n2_minus_n_messages_replies_included(n: int, messages: int) -> None:
    group = Group(n, observers=1)
    group.run(1.0)
    group.world.sent.clear()
    group.propose(n)  # an observer is the client, so that all n voters reply
    group.run(0.5)
    assert len(group.committed[n]) == 1
    sent = group.world.sent
    assert sum(sent[name] for name in ORDERING) == messages == 2 * n * n - n
    f_free = {"PrePrepare": n - 1, "Prepare": (n - 1) ** 2, "Commit": n * (n - 1), "Reply": n}
    assert {name: sent[name] for name in ORDERING} == f_free
    # Beside the order: the request itself, and the decision for the one observer.
    assert {name: count for name, count in sent.items() if name not in ORDERING} == {
        "Request": 1,
        "Decided": 1,
    }


@pytest.mark.parametrize("n", [4, 16])
def test_a_batch_costs_no_more_messages_than_one_request(n: int) -> None:
    group = Group(n, observers=1, config={"pipeline": 1})
    group.run(1.0)
    group.propose(n)
    group.run(0.025)  # on its way: what comes now waits for the next batch
    for number in range(50):
        group.propose(n, b"%d" % number)
    group.run(0.5)
    assert len(group.committed[n]) == 51
    decisions = group.machine(0).executed
    assert sum(group.world.sent[name] for name in ORDERING) == decisions * (2 * n * n - n)
    assert decisions <= 3


def test_a_client_waits_five_message_delays() -> None:
    group = Group(4, observers=1, delay=0.02)
    group.run(1.0)
    id = group.propose(4)
    group.run(0.5)
    assert group.latency(id, 4, 1.0) == pytest.approx(0.100)
    member = group.by_rank()[0]
    id = group.propose(member)
    group.run(0.5)
    assert group.latency(id, member, 1.5) == pytest.approx(0.060), "the primary itself: three"


def wan(n: int, payload: int) -> float:
    """Seconds from asking to f + 1 replies: RTT 40 ms, 100 Mbit/s up, 60 µs a signature (reference
    3.1)."""
    group = Group(n, observers=1, delay=0.02, verify=60e-6)
    group.run(2.0)
    free: dict[int, float] = {}

    def carrier(ctx: Any, to: Any, delay: float, msg: Any) -> float:
        size = 256 + (payload if type(msg).__name__ in ("Request", "PrePrepare", "Decided") else 0)
        start = max(group.world.now, free.get(ctx.node.index, 0.0))
        free[ctx.node.index] = start + size / UPLINK
        return free[ctx.node.index] + delay

    group.world.carrier = carrier
    asked = group.world.now
    id = group.propose(n, bytes(16))  # its size is the carrier's affair
    group.run(10.0)
    answered = [at for at, _, e in group.events if isinstance(e, Answered) and e.id == id]
    return min([*answered, *(at for at, node in group.committed_at[id] if node == n)]) - asked


@pytest.mark.claim("pbft.wan-latency")
@pytest.mark.parametrize(("payload", "milliseconds"), [(1024, 110.0), (64 * 1024, 450.8)])
def test_an_unloaded_wan_of_100_takes_what_the_model_says(payload: int, milliseconds: float) -> None:
    assert wan(100, payload) * 1000 == pytest.approx(milliseconds, rel=0.05)


@pytest.mark.claim("pbft.determinism")
def test_one_seed_gives_one_history_in_any_process() -> None:
    assert_deterministic("tests.plugins.pbft.test_figures:history", cwd=Path.cwd())


def history() -> str:
    """A busy group with a crash and a restart; its digest."""
    group = Group(4, observers=1, seed=7, delay=uniform(0.01, 0.05), disk=0.002, trace=True)
    for number in range(60):
        if number == 20:
            group.crash(group.by_rank()[0])
        if number == 40:
            group.restart(next(node.index for node in group.nodes if not node.alive))
        group.run(0.1)
        group.propose(4, b"%d" % number)
    group.run(5.0)
    assert len(group.committed[4]) == 60
    digest: str = group.world.digest()
    return digest


@pytest.mark.claim("pbft.pure")
def test_the_machine_is_pure() -> None:
    folder = Path(grove_pbft.__file__).parent
    assert_pure(*sorted(folder.glob("machine/*.py")), *sorted(folder.glob("*.py")))


# View changes (claim 20): client rebroadcast 0.5 s, T = 1 s.


@pytest.mark.claim("pbft.view-change")
@pytest.mark.parametrize("n", [4, 31])
def test_a_client_waits_at_most_2_2_s_when_the_primary_crashes(n: int) -> None:
    for seed in range(20 if FULL else 3):
        group = Group(n, observers=1, seed=seed, delay=uniform(0.01, 0.03, seed))
        group.run(1.0)
        group.propose(n)  # two batches under way
        group.run(0.03)
        group.crash(group.by_rank()[0])
        asked = group.world.now
        id = group.propose(n, b"after")
        group.run(6.0)
        assert group.latency(id, n, asked) <= 2.2, f"seed {seed}"
        group.assert_agreement()


@pytest.mark.claim("pbft.two-bad-primaries")
@pytest.mark.parametrize("n", [7, 31])
def test_a_client_waits_at_most_5_5_s_when_two_primaries_in_a_row_are_bad(n: int) -> None:
    for seed in range(20 if FULL else 3):
        group = Group(n, observers=1, seed=seed, delay=uniform(0.01, 0.03, seed))
        group.run(1.0)
        for index in group.by_rank()[:2]:
            group.crash(index)
        asked = group.world.now
        id = group.propose(n)
        group.run(10.0)
        assert group.latency(id, n, asked) <= 5.5, f"seed {seed}"
        group.assert_agreement()


def test_with_four_voters_the_second_bad_primary_comes_after_the_first_has_recovered() -> None:
    group = Group(4, observers=1)
    group.run(1.0)
    first, second = group.by_rank()[:2]
    group.crash(first)
    asked = group.world.now
    id = group.propose(4)
    group.run(1.4)
    group.restart(first)
    group.crash(second)
    group.run(10.0)
    assert group.latency(id, 4, asked) <= 5.5
    group.assert_agreement()


@pytest.mark.claim("pbft.view-change-bytes")
def test_a_full_window_at_31_changes_views_within_the_budget_of_an_uplink() -> None:
    """16 numbers prepared and not committed: the most a VIEW-CHANGE can carry."""
    n = 31
    group = Group(n, observers=1, config={"pipeline": 16})
    sizes: dict[str, list[int]] = {"ViewChange": [], "NewView": []}
    plain = group.world.context

    class Losing(plain):  # type: ignore[misc, valid-type]
        """Loses every COMMIT until views change, and weighs what is said about views."""

        __slots__ = ()

        def send(self, peer: Any, msg: Any) -> None:
            name = type(msg).__name__
            if name in sizes:
                sizes[name].append(len(CODEC.encode(msg)))
            if name != "Commit" or msg.view:
                super().send(peer, msg)

    group.world.context = Losing
    group.run(1.0)
    for number in range(16):
        group.propose(n, b"%d" % number)
        group.run(0.001)
    group.run(8.0)
    assert len(group.committed[n]) == 16
    views = [e for e in group.seen(LeaderChanged, group.honest()[3]) if e.leader is not None]
    assert views[-1].epoch == 1
    prepared = max(sizes["ViewChange"])
    assert prepared > 16 * 21 * 100 / 1.3, "the window was full"
    assert max(sizes["NewView"]) <= 1_200_000
    # What the new primary's uplink carries: its own VIEW-CHANGE, and the NEW-VIEW, to 30 others.
    assert (prepared + max(sizes["NewView"])) * (n - 1) / UPLINK <= 2.6


def test_a_view_change_of_a_full_window_of_100_voters_fits_a_frame() -> None:
    from grove_pbft.messages import Certificate, Signature, proofs

    voters = tuple(Signature(bytes([number]) * 38, bytes(64)) for number in range(1, 68))  # type: ignore[arg-type]
    held = tuple(Certificate(bytes(16), 3, seq, bytes(32), voters) for seq in range(1, 17))
    change = ViewChange(bytes(16), 4, 0, bytes(32), voters, held, voters[0].voter, bytes(64))
    assert len(CODEC.encode(change)) < CODEC.max_size / 8
    assert len(list(proofs(change))) == 1 + 67 * 17

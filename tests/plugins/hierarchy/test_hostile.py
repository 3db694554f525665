"""What strangers and liars send: nothing but `RemoteProtocolError`, and no word without a quorum."""

from __future__ import annotations

from contextlib import suppress
from random import Random

import msgspec
import pytest
from grove_hierarchy.groups import Group
from grove_hierarchy.machine.certified import MAX_SAID, WINDOW, Certifying
from grove_hierarchy.messages import (
    CODEC,
    Certified,
    Due,
    Heard,
    Share,
    Signature,
    decode_command,
    decode_entry,
    proofs,
)

from grove_core.errors import RemoteProtocolError
from grove_core.events import Committed
from grove_core.machine import PeerId
from grove_core.testing import peer
from tests.plugins.hierarchy.village import Hamlet


@pytest.fixture
def settled() -> Hamlet:
    return Hamlet(2, 4, "certified", seed=1).run(10)


def member(hamlet: Hamlet, index: int) -> Certifying:
    machine = hamlet.machine(index)
    assert isinstance(machine, Certifying)
    return machine


def certified(hamlet: Hamlet, signers: tuple[PeerId, ...], number: int = 10_000) -> Certified:
    village = hamlet.machine(0).village
    signed = tuple(Signature(signer, b"signature") for signer in sorted(signers))
    return Certified(village.name, 0, 1, number, b"body", signed)


def test_mutated_frames_raise_remote_protocol_error_and_nothing_else() -> None:
    rng = Random(4)
    good = CODEC.encode(Certified(b"v" * 16, 0, 1, 7, b"body", (Signature(peer(1), b"s"),)))
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(rng.randint(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        with suppress(RemoteProtocolError):
            list(proofs(CODEC.decode(bytes(data))))
        decode_command(bytes(data))  # None for what is none
        decode_entry(bytes(data))


def test_a_certificate_that_names_a_voter_twice_is_no_message() -> None:
    twice = (Signature(peer(1), b"a"), Signature(peer(1), b"b"))
    with pytest.raises(RemoteProtocolError, match="each once"):
        proofs(Certified(b"v" * 16, 0, 1, 7, b"body", twice))


@pytest.mark.parametrize("who", ["too few", "another group", "one stranger"])
def test_less_than_a_quorum_of_the_source_group_says_nothing(settled: Hamlet, who: str) -> None:
    source: Group = settled.machine(0).village.groups[0]
    other: Group = settled.machine(0).village.groups[1]
    signers = {
        "too few": source.members[: source.quorum - 1],
        "another group": other.members[: source.quorum],
        "one stranger": (*source.members[: source.quorum - 1], peer(77)),
    }[who]
    target = member(settled, 4)
    say = settled.node(4).plugin("hierarchy").call
    say(lambda machine, ctx: machine.on_message(ctx, peer(9), certified(settled, signers)))
    assert ("heard", 0, 10_000) not in target._to_say
    whole = certified(settled, source.members[: source.quorum])
    say(lambda machine, ctx: machine.on_message(ctx, peer(9), whole))
    assert ("heard", 0, 10_000) in target._to_say


def test_what_f_members_swear_to_is_not_true_however_often_they_swear() -> None:
    hamlet = Hamlet(2, 4, "certified", seed=3).run(10)
    machine = member(hamlet, 0)
    before = msgspec.msgpack.encode(sorted(machine.replica.records.items()))
    liar = machine.group.members[0]
    armed = next(iter(machine.replica.timers.values()))[0]

    def swear(machine: Certifying, ctx: object) -> None:
        for number in range(3 * MAX_SAID):
            for command in (Due(armed), Heard(1, 20_000 + number, b"x")):
                event = Committed(1, b"i" * 16, liar, b"")
                machine.decided(ctx, event, command)  # type: ignore[arg-type]

    hamlet.node(0).plugin("hierarchy").call(swear)
    assert machine.replica.key_of(armed) is not None
    assert msgspec.msgpack.encode(sorted(machine.replica.records.items())) == before
    assert len(machine._said[liar]) <= MAX_SAID


def test_shares_for_numbers_far_away_are_not_kept(settled: Hamlet) -> None:
    machine = member(settled, 0)
    before = len(machine._outgoing)

    def flood(machine: Certifying, ctx: object) -> None:
        for number in range(5000):
            share = Share(
                machine.village.name, 0, 1, 10_000_000 + number, b"d" * 32, machine.group.members[1], b""
            )
            machine.on_message(ctx, machine.group.members[1], share)  # type: ignore[arg-type]

    settled.node(0).plugin("hierarchy").call(flood)
    assert len(machine._outgoing) == before <= 2 * WINDOW

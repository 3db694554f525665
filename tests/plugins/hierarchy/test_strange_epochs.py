"""What strangers and liars say of epochs and states: nothing without proof, and only our own errors."""

from __future__ import annotations

from contextlib import suppress
from random import Random
from typing import Any

import msgspec
import pytest
from grove_hierarchy import memento
from grove_hierarchy.ledger import follow
from grove_hierarchy.machine.certified import Certifying
from grove_hierarchy.machine.epochs import WHICH
from grove_hierarchy.messages import (
    CHANGE,
    CODEC,
    MARK,
    Change,
    Entry,
    Mark,
    Opened,
    Roll,
    Seal,
    Segment,
    Signature,
    encode,
    proofs,
    roll_digest,
    sealing,
)

from grove_core.errors import RemoteProtocolError
from grove_core.machine import PeerId
from grove_core.testing import peer
from tests.plugins.hierarchy.village import Hamlet


@pytest.fixture(scope="module")
def settled() -> Hamlet:
    return Hamlet(3, 4, "certified", seed=1).run(8)


def successor(roll: Roll, members: tuple[PeerId, ...]) -> Roll:
    """How an epoch could begin, if it were agreed on."""
    changed: Roll = msgspec.structs.replace(roll, epoch=1, opened=roll.position, members=members)
    return changed


def show(hamlet: Hamlet, index: int, signers: tuple[PeerId, ...]) -> int:
    """Answer a member's question with such a proof; gives the epoch it is in then."""
    machine = hamlet.machine(index)
    roll = successor(machine.roll, (*machine.roll.members, peer(99)))
    proof = Opened(machine.village.name, roll, tuple(Signature(one, b"s") for one in sorted(signers)))
    hamlet.node(index).plugin("hierarchy").call(
        lambda machine, ctx: machine.on_reply(ctx, WHICH, peer(9), proof)
    )
    epoch: int = hamlet.machine(index).opening.epoch
    return epoch


@pytest.mark.claim("hierarchy.epoch-proofs")
def test_an_epoch_is_entered_only_on_the_word_of_most_groups(settled: Hamlet) -> None:
    groups = settled.machine(0).village.groups
    one_group = groups[0].members
    f_of_each = tuple(group.members[0] for group in groups)
    strangers = tuple(peer(number) for number in range(50, 60))
    for too_few in (one_group, f_of_each, strangers, (*one_group, groups[1].members[0])):
        assert show(settled, 0, too_few) == 0
    enough = (*groups[0].members[:2], *groups[1].members[:2])
    assert show(settled, 11, enough) == 1


@pytest.mark.claim("hierarchy.epoch-proofs")
def test_seals_for_another_end_do_not_open_an_epoch() -> None:
    hamlet = Hamlet(3, 4, "certified", seed=2).run(8)
    village = hamlet.machine(0).village
    digest = b"d" * 32

    def seal_all(machine: Any, ctx: Any) -> None:
        for voter in village.members:
            machine.on_message(ctx, voter, Seal(village.name, digest, voter, b"s"))

    hamlet.node(0).plugin("hierarchy").call(seal_all)
    hamlet.run(3)
    assert hamlet.machine(0).opening.epoch == 0
    assert len(hamlet.machine(0)._seals) == 12


def test_what_is_signed_at_the_end_of_an_epoch_names_the_village_and_the_roll(settled: Hamlet) -> None:
    machine = settled.machine(1)
    proof = Opened(machine.village.name, machine.roll, (Signature(peer(1), b"s"),))
    (one,) = proofs(CODEC.decode(CODEC.encode(proof)))
    assert one.data == sealing(machine.village.name, roll_digest(machine.roll))
    with pytest.raises(RemoteProtocolError, match="each once"):
        proofs(msgspec.structs.replace(proof, signatures=proof.signatures * 2))


def test_what_is_waited_for_of_liars_is_bounded(settled: Hamlet) -> None:
    """One member that asks for ever new things has one wish of each kind on the roll."""
    machine = settled.machine(1)
    liar = machine.group.members[0]
    roll = machine.roll
    for number in range(500):
        change = Entry(machine.group.number, bytes(16), liar, CHANGE, encode(Change((peer(number),), ())))
        mark = Mark(1024 * number, bytes(32), True)
        said = Entry(machine.group.number, bytes(16), liar, MARK, encode(mark))
        for entry in (change, said):
            roll, _ = follow(machine.config, machine.village, roll, entry)
    assert len(roll.backed) <= 2
    assert roll.epoch == 0


@pytest.mark.parametrize("junk", [b"", b"\xc1", b"not a change", encode(Change((peer(1), peer(1)), ()))])
def test_changes_that_make_no_sense_change_nothing(settled: Hamlet, junk: bytes) -> None:
    machine = settled.machine(1)
    entry = Entry(machine.group.number, bytes(16), machine.group.members[0], CHANGE, junk)
    roll, _ = follow(machine.config, machine.village, machine.roll, entry)
    assert roll.epoch == machine.roll.epoch
    assert roll.position == machine.roll.position + 1


def test_a_segment_nobody_asked_for_is_nothing(settled: Hamlet) -> None:
    machine = settled.machine(2)
    entry = Entry(0, bytes(16), peer(1), 0, b"forged")
    before = machine.number
    settled.node(2).plugin("hierarchy").call(
        lambda machine, ctx: machine.on_reply(
            ctx, "fetch", peer(9), Segment(machine.number + 1, (entry,))
        )
    )
    assert machine.number == before


def test_mutated_states_raise_remote_protocol_error_and_nothing_else(settled: Hamlet) -> None:
    machine = settled.machine(3)
    assert isinstance(machine, Certifying)
    good, rng = machine.state(), Random(7)
    assert memento.write(memento.read(good, *machine._agreed()), *machine._agreed()) == good
    for _ in range(1_000):
        data = bytearray(good)
        for _ in range(rng.randint(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        with suppress(RemoteProtocolError):
            memento.read(bytes(data), *machine._agreed())


def test_a_state_names_no_class_the_machine_does_not() -> None:
    evil = msgspec.msgpack.encode(["o", "subprocess:Popen", "args", "x"])
    with pytest.raises(RemoteProtocolError, match="contradicts"):
        memento.read(evil, {}, [])

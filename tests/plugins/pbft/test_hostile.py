"""What strangers and liars can send: mutated frames, giant certificates, floods. Costs are bounded, and
only `RemoteProtocolError` is ever raised."""

from __future__ import annotations

import contextlib
from random import Random
from typing import Any

import msgspec
import pytest
from grove_pbft import SPEC
from grove_pbft.config import Config
from grove_pbft.machine import Pbft
from grove_pbft.messages import (
    CODEC,
    MAX_PROOFS,
    MAX_VOTERS,
    MAX_WINDOW,
    CatchUp,
    Certificate,
    Checkpoint,
    Commit,
    NewView,
    Prepare,
    Request,
    Segment,
    Signature,
    ViewChange,
    Vouch,
    proofs,
)

from grove_core.errors import RemoteProtocolError
from grove_core.identity import peer_text
from grove_core.machine import PeerId
from grove_core.specs import Part
from grove_core.testing import Recorder, Village, peer
from grove_core.testing.conformance.protocol import ProtocolConformance, weight
from tests.fuzz import mutations, rounds
from tests.plugins.pbft.group import Group

IDS = sorted(peer(number) for number in range(4))
SETTINGS: dict[str, Any] = {
    "voters": tuple(map(peer_text, IDS)),
    "checkpoint_every": 4,
    "snapshot_every": 8,
}


class TestConformance(ProtocolConformance):
    part = Part(SPEC, Config())

    def scene(self, part: Part, seed: int, **world: Any) -> Village:
        """Four voters and an observer; twenty commands, a crash, a restart."""
        scout = Group(4, observers=1, seed=seed)
        config = scout.nodes[0].parts[0].config
        village = Village((Part(part.spec, config, part.hosted),), 5, seed=seed, delay=0.02, **world)
        village.grow(1.0)
        for number in range(20):
            if number == 8:
                village.world.crash(village.nodes[1])
            if number == 14:
                village.world.restart(village.nodes[1])
            village.nodes[4].consensus.propose(b"%d" % number)
            village.run_for(0.3)
        village.run_for(5.0)
        return village


def corpus(seed: int) -> list[bytes]:
    """Frames of every kind that a busy group sends."""
    found: dict[str, list[bytes]] = {}
    group = Group(4, observers=1, seed=seed, config={"checkpoint_every": 2, "snapshot_every": 4})
    plain = group.world.context

    class Listening(plain):  # type: ignore[misc, valid-type]
        __slots__ = ()

        def _note(self, msg: Any) -> None:
            kept = found.setdefault(type(msg).__name__, [])
            if len(kept) < 5:
                kept.append(CODEC.encode(msg))

        def send(self, peer: PeerId, msg: Any) -> None:
            self._note(msg)
            super().send(peer, msg)

        def request(self, peer: PeerId, msg: Any, key: Any, timeout: float) -> None:
            self._note(msg)
            super().request(peer, msg, key, timeout)

        def reply(self, token: Any, msg: Any) -> None:
            self._note(msg)
            super().reply(token, msg)

    group.world.context = Listening
    group.run(0.5)
    for number in range(30):
        if number == 10:
            group.crash(group.by_rank()[0])
        if number == 20:
            group.restart(next(node.index for node in group.nodes if not node.alive))
        group.propose(4, b"%d" % number)
        group.run(0.2)
    group.run(3.0)
    assert {"PrePrepare", "Prepare", "Commit", "ViewChange", "NewView", "Segment"} <= set(found)
    return [frame for kept in found.values() for frame in kept]


def test_any_bytes_are_a_message_or_one_error_and_no_message_breaks_a_machine() -> None:
    """Mutated frames, decoded, and those that are messages handed to a machine that believes them."""
    frames = corpus(1)
    group = Group(4, observers=1, seed=1, config={"checkpoint_every": 2, "snapshot_every": 4})
    group.run(0.5)
    for number in range(5):
        group.propose(4, b"%d" % number)
        group.run(0.2)
    handed = 0
    rng = Random(3)
    node = group.nodes[group.by_rank()[1]]
    senders = [other.peer for other in group.nodes if other is not node]
    (ctx,) = node.contexts
    for data in mutations(seed=11, corpus=frames, count=rounds(3_000)):
        with contextlib.suppress(RemoteProtocolError):
            msg = CODEC.decode(data)
            tuple(proofs(msg))
            handed += 1
            kind = type(msg)
            if kind in ctx.machine.message_handlers:
                ctx.machine.on_message(ctx, rng.choice(senders), msg)
            else:
                ctx.machine.on_request(ctx, rng.choice(senders), msg, 0)
                ctx.machine.on_reply(ctx, "lag", rng.choice(senders), msg)
                ctx.machine.on_reply(ctx, "view", rng.choice(senders), msg)
                ctx.machine.on_reply(ctx, ("state", 0), rng.choice(senders), msg)
                ctx.machine.on_reply(ctx, ("batch", 6, bytes(32)), rng.choice(senders), msg)
    assert handed > 100
    assert weight(ctx.machine) < 60_000


def test_with_signatures_mutated_frames_reach_nobody() -> None:
    group = Group(4, observers=1, seed=2, keys=True)
    group.run(0.5)
    group.propose(4)
    group.run(0.5)
    (ctx,) = group.nodes[0].contexts
    voter = group.machine(0).voters()[1]
    name = group.machine(0).configuration.name
    before = group.world.refused
    good = group.nodes[group.index_of(voter)]
    (sender,) = good.contexts
    forged = Commit(name, 0, 2, bytes(32), group.machine(0).voters()[2], bytes(64))
    sender.send(ctx.me, forged)
    group.run(0.1)
    assert group.world.refused == before + 1


def signatures(count: int) -> tuple[Signature, ...]:
    return tuple(Signature(PeerId(b"%05d" % number), bytes(64)) for number in range(count))


def test_a_certificate_that_names_a_voter_twice_is_refused_before_anything_is_verified() -> None:
    one = signatures(1) * 3
    held = Certificate(bytes(16), 0, 1, bytes(32), one)
    change = ViewChange(bytes(16), 1, 0, bytes(32), (), (held,), IDS[0], b"")
    with pytest.raises(RemoteProtocolError, match="each once"):
        proofs(change)


def test_giant_certificates_are_refused() -> None:
    held = Certificate(bytes(16), 0, 1, bytes(32), signatures(MAX_VOTERS))
    change = ViewChange(bytes(16), 1, 0, bytes(32), (), (held,) * MAX_WINDOW, IDS[0], b"")
    with pytest.raises(RemoteProtocolError, match=f"limit {MAX_PROOFS}"):
        proofs(change)
    too_many = msgspec.structs.replace(held, signatures=signatures(MAX_VOTERS + 1))
    with pytest.raises(RemoteProtocolError):
        CODEC.decode(msgspec.msgpack.encode(msgspec.structs.replace(change, prepared=(too_many,))))
    too_long = msgspec.structs.replace(change, prepared=(held,) * (MAX_WINDOW + 1))
    with pytest.raises(RemoteProtocolError):
        CODEC.decode(msgspec.msgpack.encode(too_long))


def replica() -> tuple[Pbft, Recorder]:
    machine, ctx = Pbft(Config(**SETTINGS, pending=100, outstanding=50)), Recorder(IDS[2])
    machine.on_start(ctx)
    ctx.take()
    return machine, ctx


def test_a_flood_of_votes_fills_no_more_than_two_windows() -> None:
    machine, ctx = replica()
    name, rng = machine.configuration.name, Random(1)
    for _ in range(20_000):
        kind = rng.choice((Prepare, Commit))
        seq, view = rng.choice((rng.randrange(40), rng.getrandbits(50))), rng.getrandbits(30)
        machine.on_message(ctx, IDS[3], kind(name, view, seq, rng.randbytes(32), IDS[3], b"signature"))
        checkpoint = rng.choice((Checkpoint, Vouch))
        machine.on_message(ctx, IDS[3], checkpoint(name, seq, rng.randbytes(32), IDS[3], b"signature"))
    assert len(machine.slots) <= 2 * machine.window
    assert len(machine.checkpoints) <= 2 * machine.window // machine.every
    assert len(machine.vouches) <= 4
    assert weight(machine) < 6_000
    assert machine.view == 0


def test_a_flood_of_view_changes_keeps_one_of_each_voter_and_moves_nobody() -> None:
    machine, ctx = replica()
    name = machine.configuration.name
    for view in range(1, 3_000):
        msg = ViewChange(name, view, 0, bytes(32), (), (), IDS[3], b"%d" % view)
        machine.on_message(ctx, IDS[3], msg)
    assert (machine.view, len(machine.changes)) == (0, 1)
    assert ctx.sent() == []


def test_a_new_view_that_cites_nobodys_view_changes_holds_up_nothing() -> None:
    machine, ctx = replica()
    from grove_pbft.messages import Cited

    cited = tuple(Cited(voter, bytes(32)) for voter in IDS[:3])
    machine.on_message(ctx, IDS[1], NewView(machine.configuration.name, 1, cited, (), IDS[1], b""))
    assert (machine.view, machine.is_changing) == (0, False), "view 0 goes on meanwhile"
    # Nor does one for a view far ahead keep out the one that is due, and both are given up in time.
    far = NewView(machine.configuration.name, 4_000_001, cited, (), IDS[1], b"")
    machine.on_message(ctx, IDS[1], far)
    machine.on_message(ctx, IDS[3], NewView(machine.configuration.name, 3, cited, (), IDS[3], b""))
    assert sorted(one.msg.view for one in machine.arriving.values()) == [3, 4_000_001]
    for _ in range(7):
        for effect in ctx.take():
            if type(getattr(effect, "msg", None)).__name__ == "FetchChange":
                machine.on_failure(ctx, effect.key, IDS[1], "timeout")
        for key in [key for key in ctx.timers if key[0] == "change"]:
            ctx.fire(machine, key)
    assert machine.arriving == {}


def test_requests_that_wait_are_bounded_in_all_and_per_client() -> None:
    machine, ctx = replica()
    for number in range(1, 500):
        machine.on_message(ctx, IDS[3], Request(IDS[3], number, bytes(16), 0, b"x", b""))
    assert len(machine.pending) == 50
    for number in range(1, 500):
        machine.on_message(ctx, IDS[0], Request(IDS[0], number, bytes(16), 0, b"x", b""))
        machine.on_message(ctx, IDS[1], Request(IDS[1], number, bytes(16), 0, b"x", b""))
    assert len(machine.pending) == 100
    machine.on_message(ctx, peer(99), Request(peer(99), 1, bytes(16), 0, b"x", b""))
    assert len(machine.pending) == 100, "strangers' requests are nobody's"


def test_votes_of_an_unknown_configuration_are_kept_per_sender_and_few() -> None:
    machine, ctx = replica()
    for number in range(5_000):
        msg = Commit(number.to_bytes(16, "big"), 0, 1, bytes(32), IDS[3], b"")
        machine.on_message(ctx, IDS[3], msg)
        machine.on_message(ctx, peer(99), msg)
    assert weight(machine) < 2_000


def test_a_liar_cannot_make_us_ask_more_than_one_question_at_a_time() -> None:
    machine, ctx = replica()
    name = machine.configuration.name
    for seq in range(400, 4000, 4):
        machine.on_message(ctx, IDS[3], Checkpoint(name, seq, bytes(32), IDS[3], b""))
        machine.on_message(ctx, IDS[1], Checkpoint(name, seq, bytes(32), IDS[1], b""))
    assert "lag" in ctx.timers
    ctx.take()
    ctx.fire(machine, "lag")
    machine.lag(ctx)
    machine.catch_up(ctx)
    asked = [e for e in ctx.take() if isinstance(getattr(e, "msg", None), CatchUp)]
    assert len(asked) == 1
    machine.on_reply(ctx, "lag", IDS[3], Segment(1 << 50, None, (), None))
    assert machine.executed == 0

"""A group leader that tells each group another story (consensus.md 1.3; claim 11, scaled).

The same liar in both variants, one in every group: it leads its group, changes the commands in what it
sends to the next group, signs that itself, and swears to its own group that it heard it so. With real
signatures.
GROVE_FULL=1: 100 and 1,000 seeds.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import msgspec
import pytest
from grove_hierarchy.groups import Group
from grove_hierarchy.machine import build
from grove_hierarchy.messages import Certified, Heard, Share, Signature, statement
from grove_raft.messages import CODEC as RAFT
from grove_raft.messages import Append, Entry

from grove_core.host import Envelope
from grove_core.machine import PeerId
from tests.plugins.hierarchy.village import Hamlet

FULL = os.environ.get("GROVE_FULL") == "1"
BLOCK = 25 if FULL else 2


def altered(body: bytes) -> bytes:
    """An upper message with other commands of the same length."""
    msg = RAFT.decode(body)
    if not isinstance(msg, Append):
        return body
    entries = tuple(_other(entry) for entry in msg.entries)
    return RAFT.encode(msgspec.structs.replace(msg, entries=entries))


def _other(entry: Entry) -> Entry:
    changed: Entry = msgspec.structs.replace(entry, command=entry.command.replace(b"truth", b"liars"))
    return changed


class LyingContext:
    """What the liar sends, changed for those it deceives; all else is the member's own context."""

    def __init__(self, ctx: Any, deceived: dict[PeerId, None], lies: list[str]) -> None:
        self._ctx, self._deceived, self._lies = ctx, deceived, lies

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)

    def send(self, peer: PeerId, msg: Any) -> None:
        if isinstance(msg, Certified) and peer in self._deceived and altered(msg.body) != msg.body:
            self._lies.append("certified")
            body = altered(msg.body)
            place = (msg.village, msg.source, msg.target, msg.number)
            own = self._ctx.sign(statement(*place, sha256(body).digest()))
            # Its own signature is good; those of the others were made for other words.
            signed = tuple(
                Signature(one.voter, own if one.voter == self._ctx.me else one.signature)
                for one in msg.signatures
            )
            self._ctx.send(peer, Certified(*place, body, signed))
            return
        if isinstance(msg, Share):
            digest = sha256(b"lie").digest()
            said = statement(msg.village, msg.source, msg.target, msg.number, digest)
            msg = msgspec.structs.replace(msg, digest=digest, signature=self._ctx.sign(said))
        if isinstance(msg, Envelope) and msg.guest == "leaders" and peer in self._deceived:
            body = altered(msg.body)
            if body != msg.body:
                self._lies.append("raft")
            msg = Envelope(msg.guest, body)
        self._ctx.send(peer, msg)


def liar(deceived: dict[PeerId, None], lies: list[str]) -> Any:
    """What a lying node runs instead of the configured variant."""

    def made(config: Any, group: Any, leaders: Any) -> Any:
        honest = type(build(config, group, leaders))

        class Liar(honest):  # type: ignore[valid-type, misc]
            def on_start(self, ctx: Any) -> None:
                super().on_start(LyingContext(ctx, deceived, lies))

            def on_message(self, ctx: Any, peer: PeerId, msg: Any) -> None:
                super().on_message(LyingContext(ctx, deceived, lies), peer, msg)

            def on_timer(self, ctx: Any, key: Any) -> None:
                super().on_timer(LyingContext(ctx, deceived, lies), key)

            def on_event(self, ctx: Any, event: Any) -> None:
                super().on_event(LyingContext(ctx, deceived, lies), event)

            def ask_group(self, ctx: Any, id: bytes, command: Any) -> None:
                if isinstance(command, Heard) and altered(command.body) != command.body:
                    lies.append("heard")
                    command = Heard(command.source, command.number, altered(command.body))
                super().ask_group(ctx, id, command)

        return Liar(config, group=group, leaders=leaders)

    return made


def told_two_stories(variant: str, seed: int) -> tuple[Hamlet, list[str]]:
    """Three groups of four; PBFT's first primary of each lies. Returns what came of it, and the lies."""
    lies: list[str] = []
    order = Hamlet(3, 4, variant, seed=seed, keys=True).world.order
    liars = {}
    for group in range(3):
        lowest = min(range(4 * group, 4 * group + 4), key=lambda at: order[at].peer)
        following = 4 * ((group + 1) % 3)
        deceived = {order[at].peer: None for at in range(following, following + 4)}
        liars[lowest] = liar(deceived, lies)
    hamlet = Hamlet(3, 4, variant, seed=seed, keys=True, liars=liars, raft={"heartbeat": 1.0})
    hamlet.run(10)
    for index in honest_of(hamlet):
        hamlet.propose(index, b"truth %d" % index)
    hamlet.run(6)
    return hamlet, lies


def honest_of(hamlet: Hamlet) -> list[int]:
    return [index for index in range(12) if index not in hamlet.liars]


def ordered(hamlet: Hamlet, index: int) -> list[bytes]:
    """The commands that a member was handed, sorted: the same one once that an election had proposed anew
    under its id (events.Committed)."""
    return sorted(command for _, command in {(one.id, one.command) for one in hamlet.committed[index]})


@pytest.mark.claim("hierarchy.trusting-forks")
def test_trusting_a_lying_upper_leader_forks_the_order() -> None:
    seeds = 100 if FULL else 4
    forked = sum(bool(told_two_stories("trusting", seed)[0].forks) for seed in range(seeds))
    print(f"trusting: {forked} of {seeds} seeds forked")
    assert forked >= 1


@pytest.mark.claim("hierarchy.certified-does-not-fork")
@pytest.mark.parametrize("block", range(40 if FULL else 1))
def test_certified_a_liar_in_every_group_forks_nothing_and_stops_nothing(
    block: int, record_property: Callable[[str, object], None]
) -> None:
    lied: list[str] = []
    seeds = range(block * BLOCK, (block + 1) * BLOCK)
    for seed in seeds:
        hamlet, lies = told_two_stories("certified", seed)
        honest = honest_of(hamlet)
        wanted = sorted(b"truth %d" % index for index in honest)
        while any(ordered(hamlet, index) != wanted for index in honest):  # liars cost elections
            assert hamlet.world.now < 60.0, f"seed {seed}: it stopped"
            hamlet.run(3)
        assert hamlet.forks == [], f"seed {seed}"
        assert all(hamlet.committed[index] == hamlet.committed[honest[0]] for index in honest)
        lied += lies
    record_property("measured", f"seeds {seeds[0]} to {seeds[-1]}: none forked, {len(lied)} lies")
    assert {"certified", "heard"} <= set(lied)


def test_the_liar_would_fork_certified_groups_if_one_members_word_were_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = Group.__init__

    def trusting(self: Group, *values: Any) -> None:
        made(self, *values)
        self.weak = 1  # type: ignore[misc]

    monkeypatch.setattr(Group, "__init__", trusting)
    assert told_two_stories("certified", 0)[0].forks

"""Each group is one voter of the upper protocol, and all it says is signed by a quorum of its members.

Every member runs a copy of its group's upper machine (replica.py). An input takes effect when f + 1
members have had it decided by the group, so that a correct one says it is true:

    Wish               one is enough: a member may want what it likes
    Due                its clock says that a timer is due
    Heard              a quorum of another group sent it this message

What the machine then sends is numbered, and each member signs what its own copy sent. f + 1 of them,
others each time, collect a quorum of signatures and carry message and certificate to every member of
the other group: one correct carrier is enough. A liar, the group's leader too, can at most keep silent,
and the others do without it; while f_g holds in every group, groups are voters that at worst crash or
omit, which is what the upper protocol was made for (Steward; GeoBFT).

All members apply the upper order by themselves: nothing is pushed down, and nobody is believed.

Limits: the group's protocol must keep its whole log, since a restarted member replays it; if it hands
over a state instead, the member can no longer know the upper machine's, and falls silent (`is_lost`).
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final

import msgspec

from grove_core.errors import RemoteProtocolError
from grove_core.events import Committed, LeaderChanged, Proposed, Rejected, Restored
from grove_core.host import Envelope
from grove_core.identity import peer_text
from grove_core.machine import Event, PeerId, handles
from grove_hierarchy.groups import Group
from grove_hierarchy.machine.order import LEADERS, Ctx, Order, seated
from grove_hierarchy.machine.replica import MAX_STEPS, GroupContext, Replica
from grove_hierarchy.messages import (
    Certified,
    Due,
    Entry,
    GroupCommand,
    Heard,
    Share,
    Signature,
    Wish,
    decode_entry,
    statement,
)

WINDOW: Final = 256
"""Messages of one group to another that may overtake each other; older ones are lost."""
MAX_SAID: Final = 256
"""Inputs one member has said that wait for others to say them; the oldest gives way."""


class Outgoing:
    """A message of our group on its way: its body once our copy has sent it, and who signed what."""

    __slots__ = ("body", "is_carried", "shares")

    def __init__(self) -> None:
        self.body: bytes | None = None
        self.is_carried = False
        self.shares: dict[PeerId, tuple[bytes, bytes]] = {}  # member -> digest, signature


class Certifying(Order):
    """One member of the `certified` variant."""

    def __init__(self, *parts: Any, **hosted: Any) -> None:
        super().__init__(*parts, **hosted)
        self.replica: Replica
        self.is_lost = False
        """The group's log no longer begins at its beginning: this copy is worth nothing."""
        self._is_replaying = True
        self._group_leader: PeerId | None = None
        self._upper: tuple[PeerId | None, int] = (None, 0)
        self._sent: dict[int, int] = {}  # target group -> messages sent
        self._applied: dict[int, dict[int, None]] = {}  # source group -> numbers, of the last WINDOW
        self._highest: dict[int, int] = {}
        self._said: dict[PeerId, dict[GroupCommand, None]] = {}
        self._outgoing: dict[tuple[int, int], Outgoing] = {}
        self._to_say: dict[tuple[str, int, int], GroupCommand] = {}
        self._armed_here: dict[int, None] = {}

    def on_start(self, ctx: Ctx) -> None:
        """Begin, or replay what the group has decided so far."""
        if not self.begin(ctx):
            return
        self.replica = Replica(self.group.id)
        ids = tuple(peer_text(group.id) for group in self.village.groups)
        inside: Any = GroupContext(self.replica, ctx)
        self.host(inside, LEADERS, seated(self.part(LEADERS), self._called(LEADERS), ids))
        self._settle(ctx)
        self.enter_group(ctx)
        self._is_replaying = False
        self._keep_time(ctx)

    # What comes from outside. Guests of the real network: the group's protocol only.

    def on_message(self, ctx: Ctx, peer: PeerId, msg: Any) -> None:
        if not isinstance(msg, Envelope) or msg.guest == self.inside:
            super().on_message(ctx, peer, msg)

    def on_peer_up(self, ctx: Ctx, peer: PeerId) -> None:
        if self.inside:
            self.enter(ctx, self.inside, lambda machine, inner: machine.on_peer_up(inner, peer))

    def on_peer_down(self, ctx: Ctx, peer: PeerId) -> None:
        if self.inside:
            self._guests[self.inside].held.pop(peer, None)
            self.enter(ctx, self.inside, lambda machine, inner: machine.on_peer_down(inner, peer))

    def on_stop(self, ctx: Ctx) -> None:
        if self.inside:
            self.enter(ctx, self.inside, lambda machine, inner: machine.on_stop(inner))

    @handles(Certified)
    def on_certified(self, ctx: Ctx, peer: PeerId, msg: Certified) -> None:
        """A group's word, whoever carries it. Its signatures were checked on the way in."""
        if not self.inside or msg.village != self.village.name or msg.target != self.group.number:
            return
        if msg.source >= len(self.village.groups) or msg.source == msg.target:
            return
        source = self.village.groups[msg.source]
        signers = [one.voter for one in msg.signatures]
        if len(signers) < source.quorum or not all(signer in source.rank for signer in signers):
            return
        if self._is_news(msg.source, msg.number):
            self._say(ctx, ("heard", msg.source, msg.number), Heard(msg.source, msg.number, msg.body))

    # Inputs: said by members, decided by the group, true when f + 1 said it.

    def _say(self, ctx: Ctx, key: tuple[str, int, int], command: GroupCommand) -> None:
        """f + 1 of us say it at once, the others if that was not enough; and again, until it is."""
        if key in self._to_say or self.is_lost:
            return
        self._to_say[key] = command
        if ctx.me in self.group.first(key[2], self.group.weak):
            self.ask_group(ctx, ctx.rng.randbytes(16), command)
        ctx.set_timer(key, self.config.patience * ctx.rng.uniform(1.0, 2.0))

    def on_timer(self, ctx: Ctx, key: Any) -> None:
        if not isinstance(key, tuple):
            super().on_timer(ctx, key)
        elif key[0] == "due" and key[2] in self._armed_here and key not in self._to_say:
            self._say(ctx, key, Due(key[2]))
        elif key in self._to_say:
            self.ask_group(ctx, ctx.rng.randbytes(16), self._to_say[key])
            ctx.set_timer(key, 2 * self.config.patience)

    def _unsay(self, ctx: Ctx, key: tuple[str, int, int]) -> None:
        if self._to_say.pop(key, None) is not None:
            ctx.cancel_timer(key)

    def on_guest_event(self, ctx: Ctx, guest: str, event: Event) -> None:
        if isinstance(ctx, GroupContext):
            ctx = ctx.real
        if guest != LEADERS and isinstance(event, Restored):
            self.is_lost = True
        if not self.is_lost:
            super().on_guest_event(ctx, guest, event)

    def decided(self, ctx: Ctx, event: Committed, command: GroupCommand) -> None:
        if isinstance(command, Wish):
            entry = Entry(self.group.number, event.id, event.proposer, command.kind, command.command)
            wanted = Proposed(event.id, msgspec.msgpack.encode(entry))
            self._input(ctx, lambda machine, inner: machine.on_event(inner, wanted))
        elif isinstance(command, Due):
            key = self.replica.key_of(command.armed)
            if key is not None and self._is_true(event.proposer, command):
                self._fire(ctx, key)
        elif (
            isinstance(command, Heard)
            and self._is_news(command.source, command.number)
            and self._is_true(event.proposer, command)
        ):
            self._hear(ctx, command)

    def _is_true(self, proposer: PeerId, command: GroupCommand) -> bool:
        """Whether f + 1 members have said it by now."""
        if proposer not in self.group.rank:
            return False
        said = self._said.setdefault(proposer, {})
        said[command] = None
        if len(said) > MAX_SAID:
            del said[next(iter(said))]
        if sum(command in one for one in self._said.values()) < self.group.weak:
            return False
        for one in self._said.values():
            one.pop(command, None)
        return True

    def _is_news(self, source: int, number: int) -> bool:
        return (
            source < len(self.village.groups)
            and number > self._highest.get(source, 0) - WINDOW
            and number not in self._applied.get(source, ())
        )

    def _hear(self, ctx: Ctx, heard: Heard) -> None:
        applied = self._applied.setdefault(heard.source, {})
        applied[heard.number] = None
        self._highest[heard.source] = highest = max(heard.number, self._highest.get(heard.source, 0))
        for number in [number for number in applied if number <= highest - WINDOW]:
            del applied[number]
        self._unsay(ctx, ("heard", heard.source, heard.number))
        codec = self.part(LEADERS).spec.codec
        assert codec is not None
        try:
            msg = codec.decode(heard.body)
        except RemoteProtocolError:
            return  # a captured group's, or another version's: nothing, to all of us
        sender = self.village.groups[heard.source].id
        self._input(ctx, lambda machine, inner: machine.on_message(inner, sender, msg))

    # The machine.

    def _input(self, ctx: Ctx, act: Any) -> None:
        self.enter(GroupContext(self.replica, ctx), LEADERS, act)
        self._settle(ctx)

    def _fire(self, ctx: Ctx, key: Any) -> None:
        _, due = self.replica.timers.pop(key)
        self.replica.now = max(self.replica.now, due)
        self._wake(GroupContext(self.replica, ctx), key)
        self._settle(ctx)

    def _wake(self, inside: Any, key: Any) -> None:
        self.enter(inside, LEADERS, lambda machine, inner: machine.on_timer(inner, key.key))

    def _answer(self, inside: Any, peer: PeerId) -> None:
        self.enter(inside, LEADERS, lambda machine, inner: machine.on_peer_up(inner, peer))

    def _settle(self, ctx: Ctx) -> None:
        """Answer connects, fire what is due at once, and let out what was sent."""
        replica = self.replica
        inside = GroupContext(replica, ctx)
        for _ in range(MAX_STEPS):
            if replica.up:
                self._answer(inside, replica.up.pop(0))
                continue
            due = [key for key, (_, when) in replica.timers.items() if when <= replica.now]
            if not due:
                break
            del replica.timers[due[0]]
            self._wake(inside, due[0])
        sent, replica.out = replica.out, []
        for peer, envelope in sent:
            target = self.village.by_id.get(peer)
            if target is not None and target is not self.group:
                self._send_out(ctx, target, envelope.body)
        if not self._is_replaying:
            self._keep_time(ctx)

    def _keep_time(self, ctx: Ctx) -> None:
        """Our own clock says when the machine's timers are due."""
        live = {armed: due for armed, due in self.replica.timers.values()}
        for armed in [armed for armed in self._armed_here if armed not in live]:
            del self._armed_here[armed]
            ctx.cancel_timer(("due", 0, armed))
            self._to_say.pop(("due", 0, armed), None)
        for armed, due in live.items():
            if armed not in self._armed_here:
                self._armed_here[armed] = None
                ctx.set_timer(("due", 0, armed), due - self.replica.now)

    # Out: sign, collect, carry.

    def _send_out(self, ctx: Ctx, target: Group, body: bytes) -> None:
        number = self._sent[target.number] = self._sent.get(target.number, 0) + 1
        if self._is_replaying:
            return  # said in an earlier life
        digest = sha256(body).digest()
        place = (self.village.name, self.group.number, target.number, number)
        share = Share(*place, digest, ctx.me, ctx.sign(statement(*place, digest)))
        for carrier in self.group.first(number, self.group.weak):
            if carrier != ctx.me:
                ctx.send(carrier, share)
            else:
                self._outgoing_of(target.number, number).body = body
                self.on_share(ctx, ctx.me, share)

    def _outgoing_of(self, target: int, number: int) -> Outgoing:
        outgoing = self._outgoing.setdefault((target, number), Outgoing())
        highest = self._sent.get(target, 0)
        for old in [key for key in self._outgoing if key[0] == target and key[1] <= highest - WINDOW]:
            del self._outgoing[old]
        return outgoing

    @handles(Share)
    def on_share(self, ctx: Ctx, peer: PeerId, msg: Share) -> None:
        """A member of our group signed what the group says."""
        if not self.inside or self.is_lost or msg.village != self.village.name:
            return
        if msg.source != self.group.number or msg.voter not in self.group.rank:
            return
        if msg.target >= len(self.village.groups) or msg.target == msg.source:
            return
        if abs(msg.number - self._sent.get(msg.target, 0)) >= WINDOW:
            return
        outgoing = self._outgoing_of(msg.target, msg.number)
        if msg.voter in outgoing.shares:
            return
        outgoing.shares[msg.voter] = (msg.digest, msg.signature)
        self._carry(ctx, msg.target, msg.number, outgoing)

    def _carry(self, ctx: Ctx, target: int, number: int, outgoing: Outgoing) -> None:
        if outgoing.body is None or outgoing.is_carried:
            return
        digest = sha256(outgoing.body).digest()
        signed = [
            Signature(voter, signature)
            for voter, (said, signature) in sorted(outgoing.shares.items())
            if said == digest
        ]
        if len(signed) < self.group.quorum:
            return
        outgoing.is_carried = True
        place = (self.village.name, self.group.number, target, number)
        certified = Certified(*place, outgoing.body, tuple(signed))
        for peer in self.village.groups[target].members:
            ctx.send(peer, certified)

    # The order.

    def _wish(self, ctx: Ctx, id: bytes, kind: int, command: bytes) -> None:
        if self.is_lost:
            ctx.emit(Rejected(id, "this member lost the beginning of its group's log"))
        else:
            super()._wish(ctx, id, kind, command)

    def on_upper(self, ctx: Ctx, event: Event) -> None:
        if isinstance(event, Committed):
            entry = decode_entry(event.command)
            if entry is not None:
                self.hand_over(ctx, entry)
        elif isinstance(event, LeaderChanged):
            self._upper = (event.leader, event.epoch)
            self._tell_leader(ctx)

    def on_group_leader(self, ctx: Ctx, event: LeaderChanged) -> None:
        self._group_leader = event.leader
        self._tell_leader(ctx)

    def _tell_leader(self, ctx: Ctx) -> None:
        """The leading group's own leader, whom only its group knows."""
        leader, epoch = self._upper
        self.led_by(ctx, self._group_leader if leader == self.group.id else None, epoch)

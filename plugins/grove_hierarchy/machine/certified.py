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

All of that is the group's agreed state: the machine's copy, what was numbered, applied and said. So when
the group's protocol asks for a state to forget its log by, it gets this (memento.py), certified by a
quorum of the group, and a member that comes back later goes on from there.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final

from grove_core.errors import LocalProtocolError, RemoteProtocolError
from grove_core.events import (
    Committed,
    LeaderChanged,
    Proposed,
    Rejected,
    Restored,
    SnapshotAsked,
    SnapshotTaken,
)
from grove_core.host import Envelope, GuestKey
from grove_core.identity import peer_text
from grove_core.machine import Event, PeerId, Token, handles
from grove_hierarchy import memento
from grove_hierarchy.groups import Group
from grove_hierarchy.machine.epochs import Epochs
from grove_hierarchy.machine.history import OPEN
from grove_hierarchy.machine.order import LEADERS, Ctx, seated
from grove_hierarchy.machine.replica import (
    ASIDE,
    MAX_STEPS,
    Again,
    GroupContext,
    Overdue,
    Replica,
    decode_aside,
)
from grove_hierarchy.messages import (
    Backed,
    Certified,
    Due,
    Entry,
    GroupCommand,
    Heard,
    Mark,
    Roll,
    Share,
    Signature,
    Wish,
    decode_entry,
    decode_roll,
    encode,
    statement,
)

WINDOW: Final = 256
"""Messages of one group to another that may overtake each other; older ones are lost."""
MAX_SAID: Final = 256
"""Inputs one member has said that wait for others to say them; the oldest gives way."""
TRAILING: Final = 256
"""Entries the upper protocol keeps behind what it may forget, at most: they are in each group's state."""
FORGET: Final = 1024
"""Commands of the group after which it is handed a state, if it does not ask."""


class Outgoing:
    """A message of our group on its way: its body once our copy has sent it, and who signed what."""

    __slots__ = ("body", "is_carried", "shares")

    def __init__(self) -> None:
        self.body: bytes | None = None
        self.is_carried = False
        self.shares: dict[PeerId, tuple[bytes, bytes]] = {}  # member -> digest, signature


class Certifying(Epochs):
    """One member of the `certified` variant."""

    def __init__(self, *parts: Any, **hosted: Any) -> None:
        super().__init__(*parts, **hosted)
        self.replica: Replica
        self.is_lost = False
        """The group let go of its state as well as its log: this copy is worth nothing in this epoch."""
        self._forget_group()

    def _forget_group(self) -> None:
        self.is_lost = False
        self._is_replaying = True
        self._asks = False  # the group's protocol asks for states by itself
        self._group_leader: PeerId | None = None
        self._upper: tuple[PeerId | None, int] = (None, 0)
        self._index = 0
        self._sent: dict[int, int] = {}  # target group -> messages sent
        self._applied: dict[int, dict[int, None]] = {}  # source group -> numbers, of the last WINDOW
        self._highest: dict[int, int] = {}
        self._said: dict[PeerId, dict[tuple[Any, ...], None]] = {}
        self._wished: dict[bytes, tuple[Entry, int]] = {}
        """What the group wants ordered -> how often the timer found it waiting."""
        self._outgoing: dict[tuple[int, int], Outgoing] = {}
        self._to_say: dict[tuple[str, int, int], GroupCommand] = {}
        self._armed_here: dict[int, None] = {}

    def begin_epoch(self, ctx: Ctx, known: Roll) -> None:
        """Begin, or replay what the group has decided so far."""
        self._forget_group()
        self.replica = Replica(self.group.id)
        ids = tuple(peer_text(group.id) for group in self.village.groups)
        inside: Any = GroupContext(self.replica, ctx)
        part = seated(self.part(LEADERS), self.called(LEADERS), ids, trailing=TRAILING)
        self.host(inside, self.above, part)
        self._settle(ctx)
        self.host_group(ctx)
        self._is_replaying = False
        self._keep_time(ctx)

    def leave_epoch(self, ctx: Ctx) -> None:
        for armed in self._armed_here:
            ctx.cancel_timer(("due", 0, armed))
        for key in tuple(self._to_say):
            self._unsay(ctx, key)
        if self.above in self.guests():
            del self._guests[self.above]  # it held nobody
        super().leave_epoch(ctx)

    # What comes from outside. Guests of the real network: the group's protocol only.

    def on_message(self, ctx: Ctx, peer: PeerId, msg: Any) -> None:
        if not isinstance(msg, Envelope) or msg.guest == self.inside:
            super().on_message(ctx, peer, msg)

    def on_peer_up(self, ctx: Ctx, peer: PeerId) -> None:
        self._up[peer] = None
        if self.inside:
            self.enter(ctx, self.inside, lambda machine, inner: machine.on_peer_up(inner, peer))

    def on_peer_down(self, ctx: Ctx, peer: PeerId) -> None:
        self._up.pop(peer, None)
        if self.inside:
            self._guests[self.inside].held.pop(peer, None)
            self.enter(ctx, self.inside, lambda machine, inner: machine.on_peer_down(inner, peer))

    def on_stop(self, ctx: Ctx) -> None:
        if self.inside:
            self.enter(ctx, self.inside, lambda machine, inner: machine.on_stop(inner))

    def on_request(self, ctx: Ctx, peer: PeerId, msg: Any, token: Token) -> None:
        if not isinstance(msg, Envelope) or msg.guest == self.inside:
            super().on_request(ctx, peer, msg, token)

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
        if guest == self.inside and isinstance(event, Restored):
            self._take_state(ctx, event.state)
        elif guest == self.inside and isinstance(event, SnapshotAsked):
            self._asks = True
            self._give_state(ctx, event.index)
        elif not self.is_lost:
            super().on_guest_event(ctx, guest, event)

    def decided(self, ctx: Ctx, event: Committed, command: GroupCommand) -> None:
        if isinstance(command, Wish):
            entry = Entry(self.group.number, event.id, event.proposer, command.kind, command.command)
            self._wished[event.id] = (entry, 0)
            if len(self._wished) > self.config.pending:
                del self._wished[next(iter(self._wished))]
            if Again() not in self.replica.timers:
                GroupContext(self.replica, ctx).set_timer(Again(), 2 * self.config.observe)
            self._raise(GroupContext(self.replica, ctx), entry)
            self._settle(ctx)
        elif isinstance(command, Due):
            key = self.replica.key_of(command.armed)
            if key is not None and self._is_true(event.proposer, ("due", command.armed)):
                self._fire(ctx, key)
        elif isinstance(command, Heard) and self._is_news(command.source, command.number):
            digest = sha256(command.body).digest()
            if self._is_true(event.proposer, ("heard", command.source, command.number, digest)):
                self._hear(ctx, command)
        if event.index % FORGET == 0 and not self._asks:
            self._give_state(ctx, event.index)

    def _raise(self, inside: Any, entry: Entry) -> None:
        wanted = Proposed(entry.id, encode(entry))
        self.enter(inside, self.above, lambda machine, inner: machine.on_event(inner, wanted))

    def _raise_again(self, inside: Any) -> None:
        """What the group wants and is not ordered: perhaps it was lost, with its leader or on the way.
        Ever more seldom, since perhaps there is only much to do."""
        for id, (entry, age) in tuple(self._wished.items()):
            self._wished[id] = (entry, age + 1)
            if age > 0 and age & (age - 1) == 0 and not self.is_closed:
                self._raise(inside, entry)
        if self._wished:
            inside.set_timer(Again(), 2 * self.config.observe)

    def take(self, ctx: Ctx, entry: Entry) -> None:
        """What is ordered is wanted no longer."""
        if not self.is_closed:
            self._wished.pop(entry.id, None)
        super().take(ctx, entry)

    def _is_true(self, proposer: PeerId, said: tuple[Any, ...]) -> bool:
        """Whether f + 1 members have said it by now."""
        if proposer not in self.group.rank:
            return False
        mine = self._said.setdefault(proposer, {})
        mine[said] = None
        if len(mine) > MAX_SAID:
            del mine[next(iter(mine))]
        if sum(said in one for one in self._said.values()) < self.group.weak:
            return False
        for one in self._said.values():
            one.pop(said, None)
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
        sender = self.village.groups[heard.source].id
        if not heard.body.startswith(ASIDE):
            msg = self._said_above(heard.body)
            if msg is not None:
                self._input(ctx, lambda machine, inner: machine.on_message(inner, sender, msg))
            return
        aside = decode_aside(heard.body)
        msg = None if aside is None else self._said_above(aside.body)
        if aside is None or msg is None:
            return
        if aside.is_answer:
            key: Any = self.replica.answered(sender, aside.number)
            if key is not None:
                self._input(ctx, lambda machine, inner: machine.on_reply(inner, key.key, sender, msg))
        else:
            token = self.replica.token_for(sender, aside.number)
            self._input(ctx, lambda machine, inner: machine.on_request(inner, sender, msg, token))

    def _said_above(self, body: bytes) -> Any:
        """The upper protocol's message; None if a captured group, or another version, sent none."""
        codec = self.part(LEADERS).spec.codec
        assert codec is not None
        try:
            return codec.decode(body)
        except RemoteProtocolError:
            return None

    # The machine.

    def _input(self, ctx: Ctx, act: Any) -> None:
        self.enter(GroupContext(self.replica, ctx), self.above, act)
        self._settle(ctx)

    def _fire(self, ctx: Ctx, key: Any) -> None:
        _, due = self.replica.timers.pop(key)
        self.replica.now = max(self.replica.now, due)
        self._wake(GroupContext(self.replica, ctx), key)
        self._settle(ctx)

    def _wake(self, inside: Any, key: Any) -> None:
        if isinstance(key, Again):
            self._raise_again(inside)
        elif not isinstance(key, Overdue):
            self.enter(inside, self.above, lambda machine, inner: machine.on_timer(inner, key.key))
        elif key.key in self.replica.asked:
            _, peer = self.replica.asked.pop(key.key)
            asked = key.key.key
            self.enter(
                inside,
                self.above,
                lambda machine, inner: machine.on_failure(inner, asked, peer, "timeout"),
            )

    def _answer(self, inside: Any, peer: PeerId) -> None:
        self.enter(inside, self.above, lambda machine, inner: machine.on_peer_up(inner, peer))

    def _settle(self, ctx: Ctx) -> None:
        """Answer connects, fire what is due at once, follow the order, and let out what was sent."""
        replica = self.replica
        inside = GroupContext(replica, ctx)
        for _ in range(MAX_STEPS):
            self._follow(ctx)
            if replica.up:
                self._answer(inside, replica.up.pop(0))
                continue
            due = [key for key, (_, when) in replica.timers.items() if when <= replica.now]
            if not due:
                break
            del replica.timers[due[0]]
            self._wake(inside, due[0])
        sent, replica.out = replica.out, []
        for peer, body in sent:
            target = self.village.by_id.get(peer)
            if target is not None and target is not self.group:
                self._send_out(ctx, target, body)
        if not self._is_replaying:
            self._keep_time(ctx)

    def _follow(self, ctx: Ctx) -> None:
        """Hear what the machine emitted before its next input: that, too, must be alike at all members,
        however many commands of the group one of them takes at once."""
        while True:
            for at, (guest, event) in enumerate(self._heard):
                if guest == self.above:
                    del self._heard[at]
                    self.on_upper(ctx, event)
                    break
            else:
                return

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

    # The group's state.

    def _agreed(self) -> tuple[dict[str, type], list[object]]:
        guest = self._guests[self.above]
        kinds = (Replica, GuestKey, Overdue, Again, Roll, Mark, Backed, Entry)
        return memento.classes_of(guest.machine, *kinds), [guest.part.config, guest.part]

    def state(self) -> bytes:
        """All that is equal at all correct members that have executed as much of the group's log."""
        guest = self._guests[self.above]
        agreed = (
            self.replica, guest.machine, guest.rng, guest.held, self.roll, self.is_closed, self._upper,
            self._index, self._sent, self._applied, self._highest, self._said, self._wished,
        )  # fmt: skip
        return memento.write(agreed, *self._agreed())

    def _give_state(self, ctx: Ctx, index: int) -> None:
        if self._is_replaying or self.is_lost:
            return
        try:
            taken = SnapshotTaken(index, self.state())
        except LocalProtocolError:
            return  # a machine that cannot be written down: the group keeps its log as long as it can
        self.enter(ctx, self.inside, lambda machine, inner: machine.on_event(inner, taken))

    def _take_state(self, ctx: Ctx, state: bytes) -> None:
        """A quorum of our group certified this; whatever our copy was, it is this now."""
        try:
            agreed = memento.read(state, *self._agreed())
            (
                replica, machine, rng, held, roll, is_closed, self._upper,
                self._index, self._sent, self._applied, self._highest, self._said, self._wished,
            ) = agreed  # fmt: skip
        except (RemoteProtocolError, TypeError, ValueError):
            self.is_lost = True
            return
        self.is_lost = False
        self.replica = replica
        guest = self._guests[self.above]
        guest.machine, guest.rng, guest.held = machine, rng, held
        for key in tuple(self._to_say):
            if key[0] == "due" or not self._is_news(key[1], key[2]):
                self._unsay(ctx, key)
        self.is_closed = is_closed
        self.roll = roll
        if roll.position > self.number:
            self.be_at(ctx, roll)
        if is_closed:
            ctx.set_timer(OPEN, 0.0)
        if not self._is_replaying:
            self._keep_time(ctx)
        self._tell_leader(ctx)

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

    def _wish(self, ctx: Ctx, id: bytes, wish: Wish) -> None:
        if self.is_lost:
            ctx.emit(Rejected(id, "this member's group let go of the state it would need"))
        else:
            super()._wish(ctx, id, wish)

    def on_upper(self, ctx: Ctx, event: Event) -> None:
        if isinstance(event, Committed):
            self._index = event.index
            entry = decode_entry(event.command)
            if entry is not None:
                self.take(ctx, entry)
        elif isinstance(event, Restored):
            self._index = event.index
            roll = decode_roll(event.state)
            if roll is not None and roll.epoch == self.opening.epoch and not self.is_closed:
                self._be_after(ctx, roll)
        elif isinstance(event, SnapshotAsked):
            self._index = event.index
            self.forget_above(ctx)
        elif isinstance(event, LeaderChanged):
            self._upper = (event.leader, event.epoch)
            self._tell_leader(ctx)

    def _be_after(self, ctx: Ctx, roll: Roll) -> None:
        """Our group was away: the others agree on this roll, and the order goes on behind it."""
        if roll.position > self.roll.position:
            self.roll = roll
            if roll.position > self.number:
                self.be_at(ctx, roll)

    def forget_above(self, ctx: Ctx) -> None:
        taken = SnapshotTaken(self._index, encode(self.roll))
        inside: Any = GroupContext(self.replica, ctx)
        self.enter(inside, self.above, lambda machine, inner: machine.on_event(inner, taken))

    def on_group_leader(self, ctx: Ctx, event: LeaderChanged) -> None:
        self._group_leader = event.leader
        self._tell_leader(ctx)

    def _tell_leader(self, ctx: Ctx) -> None:
        """The leading group's own leader, whom only its group knows."""
        leader, epoch = self._upper
        self.led_by(ctx, self._group_leader if leader == self.group.id else None, epoch)

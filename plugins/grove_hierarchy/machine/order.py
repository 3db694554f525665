"""What both variants share: the role, and the way from a wish to its group.

A member proposes to its own group; what the group decides goes up; what the upper protocol orders has a
position in the global order, counted from 1 at every member alike. A read is an entry like any other:
what is read when it has come round is as of the moment of asking, or later. So is a change of members.

Invariant: only what a group decided is proposed above it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from grove_core.errors import LocalProtocolError
from grove_core.events import Committed, LeaderChanged, Proposed, ReadAsked, Rejected
from grove_core.host import Host
from grove_core.identity import peer_text
from grove_core.machine import Context, Event, PeerId, handles
from grove_core.specs import Part
from grove_hierarchy.config import Config
from grove_hierarchy.groups import Group, Village
from grove_hierarchy.ledger import first_roll, refusal
from grove_hierarchy.messages import (
    CHANGE,
    COMMAND,
    MAX_COMMAND,
    READ,
    Change,
    GroupCommand,
    Roll,
    Wish,
    decode_command,
    encode,
)

Ctx = Context[Any]

LEADERS = "leaders"
"""The part that is the upper protocol."""
MAX_ASKED = 4096
"""Own wishes and reads whose outcome is awaited; of older ones no refusal is told."""
MAX_ASKED_BYTES = 32 << 20
"""Their commands, kept to be asked for again in a next epoch; of larger ones only the id is kept."""


class Order(Host[Any]):
    """One member. Hears Proposed and ReadAsked; emits what roles.ConsensusMachine says."""

    def __init__(self, config: Config, group: Part | None = None, leaders: Part | None = None) -> None:
        super().__init__()
        self.config = config
        self._parts = {"group": group, LEADERS: leaders}
        self.village = Village(config)
        """The groups of the epoch we are in."""
        self.roll: Roll = first_roll(self.village)
        """What is agreed, as far as we know."""
        self.is_closed = False
        """The roll has ended this epoch, and the next one is about to be entered."""
        self.group: Group
        self.inside = ""
        """The guest that is our group's protocol; empty if we are no member."""
        self.above = ""
        """The guest that is the upper protocol."""
        self._leader: PeerId | None = None
        self._up: dict[PeerId, None] = {}
        """Who is connected."""
        self._asked: dict[bytes, Wish | None] = {}
        self._asked_bytes = 0

    def part(self, role: str) -> Part:
        """What plays "group" or "leaders". LocalProtocolError if the machine was built without it."""
        part = self._parts[role]
        if part is None:
            raise LocalProtocolError(f"a hierarchy was built without a part that plays {role!r}")
        return part

    # The role.

    def propose(self, ctx: Ctx, command: bytes) -> bytes:
        """Want a command agreed on; returns its id. LocalProtocolError beyond 1,044,480 bytes."""
        if len(command) > MAX_COMMAND:
            raise LocalProtocolError(_too_long(command))
        id = ctx.rng.randbytes(16)
        self._wish(ctx, id, Wish(COMMAND, command))
        return id

    def read(self, ctx: Ctx) -> bytes:
        """Ask for a linearizable read; returns its id."""
        id = ctx.rng.randbytes(16)
        self._wish(ctx, id, Wish(READ, b""))
        return id

    def leader(self) -> PeerId | None:
        """Who leads the upper protocol, as far as this node knows."""
        return self._leader

    def voters(self) -> tuple[PeerId, ...]:
        """All members, ascending."""
        return self.roll.members

    def learners(self) -> tuple[PeerId, ...]:
        """Nobody."""
        return ()

    def reconfigure(self, ctx: Ctx, voters: tuple[PeerId, ...], learners: tuple[PeerId, ...]) -> bytes:
        """Ask for these members; returns an id. The same ones: have the groups drawn anew.

        Answered by MembersChanged, or by Rejected. With `sponsors = "weak"`, f + 1 members of one group
        must ask alike, but for who only leaves; until they do there is no answer."""
        id = ctx.rng.randbytes(16)
        now = self.roll.members
        change = Change(
            tuple(sorted(peer for peer in dict.fromkeys(voters) if peer not in now)),
            tuple(peer for peer in now if peer not in voters),
        )
        reason = "a hierarchy has no learners" if learners else refusal(now, change)
        if reason:
            ctx.emit(Rejected(id, reason))
        else:
            self._wish(ctx, id, Wish(CHANGE, encode(change)))
        return id

    @handles(Proposed)
    def on_proposed(self, ctx: Ctx, event: Proposed) -> None:
        if len(event.command) > MAX_COMMAND:
            ctx.emit(Rejected(event.id, _too_long(event.command)))
        else:
            self._wish(ctx, event.id, Wish(COMMAND, event.command))

    @handles(ReadAsked)
    def on_read_asked(self, ctx: Ctx, event: ReadAsked) -> None:
        self._wish(ctx, event.id, Wish(READ, b""))

    # Connections: a guest that comes later is told of those that are open.

    def on_peer_up(self, ctx: Ctx, peer: PeerId) -> None:
        self._up[peer] = None
        super().on_peer_up(ctx, peer)

    def on_peer_down(self, ctx: Ctx, peer: PeerId) -> None:
        self._up.pop(peer, None)
        super().on_peer_down(ctx, peer)

    def introduce(self, ctx: Ctx, guest: str) -> None:
        """Tell a guest who is connected already."""
        for peer in self._up:
            self.enter(ctx, guest, lambda machine, inner, peer=peer: machine.on_peer_up(inner, peer))

    # Down to the group's protocol, and what it says.

    def _wish(self, ctx: Ctx, id: bytes, wish: Wish) -> None:
        if not self.inside:
            ctx.emit(Rejected(id, "this node is in no group of the hierarchy"))
            return
        keeps = self._asked_bytes + len(wish.command) <= MAX_ASKED_BYTES
        self._asked_bytes += len(wish.command) if keeps else 0
        self._asked[id] = wish if keeps else None
        if len(self._asked) > MAX_ASKED:
            self.answered(next(iter(self._asked)))
        self.ask_group(ctx, id, wish)

    def answered(self, id: bytes) -> bool:
        """Wait for the outcome of an own wish no longer; False if it was not waited for."""
        if id not in self._asked:
            return False
        wish = self._asked.pop(id)
        self._asked_bytes -= 0 if wish is None else len(wish.command)
        return True

    def wish_again(self, ctx: Ctx) -> None:
        """Another epoch has begun: what the last one did not order is asked for anew."""
        for id, wish in tuple(self._asked.items()):
            if not self.inside:
                self.answered(id)
                ctx.emit(Rejected(id, "this node is in no group of the hierarchy any more"))
            elif wish is None or wish.kind == CHANGE:
                self.answered(id)  # one change was made; another one is for people to want
            else:
                self.ask_group(ctx, id, wish)

    def ask_group(self, ctx: Ctx, id: bytes, command: GroupCommand) -> None:
        wanted = Proposed(id, msgspec.msgpack.encode(command))
        self.enter(ctx, self.inside, lambda machine, inner: machine.on_event(inner, wanted))

    def host_group(self, ctx: Ctx) -> None:
        """Take in our group's protocol."""
        voters = tuple(map(peer_text, self.group.members))
        self.host(ctx, self.inside, seated(self.part("group"), self.called(self.inside), voters))
        self.introduce(ctx, self.inside)

    def called(self, guest: str) -> str:
        """What a guest's own group is called: no two of any epoch share a name."""
        return f"{self.village.name.hex()}/{guest}"

    def on_guest_event(self, ctx: Ctx, guest: str, event: Event) -> None:
        if guest not in self.guests():
            return  # it said that before it was dismissed
        if guest == self.above:
            self.on_upper(ctx, event)
        elif isinstance(event, Committed):
            command = decode_command(event.command)
            if command is not None:
                self.decided(ctx, event, command)
        elif isinstance(event, Rejected):
            if self.answered(event.id):
                ctx.emit(event)
        elif isinstance(event, LeaderChanged):
            self.on_group_leader(ctx, event)

    def decided(self, ctx: Ctx, event: Committed, command: GroupCommand) -> None:
        """The own group decided on something."""

    def on_group_leader(self, ctx: Ctx, event: LeaderChanged) -> None:
        """The own group has another leader."""

    def on_upper(self, ctx: Ctx, event: Event) -> None:
        """The upper protocol says something."""

    def led_by(self, ctx: Ctx, leader: PeerId | None, epoch: int) -> None:
        if leader != self._leader:
            self._leader = leader
            ctx.emit(LeaderChanged(leader, epoch))


def seated(part: Part, name: str, voters: tuple[str, ...], **most: int) -> Part:
    """A consensus part for these voters, under a name of its own. LocalProtocolError if its configuration
    has no such fields. most: the largest values of other fields, if it has them."""
    fields = type(part.config).__struct_fields__
    if "voters" not in fields or "group" not in fields:
        raise LocalProtocolError(
            f"plugin {part.spec.name!r} cannot be hosted: its configuration has no voters and group"
        )
    less = {
        field: min(value, getattr(part.config, field)) for field, value in most.items() if field in fields
    }
    config = msgspec.structs.replace(part.config, voters=voters, group=name, **less)
    return Part(part.spec, config, part.hosted)


def _too_long(command: bytes) -> str:
    return f"command of {len(command)} bytes; limit {MAX_COMMAND} in a hierarchy"

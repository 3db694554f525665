"""What both variants share: the role, the way from a wish to its group, and the global order.

A member proposes to its own group; what the group decides goes up; what the upper protocol orders has a
position in the global order, counted from 1 at every member alike. A read is an entry like any other:
what is read when it has come round is as of the moment of asking, or later.

Invariants:
1. A member hands over positions in ascending order, each once per life.
2. Only what a group decided is proposed above it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from grove_core.errors import LocalProtocolError
from grove_core.events import (
    Committed,
    LeaderChanged,
    MembersChanged,
    Proposed,
    ReadAsked,
    ReadReady,
    Rejected,
)
from grove_core.host import Host
from grove_core.identity import peer_text
from grove_core.machine import Context, Event, PeerId, handles
from grove_core.specs import Part
from grove_hierarchy.config import Config
from grove_hierarchy.groups import Group, Village
from grove_hierarchy.messages import (
    COMMAND,
    MAX_COMMAND,
    READ,
    Entry,
    GroupCommand,
    Wish,
    decode_command,
)

Ctx = Context[Any]

LEADERS = "leaders"
"""The guest that is the upper protocol."""
MAX_ASKED = 4096
"""Own wishes and reads whose outcome is awaited; of older ones no refusal is told."""


class Order(Host[Any]):
    """One member. Hears Proposed and ReadAsked; emits what roles.ConsensusMachine says."""

    def __init__(self, config: Config, group: Part | None = None, leaders: Part | None = None) -> None:
        super().__init__()
        self.config = config
        self._parts = {"group": group, LEADERS: leaders}
        self.village = Village(config)
        self.group: Group
        self.inside = ""
        """The guest that is our group's protocol."""
        self.number = 0
        """Positions of the global order that were handed over."""
        self._leader: PeerId | None = None
        self._asked: dict[bytes, int] = {}

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
        self._wish(ctx, id, COMMAND, command)
        return id

    def read(self, ctx: Ctx) -> bytes:
        """Ask for a linearizable read; returns its id."""
        id = ctx.rng.randbytes(16)
        self._wish(ctx, id, READ, b"")
        return id

    def leader(self) -> PeerId | None:
        """Who leads the upper protocol, as far as this node knows."""
        return self._leader

    def voters(self) -> tuple[PeerId, ...]:
        """All members, ascending."""
        return self.village.members

    def learners(self) -> tuple[PeerId, ...]:
        """Nobody."""
        return ()

    def reconfigure(self, ctx: Ctx, voters: tuple[PeerId, ...], learners: tuple[PeerId, ...]) -> bytes:
        """Always answered by Rejected: the groups are fixed for the life of a village."""
        id = ctx.rng.randbytes(16)
        ctx.emit(Rejected(id, "the groups of a hierarchy do not change"))
        return id

    @handles(Proposed)
    def on_proposed(self, ctx: Ctx, event: Proposed) -> None:
        if len(event.command) > MAX_COMMAND:
            ctx.emit(Rejected(event.id, _too_long(event.command)))
        else:
            self._wish(ctx, event.id, COMMAND, event.command)

    @handles(ReadAsked)
    def on_read_asked(self, ctx: Ctx, event: ReadAsked) -> None:
        self._wish(ctx, event.id, READ, b"")

    # Life.

    def begin(self, ctx: Ctx) -> bool:
        """Find the own group. False, and nothing is hosted, if this node is no member."""
        if ctx.me not in self.village.of:
            return False
        self.group = self.village.of[ctx.me]
        self.inside = f"group/{self.group.number}"
        ctx.emit(MembersChanged(0, self.village.members))
        return True

    def enter_group(self, ctx: Ctx) -> None:
        voters = tuple(map(peer_text, self.group.members))
        self.host(ctx, self.inside, seated(self.part("group"), self._called(self.inside), voters))

    def _called(self, guest: str) -> str:
        return f"{self.village.name.hex()}/{guest}"

    # Down to the group's protocol, and what it says.

    def _wish(self, ctx: Ctx, id: bytes, kind: int, command: bytes) -> None:
        if not self.inside:
            ctx.emit(Rejected(id, "this node is in no group of the hierarchy"))
            return
        self._asked[id] = kind
        if len(self._asked) > MAX_ASKED:
            del self._asked[next(iter(self._asked))]
        self.ask_group(ctx, id, Wish(kind, command))

    def ask_group(self, ctx: Ctx, id: bytes, command: GroupCommand) -> None:
        wanted = Proposed(id, msgspec.msgpack.encode(command))
        self.enter(ctx, self.inside, lambda machine, inner: machine.on_event(inner, wanted))

    def on_guest_event(self, ctx: Ctx, guest: str, event: Event) -> None:
        if guest == LEADERS:
            self.on_upper(ctx, event)
        elif isinstance(event, Committed):
            command = decode_command(event.command)
            if command is not None:
                self.decided(ctx, event, command)
        elif isinstance(event, Rejected):
            if self._asked.pop(event.id, None) is not None:
                ctx.emit(event)
        elif isinstance(event, LeaderChanged):
            self.on_group_leader(ctx, event)

    def decided(self, ctx: Ctx, event: Committed, command: GroupCommand) -> None:
        """The own group decided on something."""

    def on_group_leader(self, ctx: Ctx, event: LeaderChanged) -> None:
        """The own group has another leader."""

    def on_upper(self, ctx: Ctx, event: Event) -> None:
        """The upper protocol says something."""

    # Up to the application.

    def hand_over(self, ctx: Ctx, entry: Entry) -> None:
        """The next position of the global order is this."""
        self.number += 1
        kind = self._asked.pop(entry.id, None) if entry.proposer == ctx.me else None
        if entry.kind == COMMAND:
            ctx.emit(Committed(self.number, entry.id, entry.proposer, entry.command))
        elif kind == READ:
            ctx.emit(ReadReady(entry.id, self.number))

    def led_by(self, ctx: Ctx, leader: PeerId | None, epoch: int) -> None:
        if leader != self._leader:
            self._leader = leader
            ctx.emit(LeaderChanged(leader, epoch))


def seated(part: Part, name: str, voters: tuple[str, ...]) -> Part:
    """A consensus part for these voters, under a name of its own. LocalProtocolError if its configuration
    has no such fields."""
    fields = type(part.config).__struct_fields__
    if "voters" not in fields or "group" not in fields:
        raise LocalProtocolError(
            f"plugin {part.spec.name!r} cannot be hosted: its configuration has no voters and group"
        )
    config = msgspec.structs.replace(part.config, voters=voters, group=name)
    return Part(part.spec, config, part.hosted)


def _too_long(command: bytes) -> str:
    return f"command of {len(command)} bytes; limit {MAX_COMMAND} in a hierarchy"

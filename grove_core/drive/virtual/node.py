"""One node of a world, with a context per machine while it lives."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from grove_core.drive.virtual.clock import Clock
from grove_core.drive.virtual.context import VirtualContext
from grove_core.drive.virtual.link import End
from grove_core.errors import LocalProtocolError
from grove_core.identity import Identity
from grove_core.machine import PeerId
from grove_core.node import Assembly
from grove_core.roles import HANDLES, Broadcast, Consensus, Discovery, Membership, Storage
from grove_core.specs import Part

if TYPE_CHECKING:
    from grove_core.drive.virtual.world import World

H = TypeVar("H", Discovery, Membership, Broadcast, Storage, Consensus)


class VirtualNode:
    """One node of a world, over all its lives. `broadcast`, `membership` … are its role handles."""

    __slots__ = ("clock", "contexts", "dialling", "disk", "host", "identity",
                 "index", "links", "parts", "peer", "shape", "starts",
                 "world")  # fmt: skip

    def __init__(self, world: World, index: int, parts: tuple[Part, ...], peer: PeerId) -> None:
        self.world = world
        self.index = index
        self.parts = parts
        self.peer = peer
        self.identity: Identity | None = None
        self.clock: Clock | None = None  # of its own, if it is not right; set before it starts
        self.host = ""  # where it is as the network sees it; set by who models addresses
        self.disk: dict[str, dict[str, bytes]] = {}
        self.links: dict[PeerId, End] = {}
        self.dialling: dict[PeerId, dict[VirtualContext, None]] = {}
        self.contexts: tuple[VirtualContext, ...] = ()
        self.shape = world.shape(parts)
        self.starts = 0

    def __repr__(self) -> str:
        return f"<node {self.index}>"

    @property
    def alive(self) -> bool:
        return bool(self.contexts)

    @property
    def discovery(self) -> Discovery:
        return self._role(Discovery)

    @property
    def membership(self) -> Membership:
        return self._role(Membership)

    @property
    def broadcast(self) -> Broadcast:
        return self._role(Broadcast)

    @property
    def storage(self) -> Storage:
        return self._role(Storage)

    @property
    def consensus(self) -> Consensus:
        return self._role(Consensus)

    def _role(self, kind: type[H]) -> H:
        found = self.plugin(kind.__name__.lower())
        assert isinstance(found, kind)
        return found

    def plugin(self, role_or_name: str) -> Any:
        """The handle of the first machine of a role, or of a plugin by name; else KeyError."""
        for ctx in self.contexts:
            if role_or_name in (ctx.slot.spec.role, ctx.slot.name):
                return HANDLES[ctx.slot.spec.role](ctx.machine, Call(ctx))
        raise KeyError(f"node {self.index} has no {role_or_name!r} alive")

    def machine(self, role_or_name: str) -> Any:
        """The machine itself, to look at."""
        return self.plugin(role_or_name).machine

    def write(self, plugin: str, key: str, value: bytes | None) -> None:
        table = self.disk.setdefault(plugin, {})
        if value is None:
            table.pop(key, None)
        else:
            table[key] = value

    def wake(self) -> None:
        """Begin a life: fresh machines over whatever the disk holds."""
        assembly = Assembly(self.parts)
        kind = self.world.context if self.clock is None else self.world.skewed()
        self.contexts = tuple(kind(self.world, self, slot) for slot in assembly.slots)
        self.starts += 1


class Call:
    """Enters one machine from outside: see `roles.Call`."""

    __slots__ = ("_ctx",)

    def __init__(self, ctx: VirtualContext) -> None:
        self._ctx = ctx

    def __call__(self, act: Callable[[Any, Any], Any]) -> Any:
        ctx = self._ctx
        if not ctx.alive:
            raise LocalProtocolError(f"{ctx!r} is dead; take the handle anew after a restart")
        result = act(ctx.machine, ctx)
        ctx.world.settle()
        return result

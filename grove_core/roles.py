"""What `node.membership`, `node.broadcast` and their like can do, whichever plugin plays the role.

Two faces of one idea: the ``…Machine`` protocols say what a plugin's machine must offer (methods
whose first parameter is the context); the handles are what an application holds. A handle enters
the machine through a `Call`, which the driver provides: it runs the method now, then lets the
effects take place. The same handle therefore works on a real node and in virtual time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

from grove_core.machine import Context, Machine, PeerId

T = TypeVar("T")


class Call(Protocol):
    """Run a function of (machine, context) at once, inside the node, as one more input."""

    def __call__(self, act: Callable[[Any, Context[Any]], T]) -> T: ...


class MembershipMachine(Protocol):
    """A partial view of the village. Emits NeighborUp and NeighborDown."""

    def join(self, ctx: Context[Any], contact: PeerId) -> None:
        """Enter the overlay through a contact whose record is known to the driver."""
        ...

    def leave(self, ctx: Context[Any]) -> None:
        """Tell the neighbours goodbye and keep nobody."""
        ...

    def neighbors(self) -> tuple[PeerId, ...]:
        """Peers that broadcast may count on now, oldest first."""
        ...

    def known(self) -> tuple[PeerId, ...]:
        """Peers kept in reserve, not connected on their account."""
        ...


class BroadcastMachine(Protocol):
    """One-to-all delivery by topic. Emits Delivered, once per message."""

    def publish(self, ctx: Context[Any], topic: str, data: bytes) -> bytes:
        """Send data (at most the plugin's `max_payload` bytes) to all subscribers; returns its id."""
        ...

    def subscribe(self, ctx: Context[Any], topic: str) -> None:
        """Want Delivered events of a topic. Idempotent."""
        ...

    def unsubscribe(self, ctx: Context[Any], topic: str) -> None:
        """Want them no longer. Idempotent."""
        ...

    def topics(self) -> tuple[str, ...]:
        """Topics subscribed to, in ascending order."""
        ...

    def links(self) -> Mapping[str, tuple[PeerId, ...]]:
        """Peers by how they are used, in the protocol's own words: ``{"eager": …, "lazy": …}``."""
        ...


class DiscoveryMachine(Protocol):
    """Finds peers. Emits PeerFound."""

    def found(self) -> tuple[PeerId, ...]:
        """Peers found and not yet forgotten."""
        ...


class ConsensusMachine(Protocol):
    """Agreement on one sequence of commands. Hears Proposed, ReadAsked and SnapshotTaken; emits
    Committed, Rejected, ReadReady, LeaderChanged, MembersChanged and Restored."""

    def propose(self, ctx: Context[Any], command: bytes) -> bytes:
        """Want a command agreed on; returns its id (16 bytes). The outcome is an event."""
        ...

    def read(self, ctx: Context[Any]) -> bytes:
        """Ask for a linearizable read; returns its id (16 bytes). The answer is an event."""
        ...

    def leader(self) -> PeerId | None:
        """Who leads, as far as this node knows."""
        ...

    def voters(self) -> tuple[PeerId, ...]:
        """Who decides now, ascending."""
        ...

    def learners(self) -> tuple[PeerId, ...]:
        """Who listens and does not vote, ascending."""
        ...

    def reconfigure(
        self, ctx: Context[Any], voters: tuple[PeerId, ...], learners: tuple[PeerId, ...]
    ) -> bytes:
        """Change who decides without a restart; returns an id. Answered by MembersChanged or Rejected."""
        ...


class _Handle:
    """Binds a machine's role API to the node it lives on."""

    def __init__(self, machine: Machine[Any], call: Call) -> None:
        self.machine: Any = machine
        """The plugin's own machine, for what only that plugin can do. Read it; do not call inputs."""
        self.call = call
        """Enter the machine: ``handle.call(lambda machine, ctx: machine.something(ctx, …))``."""


class Membership(_Handle):
    """`node.membership`: see MembershipMachine for the meaning of each method."""

    def join(self, contact: PeerId) -> None:
        self.call(lambda machine, ctx: machine.join(ctx, contact))

    def leave(self) -> None:
        self.call(lambda machine, ctx: machine.leave(ctx))

    def neighbors(self) -> tuple[PeerId, ...]:
        found: tuple[PeerId, ...] = self.machine.neighbors()
        return found

    def known(self) -> tuple[PeerId, ...]:
        found: tuple[PeerId, ...] = self.machine.known()
        return found


class Broadcast(_Handle):
    """`node.broadcast`: see BroadcastMachine for the meaning of each method."""

    def publish(self, topic: str, data: bytes) -> bytes:
        message_id: bytes = self.call(lambda machine, ctx: machine.publish(ctx, topic, data))
        return message_id

    def subscribe(self, topic: str) -> None:
        self.call(lambda machine, ctx: machine.subscribe(ctx, topic))

    def unsubscribe(self, topic: str) -> None:
        self.call(lambda machine, ctx: machine.unsubscribe(ctx, topic))

    def topics(self) -> tuple[str, ...]:
        found: tuple[str, ...] = self.machine.topics()
        return found

    def links(self) -> Mapping[str, tuple[PeerId, ...]]:
        found: Mapping[str, tuple[PeerId, ...]] = self.machine.links()
        return found


class Discovery(_Handle):
    """`node.discovery`: see DiscoveryMachine for the meaning of each method."""

    def found(self) -> tuple[PeerId, ...]:
        peers: tuple[PeerId, ...] = self.machine.found()
        return peers


class Storage(_Handle):
    """`node.storage`: no common verbs yet; `call` reaches the plugin's own."""


class Consensus(_Handle):
    """`node.consensus`: see ConsensusMachine for the meaning of each method."""

    def propose(self, command: bytes) -> bytes:
        proposal: bytes = self.call(lambda machine, ctx: machine.propose(ctx, command))
        return proposal

    def read(self) -> bytes:
        question: bytes = self.call(lambda machine, ctx: machine.read(ctx))
        return question

    def leader(self) -> PeerId | None:
        found: PeerId | None = self.machine.leader()
        return found

    def voters(self) -> tuple[PeerId, ...]:
        found: tuple[PeerId, ...] = self.machine.voters()
        return found

    def learners(self) -> tuple[PeerId, ...]:
        found: tuple[PeerId, ...] = self.machine.learners()
        return found

    def reconfigure(self, voters: tuple[PeerId, ...], learners: tuple[PeerId, ...] = ()) -> bytes:
        change: bytes = self.call(lambda machine, ctx: machine.reconfigure(ctx, voters, learners))
        return change


class Signal(Protocol):
    """Something that happens at most once (an `asyncio.Event`)."""

    def is_set(self) -> bool: ...
    async def wait(self) -> Any: ...


class Claim(Protocol):
    """A task that is this agent's alone, while it lasts: `async with node.claim("task-17") as claim`.

    Renewed by itself until it is submitted, lost, or left; leaving releases it.
    """

    @property
    def task(self) -> str: ...
    @property
    def token(self) -> int:
        """The fencing token. Give it with every effect: who sees a higher one refuses yours."""
        ...

    @property
    def lost(self) -> Signal:
        """Set when the claim can no longer be counted on: stop working."""
        ...

    @property
    def held(self) -> bool:
        """Whether it can be counted on at this moment, by this machine's clock."""
        ...

    @property
    def left(self) -> float:
        """Seconds for which it can be counted on if no renewal succeeds; 0 or less: not at all."""
        ...

    async def submit(self, result: bytes) -> None:
        """Hand in the result; Denied if the token is not current, Undecided if no outcome came."""
        ...

    async def release(self) -> None:
        """Give the task back undone."""
        ...


class Commons(Protocol):
    """What the village holds in common, agreed on by its consensus: `node.commons`.

    Everything waits for the agreement. Raises Denied when the village decided against it, Unreachable
    when nobody could be asked (nothing was changed), Undecided when no outcome came in time, and
    LocalProtocolError beyond a bound of this node.
    """

    async def get(self, key: str) -> bytes | None:
        """The value of a key as of now (linearizable); None if it has none."""
        ...

    async def put(self, key: str, value: bytes) -> int:
        """Let a key have a value; returns its version, higher than any before."""
        ...

    async def delete(self, key: str) -> None:
        """Let a key have no value."""
        ...

    async def cas(self, key: str, expected: bytes | None, value: bytes | None) -> int:
        """Change a key if its value is as expected (None: absent); Denied("differs") if it is not."""
        ...

    async def keys(self, prefix: str = "") -> tuple[str, ...]:
        """The keys that begin with prefix as of now, ascending."""
        ...

    def claim(
        self, task: str, *, lease: float = 30.0, agent: str = "", wait: float = 0.0
    ) -> AbstractAsyncContextManager[Claim]:
        """Hold a task while inside. lease, wait: seconds; Denied if it is not free within `wait`."""
        ...


HANDLES: Mapping[str, type[_Handle]] = {
    "discovery": Discovery,
    "membership": Membership,
    "broadcast": Broadcast,
    "storage": Storage,
    "consensus": Consensus,
}

"""What a plugin hands over at assembly: descriptions, never instances.

Ten thousand simulated nodes call `build` ten thousand times and no hook.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from grove_core.machine import Event, Machine, PeerId

Role = Literal["discovery", "membership", "broadcast", "storage", "consensus"]
ROLES: tuple[Role, ...] = ("discovery", "membership", "broadcast", "storage", "consensus")

API = 1
"""Major version of the hook specs and of the contract. A plugin module declares ``GROVE_API = 1``."""


class Codec(Protocol):
    """Pure translation between a protocol's messages and the body of one frame."""

    @property
    def max_size(self) -> int:
        """Longest body in bytes that `encode` makes and `decode` accepts."""
        ...

    def encode(self, msg: Any) -> bytes:
        """Raises LocalProtocolError if the message is longer than max_size."""
        ...

    def decode(self, data: bytes) -> Any:
        """Raises RemoteProtocolError, and nothing else, on any input."""
        ...


class Proof(msgspec.Struct, frozen=True, gc=False):
    """A signature that must hold before a machine may see the message that carries it.

    key: the signer's public key (a libp2p PublicKey message), for ids that are only its hash.
    """

    signer: PeerId
    data: bytes
    signature: bytes
    key: bytes = b""


class DoorVerb(msgspec.Struct, frozen=True, kw_only=True):
    """A verb that the local door offers on behalf of a plugin, while the plugin is on the node.

    name: 1 to 32 of a-z, 0-9 and "-". takes: the request's body; bound its fields with Meta.
    act: (node, ask) -> a map of plain values; a coroutine function if it waits. Raises GroveError; its
    text, its `exit_code` and its `code`, if it has one, are what the program is told.
    """

    name: str
    takes: type[msgspec.Struct]
    act: Callable[[Any, Any], Any]


class Part(msgspec.Struct, frozen=True):
    """A protocol together with its configuration: ready to be built, any number of times.

    hosted: the parts that a hosting protocol builds inside itself, by the field that names them.
    """

    spec: ProtocolSpec
    config: Any
    hosted: dict[str, Part] = {}

    def build(self) -> Machine[Any]:
        """A fresh machine."""
        return self.spec.build(self.config, **self.hosted)

    def __deepcopy__(self, memo: object) -> Part:
        return self  # immutable, and shared by all machines built from it

    @property
    def domains(self) -> tuple[bytes, ...]:
        """Prefixes of what the machine may sign: its own and its guests'."""
        own = (self.spec.domain,) if self.spec.domain else ()
        return own + tuple(domain for guest in self.hosted.values() for domain in guest.domains)


class ProtocolSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A protocol machine and what a driver must know to run it.

    name: the plugin's entry-point name and its table ``[plugins.<name>]``.
    build: config -> machine; with `hosts`, also a keyword argument of type `Part` per hosted field.
    protocols: wire ids of the message stream, best first. rpc: wire ids of request/reply exchanges.
    proofs: the signatures a message carries. forged: what becomes of a message with a bad one: it is
        dropped and its sender disconnected, or the machine is told (`on_forged`) which do not hold.
    domain: prefix of everything this protocol signs.
    urgent: which messages go ahead of those that wait for a peer, in order among themselves; they must
        mean the same wherever they come (docs/decisions/0010). Judged once for each message sent.
    queue: messages that may wait for one peer; overflow: what happens to the next one.
    requests: questions of one peer that may wait for our answer; the next one is refused.
    hosts: config field -> role; the field names the plugin to be built inside this one.
    verbs, tells: what the local door offers for it, and which of its events it passes on.
    facade: (node, handle) -> what an application of a real node holds instead of the role's handle;
        made once, may use asyncio.
    companion: (node, handle) -> a `Service` that does on a real node what the machine may only ask for:
        it hears the machine's events by `node.watch` and answers by `handle.call`. Started after the
        machines, before the other services; stopped after those (docs/decisions/0012).
    """

    name: str
    role: Role
    config: type[msgspec.Struct]
    build: Callable[..., Machine[Any]]
    codec: Codec | None = None
    protocols: tuple[str, ...] = ()
    rpc: tuple[str, ...] = ()
    proofs: Callable[[Any], Iterable[Proof]] | None = None
    forged: Literal["disconnect", "tell"] = "disconnect"
    domain: bytes = b""
    urgent: Callable[[Any], bool] | None = None
    queue: int = 1024
    overflow: Literal["drop", "disconnect"] = "drop"
    requests: int = 64
    hosts: dict[str, Role] = {}
    verbs: tuple[DoorVerb, ...] = ()
    tells: tuple[type[Event], ...] = ()
    facade: Callable[[Any, Any], Any] | None = None
    companion: Callable[[Any, Any], Service] | None = None
    provides: frozenset[str] = frozenset()
    requires: frozenset[str] = frozenset()
    sources: tuple[str, ...] = ()


class TransportSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A transport: `build(config, upcalls)` gives a `grove_core.transport.Transport`.

    listen: the multiaddrs (text) it listens on unless the configuration says otherwise.
    """

    name: str
    config: type[msgspec.Struct]
    build: Callable[..., Any]
    provides: frozenset[str] = frozenset()
    requires: frozenset[str] = frozenset()
    sources: tuple[str, ...] = ()


class ServiceSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Something that lives beside the machines of a real node: `build(config, node)` gives a `Service`.

    Services may use asyncio and sockets, so they do not exist in the simulator.
    verbs, tells: as in `ProtocolSpec`.
    """

    name: str
    config: type[msgspec.Struct]
    build: Callable[..., Any]
    verbs: tuple[DoorVerb, ...] = ()
    tells: tuple[type[Event], ...] = ()
    provides: frozenset[str] = frozenset()
    requires: frozenset[str] = frozenset()
    sources: tuple[str, ...] = ()


class Service(Protocol):
    """Started after the transports listen and the machines run; stopped before them."""

    async def start(self) -> None: ...
    async def stop(self) -> None: ...


class ProfileSpec(msgspec.Struct, frozen=True):
    """A profile that ships with a plugin. Named ``<plugin>/<name>`` unless it is one of Grove's own."""

    name: str
    path: Path

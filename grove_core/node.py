"""A node: what was planned, and its machines in order. Knows no clock and no socket.

`Plan` is what the registry makes of a configuration. `Assembly` is one node's machines built from
a plan, with the table that says which of them want which event. Both drivers move the same thing.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from random import Random
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from grove_core.errors import LocalProtocolError
from grove_core.machine import Event, Machine, PeerId
from grove_core.specs import Part, ServiceSpec, TransportSpec

Count = Annotated[int, Meta(ge=0, le=1_000_000)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table [node]: who this node is and where it lives."""

    data: str = "~/.local/share/grove"  # folder of the key, the records and the socket
    network: Annotated[str, Meta(min_length=1, max_length=64)] = "grove"  # tickets of others are refused
    listen: tuple[str, ...] = ()  # multiaddrs; empty: what each transport's table says
    peers: tuple[str, ...] = ()  # multiaddrs with /p2p/…, dialled at start and kept
    announce: tuple[str, ...] = ()  # multiaddrs to tell others instead of the listening ones
    agent: Annotated[str, Meta(max_length=64)] = ""  # agentVersion in identify; empty: grove/<version>


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table [limits]: what protects this machine and its router (kubo#9998, kubo#5248)."""

    connections: Count = 256  # open connections; beyond, inbound ones are refused
    low_water: Count = 64  # trimming stops here
    high_water: Count = 96  # trimming of unprotected peers starts here
    per_ip: Count = 8  # connections of one IPv4 address or IPv6 /64; loopback is exempt
    inbound_per_second: Annotated[float, Meta(gt=0)] = 20.0  # accepted attempts, all sources
    inbound_pending: Count = 32  # inbound handshakes in flight
    dials: Annotated[int, Meta(ge=1, le=1024)] = 8  # dials in flight
    dials_per_second: Annotated[float, Meta(gt=0)] = 2.0  # sustained; loopback and private are exempt
    dial_burst: Annotated[int, Meta(ge=1)] = 16  # dials at once before the rate binds
    dial_timeout: Seconds = 15.0  # s, one address
    idle: Seconds = 60.0  # s until a connection that nobody holds is closed
    streams_per_connection: Annotated[int, Meta(ge=8, le=4096)] = 256  # of a remote, at once
    peers_known: Annotated[int, Meta(ge=16)] = 4096  # address book entries
    denied: tuple[str, ...] = ()  # peer ids, addresses or CIDR ranges never talked to


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything needed to start a node; made by `registry.assemble`."""

    profile: str
    settings: Settings
    limits: Limits
    parts: tuple[Part, ...] = ()
    transports: tuple[tuple[TransportSpec, Any], ...] = ()
    services: tuple[tuple[ServiceSpec, Any], ...] = ()

    @property
    def data(self) -> Path:
        """The data folder, absolute."""
        return Path(self.settings.data).expanduser().absolute()


class Slot:
    """One machine's place on a node."""

    __slots__ = ("config", "index", "machine", "name", "part", "spec")

    def __init__(self, index: int, part: Part) -> None:
        self.index = index
        self.part = part
        self.spec = part.spec
        self.config = part.config
        self.name = part.spec.name
        self.machine: Machine[Any] = part.build()

    def hears(self, kind: type[Event]) -> bool:
        """Whether the machine handles this type of event, by its table or by an `on_event` of its own."""
        return kind in self.machine.event_handlers or type(self.machine).on_event is not Machine.on_event

    def check_domain(self, data: bytes) -> None:
        """LocalProtocolError unless data may be signed here: it begins with a domain of the part's."""
        if not data.startswith(self.part.domains):  # no domain at all: nothing may be signed
            raise LocalProtocolError(
                f"{self.name} signs outside its domains {self.part.domains}: {data[:32]!r}"
            )


class Assembly:
    """One node's machines, in order, and who listens to whom."""

    def __init__(self, parts: tuple[Part, ...]) -> None:
        self.slots = tuple(Slot(index, part) for index, part in enumerate(parts))
        self._listeners: dict[type[Event], tuple[Slot, ...]] = {}

    def listeners(self, event: Event) -> tuple[Slot, ...]:
        """The slots whose machine handles this type of event, in node order."""
        kind = type(event)
        found = self._listeners.get(kind)
        if found is None:
            found = tuple(slot for slot in self.slots if slot.hears(kind))
            self._listeners[kind] = found
        return found

    def slot(self, role_or_name: str) -> Slot | None:
        """The first slot of a role, or the one of a plugin name."""
        for slot in self.slots:
            if role_or_name in (slot.spec.role, slot.name):
                return slot
        return None


def rng_for(run_seed: bytes, peer: PeerId, plugin: str) -> Random:
    """The stream of one machine: adding a plugin never moves another's draws."""
    digest = hashlib.sha256(b"grove/rng/" + run_seed + peer + plugin.encode()).digest()
    return Random(digest)

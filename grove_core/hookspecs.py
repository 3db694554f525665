"""The hooks: the whole plugin contract on one screen.

All are plain functions called at assembly; no message ever crosses one. A plugin is a module that
is named in the entry-point group ``grove``, declares ``GROVE_API = 1`` and implements one or more
of these with ``@hookimpl``. Parameters may be left out by implementations, as always in pluggy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import pluggy

from grove_core.specs import API, ProfileSpec, ProtocolSpec, ServiceSpec, TransportSpec

if TYPE_CHECKING:
    import click

    from grove_core.identity import Identity
    from grove_core.node import Plan

hookspec = pluggy.HookspecMarker("grove")
hookimpl = pluggy.HookimplMarker("grove")

__all__ = ["API", "Hooks", "hookimpl", "hookspec"]


@hookspec
def grove_transports() -> Sequence[TransportSpec]:  # type: ignore[empty-body]
    """Transports this plugin offers (QUIC, TCP, relay). Called once per process."""


@hookspec
def grove_discovery() -> Sequence[ProtocolSpec]:  # type: ignore[empty-body]
    """Machines that find peers and emit PeerFound. Called once per process."""


@hookspec
def grove_membership() -> Sequence[ProtocolSpec]:  # type: ignore[empty-body]
    """Machines that keep neighbours and emit NeighborUp and NeighborDown. Called once per process."""


@hookspec
def grove_broadcast() -> Sequence[ProtocolSpec]:  # type: ignore[empty-body]
    """Machines that deliver to all and emit Delivered. Called once per process."""


@hookspec
def grove_storage() -> Sequence[ProtocolSpec]:  # type: ignore[empty-body]
    """Machines that keep logs or documents. Called once per process."""


@hookspec
def grove_consensus() -> Sequence[ProtocolSpec]:  # type: ignore[empty-body]
    """Machines that agree and emit Committed. Called once per process."""


@hookspec
def grove_services() -> Sequence[ServiceSpec]:  # type: ignore[empty-body]
    """What lives beside the machines of a real node: identify, the gateway. Once per process."""


@hookspec
def grove_profiles() -> Sequence[ProfileSpec]:  # type: ignore[empty-body]
    """Profiles (TOML) shipped by this plugin. Called when a configuration is read."""


@hookspec
def grove_commands() -> Sequence[click.Command]:  # type: ignore[empty-body]
    """Verbs for the `grove` command. Called only when a verb is unknown or help asks for all."""


@hookspec(firstresult=True)
def grove_identity(plan: Plan) -> Identity | None:
    """The node's key, from wherever it is kept; None leaves it to the file in the data folder."""


@hookspec
def grove_node_configured(plan: Plan) -> None:
    """A node is about to start with this plan. Raise to veto; nothing has started yet."""


@hookspec
def grove_node_started(node: Any) -> None:
    """A real node listens and its machines run."""


@hookspec
def grove_node_stopping(node: Any) -> None:
    """A real node is about to stop; everything still works."""


class Hooks(Protocol):
    """`cast(Hooks, manager.hook)`: hook calls that mypy can check. Keyword-only, as pluggy demands."""

    def grove_transports(self) -> list[Sequence[TransportSpec]]: ...
    def grove_discovery(self) -> list[Sequence[ProtocolSpec]]: ...
    def grove_membership(self) -> list[Sequence[ProtocolSpec]]: ...
    def grove_broadcast(self) -> list[Sequence[ProtocolSpec]]: ...
    def grove_storage(self) -> list[Sequence[ProtocolSpec]]: ...
    def grove_consensus(self) -> list[Sequence[ProtocolSpec]]: ...
    def grove_services(self) -> list[Sequence[ServiceSpec]]: ...
    def grove_profiles(self) -> list[Sequence[ProfileSpec]]: ...
    def grove_commands(self) -> list[Sequence[click.Command]]: ...
    def grove_identity(self, *, plan: Plan) -> Identity | None: ...
    def grove_node_configured(self, *, plan: Plan) -> list[None]: ...
    def grove_node_started(self, *, node: Any) -> list[None]: ...
    def grove_node_stopping(self, *, node: Any) -> list[None]: ...

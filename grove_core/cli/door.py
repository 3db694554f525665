"""How the command line reaches a running node: through the local door, whichever plugin it is.

The kernel knows no plugin by name but this one word: the service called "gateway" offers
`connect(data)`, an asynchronous context manager with the two methods below.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol, cast

from grove_core.errors import PluginError
from grove_core.registry import Registry

PLUGIN = "gateway"


class Events(Protocol):
    """Events of one subscription, in order."""

    missed: int
    """Events lost so far."""

    async def next(self) -> dict[str, Any]:
        """The next event; raises NotRunning when the node ends."""
        ...


class Door(Protocol):
    """A connection to a running node."""

    async def request(
        self, verb: str, body: dict[str, Any] | None = None, *, timeout: float = ...
    ) -> dict[str, Any]:
        """The node's answer, as plain data. Raises a GroveError that says what went wrong."""
        ...

    def subscribe(
        self, *topics: str, events: tuple[str, ...] = ()
    ) -> AbstractAsyncContextManager[Events]: ...


def open_door(data: Path) -> AbstractAsyncContextManager[Door]:
    """The door of the node at a data folder; entering raises NotRunning at once if there is none."""
    connect = getattr(Registry().load(PLUGIN).module, "connect", None)
    if connect is None:
        raise PluginError(f"plugin {PLUGIN!r} has no connect(data); the command line cannot use it")
    return cast(AbstractAsyncContextManager[Door], connect(data))

"""The local door: programs in any language attach to the node through a socket file.

One ZeroMQ ROUTER socket inside the node's data folder, private to the user. Requests are answered
OK, ERROR or BUSY; events are numbered per subscription, so a loss is seen as a gap. The `grove`
command itself comes in through here (`connect`). The frame format: `frames.py` and docs/gateway.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grove_core.hookspecs import hookimpl
from grove_core.specs import ServiceSpec
from grove_gateway.config import Config

if TYPE_CHECKING:
    from grove_core.service import LiveNode
    from grove_gateway.client import Client

GROVE_API = 1


def build(config: Config, node: LiveNode) -> Any:
    """The service, its sockets still closed. ZeroMQ is loaded here, not when the plugin is listed."""
    from grove_gateway.driver import Gateway

    return Gateway(config, node)


def connect(data: Path) -> Client:
    """A client of the node that runs at a data folder: `async with connect(data) as door`."""
    from grove_gateway.client import Client

    return Client(data)


SPEC = ServiceSpec(
    name="gateway",
    config=Config,
    build=build,
    provides=frozenset({"local-door"}),
    sources=("RFC 37/ZMTP 3.1", "RFC 28/REQREP (ROUTER)", "msgpack spec"),
)


@hookimpl
def grove_services() -> Sequence[ServiceSpec]:
    return (SPEC,)

"""TCP as a transport: multistream-select, Noise XX and yamux over a plain socket.

Speaks to go-, js-, rust- and py-libp2p. Sources: libp2p/specs connections/README.md, noise/README.md,
yamux/README.md. The byte machines are grove_libp2p's; `connection.py` moves one of them over a
socket, `driver.py` dials and listens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from grove_core.hookspecs import hookimpl
from grove_core.specs import TransportSpec
from grove_tcp.config import Config

if TYPE_CHECKING:
    from grove_core.transport import Transport, Upcalls

GROVE_API = 1


def build(config: Config, upcalls: Upcalls) -> Transport:
    """A TCP transport; imports the driver, and with it asyncio and the ciphers, only now."""
    from grove_tcp.driver import TcpTransport

    return TcpTransport(config, upcalls)


SPEC = TransportSpec(
    name="tcp",
    config=Config,
    build=build,
    provides=frozenset({"transport.tcp"}),
    sources=(
        "libp2p/specs connections/README.md",
        "libp2p/specs noise/README.md",
        "libp2p/specs yamux/README.md",
    ),
)


@hookimpl
def grove_transports() -> Sequence[TransportSpec]:
    """One transport: "tcp"."""
    return (SPEC,)

"""QUIC v1 for libp2p, over aioquic: one UDP socket per address family for dialling and listening.

Sources: libp2p/specs quic/README.md and tls/tls.md; RFC 9000 (transport), 9001 (TLS), 9002 (loss
and congestion), 8899 (path MTU). The protocol engine hides behind `engine.Engine`, so that a faster
one can take its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from grove_core.hookspecs import hookimpl
from grove_core.specs import TransportSpec
from grove_quic.config import Config

if TYPE_CHECKING:
    from grove_core.transport import Transport, Upcalls

GROVE_API = 1


def build(config: Config, upcalls: Upcalls) -> Transport:
    """The transport of one node. aioquic is imported here, not before."""
    from grove_quic.driver import QuicTransport

    return QuicTransport(config, upcalls)


SPEC = TransportSpec(
    name="quic",
    config=Config,
    build=build,
    provides=frozenset({"transport.quic"}),
    sources=(
        "libp2p/specs quic/README.md",
        "libp2p/specs tls/tls.md",
        "RFC 9000",
        "RFC 9001",
        "RFC 9002",
    ),
)


@hookimpl
def grove_transports() -> Sequence[TransportSpec]:
    """One transport: "quic"."""
    return (SPEC,)

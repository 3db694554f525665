"""What every libp2p node owes every other: identify, identify/push and ping.

Source: libp2p/specs identify/README.md and ping/ping.md. The package also holds the byte machines
that transports share (multistream-select, Noise, yamux, TLS certificates).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from grove_core.hookspecs import hookimpl
from grove_core.specs import ServiceSpec
from grove_libp2p.config import Config

if TYPE_CHECKING:
    from grove_core.service import LiveNode
    from grove_libp2p.service import Libp2p

GROVE_API = 1


def _build(config: Config, node: LiveNode) -> Libp2p:
    from grove_libp2p.service import Libp2p

    return Libp2p(config, node)


@hookimpl
def grove_services() -> Sequence[ServiceSpec]:
    return [
        ServiceSpec(
            name="libp2p",
            config=Config,
            build=_build,
            provides=frozenset({"identify", "ping"}),
            sources=("libp2p/specs identify/README.md", "libp2p/specs ping/ping.md"),
        )
    ]

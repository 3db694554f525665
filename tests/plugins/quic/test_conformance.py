"""The QUIC transport keeps the contract of transports."""

from __future__ import annotations

from typing import Any

import grove_quic
from grove_quic.config import Config

from grove_core.testing.conformance.transport import TransportConformance
from grove_core.transport import Transport


class TestQuic(TransportConformance):
    listen = "/ip4/127.0.0.1/udp/0/quic-v1"
    window = 4 << 20

    def build(self, upcalls: Any) -> Transport:
        return grove_quic.build(Config(handshake_timeout=1.0), upcalls)

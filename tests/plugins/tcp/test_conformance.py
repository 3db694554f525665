"""TCP passes what every transport must (grove_core/testing/conformance/transport.py)."""

from __future__ import annotations

from typing import Any

from grove_tcp import SPEC, Config

from grove_core.testing.conformance import TransportConformance
from grove_core.transport import Transport


class TestTcp(TransportConformance):
    listen = "/ip4/127.0.0.1/tcp/0"
    window = 1024 * 1024  # one yamux window and what `drain` lets wait; nothing is granted unread

    def build(self, upcalls: Any) -> Transport:
        transport: Transport = SPEC.build(Config(), upcalls)
        return transport

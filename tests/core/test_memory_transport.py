"""The transport that stands for all others in tests passes what every transport must."""

from __future__ import annotations

from typing import Any

from grove_core.testing.conformance import TransportConformance
from grove_core.testing.memory import WINDOW, MemoryConfig, MemoryNetwork, MemoryTransport
from grove_core.transport import Transport


class TestMemory(TransportConformance):
    listen = "/memory/0"
    window = 2 * WINDOW + 65536  # what the reader has not consumed, and what `drain` lets wait

    def setup_method(self) -> None:
        self.network = MemoryNetwork()

    def build(self, upcalls: Any) -> Transport:
        transport: Transport = MemoryTransport(self.network, MemoryConfig(), upcalls)
        return transport

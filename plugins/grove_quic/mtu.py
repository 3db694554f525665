"""How large a datagram a path carries: RFC 8899, with one probe where there is much to send.

A probe is a packet of the size in question that carries nothing; its loss says nothing about
congestion (RFC 8899 section 3). Building and sending it is left to the engine.
"""

from __future__ import annotations

from typing import Final

from grove_quic.wire import SMALLEST_INITIAL

STEPS: Final = (1452, 1400, 1280)
"""Sizes tried in turn when the wished one does not get through (Ethernet, PPPoE and tunnels, IPv6)."""

PROBES: Final = 2
"""Probes of one size that may be lost before a smaller one is tried."""


class PathMtu:
    """What to try next on one connection. Invariant: at most one probe is on its way."""

    __slots__ = ("_largest", "_lost", "_on_its_way", "_wished")

    def __init__(self, wished: int) -> None:
        """wished: bytes of UDP payload that would be worth having."""
        self._wished = self._largest = wished
        self._lost = 0
        self._on_its_way = False

    def limit(self, size: int) -> None:
        """The peer takes no larger ones."""
        self._wished = self._largest = min(self._wished, size)

    def probe(self, current: int) -> int | None:
        """The size to probe now, or None; current: what the path is known to carry."""
        if self._on_its_way or self._wished <= current:
            return None
        self._on_its_way = True
        return self._wished

    def probed(self, size: int, arrived: bool) -> None:
        """What became of a probe."""
        self._on_its_way = False
        if not arrived:
            self._lost += 1
            if self._lost % PROBES == 0:
                self._wished = next((step for step in STEPS if step < size), SMALLEST_INITIAL)

    def moved(self) -> None:
        """The peer is elsewhere: what the old path carried says nothing of the new one."""
        self._wished, self._lost = self._largest, 0

    def lost_all(self) -> None:
        """A black hole (RFC 8899 section 4.3): only the smallest from now on."""
        self._wished = SMALLEST_INITIAL

"""Clocks that run too fast or too slowly, and what a machine on such a node is given."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grove_core.drive.virtual.context import VirtualContext


class Clock:
    """A wrong clock: it shows `rate` seconds per true second. Timers already set keep their time."""

    __slots__ = ("_since", "_then", "rate")

    def __init__(self, rate: float = 1.0) -> None:
        self.rate = rate
        self._since = self._then = 0.0

    def at(self, true: float) -> float:
        """What it shows at a true time, ascending."""
        return self._then + (true - self._since) * self.rate

    def run(self, rate: float, now: float) -> None:
        """Show `rate` seconds per true second from now on."""
        self._since, self._then, self.rate = now, self.at(now), rate


def skewed(kind: type[VirtualContext]) -> type[VirtualContext]:
    """The context of a machine whose node has a `Clock` of its own: a new class."""

    def now(self: Any) -> float:
        shown: float = self.node.clock.at(self.world.now)
        return shown

    def set_timer(self: Any, key: Hashable, delay: float) -> None:
        kind.set_timer(self, key, delay / self.node.clock.rate)

    body = {"__slots__": (), "now": property(now), "set_timer": set_timer}
    return type(f"Skewed{kind.__name__}", (kind,), body)

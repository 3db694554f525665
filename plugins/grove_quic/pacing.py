"""How fast packets leave: RFC 9002 section 7.7, with a timer that knows milliseconds.

A leaky bucket by bytes. It refills at 1.25 congestion windows per round trip, and holds what flows
in two milliseconds: an event loop wakes at best every millisecond (epoll's and uvloop's
resolution), so a bucket that asks to be woken every few microseconds, one packet at a time, either
loses the rest of each millisecond or keeps a core busy waiting (docs/decisions/0004).
"""

from __future__ import annotations

TICK = 0.001  # s: the finest timer we rely on
_GAIN = 1.25  # RFC 9002 section 7.7


class Pacer:
    """Tokens in bytes. Invariant: level <= capacity."""

    __slots__ = ("burst", "capacity", "filled_at", "floor", "level", "rate")

    def __init__(self, datagram: int, burst: int) -> None:
        """burst: most bytes to leave in one turn, whatever the rate."""
        self.burst = burst
        self.floor = 0
        self.rate = 0.0  # bytes per second; 0: unknown, not paced
        self.level = 0.0
        self.filled_at = 0.0
        self.capacity = 0.0
        self.datagram_changed(datagram)

    def datagram_changed(self, datagram: int) -> None:
        """The initial window, ten datagrams, may always leave at once (RFC 9002 section 7.2)."""
        self.floor = 10 * datagram
        self.capacity = max(self.capacity, float(self.floor))
        self.level = max(self.level, float(self.floor))

    def update_rate(self, *, congestion_window: int, smoothed_rtt: float) -> None:
        """Called by loss recovery whenever either changed."""
        self.rate = _GAIN * congestion_window / max(smoothed_rtt, 1e-6)
        self.capacity = max(float(self.floor), min(self.rate * 2 * TICK, float(self.burst)))
        self.level = min(self.level, self.capacity)

    def next_send_time(self, now: float) -> float | None:
        """None: send now. Else when the bucket holds a datagram again, at least a tick away."""
        if not self.rate:
            return None
        if now > self.filled_at:
            self.level = min(self.capacity, self.level + (now - self.filled_at) * self.rate)
            self.filled_at = now
        if self.level > 0:
            return None
        return now + max(TICK, (self.floor / 10 - self.level) / self.rate)

    def sent(self, count: int) -> None:
        """count bytes have left."""
        if self.rate:
            self.level -= count

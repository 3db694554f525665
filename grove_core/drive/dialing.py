"""Which addresses of a peer to try, when, and when not again. Pure: the caller brings the time.

Happy eyeballs with go-libp2p's numbers (`libp2p-wire.md` 2.8): QUIC before TCP, IPv6 before IPv4,
each later choice staggered behind the earlier ones, relays last. `Pace` keeps dials off the home
router (`ecosystem.md` G6), `Backoff` keeps them off addresses that do not answer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Literal

import msgspec

from grove_core.multiaddr import Multiaddr

PUBLIC_STAGGER = 0.250
PRIVATE_STAGGER = 0.030
"""Seconds between one choice and the next, by whether the address crosses the Internet."""

RELAY_DELAY = 0.500
"""Seconds a relay waits when there are direct addresses to try."""

OTHER_DELAY = 1.0
"""Seconds a transport waits that is neither QUIC nor TCP when those are to be tried."""

MAX_ADDRESSES = 25
"""Addresses tried per dial, as js-libp2p does; each costs the router a flow."""

BACKOFF_BASE = 5.0
BACKOFF_MAX = 300.0
"""Seconds; go-libp2p's numbers: base + failures² up to the maximum. The base also keeps us under
its limit of 0.2 new connections per second and address (`libp2p-wire.md` 7.2)."""

Reach = Literal["local", "private", "public"]


class Place(msgspec.Struct, frozen=True):
    """Where an address points, as far as its first hop tells.

    reach: local is this machine (loopback, memory, unix); names count as public. source: what
    per-IP limits count by, an IPv4 address or an IPv6 /64; empty if local or a name.
    """

    reach: Reach
    source: str
    version: int


@lru_cache(maxsize=1024)
def place(address: Multiaddr) -> Place:
    """Where an address points."""
    ip = address.ip
    if ip is None:
        local = address.parts[0][0] in ("memory", "unix")
        return Place("local" if local else "public", "", 0)
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip.is_loopback:
        return Place("local", "", ip.version)
    source = f"{IPv6Address(int(ip) >> 64 << 64)}/64" if isinstance(ip, IPv6Address) else str(ip)
    return Place("private" if address.scope in ("private", "link") else "public", source, ip.version)


class Attempt(msgspec.Struct, frozen=True):
    """One address to dial, so many seconds after the dial began."""

    delay: float
    address: Multiaddr


def plan(addresses: Iterable[Multiaddr], rank: Callable[[Multiaddr], int | None]) -> list[Attempt]:
    """The attempts of one dial, in order of time; at most MAX_ADDRESSES.

    rank: the best transport's opinion of an address, None if nobody dials it (see
    `Transport.rank`: below 10 QUIC, below 20 TCP, from 100 relays). Private and public addresses
    are staggered apart from each other: the one may be of no use where the other is.
    """
    ranked: dict[Multiaddr, int] = {}
    for address in addresses:
        found = rank(address)
        if found is not None:
            ranked.setdefault(address, found)
    chosen = sorted(ranked, key=lambda address: _order(ranked[address], address))[:MAX_ADDRESSES]

    direct = [address for address in chosen if not _is_relay(ranked[address], address)]
    relayed = [address for address in chosen if _is_relay(ranked[address], address)]
    attempts: list[Attempt] = []
    for is_public, stagger in ((False, PRIVATE_STAGGER), (True, PUBLIC_STAGGER)):
        group = [address for address in direct if (place(address).reach == "public") is is_public]
        attempts += _staggered(group, ranked, stagger)
    start = RELAY_DELAY if direct else 0.0
    attempts += [
        Attempt(start + index * PUBLIC_STAGGER, address) for index, address in enumerate(relayed)
    ]
    attempts.sort(key=lambda attempt: attempt.delay)  # stable: equals stay in order of rank
    return attempts


def _is_relay(rank: int, address: Multiaddr) -> bool:
    return rank >= 100 or address.is_circuit


def _order(rank: int, address: Multiaddr) -> tuple[int, int]:
    return rank, -place(address).version


def _staggered(group: Sequence[Multiaddr], ranked: dict[Multiaddr, int], stagger: float) -> list[Attempt]:
    common = [address for address in group if ranked[address] < 20]
    other = [address for address in group if ranked[address] >= 20]
    start = OTHER_DELAY if common else 0.0
    return [Attempt(index * stagger, address) for index, address in enumerate(common)] + [
        Attempt(start + index * stagger, address) for index, address in enumerate(other)
    ]


class Pace:
    """A token bucket: `burst` at once, then `rate` per second."""

    __slots__ = ("_at", "_burst", "_rate", "_tokens")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = max(burst, 1.0)
        self._tokens = self._burst
        self._at = 0.0

    def _refill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)
        self._at = now

    def take(self, now: float) -> bool:
        """Take a token if there is one."""
        self._refill(now)
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def reserve(self, now: float) -> float:
        """Take a token, if need be a future one; seconds until it may be used. In order of asking."""
        self._refill(now)
        self._tokens -= 1.0
        return max(0.0, -self._tokens / self._rate)

    def give_back(self) -> None:
        """Return a reserved token that was not used after all."""
        self._tokens = min(self._burst, self._tokens + 1.0)


class Backoff:
    """How long what failed is left alone. Bounded: the oldest failures are forgotten first."""

    __slots__ = ("_failures", "_limit")

    def __init__(self, limit: int = 4096) -> None:
        self._limit = limit
        self._failures: OrderedDict[Hashable, tuple[int, float]] = OrderedDict()

    def failed(self, key: Hashable, now: float) -> float:
        """Note a failure; seconds until the next try: 5 + failures², at most 300."""
        failures = self._failures.pop(key, (0, 0.0))[0] + 1
        wait = min(BACKOFF_MAX, BACKOFF_BASE + (failures - 1) ** 2)
        self._failures[key] = (failures, now + wait)
        while len(self._failures) > self._limit:
            self._failures.popitem(last=False)
        return wait

    def wait(self, key: Hashable, now: float) -> float:
        """Seconds until a key may be tried; 0 if now."""
        found = self._failures.get(key)
        return 0.0 if found is None else max(0.0, found[1] - now)

    def forget(self, key: Hashable) -> None:
        """It worked, or we have news: try at once next time."""
        self._failures.pop(key, None)

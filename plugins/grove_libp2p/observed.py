"""Our own addresses as other peers see them, and how many independent witnesses each has.

One peer's word proves nothing: an address counts only when several distinct observers name it, where
all of one IPv4 address, or of one IPv6 /56, are one observer (go-libp2p p2p/host/observedaddrs, which
asks for 4). Pure; bounded in both directions, the longest unseen forgotten first.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from grove_core.multiaddr import Multiaddr

WITNESSES: Final = 4
"""Distinct observers that make an address ours (go-libp2p ActivationThresh)."""

MAX_ADDRESSES: Final = 64
MAX_WITNESSES: Final = 16
"""Kept per address; more would add nothing."""


class Observed:
    """Addresses with their witnesses, least recently seen first."""

    def __init__(self) -> None:
        self._witnesses: OrderedDict[Multiaddr, OrderedDict[str, None]] = OrderedDict()

    def saw(self, observer: Multiaddr, address: Multiaddr) -> None:
        """An observer, at its remote address, says that we come from `address`.

        Ignored: words through a relay, and an address of another reach than the observer's, such as
        our private one seen from the public internet.
        """
        group = _group(observer)
        if group is None or address.is_circuit or address.ip is None or address.scope != observer.scope:
            return
        witnesses = self._witnesses.setdefault(address, OrderedDict())
        self._witnesses.move_to_end(address)
        witnesses[group] = None
        witnesses.move_to_end(group)
        if len(witnesses) > MAX_WITNESSES:
            witnesses.popitem(last=False)
        if len(self._witnesses) > MAX_ADDRESSES:
            self._witnesses.popitem(last=False)

    def counts(self) -> Mapping[Multiaddr, int]:
        """Every address seen, with its number of distinct observers; most first."""
        counted = {address: len(witnesses) for address, witnesses in self._witnesses.items()}
        return dict(sorted(counted.items(), key=lambda item: -item[1]))

    def confirmed(self) -> tuple[Multiaddr, ...]:
        """The addresses that at least four distinct observers name, best attested first."""
        return tuple(address for address, count in self.counts().items() if count >= WITNESSES)


def _group(observer: Multiaddr) -> str | None:
    """Who counts as one observer; None if there is no telling."""
    ip = observer.ip
    if ip is None or observer.is_circuit:
        return None
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    return str(ipaddress.IPv6Network((int(ip), 56), strict=False))

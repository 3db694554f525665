"""Exactly once: which numbers of each client are executed. Part of the agreed state.

Castro and Liskov keep the last timestamp of a client that asks one thing at a time. Here a client has
up to 256 requests under way, which may be ordered in any sequence, so each client has a window, as in
IPsec's replay protection (RFC 4303 §3.4.3): the highest number executed, and a bit for each of the 256
up to it. What lies below the window counts as executed.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from grove_core.machine import PeerId
from grove_pbft.messages import DOMAIN, Member, Seq

WIDTH: Final = 256
_MASK: Final = (1 << WIDTH) - 1


class Row(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A client's window as it travels: the highest number executed, and the bits, 32 bytes."""

    client: Member
    highest: Seq
    bits: Annotated[bytes, Meta(min_length=32, max_length=32)]


class ClientTable:
    """The windows of all clients that are members."""

    __slots__ = ("_rows",)

    def __init__(self) -> None:
        self._rows: dict[PeerId, tuple[int, int]] = {}

    def is_executed(self, client: PeerId, number: int) -> bool:
        """Whether a request was executed, or is too old to be told from one that was."""
        highest, bits = self._rows.get(client, (-1, 0))
        behind = highest - number
        return behind >= 0 and (behind >= WIDTH or bool(bits >> behind & 1))

    def execute(self, client: PeerId, number: int) -> bool:
        """Mark a request as executed; False if it was."""
        if self.is_executed(client, number):
            return False
        highest, bits = self._rows.get(client, (-1, 0))
        if number > highest:
            ahead = number - highest
            bits = ((bits << ahead) & _MASK if ahead < WIDTH else 0) | 1
            highest = number
        else:
            bits |= 1 << (highest - number)
        self._rows[client] = (highest, bits)
        return True

    def highest(self, client: PeerId) -> int:
        """The highest number executed of a client; -1 if none was."""
        return self._rows.get(client, (-1, 0))[0]

    def forget(self, client: PeerId) -> None:
        """A client is no member any more."""
        self._rows.pop(client, None)

    def rows(self) -> tuple[Row, ...]:
        """All windows, ascending by client."""
        return tuple(
            Row(client, highest, bits.to_bytes(32, "big"))
            for client, (highest, bits) in sorted(self._rows.items())
        )

    def digest(self) -> bytes:
        """The table's name: equal at all correct replicas at one sequence number."""
        hasher = sha256(DOMAIN + b"clients:")
        for row in self.rows():
            hasher.update(len(row.client).to_bytes(1, "big") + row.client)
            hasher.update(row.highest.to_bytes(8, "big") + row.bits)
        return hasher.digest()

    @classmethod
    def of(cls, rows: tuple[Row, ...]) -> ClientTable:
        """A table from its rows."""
        table = cls()
        for row in rows:
            table._rows[row.client] = (row.highest, int.from_bytes(row.bits, "big"))
        return table

"""Tickets: an invitation to a village, as one word that survives a chat window.

    grove1 ‖ base32(body ‖ checksum)

body is a protobuf message {1 peer id, 2 repeated multiaddr, 3 network, 4 expiry}; checksum is the
first 4 bytes of sha256("grove-ticket-1" ‖ body), so that a typo or a cut end is told from a bad
ticket. A ticket is not signed and no secret: it says whom to dial, and the dial proves who answers.
Whether it has expired, and whether it is for this network, its reader decides.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from grove_core import multibase, protobuf
from grove_core.errors import LocalProtocolError, RemoteProtocolError
from grove_core.identity import check_peer
from grove_core.machine import PeerId
from grove_core.multiaddr import Multiaddr

PREFIX: Final = "grove1"
MAX_ADDRESSES: Final = 4
MAX_NETWORK: Final = 64
"""Longest network name in characters, as in the table [node]."""

MAX_TEXT: Final = multibase.MAX_TEXT
"""Longest ticket in characters; four addresses through relays fit."""

_CHECKSUM = 4


class Ticket(msgspec.Struct, frozen=True):
    """Whom to dial, where, and for which network.

    addresses: at most 4, without /p2p. expires: unix seconds, 0 for never.
    """

    peer: PeerId
    addresses: tuple[Multiaddr, ...] = ()
    network: str = "grove"
    expires: int = 0

    def encode(self) -> str:
        """The ticket as text, "grove1…", at most 1024 characters. Raises LocalProtocolError beyond."""
        if len(self.addresses) > MAX_ADDRESSES:
            raise LocalProtocolError(
                f"ticket with {len(self.addresses)} addresses; limit {MAX_ADDRESSES}"
            )
        if not _is_network(self.network):
            raise LocalProtocolError(
                f"ticket for network {self.network!r}; a name has 1 to 64 characters"
            )
        body = protobuf.field(1, self.peer)
        body += b"".join(protobuf.field(2, address.encode()) for address in self.addresses)
        body += protobuf.field(3, self.network.encode())
        if self.expires:
            body += protobuf.field(4, self.expires)
        text = PREFIX + multibase.base32(body + _checksum(body))
        if len(text) > MAX_TEXT:
            raise LocalProtocolError(
                f"ticket of {len(text)} characters; limit {MAX_TEXT}: put fewer addresses in it"
            )
        return text

    @classmethod
    def decode(cls, text: str) -> Ticket:
        """Read a ticket; blanks around it and upper case do not matter.

        Raises RemoteProtocolError, and nothing else, with a text fit for whoever typed it.
        """
        word = text.strip().lower()
        if len(word) > MAX_TEXT:
            raise RemoteProtocolError(f"ticket of {len(word)} characters; limit {MAX_TEXT}")
        if not word.startswith(PREFIX):
            raise RemoteProtocolError(_foreign(word))
        for at, character in enumerate(word[len(PREFIX) :], len(PREFIX) + 1):
            if character not in _ALPHABET:
                raise RemoteProtocolError(
                    f"ticket has {character!a} at character {at}; tickets are made of a to z and 2 to 7"
                )
        try:
            data = multibase.from_base32(word[len(PREFIX) :])
        except RemoteProtocolError:
            data = b""
        body, checksum = data[:-_CHECKSUM], data[-_CHECKSUM:]
        if not body or checksum != _checksum(body):
            raise RemoteProtocolError(
                f"ticket of {len(word)} characters is mistyped or cut short (its checksum does "
                "not match); copy it again"
            )
        return _read(body)

    def expired(self, now: float) -> bool:
        """Whether it is past its time. now: unix seconds."""
        return 0 < self.expires <= now


_ALPHABET = frozenset("abcdefghijklmnopqrstuvwxyz234567")


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(b"grove-ticket-1" + body).digest()[:_CHECKSUM]


def _is_network(name: str) -> bool:
    return 0 < len(name) <= MAX_NETWORK and name.isprintable()


def _foreign(word: str) -> str:
    """What is wrong with a word that does not begin as our tickets do."""
    shown = ascii(word if len(word) <= 24 else word[:21] + "...")
    if word.startswith("grove") and word[5:6].isdigit():
        return f"ticket {shown} is of another version; this Grove reads {PREFIX}…"
    if word.startswith("/"):
        return f"{shown} is an address, not a ticket; dial it with `grove connect`"
    return f"{shown} is no ticket; tickets begin with {PREFIX}"


def _read(body: bytes) -> Ticket:
    peer: PeerId | None = None
    addresses: list[Multiaddr] = []
    network, expires = "", 0
    for number, value in protobuf.fields(body):
        if number == 1:
            peer = check_peer(protobuf.as_bytes(value, "peer id of a ticket"))
        elif number == 2:
            if len(addresses) == MAX_ADDRESSES:
                raise RemoteProtocolError(f"ticket with more than {MAX_ADDRESSES} addresses")
            addresses.append(Multiaddr.decode(protobuf.as_bytes(value, "address of a ticket")))
        elif number == 3:
            network = protobuf.as_bytes(value, "network of a ticket").decode("utf-8", "replace")
        elif number == 4:
            expires = protobuf.as_int(value, "expiry of a ticket")
    if peer is None:
        raise RemoteProtocolError("ticket without a peer")
    if not _is_network(network):
        raise RemoteProtocolError(f"ticket for network {network[:80]!a}; a name has 1 to 64 characters")
    return Ticket(peer, tuple(addresses), network, expires)

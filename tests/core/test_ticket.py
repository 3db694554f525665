"""Tickets: what is put in comes out, and whoever mistypes one is told so."""

from __future__ import annotations

import re

import pytest

from grove_core import multibase, protobuf
from grove_core.errors import LocalProtocolError, RemoteProtocolError
from grove_core.identity import Identity
from grove_core.multiaddr import Multiaddr
from grove_core.ticket import MAX_TEXT, Ticket, _checksum
from tests.fuzz import survives, text_survives

PEER = Identity.from_seed(bytes(32)).peer
ADDRESSES = (
    Multiaddr.quic("192.0.2.7", 4001),
    Multiaddr.tcp("192.0.2.7", 4001),
    Multiaddr(*Multiaddr.quic("1.2.3.4", 4001).with_peer(PEER).parts, ("p2p-circuit", "")),
)
TICKET = Ticket(PEER, ADDRESSES, "village", 1_900_000_000)


def written(body: bytes) -> str:
    """A body as a ticket with a right checksum."""
    return "grove1" + multibase.base32(body + _checksum(body))


def test_what_is_put_in_comes_out() -> None:
    for ticket in (TICKET, Ticket(PEER), Ticket(PEER, ADDRESSES[:1], "ü" * 64)):
        text = ticket.encode()
        assert re.fullmatch(r"grove1[a-z2-7]+", text)
        assert Ticket.decode(text) == ticket


def test_text_is_stable_across_versions_of_grove() -> None:
    assert Ticket(PEER, (Multiaddr.tcp("127.0.0.1", 4001),), "grove", 5).encode() == (
        "grove1bitaajaiaejcao3ke66m5nvefvrkhkgqfjxq243fgikxohpciotdvqciugfvtwrjcieai7yaaa"
        "aqmd5bdicwo4tpozssabpl7oncs"
    )


def test_blanks_and_upper_case_do_not_matter() -> None:
    assert Ticket.decode(f"  {TICKET.encode().upper()}\n") == TICKET


@pytest.mark.claim("ticket.typo")
def test_every_single_typo_is_noticed() -> None:
    text = TICKET.encode()
    for at in range(len("grove1"), len(text)):
        for other in ("a", "7", "q"):
            if text[at] != other:
                with pytest.raises(RemoteProtocolError, match="mistyped or cut short"):
                    Ticket.decode(text[:at] + other + text[at + 1 :])


def test_cut_end_is_noticed_wherever_it_is() -> None:
    text = TICKET.encode()
    for end in range(len("grove1"), len(text)):
        with pytest.raises(RemoteProtocolError, match="mistyped or cut short"):
            Ticket.decode(text[:end])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "'' is no ticket; tickets begin with grove1"),
        ("grove", "is no ticket"),
        ("grove2abcd", "another version; this Grove reads grove1"),
        ("/ip4/127.0.0.1/tcp/4001", "is an address, not a ticket; dial it with `grove connect`"),
        ("grove1abc0", "'0' at character 10; tickets are made of a to z and 2 to 7"),
        ("grove1" + "a" * 1200, "1206 characters; limit 1024"),
        (written(protobuf.field(3, b"grove")), "without a peer"),
        (written(protobuf.field(1, PEER)), "network ''"),
        (written(protobuf.field(1, PEER) + protobuf.field(3, b"\x1b[31m")), "network"),
        (written(protobuf.field(1, PEER) + 5 * protobuf.field(2, b"\x04abcd")), "more than 4 addresses"),
    ],
)
def test_what_is_no_ticket_is_refused_with_the_reason(text: str, complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=re.escape(complaint)):
        Ticket.decode(text)


def test_fields_of_the_future_are_skipped() -> None:
    body = protobuf.field(1, PEER) + protobuf.field(3, b"grove") + protobuf.field(9, b"later")
    assert Ticket.decode(written(body)) == Ticket(PEER)


def test_expiry_is_judged_by_the_readers_clock() -> None:
    assert not TICKET.expired(TICKET.expires - 1)
    assert TICKET.expired(TICKET.expires)
    assert not Ticket(PEER).expired(4e9)


def test_too_much_for_a_ticket_is_our_mistake() -> None:
    with pytest.raises(LocalProtocolError, match="5 addresses; limit 4"):
        Ticket(PEER, ADDRESSES[:1] * 5).encode()
    with pytest.raises(LocalProtocolError, match="network ''"):
        Ticket(PEER, network="").encode()
    with pytest.raises(LocalProtocolError, match=f"limit {MAX_TEXT}: put fewer"):
        Ticket(PEER, (Multiaddr(("dns", "a" * 253)),) * 4).encode()


def test_four_relayed_addresses_fit() -> None:
    relay = Multiaddr.quic("2606:4700:4700:1111:2222:3333:4444:5555", 65535).with_peer(PEER)
    circuit = Multiaddr(*relay.parts, ("p2p-circuit", ""))
    assert len(Ticket(PEER, (circuit,) * 4, "ü" * 64, 1_900_000_000).encode()) <= MAX_TEXT


@pytest.mark.claim("ticket.fuzz")
def test_tickets_survive_mutation() -> None:
    texts = [TICKET.encode(), Ticket(PEER).encode()]
    assert text_survives(Ticket.decode, 1, texts) > 0


@pytest.mark.claim("ticket.fuzz")
def test_tickets_survive_mutation_behind_a_good_checksum() -> None:
    bodies = [multibase.from_base32(t.encode()[6:])[:-4] for t in (TICKET, Ticket(PEER))]
    assert survives(lambda body: Ticket.decode(written(body)), 2, bodies) > 0

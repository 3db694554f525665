"""The address book: bounded, merged, and believing signatures only."""

from __future__ import annotations

import pytest

from grove_core.drive.peerbook import MAX_ADDRESSES, MAX_AGENT, MAX_PROTOCOLS, Book
from grove_core.errors import RemoteProtocolError
from grove_core.identity import Identity
from grove_core.machine import PeerId
from grove_core.multiaddr import Multiaddr
from grove_core.record import sign_record


def who(number: int) -> Identity:
    return Identity.from_seed(number.to_bytes(32, "big"))


def at(*ports: int) -> tuple[Multiaddr, ...]:
    return tuple(Multiaddr.tcp("8.8.8.8", port) for port in ports)


ME = who(0).peer
ANN = who(1)


def test_addresses_are_merged_newest_first_and_the_rest_is_replaced() -> None:
    book = Book(16, ME)
    book.learn(ANN.peer, addresses=at(1, 2), protocols=["/a"], agent="x")
    book.learn(ANN.peer, addresses=at(3, 1))
    book.learn(ANN.peer, protocols=["/b", "/b"])
    entry = book.get(ANN.peer)
    assert entry.addresses == at(3, 1, 2)
    assert (entry.protocols, entry.agent) == (("/b",), "x")
    assert book.get(who(2).peer).protocols is None  # nothing is known
    assert len(book) == 1


def test_what_is_not_an_address_of_this_peer_is_left_out() -> None:
    book = Book(16, ME)
    (one,) = at(1)
    book.learn(
        ANN.peer,
        addresses=[one.with_peer(ANN.peer), one.with_peer(who(2).peer), Multiaddr(("p2p", str(PEER)))],
    )
    assert book.get(ANN.peer).addresses == at(1)
    book.learn(ME, addresses=at(1))
    assert ME not in book


PEER = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"


@pytest.mark.claim("peerbook.bounded")
def test_everything_a_peer_can_tell_is_bounded() -> None:
    book = Book(16, ME)
    book.learn(
        ANN.peer,
        addresses=at(*range(1, 200)),
        protocols=[f"/p/{n}" for n in range(5000)],
        agent="a" * 5000,
    )
    entry = book.get(ANN.peer)
    assert entry.protocols is not None
    assert (len(entry.addresses), len(entry.protocols)) == (MAX_ADDRESSES, MAX_PROTOCOLS)
    assert len(entry.agent) == MAX_AGENT


@pytest.mark.claim("peerbook.bounded")
def test_the_least_recently_used_peer_is_forgotten_first_and_one_in_use_never() -> None:
    used: set[PeerId] = {who(1).peer}
    book = Book(16, ME, pinned=used.__contains__)
    for number in range(1, 17):
        book.learn(who(number).peer, addresses=at(number))
    book.get(who(2).peer)
    book.learn(who(17).peer, addresses=at(17))
    assert [number for number in range(1, 18) if who(number).peer not in book] == [3]
    for number in range(18, 200):
        book.learn(who(number).peer, addresses=at(number))
    assert len(book) == 16
    assert book.get(who(1).peer).addresses == at(1)


def test_a_stranger_does_not_displace_anybody_when_all_are_in_use() -> None:
    book = Book(16, ME, pinned=lambda peer: peer != who(99).peer)
    for number in range(1, 17):
        book.learn(who(number).peer)
    book.learn(who(99).peer, addresses=at(1))
    assert len(book) == 16
    assert who(99).peer not in book


# Signed records.


@pytest.mark.claim("peerbook.records-verified")
def test_a_newer_record_replaces_what_the_older_one_said_and_keeps_what_others_said() -> None:
    book = Book(16, ME)
    assert book.learn_record(sign_record(ANN, 1, at(1, 2))) == ANN.peer
    book.learn(ANN.peer, addresses=at(9))
    assert book.get(ANN.peer).addresses == at(1, 2, 9)  # signed ones first
    newer = sign_record(ANN, 2, at(3))
    book.learn_record(newer)
    entry = book.get(ANN.peer)
    assert (entry.addresses, entry.record, entry.sequence) == (at(3, 9), newer, 2)
    book.learn_record(sign_record(ANN, 2, at(5)))  # not newer
    book.learn_record(sign_record(ANN, 1, at(6)))
    assert book.get(ANN.peer) == entry


@pytest.mark.claim("peerbook.records-verified")
def test_a_record_that_does_not_hold_changes_nothing() -> None:
    book = Book(16, ME)
    good = sign_record(ANN, 1, at(1))
    for bad in (b"", good[:-1], good[:-1] + bytes((good[-1] ^ 1,)), b"\xff" * 100):
        with pytest.raises(RemoteProtocolError):
            book.learn_record(bad)
    assert len(book) == 0


def test_a_change_of_protocols_is_told_once() -> None:
    told: list[PeerId] = []
    book = Book(16, ME, changed=told.append)
    book.learn(ANN.peer, protocols=["/a"])
    book.learn(ANN.peer, protocols=["/a"], addresses=at(1))
    book.learn(ANN.peer, protocols=["/b"])
    assert told == [ANN.peer, ANN.peer]

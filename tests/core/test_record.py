"""Signed envelopes and peer records, against libp2p/specs RFC 0002 and 0003 and their implementations."""

from __future__ import annotations

import re

import pytest

from grove_core import protobuf
from grove_core.errors import LocalProtocolError, RemoteProtocolError
from grove_core.identity import Identity
from grove_core.multiaddr import Multiaddr
from grove_core.record import (
    MAX_RECORD,
    PEER_RECORD,
    PEER_RECORD_OF_RFC,
    PeerRecord,
    open_envelope,
    seal,
    sign_record,
    verify_record,
)
from tests.fuzz import survives

ME = Identity.from_seed(bytes(32))
OTHER = Identity.from_seed(b"\x01" * 32)
HERE = Multiaddr.parse("/ip4/127.0.0.1/tcp/4001")

# Derived in the wire reference, section 6, and accepted by js @libp2p/peer-record.
RECORD = (
    "0a260024080112203b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da291001"
    "1a0a0a08047f000001060fa1"
)
ENVELOPE = (
    "0a24080112203b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29"
    "12020301"
    f"1a36{RECORD}"
    "2a409544590e46d8fd59c7fd95320ffbb6df874185f11a265660b337193d429136bc"
    "dcde5a83c63c74244db432a90968bd43b10d2e34049caa8b89aaa348fb456208"
)


@pytest.mark.claim("record.vectors")
def test_record_and_envelope_are_the_bytes_of_the_reference() -> None:
    assert PeerRecord(ME.peer, 1, (HERE,)).encode().hex() == RECORD
    assert sign_record(ME, 1, [HERE]).hex() == ENVELOPE


@pytest.mark.claim("record.vectors")
def test_envelope_of_the_reference_verifies() -> None:
    assert verify_record(bytes.fromhex(ENVELOPE)) == PeerRecord(ME.peer, 1, (HERE,))


def test_record_in_the_words_of_the_rfc_verifies_too() -> None:
    # rust-libp2p kept the RFC's domain and payload type.
    record = PeerRecord(ME.peer, 7, (HERE,))
    assert verify_record(seal(ME, *PEER_RECORD_OF_RFC, record.encode())) == record


def test_domain_belongs_to_the_payload_type() -> None:
    crossed = seal(ME, PEER_RECORD_OF_RFC[0], PEER_RECORD[1], bytes.fromhex(RECORD))
    with pytest.raises(RemoteProtocolError, match="signature does not hold under 'libp2p-peer-record'"):
        verify_record(crossed)


@pytest.mark.parametrize("name", ["secp256k1", "ecdsa"])
def test_records_of_other_key_kinds_verify(name: str) -> None:
    identity = Identity.decode(
        bytes.fromhex(
            {
                "secp256k1": "0802122053DADF1D5A164D6B4ACDB15E24AA4C5B1D3461BDBD42ABEDB0A4404D56CED8FB",
                "ecdsa": "08031279307702010104203E5B1FE9712E6C314942A750BD67485DE3C1EFE85B1BFB520AE8F9AE"
                "3DFA4A4CA00A06082A8648CE3D030107A14403420004DE3D300FA36AE0E8F5D530899D83ABAB44ABF3161F162A4B"
                "C901D8E6ECDA020E8B6D5F8DA30525E71D6851510C098E5C47C646A597FB4DCEC034E9F77C409E62",
            }[name]
        )
    )
    assert verify_record(sign_record(identity, 2**64 - 1, [HERE])) == PeerRecord(
        identity.peer, 2**64 - 1, (HERE,)
    )


def test_signature_is_checked_before_the_payload_is_read() -> None:
    nonsense = seal(ME, *PEER_RECORD, b"\xff\xff")
    with pytest.raises(RemoteProtocolError, match="protobuf"):
        verify_record(nonsense)
    with pytest.raises(RemoteProtocolError, match="signature does not hold"):
        verify_record(nonsense[:-1] + bytes((nonsense[-1] ^ 1,)))


def test_peers_speak_for_themselves_only() -> None:
    about_me = seal(OTHER, *PEER_RECORD, bytes.fromhex(RECORD))
    with pytest.raises(RemoteProtocolError, match=r"about 12D3…nXTN signed by 12D3…\w{4}"):
        verify_record(about_me)


@pytest.mark.claim("record.unknown-address")
def test_address_of_an_unknown_code_costs_only_itself() -> None:
    unknown = bytes.fromhex("047f000001fe01")
    payload = (
        protobuf.field(1, ME.peer)
        + protobuf.field(2, 3)
        + protobuf.field(3, protobuf.field(1, unknown))
        + protobuf.field(3, protobuf.field(1, HERE.encode()))
        + protobuf.field(3, b"")
        + protobuf.field(9, b"a field of the future")
    )
    assert verify_record(seal(ME, *PEER_RECORD, payload)) == PeerRecord(ME.peer, 3, (HERE,))


@pytest.mark.parametrize("dropped", [1, 2, 3, 5])
def test_envelope_must_be_complete(dropped: int) -> None:
    parts = protobuf.fields(bytes.fromhex(ENVELOPE))
    rest = b"".join(protobuf.field(number, value) for number, value in parts if number != dropped)
    with pytest.raises(RemoteProtocolError, match="envelope without"):
        verify_record(rest)


def test_record_must_name_its_peer() -> None:
    with pytest.raises(RemoteProtocolError, match="without a peer id"):
        verify_record(seal(ME, *PEER_RECORD, b""))


def test_envelope_of_another_kind_is_refused() -> None:
    voucher = seal(ME, b"libp2p-relay-rsvp", b"\x03\x02", b"payload")
    assert open_envelope(voucher, (b"libp2p-relay-rsvp", b"\x03\x02")).payload == b"payload"
    with pytest.raises(RemoteProtocolError, match="payload type 0302; expected 0301"):
        verify_record(voucher)


def test_oversized_envelope_is_refused_unread() -> None:
    with pytest.raises(RemoteProtocolError, match="8193 bytes; limit 8192"):
        verify_record(bytes(8193))


@pytest.mark.claim("record.size")
def test_record_keeps_the_farthest_reaching_addresses_that_fit() -> None:
    loopback = [Multiaddr.tcp(f"127.0.0.{n}", 1) for n in range(1, 60)]
    public = [Multiaddr.tcp(f"1.2.3.{n}", 1) for n in range(1, 60)]
    mixed = [address for pair in zip(loopback, public, strict=True) for address in pair]
    envelope = sign_record(ME, 1, mixed)
    assert len(envelope) <= MAX_RECORD
    kept = verify_record(envelope).addresses
    assert kept[: len(public)] != tuple(public)  # the given order stands
    assert [a for a in kept if a.scope == "public"] == public
    assert [a for a in kept if a.scope == "loopback"] == loopback[: len(kept) - len(public)]
    smaller = PeerRecord(ME.peer, 1, (*kept, loopback[-1])).encode()
    assert len(seal(ME, *PEER_RECORD, smaller)) > MAX_RECORD  # not one more would fit


def test_own_peer_id_at_the_end_of_an_address_is_left_out() -> None:
    circuit = Multiaddr.parse(f"{HERE.with_peer(OTHER.peer)}/p2p-circuit")
    given = [HERE.with_peer(ME.peer), HERE, circuit.with_peer(ME.peer)]
    assert verify_record(sign_record(ME, 1, given)).addresses == (HERE, circuit)


@pytest.mark.parametrize("sequence", [-1, 2**64])
def test_sequence_beyond_64_bits_is_our_mistake(sequence: int) -> None:
    with pytest.raises(LocalProtocolError, match=re.escape(f"sequence {sequence}")):
        sign_record(ME, sequence, [])


@pytest.mark.claim("record.fuzz")
def test_envelopes_survive_mutation() -> None:
    corpus = [bytes.fromhex(ENVELOPE), sign_record(OTHER, 2**40, [HERE, Multiaddr.quic("::1", 9)])]
    assert survives(verify_record, 1, corpus) > 0


@pytest.mark.claim("record.fuzz")
def test_records_survive_mutation_behind_a_good_signature() -> None:
    corpus = [bytes.fromhex(RECORD), PeerRecord(ME.peer, 5, (HERE, Multiaddr.tcp("::1", 1))).encode()]
    assert survives(PeerRecord.decode, 2, corpus) > 0

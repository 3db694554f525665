"""Multiaddrs, against libp2p/specs addressing/README.md and the vectors of the wire reference (1.3)."""

from __future__ import annotations

import copy
import ipaddress
import pickle
import re

import pytest

from grove_core.errors import LocalProtocolError, RemoteProtocolError
from grove_core.identity import Identity, peer_cid, peer_text
from grove_core.multiaddr import Multiaddr
from tests.fuzz import survives, text_survives

X = Identity.from_seed(bytes(32)).peer
Y = Identity.from_seed(b"\x01" * 32).peer
CERTHASH = "uEiDDq4_xNyDorZBH3TlGazyJdOWSwvo4PUo5YHFMrvDE8g"

VECTORS = {
    "/ip4/127.0.0.1/udp/4001/quic-v1": "047f00000191020fa1cd03",
    "/ip6/::1/tcp/4001": "29" + "00" * 15 + "01060fa1",
    "/dns4/example.com/tcp/443/wss": "360b6578616d706c652e636f6d0601bbde03",
    "/dnsaddr/bootstrap.libp2p.io": "3813626f6f7473747261702e6c69627032702e696f",
    f"/ip4/1.2.3.4/udp/4001/quic-v1/p2p/{peer_text(X)}/p2p-circuit/p2p/{peer_text(Y)}": (
        f"040102030491020fa1cd03a50326{X.hex()}a202a50326{Y.hex()}"
    ),
}

EVERY_CODE = [
    "/ip4/1.2.3.4/tcp/1/http",
    "/ip4/10.0.0.0/ipcidr/8",
    "/ip6zone/eth0/ip6/fe80::1/udp/4001/quic-v1",
    "/dns/example.com/tcp/443/tls/sni/example.com/ws",
    "/dns6/example.com/tcp/443/https",
    f"/ip4/1.2.3.4/udp/4001/quic-v1/webtransport/certhash/{CERTHASH}/certhash/{CERTHASH}",
    f"/ip4/1.2.3.4/udp/4001/webrtc-direct/certhash/{CERTHASH}",
    "/ip4/1.2.3.4/tcp/4001/noise",
    "/ip4/1.2.3.4/udp/4001/quic",
    f"/p2p/{peer_text(X)}/p2p-circuit/webrtc",
    "/unix/run/grove/node.sock",
    "/memory/18446744073709551615",
]


@pytest.mark.parametrize("text", VECTORS)
@pytest.mark.claim("multiaddr.vectors")
def test_vectors_of_the_reference_both_ways(text: str) -> None:
    encoded = bytes.fromhex(VECTORS[text])
    assert Multiaddr.parse(text).encode() == encoded
    assert str(Multiaddr.decode(encoded)) == text
    assert Multiaddr.decode(encoded) == Multiaddr.parse(text)


@pytest.mark.parametrize("text", EVERY_CODE)
def test_every_component_survives_text_and_bytes(text: str) -> None:
    address = Multiaddr.parse(text)
    assert str(address) == text
    assert Multiaddr.decode(address.encode()) == address
    assert Multiaddr(*address.parts) == address


def test_every_code_of_the_reference_is_known() -> None:
    codes = (
        *(4, 6, 41, 42, 43, 53, 54, 55, 56, 273, 280, 281, 290, 400, 421, 443, 448, 449, 454),
        *(460, 461, 465, 466, 477, 478, 480, 777),
    )
    from grove_core import multiaddr

    assert tuple(multiaddr._BY_CODE) == codes


def test_parts_are_names_and_values() -> None:
    address = Multiaddr.parse("/ip4/127.0.0.1/udp/4001/quic-v1")
    assert address.parts == (("ip4", "127.0.0.1"), ("udp", "4001"), ("quic-v1", ""))
    assert address.value("udp") == "4001"
    assert address.value("quic-v1") == ""
    assert address.value("tcp") is None


def test_other_spellings_become_the_one_form() -> None:
    assert str(Multiaddr.parse("/ip6/0:0:0:0:0:0:0:1/tcp/04001/")) == "/ip6/::1/tcp/4001"
    assert str(Multiaddr.parse(f"/ipfs/{peer_cid(X)}")) == f"/p2p/{peer_text(X)}"
    assert hash(Multiaddr.parse("/ip6/0::1")) == hash(Multiaddr.parse("/ip6/::1"))


def test_is_a_value_that_does_not_change() -> None:
    address = Multiaddr.parse("/ip4/127.0.0.1/tcp/1")
    with pytest.raises(AttributeError, match="does not change"):
        address.parts = ()
    assert copy.deepcopy(address) == pickle.loads(pickle.dumps(address)) == address
    assert address != "/ip4/127.0.0.1/tcp/1"
    assert repr(address) == "Multiaddr('/ip4/127.0.0.1/tcp/1')"


def test_peer_is_whom_the_address_reaches_not_the_relay() -> None:
    direct = Multiaddr.tcp("1.2.3.4", 1)
    assert direct.peer is None
    assert direct.with_peer(X).peer == X
    assert direct.with_peer(X).with_peer(Y) == direct.with_peer(Y)
    assert direct.with_peer(X).without_peer() == direct == direct.without_peer()
    circuit = Multiaddr(*direct.with_peer(X).parts, ("p2p-circuit", ""))
    assert circuit.peer is None
    assert circuit.with_peer(Y).peer == Y
    assert circuit.with_peer(Y).without_peer() == circuit
    assert circuit.relay == circuit.with_peer(Y).relay == X
    assert circuit.is_circuit
    assert direct.relay is None
    assert not direct.is_circuit
    with pytest.raises(LocalProtocolError, match="nothing but a peer"):
        Multiaddr(("p2p", peer_text(X))).without_peer()


def test_factories_normalise_the_host() -> None:
    assert str(Multiaddr.tcp("127.0.0.1", 4001)) == "/ip4/127.0.0.1/tcp/4001"
    assert str(Multiaddr.quic("::1", 4001)) == "/ip6/::1/udp/4001/quic-v1"
    assert str(Multiaddr.quic("::ffff:192.0.2.7", 1)) == "/ip4/192.0.2.7/udp/1/quic-v1"  # pitfall 10
    assert str(Multiaddr.tcp("fe80::1%eth0", 1)) == "/ip6zone/eth0/ip6/fe80::1/tcp/1"
    assert str(Multiaddr.tcp("example.com", 1)) == "/dns/example.com/tcp/1"
    assert Multiaddr.tcp(ipaddress.ip_address("1.2.3.4"), 1) == Multiaddr.tcp("1.2.3.4", 1)
    with pytest.raises(RemoteProtocolError, match="'65536'; it is 0 to 65535"):
        Multiaddr.tcp("127.0.0.1", 65536)


def test_host_port_and_ip() -> None:
    zoned = Multiaddr.tcp("fe80::1%eth0", 7)
    assert zoned.ip == ipaddress.IPv6Address("fe80::1%eth0")
    assert (zoned.host, zoned.port) == ("fe80::1%eth0", 7)
    name = Multiaddr.parse("/dns4/example.com/udp/9")
    assert (name.ip, name.host, name.port) == (None, "example.com", 9)
    bare = Multiaddr.parse("/memory/1")
    assert (bare.ip, bare.host, bare.port) == (None, None, None)


@pytest.mark.parametrize(
    ("text", "tcp", "quic"),
    [
        ("/ip4/1.2.3.4/tcp/1", True, False),
        ("/ip6zone/eth0/ip6/fe80::1/tcp/1", True, False),
        (f"/dns/example.com/tcp/1/p2p/{peer_text(X)}", True, False),
        ("/ip4/1.2.3.4/tcp/1/ws", False, False),
        ("/ip4/1.2.3.4/tcp/1/tls/ws", False, False),
        (f"/ip4/1.2.3.4/tcp/1/p2p/{peer_text(X)}/p2p-circuit", False, False),
        ("/ip4/1.2.3.4/udp/1/quic-v1", False, True),
        (f"/ip6/::1/udp/1/quic-v1/p2p/{peer_text(X)}", False, True),
        ("/ip4/1.2.3.4/udp/1/quic", False, False),
        ("/ip4/1.2.3.4/udp/1/quic-v1/webtransport", False, False),
        (f"/ip4/1.2.3.4/udp/1/quic-v1/p2p/{peer_text(X)}/p2p-circuit", False, False),
        (f"/p2p/{peer_text(X)}", False, False),
        ("/unix/tcp", False, False),
    ],
)
def test_which_transport_an_address_is_for(text: str, tcp: bool, quic: bool) -> None:
    address = Multiaddr.parse(text)
    assert (address.is_tcp, address.is_quic) == (tcp, quic)


@pytest.mark.parametrize(
    ("host", "scope"),
    [
        ("127.0.0.1", "loopback"),
        ("127.9.9.9", "loopback"),
        ("::1", "loopback"),
        ("169.254.1.1", "link"),
        ("fe80::1", "link"),
        ("192.168.1.1", "private"),
        ("10.0.0.1", "private"),
        ("172.16.0.1", "private"),
        ("100.64.0.1", "private"),
        ("fd00::1", "private"),
        ("1.2.3.4", "public"),
        ("2606:4700::1111", "public"),
        ("0.0.0.0", "unknown"),
        ("::", "unknown"),
        ("224.0.0.1", "unknown"),
        ("example.com", "unknown"),
    ],
)
def test_scope(host: str, scope: str) -> None:
    assert Multiaddr.tcp(host, 1).scope == scope


def test_mapped_address_that_was_not_normalised_has_the_scope_of_the_ipv4_one() -> None:
    assert Multiaddr.parse("/ip6/::ffff:127.0.0.1/tcp/1").scope == "loopback"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "does not begin with '/'"),
        ("/", "empty"),
        ("ip4/1.2.3.4", "does not begin with '/'"),
        ("/ip5/1.2.3.4", "'ip5' is not known"),
        ("/ip4", "ip4 lacks its value"),
        ("/ip4/1.2.3", "'1.2.3' is no IPv4 address"),
        ("/ip6/fe80::1%eth0", "/ip6zone/NAME"),
        ("/ip4/1.2.3.4/tcp/65536", "0 to 65535"),
        ("/ip4/1.2.3.4/tcp/-1", "0 to 65535"),
        ("/ip4/1.2.3.4/tcp/٣", "0 to 65535"),
        ("/ip4/1.2.3.4//tcp/1", "'' is not known"),
        ("/memory/18446744073709551616", "0 to 18446744073709551615"),
        ("/dns/" + "a" * 254, "254 bytes"),
        ("/dns/a\x1b[31mb", "character names do not have"),
        ("/p2p/12D3", "peer id"),
        ("/certhash/uAAE", "multihash"),
        ("/unix/", "multiaddr path '/'"),
        ("/ip4/1.2.3.4" * 200, "limit 1024|characters; limit 2048"),
    ],
)
def test_bad_text_is_refused_with_the_reason(text: str, complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=complaint):
        Multiaddr.parse(text)


@pytest.mark.parametrize(
    ("encoded", "complaint"),
    [
        ("", "0 bytes; it has 1 to 1024"),
        ("047f0000", "ip4 of 4 bytes; 3 are left"),
        ("047f000001fe01", "unknown code 254"),
        ("9102", "udp of 2 bytes; 0 are left"),
        ("840004", "not minimal"),
        ("a50302" + "0000", "peer id"),
        ("35021b41", "character names do not have"),
        ("3502ffff", "not UTF-8"),
        ("ffffffffffffffffff01", "longer than 9 bytes"),
        ("00" * 1025, "1025 bytes"),
        ("9003" + "022f61" + "060fa1", "behind a unix path"),
    ],
)
def test_bad_bytes_are_refused_with_the_reason(encoded: str, complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=re.escape(complaint)):
        Multiaddr.decode(bytes.fromhex(encoded))


@pytest.mark.claim("multiaddr.fuzz")
def test_decode_survives_mutation_and_what_it_accepts_is_stable() -> None:
    def decode(data: bytes) -> None:
        address = Multiaddr.decode(data)
        assert address.encode() == data
        assert Multiaddr.parse(str(address)) == address
        for read in ("peer", "relay", "ip", "host", "port", "is_tcp", "is_quic", "scope"):
            getattr(address, read)

    corpus = [Multiaddr.parse(text).encode() for text in (*VECTORS, *EVERY_CODE)]
    assert survives(decode, 1, corpus) > 0


@pytest.mark.claim("multiaddr.fuzz")
def test_parse_survives_mutation_and_what_it_accepts_is_stable() -> None:
    def parse(text: str) -> None:
        address = Multiaddr.parse(text)
        assert Multiaddr.decode(address.encode()) == address == Multiaddr.parse(str(address))

    assert text_survives(parse, 2, [*VECTORS, *EVERY_CODE]) > 0

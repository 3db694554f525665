"""Keys and peer ids, against libp2p/specs peer-ids/peer-ids.md (section "Test vectors")."""

from __future__ import annotations

import os
import pickle
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from grove_core import protobuf
from grove_core.errors import ConfigError, LocalProtocolError, RemoteProtocolError
from grove_core.identity import (
    Identity,
    KeyType,
    PublicKey,
    check_peer,
    parse_peer,
    peer_cid,
    peer_text,
    short,
)
from grove_core.machine import PeerId
from tests.fuzz import survives, text_survives

# (private key message, public key message, peer id, CID)
ED25519 = (
    "080112407e0830617c4a7de83925dfb2694556b12936c477a0e1feb2e148ec9da60fee7d"
    "1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e",
    "080112201ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e",
    "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq",
    "bafzaajaiaejcahwr5d5ofrfbis4l5d6uwr57hu5tjodrypfm6yaq6dsc2r2pzyt6",
)
SECP256K1 = (
    "0802122053DADF1D5A164D6B4ACDB15E24AA4C5B1D3461BDBD42ABEDB0A4404D56CED8FB",
    "08021221037777e994e452c21604f91de093ce415f5432f701dd8cd1a7a6fea0e630bfca99",
    "16Uiu2HAmLhLvBoYaoZfaMUKuibM6ac163GwKY74c5kiSLg5KvLpY",
    "bafzaajiiaijcca3xo7uzjzcsyilaj6i54cj44qk7kqzpoao5rti2pjx6udtdbp6kte",
)
ECDSA = (
    "08031279307702010104203E5B1FE9712E6C314942A750BD67485DE3C1EFE85B1BFB520AE8F9AE3DFA4A4CA00A06082A8648"
    "CE3D030107A14403420004DE3D300FA36AE0E8F5D530899D83ABAB44ABF3161F162A4BC901D8E6ECDA020E8B6D5F8DA30525"
    "E71D6851510C098E5C47C646A597FB4DCEC034E9F77C409E62",
    "0803125b3059301306072a8648ce3d020106082a8648ce3d03010703420004de3d300fa36ae0e8f5d530899d83abab44abf3"
    "161f162a4bc901d8e6ecda020e8b6d5f8da30525e71d6851510c098e5c47c646a597fb4dcec034e9f77c409e62",
    "QmVMT29id3TUASyfZZ6k9hmNyc2nYabCo4uMSpDw4zrgDk",
    "bafzbeidigywdclqvl5hxfefwp5onbffcfife7pza57mmfb4tiqmtkdjw64",
)
VECTORS = pytest.mark.parametrize(
    "vector", [ED25519, SECP256K1, ECDSA], ids=["ed25519", "secp256k1", "ecdsa"]
)
SEED_ZERO = Identity.from_seed(bytes(32))


def rsa_message(bits: int) -> bytes:
    """An RSA private key message of a fresh key."""
    key = rsa.generate_private_key(65537, bits)
    der = key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    return protobuf.field(1, 0) + protobuf.field(2, der)


def ecdsa_public(curve: ec.EllipticCurve) -> bytes:
    der = (
        ec.generate_private_key(curve)
        .public_key()
        .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )
    return protobuf.field(1, 3) + protobuf.field(2, der)


@pytest.fixture(scope="module")
def rsa_identity() -> Identity:
    return Identity.decode(rsa_message(2048))


@VECTORS
@pytest.mark.claim("identity.vectors")
def test_private_key_gives_the_public_key_and_the_peer_id(vector: tuple[str, str, str, str]) -> None:
    private, public, text, cid = vector
    identity = Identity.decode(bytes.fromhex(private))
    assert identity.encode() == bytes.fromhex(private)
    assert identity.public.encode() == bytes.fromhex(public)
    assert PublicKey.decode(bytes.fromhex(public)) == identity.public
    assert peer_text(identity.peer) == text
    assert peer_cid(identity.peer) == cid
    assert parse_peer(text) == parse_peer(cid) == identity.peer
    assert check_peer(identity.peer) == identity.peer


@VECTORS
def test_signature_of_each_kind_verifies_and_no_other_does(vector: tuple[str, str, str, str]) -> None:
    identity = Identity.decode(bytes.fromhex(vector[0]))
    signature = identity.sign(b"grove")
    assert identity.public.verify(b"grove", signature)
    assert not identity.public.verify(b"grave", signature)
    assert not SEED_ZERO.public.verify(b"grove", signature)


@pytest.mark.claim("identity.vectors")
def test_rsa_vector_of_the_spec_document() -> None:
    # The 4096-bit key is read from the document itself, if GROVE_SPECS names a checkout of libp2p/specs.
    specs = os.environ.get("GROVE_SPECS")
    if specs is None:
        pytest.skip("set GROVE_SPECS to a checkout of libp2p/specs to run its vectors")
    document = (Path(specs) / "peer-ids/peer-ids.md").read_text()
    rows = dict(re.findall(r"^\| (\w+ (?:private|public) key) *\| (\w+)", document, re.M))
    identity = Identity.decode(bytes.fromhex(rows["rsa private key"]))
    assert identity.public.encode() == bytes.fromhex(rows["rsa public key"])
    assert peer_text(identity.peer) == "QmaeANgBs1DTSxWSrPPtobgQuxW8XTfsS4ydbK4rCHzqxG"
    assert peer_cid(identity.peer) == "bafzbeifwzcumbiyql7bhv7fe7mixg6i7aohegq75k234m63bnw6dbicmzu"
    assert identity.public.verify(b"grove", identity.sign(b"grove"))


def test_seed_zero_is_the_identity_the_reference_derives() -> None:
    assert SEED_ZERO.public.encode().hex() == (
        "080112203b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29"
    )
    assert peer_text(SEED_ZERO.peer) == "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
    signature = SEED_ZERO.sign(b"noise-libp2p-static-key:" + bytes(32))
    assert signature.hex() == (
        "6423ba3c3816228fe43c7982de77f9c912a3349aa7ca3b0bb99822ada79bbf09"
        "957395aba9cfcbc2b3b7937e89693a3e88481fd9222cf7dd63ea5698c7d9e200"
    )


def test_rsa_key_writes_its_zero_type_and_is_known_by_its_hash(rsa_identity: Identity) -> None:
    encoded = rsa_identity.public.encode()
    assert encoded[:2] == b"\x08\x00"  # peer-ids.md: both fields always present
    assert rsa_identity.peer[:2] == b"\x12\x20"
    assert peer_text(rsa_identity.peer).startswith("Qm")
    assert PublicKey.decode(encoded) == rsa_identity.public
    assert PublicKey.decode(encoded[2:]) == rsa_identity.public  # a proto3 writer leaves the zero out
    assert rsa_identity.public.verify(b"grove", rsa_identity.sign(b"grove"))


def test_rsa_keys_below_2048_bits_are_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="1024 bits; 2048 to 8192"):
        Identity.decode(rsa_message(1024))


def test_public_key_is_read_back_from_identity_multihashes_only(rsa_identity: Identity) -> None:
    assert PublicKey.of(SEED_ZERO.peer) == SEED_ZERO.public
    secp256k1 = Identity.decode(bytes.fromhex(SECP256K1[0]))
    assert PublicKey.of(secp256k1.peer) == secp256k1.public
    assert PublicKey.of(rsa_identity.peer) is None
    assert PublicKey.of(PeerId(b"")) is None
    assert PublicKey.of(PeerId(b"\x00\x24" + bytes(36))) is None


def test_a_key_has_one_form_inside_a_peer_id() -> None:
    key = SEED_ZERO.public.encode()
    unknown_field = key + b"\x18\x00"
    swapped = key[2:] + key[:2]
    for other in (unknown_field, swapped):
        assert PublicKey.decode(other) == SEED_ZERO.public  # readers skip what they do not know …
        with pytest.raises(RemoteProtocolError):  # … but an id made of it would be a second id
            check_peer(bytes((0, len(other))) + other)


@pytest.mark.parametrize(
    "text",
    [
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA",
        "bafzbeie5745rpv2m6tjyuugywy4d5ewrqgqqhfnf445he3omzpjbx5xqxe",
    ],
)
def test_peer_ids_of_the_spec_parse_and_come_back(text: str) -> None:
    peer = parse_peer(text)
    assert text in (peer_text(peer), peer_cid(peer))
    assert parse_peer(peer_text(peer)) == parse_peer(peer_cid(peer)) == peer


def test_cid_is_read_in_every_multibase() -> None:
    from grove_core import multibase

    peer = SEED_ZERO.peer
    cid = bytes((1, 0x72)) + peer
    assert parse_peer("z" + multibase.base58(cid)) == peer
    assert parse_peer("f" + cid.hex()) == parse_peer("F" + cid.hex().upper()) == peer
    assert parse_peer(peer_cid(peer).upper()) == peer
    assert parse_peer(multibase.base64url(cid)) == peer
    # base36 as kubo prints IPNS names: k51qzi5uqu5d…
    digits, number = "", int.from_bytes(cid, "big")
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    assert digits.startswith("51qzi5uqu5d")
    assert parse_peer("k" + digits) == parse_peer("K" + digits.upper()) == peer


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "multibase prefix"),
        ("hello", "multibase prefix"),
        ("12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5S", "peer id of"),
        ("12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU50A", "'0' is no digit"),
        ("bafybeie5745rpv2m6tjyuugywy4d5ewrqgqqhfnf445he3omzpjbx5xqxe", "codec 0x70"),
        ("1" * 2000, "2000 characters; limit 1024"),
    ],
)
def test_what_is_no_peer_id_is_refused_with_the_reason(text: str, complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=re.escape(complaint)):
        parse_peer(text)


def test_short_form_shows_both_ends() -> None:
    assert short(SEED_ZERO.peer) == "12D3…nXTN"


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (b"", "without data"),
        (b"\x08\x01\x12\x1f" + bytes(31), "Ed25519 public key of 31 bytes"),
        (b"\x08\x02\x12\x21\x04" + bytes(32), "secp256k1 public key"),
        (b"\x08\x03\x12\x03abc", "no DER key"),
        (b"\x08\x04\x12\x20" + bytes(32), "type 4"),
        (b"\x0a\x01\x01\x12\x20" + bytes(32), "is bytes on the wire"),
        (bytes(1281), "1281 bytes; limit 1280"),
    ],
)
def test_bad_public_keys_are_refused_with_the_reason(message: bytes, complaint: str) -> None:
    with pytest.raises(RemoteProtocolError, match=complaint):
        PublicKey.decode(message)


def test_ecdsa_keys_are_on_the_curves_that_peers_use() -> None:
    for curve in (ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()):
        assert PublicKey.decode(ecdsa_public(curve)).type is KeyType.ECDSA
    with pytest.raises(RemoteProtocolError, match="secp256k1; P-256, P-384 and P-521"):
        PublicKey.decode(ecdsa_public(ec.SECP256K1()))


def test_verify_never_raises_whatever_the_key_and_the_bytes() -> None:
    off_curve = PublicKey(KeyType.SECP256K1, b"\x02" + b"\xff" * 32)
    wrong_kind = PublicKey(KeyType.RSA, SEED_ZERO.public.data)
    for key in (SEED_ZERO.public, off_curve, wrong_kind, PublicKey(KeyType.ED25519, b"\xff" * 32)):
        for signature in (b"", b"\0", bytes(64), bytes(100_000)):
            assert not key.verify(b"data", signature)


def test_legacy_ed25519_private_key_is_read_and_written_in_the_new_form() -> None:
    encoded = SEED_ZERO.encode()
    data = encoded[4:]
    legacy = b"\x08\x01\x12\x60" + data + data[32:]
    assert Identity.decode(legacy).encode() == encoded
    with pytest.raises(RemoteProtocolError, match="does not belong"):
        Identity.decode(legacy[:-1] + b"\x00")


def test_key_file_is_private_whole_and_the_same_every_time(tmp_path: Path) -> None:
    path = tmp_path / "data" / "key"
    first = Identity.load_or_create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Identity.load_or_create(path).peer == first.peer
    other = Identity.generate()
    other.save(path)
    assert Identity.load(path).peer == other.peer != first.peer
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["key"]  # no drafts are left


def test_key_file_that_is_damaged_is_named_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"not a key")
    with pytest.raises(ConfigError, match="key: no libp2p private key"):
        Identity.load_or_create(path)
    assert path.read_bytes() == b"not a key"
    with pytest.raises(FileNotFoundError):
        Identity.load(tmp_path / "absent")


def test_a_process_that_lost_the_race_takes_the_winners_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key"
    link = os.link

    def beaten(source: Path, target: Path) -> None:
        SEED_ZERO.save(path)
        link(source, target)

    monkeypatch.setattr(os, "link", beaten)
    assert Identity.load_or_create(path).peer == SEED_ZERO.peer
    assert [entry.name for entry in tmp_path.iterdir()] == ["key"]


def test_seed_of_the_wrong_length_is_our_mistake() -> None:
    with pytest.raises(LocalProtocolError, match="32 bytes, not 31"):
        Identity.from_seed(bytes(31))


def test_identity_does_not_show_its_key_and_survives_a_copy() -> None:
    assert repr(SEED_ZERO) == "Identity(12D3…nXTN)"
    assert pickle.loads(pickle.dumps(SEED_ZERO)).peer == SEED_ZERO.peer


def test_naming_a_peer_loads_no_cryptography() -> None:
    program = (
        "import sys; from grove_core.identity import peer_text, parse_peer; "
        f"peer_text(parse_peer({ED25519[2]!r})); "
        "sys.exit('cryptography' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.claim("identity.fuzz")
def test_public_keys_survive_mutation(rsa_identity: Identity) -> None:
    corpus = [bytes.fromhex(vector[1]) for vector in (ED25519, SECP256K1, ECDSA)]

    def decode_and_verify(data: bytes) -> None:
        key = PublicKey.decode(data)
        assert not key.verify(b"data", b"signature")
        assert check_peer(key.peer) == key.peer

    assert survives(decode_and_verify, 1, [*corpus, rsa_identity.public.encode()]) > 0


@pytest.mark.claim("identity.fuzz")
def test_private_keys_survive_mutation() -> None:
    corpus = [bytes.fromhex(vector[0]) for vector in (ED25519, SECP256K1, ECDSA)]
    assert survives(Identity.decode, 2, corpus) > 0


@pytest.mark.claim("identity.fuzz")
def test_peer_ids_survive_mutation() -> None:
    assert survives(check_peer, 3, [parse_peer(vector[2]) for vector in (ED25519, SECP256K1, ECDSA)]) > 0
    texts = [text for vector in (ED25519, SECP256K1, ECDSA) for text in vector[2:]]
    assert text_survives(parse_peer, 4, texts) > 0

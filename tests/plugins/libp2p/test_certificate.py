"""libp2p TLS certificates, check by check, as libp2p/specs tls/tls.md lists what a receiver must do."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from grove_libp2p.certificate import (
    EXTENSION,
    SIGNED_PREFIX,
    _der,
    _read_der,
    make_certificate,
    verify_certificate,
)

from grove_core.errors import RemoteProtocolError
from grove_core.identity import Identity, PublicKey, peer_text
from tests.fuzz import survives

ME = Identity.from_seed(bytes(32))
SECP256K1 = Identity.decode(
    bytes.fromhex("0802122053DADF1D5A164D6B4ACDB15E24AA4C5B1D3461BDBD42ABEDB0A4404D56CED8FB")
)
ECDSA = Identity.decode(
    bytes.fromhex(
        "08031279307702010104203E5B1FE9712E6C314942A750BD67485DE3C1EFE85B1BFB520AE8F9AE3DFA4A4CA00A06082A86"
        "48CE3D030107A14403420004DE3D300FA36AE0E8F5D530899D83ABAB44ABF3161F162A4BC901D8E6ECDA020E8B6D5F8DA3"
        "0525E71D6851510C098E5C47C646A597FB4DCEC034E9F77C409E62"
    )
)
NOW = 1_800_000_000.0
NAME = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "libp2p.io")])
P256 = ec.generate_private_key(ec.SECP256R1())
UNKNOWN = x509.ObjectIdentifier("1.3.6.1.4.1.53594.9.9")


def subject(key: Any) -> bytes:
    info: bytes = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return info


def extension(host: Identity = ME, key: Any = P256, signed: bytes = b"") -> bytes:
    """The value of the libp2p extension; `signed` instead of what should be signed."""
    signature = host.sign(signed or SIGNED_PREFIX + subject(key))
    return _der(0x30, _der(0x04, host.public.encode()) + _der(0x04, signature))


def certificate(
    value: bytes | None = None,
    *,
    key: Any = P256,
    signer: Any = None,
    hashed: Any = hashes.SHA256,
    critical: bool = False,
    more: Callable[[x509.CertificateBuilder], x509.CertificateBuilder] = lambda builder: builder,
    start: float = NOW - 3600,
    end: float = NOW + 3600,
    rsa_padding: Any = None,
) -> bytes:
    """A certificate in DER that is right but for what the test changes. value b"": no extension."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(NAME)
        .issuer_name(NAME)
        .serial_number(1)
        .public_key(key.public_key())
        .not_valid_before(datetime.fromtimestamp(start, UTC))
        .not_valid_after(datetime.fromtimestamp(end, UTC))
    )
    value = extension(key=key) if value is None else value
    if value:
        builder = builder.add_extension(x509.UnrecognizedExtension(EXTENSION, value), critical)
    signed = more(builder).sign(signer or key, hashed and hashed(), rsa_padding=rsa_padding)
    return signed.public_bytes(Encoding.DER)


# What the document says of its four vectors: sha256 of the DER begins with, peer id or complaint.
SPEC_VECTORS = [
    ("b0f100d2a1a23d11", "12D3KooWM6CgA9iBFZmcYAHA6A2qvbAxqfkmrYiRQuz3XEsk4Ksv"),
    ("4ebcbf4ae5109028", "QmfXbAwNjJLXfesgztEHe8HwgVDCMMpZ9Eax1HYq6hn9uE"),
    ("ce655e1d06ee3f71", "16Uiu2HAkutTMoTzDw1tCvSRtu6YoixJwS46S1ZFxW8hSx9fWHiPs"),
    ("0aa457dd9f26d5a5", None),
]


@pytest.mark.parametrize("index", range(4))
@pytest.mark.claim("tls.vectors")
def test_vector_of_the_spec_document(index: int) -> None:
    # Read from the document itself, if GROVE_SPECS names a checkout of libp2p/specs.
    specs = os.environ.get("GROVE_SPECS")
    if specs is None:
        pytest.skip("set GROVE_SPECS to a checkout of libp2p/specs to run its vectors")
    blocks = re.findall(r"^[0-9a-f]{200,}$", (Path(specs) / "tls/tls.md").read_text(), re.M)
    der = bytes.fromhex(blocks[index])
    digest, peer = SPEC_VECTORS[index]
    assert hashlib.sha256(der).hexdigest().startswith(digest)
    if peer is None:
        with pytest.raises(RemoteProtocolError, match="host key has not signed"):
            verify_certificate(der, NOW)
    else:
        assert peer_text(verify_certificate(der, NOW).peer) == peer


@pytest.mark.parametrize("identity", [ME, SECP256K1, ECDSA], ids=["ed25519", "secp256k1", "ecdsa"])
@pytest.mark.claim("tls.certificate")
def test_certificate_we_make_proves_the_host_key_of_each_kind(identity: Identity) -> None:
    made, _ = make_certificate(identity, NOW)
    assert verify_certificate(made.public_bytes(Encoding.DER), NOW) == identity.public


def test_certificate_we_make_is_as_go_and_rust_make_theirs() -> None:
    made, private = make_certificate(ME, NOW)
    assert private.curve.name == "secp256r1"
    assert made.public_key() == private.public_key()
    assert isinstance(made.signature_hash_algorithm, hashes.SHA256)
    assert made.not_valid_before_utc.timestamp() == NOW - 3600
    assert made.not_valid_after_utc.year - made.not_valid_before_utc.year == 100
    found = made.extensions.get_extension_for_oid(EXTENSION)
    assert not found.critical
    assert len(made.public_bytes(Encoding.DER)) <= 600  # fits one flight of QUIC's Initial packets
    assert make_certificate(ME, NOW)[0].public_key() != made.public_key()


@pytest.mark.parametrize("critical", [False, True])
def test_extension_may_be_critical_or_not(critical: bool) -> None:
    assert verify_certificate(certificate(critical=critical), NOW) == ME.public


@pytest.mark.parametrize("count", [0, 2])
def test_exactly_one_certificate(count: int) -> None:
    with pytest.raises(RemoteProtocolError, match=f"{count} certificates presented"):
        verify_certificate([certificate()] * count, NOW)
    assert verify_certificate([certificate()], NOW) == ME.public


@pytest.mark.parametrize("now", [NOW - 3601, NOW + 3601])
def test_validity_must_cover_now(now: float) -> None:
    with pytest.raises(RemoteProtocolError, match="is this machine's clock right"):
        verify_certificate(certificate(), now)


def test_extension_must_be_there() -> None:
    with pytest.raises(RemoteProtocolError, match="no libp2p peer"):
        verify_certificate(certificate(b""), NOW)


def test_unknown_critical_extension_is_refused_and_an_uncritical_one_ignored() -> None:
    def add(critical: bool) -> bytes:
        value = x509.UnrecognizedExtension(UNKNOWN, b"\x05\x00")
        return certificate(more=lambda builder: builder.add_extension(value, critical))

    assert verify_certificate(add(critical=False), NOW) == ME.public
    with pytest.raises(RemoteProtocolError, match=r"critical extension, 1\.3\.6\.1\.4\.1\.53594\.9\.9"):
        verify_certificate(add(critical=True), NOW)


def test_self_signature_must_hold() -> None:
    with pytest.raises(RemoteProtocolError, match="self-signature does not hold"):
        verify_certificate(certificate(signer=ec.generate_private_key(ec.SECP256R1())), NOW)


@pytest.mark.parametrize(
    "signed",
    [subject(P256), SIGNED_PREFIX + b"another key", b"libp2p-tls-handshake\0" + subject(P256)],
    ids=["without prefix", "another key", "wrong prefix"],
)
def test_host_signature_must_cover_prefix_and_certificate_key(signed: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="host key has not signed"):
        verify_certificate(certificate(extension(signed=signed)), NOW)


def test_extension_cannot_be_taken_from_another_certificate() -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    with pytest.raises(RemoteProtocolError, match="host key has not signed"):
        verify_certificate(certificate(extension(key=P256), key=other), NOW)


def test_claimed_host_key_must_be_the_one_that_signed() -> None:
    signature = SECP256K1.sign(SIGNED_PREFIX + subject(P256))
    value = _der(0x30, _der(0x04, ME.public.encode()) + _der(0x04, signature))
    with pytest.raises(RemoteProtocolError, match="host key has not signed"):
        verify_certificate(certificate(value), NOW)


RSA = rsa.generate_private_key(65537, 2048)
PSS = padding.PSS(padding.MGF1(hashes.SHA384()), padding.PSS.DIGEST_LENGTH)


@pytest.mark.parametrize(
    ("key", "hashed", "rsa_padding"),
    [
        (P256, hashes.SHA256, None),
        (ec.generate_private_key(ec.SECP384R1()), hashes.SHA384, None),
        (ec.generate_private_key(ec.SECP521R1()), hashes.SHA512, None),
        (ed25519.Ed25519PrivateKey.generate(), None, None),
        (RSA, hashes.SHA256, None),
        (RSA, hashes.SHA512, None),
        (RSA, hashes.SHA384, PSS),
    ],
    ids=["p256", "p384", "p521", "ed25519", "rsa-sha256", "rsa-sha512", "rsa-pss-sha384"],
)
def test_certificate_keys_that_peers_use_are_accepted(key: Any, hashed: Any, rsa_padding: Any) -> None:
    der = certificate(key=key, hashed=hashed, rsa_padding=rsa_padding)
    assert verify_certificate(der, NOW) == ME.public


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (ec.generate_private_key(ec.SECP256K1()), hashes.SHA256),
        (ed448.Ed448PrivateKey.generate(), None),
        (P256, hashes.SHA224),
    ],
    ids=["secp256k1", "ed448", "sha224"],
)
def test_other_certificate_keys_and_short_hashes_are_refused(key: Any, hashed: Any) -> None:
    with pytest.raises(RemoteProtocolError, match="refused"):
        verify_certificate(certificate(key=key, hashed=hashed), NOW)


def test_curve_with_explicit_parameters_is_refused() -> None:
    # tls.md: certificates MUST use the NamedCurve encoding. Here P-256 is spelt out (RFC 3279, 2.3.5;
    # numbers from SEC 2) in an otherwise good certificate, signed anew.
    def number(text: str) -> bytes:
        value = bytes.fromhex(text)
        return _der(0x02, b"\0" * (value[0] >> 7) + value)

    prime = "ffffffff00000001000000000000000000000000ffffffffffffffffffffffff"
    a = "ffffffff00000001000000000000000000000000fffffffffffffffffffffffc"
    b = "5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604b"
    x = "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"
    y = "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"
    order = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551"
    parameters = (
        number("01")
        + _der(0x30, bytes.fromhex("06072a8648ce3d0101") + number(prime))
        + _der(0x30, _der(0x04, bytes.fromhex(a)) + _der(0x04, bytes.fromhex(b)))
        + _der(0x04, bytes.fromhex("04" + x + y))
        + number(order)
        + number("01")
    )
    named = subject(P256)
    point = _der(0x03, b"\0" + named[-65:])
    spelt_out = _der(
        0x30, _der(0x30, bytes.fromhex("06072a8648ce3d0201") + _der(0x30, parameters)) + point
    )
    good = x509.load_der_x509_certificate(certificate())
    content, _ = _read_der(0x30, good.tbs_certificate_bytes)
    assert content.count(named) == 1
    signed = _der(0x30, content.replace(named, spelt_out))
    signature = P256.sign(signed, ec.ECDSA(hashes.SHA256()))
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")
    der = _der(0x30, signed + algorithm + _der(0x03, b"\0" + signature))
    with pytest.raises(RemoteProtocolError, match="named curve"):
        verify_certificate(der, NOW)


@pytest.mark.parametrize(
    "value",
    [
        b"\x30",
        b"\x30\x00",
        extension()[:-1],
        extension() + b"\x00",
        b"\x31" + extension()[1:],
        _der(0x30, _der(0x04, ME.public.encode())),
        _der(0x30, extension()[2:] + _der(0x04, b"")),
        b"\x30\x81" + extension()[1:],  # a length that need not have been long: BER, not DER
    ],
)
def test_extension_must_be_der(value: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="libp2p extension"):
        verify_certificate(certificate(value), NOW)


@pytest.mark.parametrize("der", [b"", b"\x30\x00", certificate()[:-1], bytes(20_000)])
def test_what_is_no_certificate_is_refused(der: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match=r"certificate (that cannot be read|of 20000 bytes)"):
        verify_certificate(der, NOW)


@pytest.mark.claim("tls.fuzz")
def test_certificates_survive_mutation_and_none_proves_another_key() -> None:
    def decode(der: bytes) -> None:
        found: PublicKey = verify_certificate(der, NOW)
        assert found in (ME.public, SECP256K1.public, ECDSA.public)

    corpus = [
        make_certificate(identity, NOW)[0].public_bytes(Encoding.DER)
        for identity in (ME, SECP256K1, ECDSA)
    ]
    assert survives(decode, 1, corpus) > 0

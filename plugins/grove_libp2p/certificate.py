"""libp2p's TLS certificates: a throw-away key, vouched for by the peer's own.

Source: libp2p/specs, tls/tls.md; the same certificate serves TLS over TCP and QUIC. It is self-signed
and carries, in an extension of its own (OID 1.3.6.1.4.1.53594.1.1), the host key and that key's
signature over the certificate's public key. Names, chains and authorities mean nothing here.

This file makes one and checks one. That the remote *holds* the certificate's key is proven by the TLS
handshake; that its peer is the one we dialled, the dialler compares. Both are left to the transport.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from grove_core.errors import RemoteProtocolError
from grove_core.identity import RSA_BITS, Identity, PublicKey

EXTENSION: Final = x509.ObjectIdentifier("1.3.6.1.4.1.53594.1.1")
SIGNED_PREFIX: Final = b"libp2p-tls-handshake:"
MAX_SIZE: Final = 16384
"""Longest certificate read, in bytes; the largest honest one (RSA-8192 twice) stays below 6000."""

_CURVES = ("secp256r1", "secp384r1", "secp521r1")


def make_certificate(
    identity: Identity, now: float
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A fresh certificate for a peer, and its private key (P-256, as go and rust make them).

    now: unix seconds; it is valid from an hour before (clocks differ) for a hundred years.
    """
    private = ec.generate_private_key(ec.SECP256R1())
    signature = identity.sign(SIGNED_PREFIX + _subject_public_key_info(private.public_key()))
    signed_key = _der(0x30, _der(0x04, identity.public.encode()) + _der(0x04, signature))
    serial = x509.random_serial_number()
    # Some verifiers want a subject that is not empty; go puts a random serial number there.
    name = x509.Name([x509.NameAttribute(NameOID.SERIAL_NUMBER, str(serial))])
    start = datetime.fromtimestamp(int(now), UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .serial_number(serial)
        .public_key(private.public_key())
        .not_valid_before(start - timedelta(hours=1))
        .not_valid_after(start + timedelta(days=36525))
        .add_extension(x509.UnrecognizedExtension(EXTENSION, signed_key), critical=False)
        .sign(private, SHA256())
    )
    return certificate, private


def verify_certificate(chain: bytes | Sequence[bytes], now: float) -> PublicKey:
    """The host key that a remote's certificate proves, after every check of tls.md.

    chain: what the remote presented, in DER. now: unix seconds. Raises RemoteProtocolError, and
    nothing else, on any bytes. A TLS version below 1.3 must have been refused before.
    """
    certificates = [chain] if isinstance(chain, bytes) else list(chain)
    if len(certificates) != 1:
        raise RemoteProtocolError(f"{len(certificates)} certificates presented; a peer presents one")
    der = certificates[0]
    if len(der) > MAX_SIZE:
        raise RemoteProtocolError(f"certificate of {len(der)} bytes; limit {MAX_SIZE}")
    try:
        certificate = x509.load_der_x509_certificate(der)
        extensions = list(certificate.extensions)
        key = certificate.public_key()
        subject_public_key_info = _subject_public_key_info(key)
        start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        moment = datetime.fromtimestamp(now, UTC)
    except Exception as error:  # the library's own list of exceptions is open
        raise RemoteProtocolError(f"certificate that cannot be read: {error}") from None
    if subject_public_key_info not in certificate.tbs_certificate_bytes:
        # tls.md: NamedCurve only. The library also reads a curve that is spelt out, but writes the name.
        raise RemoteProtocolError("certificate whose key is not in the one form allowed (named curve)")
    if not start <= moment <= end:
        raise RemoteProtocolError(
            f"certificate valid from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC, and it is "
            f"{moment:%Y-%m-%d %H:%M}; is this machine's clock right?"
        )
    host, signature = _signed_key(extensions)
    _check_self_signature(certificate, key)
    if not host.verify(SIGNED_PREFIX + subject_public_key_info, signature):
        raise RemoteProtocolError("certificate whose key the host key has not signed")
    return host


def _signed_key(extensions: Sequence[x509.Extension[x509.ExtensionType]]) -> tuple[PublicKey, bytes]:
    """The host key and its signature, from the one extension that we understand."""
    value: bytes | None = None
    for extension in extensions:
        if extension.oid == EXTENSION and isinstance(extension.value, x509.UnrecognizedExtension):
            value = extension.value.value
        elif extension.critical:
            raise RemoteProtocolError(
                f"certificate with an unknown critical extension, {extension.oid.dotted_string}"
            )
    if value is None:
        raise RemoteProtocolError(
            f"certificate without the libp2p extension {EXTENSION.dotted_string}: this is no libp2p peer"
        )
    content, rest = _read_der(0x30, value)
    key, signature_field = _read_der(0x04, content)
    signature, more = _read_der(0x04, signature_field)
    if rest or more:
        raise RemoteProtocolError("libp2p extension with bytes behind its end")
    return PublicKey.decode(key), signature


def _check_self_signature(certificate: x509.Certificate, key: object) -> None:
    """The certificate must be signed by its own key, with a scheme and a hash that count as safe."""
    algorithm = certificate.signature_algorithm_oid.dotted_string
    signature, signed = certificate.signature, certificate.tbs_certificate_bytes
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, signed)
            return
        scheme = certificate.signature_algorithm_parameters
        hashed = certificate.signature_hash_algorithm
        if hashed is not None and hashed.digest_size >= 32:  # tls.md: at least 256 bits, so no SHA-1
            if (
                isinstance(key, ec.EllipticCurvePublicKey)
                and key.curve.name in _CURVES
                and isinstance(scheme, ec.ECDSA)
            ):
                key.verify(signature, signed, scheme)
                return
            if (
                isinstance(key, rsa.RSAPublicKey)
                and key.key_size in RSA_BITS
                and isinstance(scheme, padding.PKCS1v15 | padding.PSS)
            ):
                key.verify(signature, signed, scheme, hashed)
                return
    except Exception as error:  # InvalidSignature, or whatever a backend makes of hostile bytes
        reason = str(error) or type(error).__name__
        raise RemoteProtocolError(f"certificate whose self-signature does not hold: {reason}") from None
    raise RemoteProtocolError(f"certificate signed with {algorithm} by a {type(key).__name__}: refused")


def _subject_public_key_info(key: object) -> bytes:
    if not isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey):
        raise RemoteProtocolError(f"certificate with a {type(key).__name__}: refused")
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _der(tag: int, content: bytes) -> bytes:
    """One DER element; content below 65536 bytes."""
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    if size < 0x100:
        return bytes((tag, 0x81, size)) + content
    return bytes((tag, 0x82)) + size.to_bytes(2, "big") + content


def _read_der(tag: int, data: bytes) -> tuple[bytes, bytes]:
    """The content of the DER element that data begins with, and what follows it."""
    for header in range(2, 5):
        long_form = 0x80 | header - 2
        if len(data) < header or data[0] != tag:
            break
        if header == 2 and data[1] < 0x80:
            size = data[1]
        elif header > 2 and data[1] == long_form:
            size = int.from_bytes(data[2:header], "big")
        else:
            continue
        content = data[header : header + size]
        if len(content) == size and _der(tag, content) == data[: header + size]:
            return content, data[header + size :]
    raise RemoteProtocolError("libp2p extension that is no SEQUENCE of two OCTET STRINGs in DER")

"""Who a node is: keys, signatures, and the peer ids that follow from keys.

Source: libp2p/specs, peer-ids/peer-ids.md. A peer id is the multihash of an encoded public key, so
the encoding must be exact: it is written by hand (`protobuf.py`), never by a general encoder. Keys
of up to 42 bytes (Ed25519, secp256k1) stand in the id itself and can be read back from it.

Our own keys are Ed25519. The keys of others may be secp256k1, ECDSA (P-256, P-384, P-521) or RSA of
2048 to 8192 bits. A key has one encoding: what is not canonical is refused, else one key would have
several ids.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable
from enum import IntEnum
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from grove_core import multibase, protobuf, varint
from grove_core.errors import ConfigError, LocalProtocolError, RemoteProtocolError
from grove_core.machine import PeerId

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes

# `cryptography` is imported where it is used: naming a peer must not cost 30 ms of start-up.

MAX_KEY = 1280
"""Longest encoded public key in bytes; RSA-8192 needs 1070."""

MAX_PRIVATE_KEY = 8192
"""Longest encoded private key in bytes; RSA-8192 needs about 4650."""

INLINE_KEY = 42
"""Encoded keys up to this many bytes become identity multihashes (peer-ids.md)."""

RSA_BITS = range(2048, 8193)
"""Key sizes accepted, as in go-libp2p."""

_LIBP2P_KEY = 0x72
"""Multicodec of peer ids written as CIDs."""


class KeyType(IntEnum):
    """The kinds of keys, numbered as on the wire (peer-ids.md, enum KeyType)."""

    RSA = 0
    ED25519 = 1
    SECP256K1 = 2
    ECDSA = 3


class PublicKey(msgspec.Struct, frozen=True, gc=False):
    """A public key. Values are equal if the keys are.

    data: Ed25519 32 raw bytes; secp256k1 a 33-byte compressed point; ECDSA and RSA a
    SubjectPublicKeyInfo in DER.
    """

    type: KeyType
    data: bytes

    def encode(self) -> bytes:
        """The libp2p PublicKey message: both fields, ascending, RSA's zero included."""
        return protobuf.field(1, self.type) + protobuf.field(2, self.data)

    @classmethod
    def decode(cls, data: bytes) -> PublicKey:
        """Read a PublicKey message. Raises RemoteProtocolError, and nothing else, on any bytes.

        The key's form is checked; whether an Ed25519 or secp256k1 point lies on its curve shows
        only when a signature is verified.
        """
        if len(data) > MAX_KEY:
            raise RemoteProtocolError(f"public key of {len(data)} bytes; limit {MAX_KEY}")
        return _decode_public(bytes(data))

    @classmethod
    def of(cls, peer: PeerId, encoded: bytes = b"") -> PublicKey | None:
        """The key that a peer id carries; None if the id is only a hash (RSA, ECDSA).

        encoded: a PublicKey message that came beside the id; it counts only if it hashes to the id.
        """
        if not encoded:
            return _key_in(peer)
        try:
            key = cls.decode(encoded)
        except RemoteProtocolError:
            return None
        return key if key.peer == peer else None

    @property
    def peer(self) -> PeerId:
        """The peer id that belongs to this key."""
        return _peer_of(self)

    def verify(self, data: bytes, signature: bytes) -> bool:
        """Whether the signature over data is this key's. Never raises, whatever the bytes.

        Ed25519 as in RFC 8032; secp256k1 and ECDSA over SHA-256 in DER; RSA PKCS#1 v1.5 with SHA-256.
        """
        try:
            return _verifier(self)(bytes(signature), bytes(data))
        except Exception:  # whatever a backend makes of hostile bytes, it is not a good signature
            return False


class Identity:
    """A private key and the peer it makes. Ours are Ed25519; other kinds can be read and used."""

    __slots__ = ("_private", "_sign", "peer", "public")

    peer: PeerId
    public: PublicKey

    def __init__(self, key_type: KeyType, private: bytes) -> None:
        """private: the Data of a libp2p PrivateKey message. Raises RemoteProtocolError if it is none."""
        self.public, self._sign = _open_private(key_type, private)
        if key_type is KeyType.ED25519:
            private = private[:64]  # the legacy form is read, never written
        self._private = protobuf.field(1, key_type) + protobuf.field(2, private)
        self.peer = self.public.peer

    @classmethod
    def generate(cls) -> Identity:
        """A new Ed25519 identity, from the system's randomness."""
        return cls.from_seed(secrets.token_bytes(32))

    @classmethod
    def from_seed(cls, seed: bytes) -> Identity:
        """The Ed25519 identity of a 32-byte seed (RFC 8032's private key). For tests and simulations."""
        if len(seed) != 32:
            raise LocalProtocolError(f"an Ed25519 seed has 32 bytes, not {len(seed)}")
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
        return cls(KeyType.ED25519, seed + public)

    def sign(self, data: bytes) -> bytes:
        """The signature over data, in the form `PublicKey.verify` checks (64 bytes for Ed25519)."""
        return self._sign(data)

    def encode(self) -> bytes:
        """The libp2p PrivateKey message. Secret; keep it in a file of mode 0600."""
        return self._private

    @classmethod
    def decode(cls, data: bytes) -> Identity:
        """Read a PrivateKey message of any of the four kinds. Raises RemoteProtocolError."""
        if len(data) > MAX_PRIVATE_KEY:
            raise RemoteProtocolError(f"private key of {len(data)} bytes; limit {MAX_PRIVATE_KEY}")
        return cls(*_key_fields(data, "private key"))

    @classmethod
    def load(cls, path: Path) -> Identity:
        """Read the key file. Raises FileNotFoundError, or ConfigError if it holds no key."""
        with open(path, "rb") as file:
            data = file.read(MAX_PRIVATE_KEY + 1)
        try:
            return cls.decode(data)
        except RemoteProtocolError as error:
            raise ConfigError(
                [
                    f"{path}: no libp2p private key ({error}); restore the file from a backup, or move "
                    "it away to let the node make itself a new identity"
                ]
            ) from None

    def save(self, path: Path) -> None:
        """Write the key file whole or not at all, for its owner's eyes only, replacing what was there."""
        draft = self._draft(path)
        try:
            os.replace(draft, path)
        except BaseException:
            os.unlink(draft)
            raise
        _sync_folder(path.parent)

    @classmethod
    def load_or_create(cls, path: Path) -> Identity:
        """The identity kept at path; a new one is made there if there is none.

        Of several processes that start at once, one makes the key and all read it.
        """
        try:
            return cls.load(path)
        except FileNotFoundError:
            pass
        identity = cls.generate()
        draft = identity._draft(path)
        try:
            os.link(draft, path)  # unlike a rename, fails if somebody was faster
        except FileExistsError:
            return cls.load(path)
        finally:
            os.unlink(draft)
        _sync_folder(path.parent)
        return identity

    def _draft(self, path: Path) -> Path:
        """The key in a new durable file of mode 0600 beside path."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(self._private)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            os.unlink(draft)
            raise
        return draft

    def __repr__(self) -> str:
        return f"Identity({short(self.peer)})"

    def __reduce__(self) -> tuple[Callable[[bytes], Identity], tuple[bytes]]:
        return Identity.decode, (self._private,)


def check_peer(data: bytes) -> PeerId:
    """The peer id that these bytes are. Raises RemoteProtocolError, and nothing else, if they are none.

    34 bytes `12 20 …` (sha2-256 of a key), or `00 len …` with a canonically encoded key inside.
    """
    if len(data) == 34 and data[:2] == b"\x12\x20":
        return PeerId(bytes(data))
    if data[:1] != b"\x00" or len(data) < 2 or data[1] != len(data) - 2 or data[1] > INLINE_KEY:
        raise RemoteProtocolError(
            f"peer id of {len(data)} bytes beginning {bytes(data[:4]).hex()}; it is 12 20 and 32 bytes, "
            f"or 00, a length up to {INLINE_KEY} and a key"
        )
    peer = PeerId(bytes(data))
    if _key_in(peer) is None:
        raise RemoteProtocolError(f"peer id with no key of a known kind in it: {peer.hex()}")
    return peer


@lru_cache(maxsize=4096)
def peer_text(peer: PeerId) -> str:
    """A peer id as people write it: bare base58btc, "12D3KooW…" or "Qm…"."""
    return multibase.base58(peer)


def parse_peer(text: str) -> PeerId:
    """Read a peer id written as base58btc or as CIDv1 in any multibase. Raises RemoteProtocolError."""
    if text.startswith(("1", "Qm")):
        return check_peer(multibase.from_base58(text))
    data = multibase.decode(text)
    version, at = varint.decode(data)
    if version != 1:
        raise RemoteProtocolError(f"peer id as CID version {version}; it is 1")
    codec, at = varint.decode(data, at)
    if codec != _LIBP2P_KEY:
        raise RemoteProtocolError(f"a CID of codec {codec:#x} is no peer id; theirs is {_LIBP2P_KEY:#x}")
    return check_peer(data[at:])


def peer_cid(peer: PeerId) -> str:
    """A peer id as CIDv1 in base32: "bafz…"."""
    return "b" + multibase.base32(bytes((1, _LIBP2P_KEY)) + peer)


def short(peer: PeerId) -> str:
    """A peer id for the eye, not for machines: "12D3…h7Qz"."""
    text = peer_text(peer)
    return f"{text[:4]}…{text[-4:]}"


@lru_cache(maxsize=4096)
def _key_in(peer: PeerId) -> PublicKey | None:
    """The canonical key inside an identity multihash."""
    if len(peer) < 2 or peer[0] != 0 or peer[1] != len(peer) - 2 or peer[1] > INLINE_KEY:
        return None
    try:
        key = PublicKey.decode(peer[2:])
    except RemoteProtocolError:
        return None
    return key if key.encode() == peer[2:] else None


@lru_cache(maxsize=1024)
def _peer_of(key: PublicKey) -> PeerId:
    encoded = key.encode()
    if len(encoded) <= INLINE_KEY:
        return PeerId(bytes((0, len(encoded))) + encoded)
    return PeerId(b"\x12\x20" + hashlib.sha256(encoded).digest())


def _key_fields(data: bytes, what: str) -> tuple[KeyType, bytes]:
    """Type and Data of either key message; unknown fields are skipped, an absent type is RSA's 0."""
    kind, content = 0, None
    for number, value in protobuf.fields(data):
        if number == 1:
            kind = protobuf.as_int(value, f"type of a {what}")
        elif number == 2:
            content = protobuf.as_bytes(value, f"data of a {what}")
    if content is None:
        raise RemoteProtocolError(f"{what} without data")
    if kind > max(KeyType):
        raise RemoteProtocolError(f"{what} of type {kind}; known are 0 to {max(KeyType):d}")
    return KeyType(kind), content


@lru_cache(maxsize=1024)
def _decode_public(encoded: bytes) -> PublicKey:
    key_type, data = _key_fields(encoded, "public key")
    if key_type is KeyType.ED25519:
        if len(data) != 32:
            raise RemoteProtocolError(f"Ed25519 public key of {len(data)} bytes; it has 32")
    elif key_type is KeyType.SECP256K1:
        if len(data) != 33 or data[0] not in (2, 3):
            raise RemoteProtocolError(
                f"secp256k1 public key of {len(data)} bytes beginning {data[:1].hex()}; it is 02 "
                "or 03, then 32 bytes (a compressed point)"
            )
    else:
        _check_spki(key_type, data)
    return PublicKey(key_type, data)


def _check_spki(key_type: KeyType, data: bytes) -> None:
    """An RSA or ECDSA key must be the one DER encoding of a key of a size and curve we accept."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    try:
        key = serialization.load_der_public_key(data)
    except Exception as error:  # the library's own list of exceptions is open
        raise RemoteProtocolError(f"{key_type.name} public key that is no DER key: {error}") from None
    if key_type is KeyType.RSA:
        if not isinstance(key, rsa.RSAPublicKey):
            raise RemoteProtocolError("public key of type RSA holds a key of another kind")
        if key.key_size not in RSA_BITS:
            raise RemoteProtocolError(
                f"RSA key of {key.key_size} bits; {RSA_BITS[0]} to {RSA_BITS[-1]} are accepted"
            )
    elif not isinstance(key, ec.EllipticCurvePublicKey):
        raise RemoteProtocolError("public key of type ECDSA holds a key of another kind")
    elif key.curve.name not in ("secp256r1", "secp384r1", "secp521r1"):
        raise RemoteProtocolError(f"ECDSA key on {key.curve.name}; P-256, P-384 and P-521 are accepted")
    if _spki(key) != data:
        raise RemoteProtocolError(f"{key_type.name} public key that is not in its canonical DER form")


def _spki(key: PublicKeyTypes) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


Verifier = Callable[[bytes, bytes], bool]
"""(signature, data) -> whether it holds."""


@lru_cache(maxsize=1024)
def _verifier(key: PublicKey) -> Verifier:
    """The check for one key, with the key parsed once. Raises if the key is no key at all."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

    check: Callable[[bytes, bytes], None]
    if key.type is KeyType.ED25519:
        check = ed25519.Ed25519PublicKey.from_public_bytes(key.data).verify
    elif key.type is KeyType.RSA:
        rsa_key = serialization.load_der_public_key(key.data)
        assert isinstance(rsa_key, rsa.RSAPublicKey)

        def check(signature: bytes, data: bytes) -> None:
            rsa_key.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
    else:
        if key.type is KeyType.SECP256K1:
            ec_key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), key.data)
        else:
            loaded = serialization.load_der_public_key(key.data)
            assert isinstance(loaded, ec.EllipticCurvePublicKey)
            ec_key = loaded
        algorithm = ec.ECDSA(hashes.SHA256())

        def check(signature: bytes, data: bytes) -> None:
            ec_key.verify(signature, data, algorithm)

    def verify(signature: bytes, data: bytes) -> bool:
        try:
            check(signature, data)
        except InvalidSignature:
            return False
        return True

    return verify


def _open_private(key_type: KeyType, data: bytes) -> tuple[PublicKey, Callable[[bytes], bytes]]:
    """The public half of a private key, and the function that signs."""
    if key_type is KeyType.ED25519:
        return _open_ed25519(data)
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

    private: PrivateKeyTypes | None = None
    with contextlib.suppress(Exception):  # the library's own list of exceptions is open
        if key_type is not KeyType.SECP256K1:
            private = serialization.load_der_private_key(data, password=None)
        elif len(data) == 32:
            private = ec.derive_private_key(int.from_bytes(data, "big"), ec.SECP256K1())
    if key_type is KeyType.RSA and isinstance(private, rsa.RSAPrivateKey):
        rsa_key = private
        public = PublicKey(key_type, _spki(rsa_key.public_key()))
        _check_spki(key_type, public.data)
        return public, lambda message: rsa_key.sign(message, padding.PKCS1v15(), hashes.SHA256())
    if key_type is not KeyType.RSA and isinstance(private, ec.EllipticCurvePrivateKey):
        ec_key = private
        if key_type is KeyType.SECP256K1:
            point = ec_key.public_key().public_bytes(
                serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint
            )
            public = PublicKey(key_type, point)
        else:
            public = PublicKey(key_type, _spki(ec_key.public_key()))
            _check_spki(key_type, public.data)
        algorithm = ec.ECDSA(hashes.SHA256())
        return public, lambda message: ec_key.sign(message, algorithm)
    raise RemoteProtocolError(f"{key_type.name} private key that cannot be read ({len(data)} bytes)")


def _open_ed25519(data: bytes) -> tuple[PublicKey, Callable[[bytes], bytes]]:
    """seed ‖ public, 64 bytes; or the legacy 96 with the public key twice (peer-ids.md)."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if len(data) not in (64, 96):
        raise RemoteProtocolError(f"Ed25519 private key of {len(data)} bytes; it has 64, or 96 of old")
    private = Ed25519PrivateKey.from_private_bytes(data[:32])
    public = private.public_key().public_bytes_raw()
    if any(data[at : at + 32] != public for at in range(32, len(data), 32)):
        raise RemoteProtocolError("Ed25519 private key whose public half does not belong to it")
    return PublicKey(KeyType.ED25519, public), private.sign


def _sync_folder(folder: Path) -> None:
    """Make a new name in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Noise XX as libp2p speaks it over TCP: who the remote is, and secrecy from then on.

Sources: noiseprotocol.org revision 34 (sections 4, 5, 7.5 pattern XX) and libp2p/specs noise/README.md;
facts and limits in libp2p-wire.md 2.3. The three messages::

    -> e
    <- e, ee, s, es   + signed payload
    -> s, se          + signed payload

Each message, of the handshake and after it, travels behind a big-endian u16 length. The payload
proves that the Noise static key belongs to a libp2p identity, and lists muxers so that agreeing on
one costs no round trip. Pure byte machines: keys are injected, there is no clock and no socket.

1. Nothing but an ephemeral key is sent before the other end has shown its static key.
2. Nothing is sent to a dialled remote that is not the peer we meant (`expected`).
3. A handshake message is at most 16 KiB, a transport message at most 65535 bytes.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from grove_core import protobuf
from grove_core.errors import LocalProtocolError, RemoteProtocolError
from grove_core.identity import Identity, PublicKey, peer_text
from grove_core.machine import PeerId

PROTOCOL: Final = "/noise"

MAX_PLAINTEXT: Final = 65519
"""Bytes that one transport message carries: 65535 less the tag of 16."""

MAX_HANDSHAKE: Final = 16 * 1024
"""Longest handshake message accepted. RSA-8192 identities need about 2.2 KiB."""

MAX_MUXERS: Final = 100
"""Entries of a remote's list of muxers that are looked at (go-libp2p)."""

LARGE: Final = 32 * 1024
"""From this many bytes on, a piece is sealed on its own: one more message is cheaper than a copy."""

_NAME = b"Noise_XX_25519_ChaChaPoly_SHA256"
_SIGNED_PREFIX = b"noise-libp2p-static-key:"
_TAG = 16
_nonce = struct.Struct("<4xQ").pack  # 32 zero bits, then the counter (Noise section 12.3)
_length = struct.Struct(">H").pack


class Credentials:
    """Our static key with the identity's signature over it: made once, used for every handshake."""

    __slots__ = ("identity_key", "identity_sig", "static", "static_public")

    def __init__(self, identity: Identity, static: X25519PrivateKey) -> None:
        self.static = static
        self.static_public = static.public_key().public_bytes_raw()
        self.identity_key = identity.public.encode()
        self.identity_sig = identity.sign(_SIGNED_PREFIX + self.static_public)

    def payload(self, muxers: Sequence[str]) -> bytes:
        """Our NoiseHandshakePayload."""
        extensions = b"".join(protobuf.field(2, muxer.encode()) for muxer in muxers)
        return (
            protobuf.field(1, self.identity_key)
            + protobuf.field(2, self.identity_sig)
            + (protobuf.field(4, extensions) if extensions else b"")
        )


class Handshake:
    """One side of the handshake. Send `start()`, then what each `receive` returns, until `session`.

    ephemeral: a fresh key; never use one twice. muxers: ours, best first. expected: the peer we
    dialled; None accepts anyone.
    """

    __slots__ = (
        "_buffer",
        "_credentials",
        "_expected",
        "_initiator",
        "_muxers",
        "_xx",
        "muxer",
        "remainder",
        "remote",
        "session",
    )

    def __init__(
        self,
        *,
        initiator: bool,
        credentials: Credentials,
        ephemeral: X25519PrivateKey,
        muxers: Sequence[str] = (),
        expected: PeerId | None = None,
    ) -> None:
        self._initiator = initiator
        self._credentials = credentials
        self._muxers = tuple(muxers)
        self._expected = expected
        self._xx = XX(initiator, credentials.static, ephemeral)
        self._buffer = b""
        self.session: Session | None = None
        """Set once the handshake is complete."""
        self.remote: PublicKey | None = None
        """The identity that the remote has proven."""
        self.muxer: str | None = None
        """What both lists agree on; None: use multistream-select."""
        self.remainder = b""
        """Bytes received behind the handshake."""

    def start(self) -> bytes:
        """What the initiator sends first; nothing for a responder."""
        return _framed(self._xx.write(b"")) if self._initiator else b""

    def receive(self, data: bytes) -> bytes:
        """Take bytes of the remote, give bytes for it.

        Raises RemoteProtocolError: garbage, a bad signature, or not the expected peer.
        """
        assert self.session is None, "the handshake is over"
        self._buffer += data
        out = b""
        while self.session is None and (message := self._next()) is not None:
            out += self._step(message)
        if self.session is not None:
            self.remainder, self._buffer = self._buffer, b""
        return out

    def _next(self) -> bytes | None:
        buffer = self._buffer
        if len(buffer) < 2:
            return None
        end = 2 + int.from_bytes(buffer[:2], "big")
        if end - 2 > MAX_HANDSHAKE:
            raise RemoteProtocolError(
                f"Noise handshake message of {end - 2} bytes; limit {MAX_HANDSHAKE}"
            )
        if len(buffer) < end:
            return None
        self._buffer = buffer[end:]
        return buffer[2:end]

    def _step(self, message: bytes) -> bytes:
        payload = self._xx.read(message)
        if self._initiator:  # message 2
            self._authenticate(payload)
            last = _framed(self._xx.write(self._credentials.payload(self._muxers)))
            self._complete()
            return last
        if self.remote is None and self._xx.step == 1:
            return _framed(self._xx.write(self._credentials.payload(self._muxers)))
        self._authenticate(payload)
        self._complete()
        return b""

    def _authenticate(self, payload: bytes) -> None:
        """The checks of the specification on the remote's payload."""
        identity_key = identity_sig = b""
        muxers: list[str] = []
        for number, value in protobuf.fields(payload):
            if number == 1:
                identity_key = protobuf.as_bytes(value, "Noise identity_key")
            elif number == 2:
                identity_sig = protobuf.as_bytes(value, "Noise identity_sig")
            elif number == 4:
                muxers = _muxers_of(protobuf.as_bytes(value, "Noise extensions"))
        if not identity_key or not identity_sig:
            raise RemoteProtocolError("Noise payload without identity key or signature")
        key = PublicKey.decode(identity_key)
        static = self._xx.remote_static
        assert static is not None
        if not key.verify(_SIGNED_PREFIX + static, identity_sig):
            raise RemoteProtocolError("the signature over the Noise static key is not the identity's")
        if self._expected is not None and key.peer != self._expected:
            raise WrongPeer(self._expected, key.peer)
        self.remote = key
        ours, theirs = (self._muxers, muxers) if self._initiator else (muxers, self._muxers)
        self.muxer = next((muxer for muxer in ours if muxer in theirs), None)

    def _complete(self) -> None:
        first, second = self._xx.split()
        self.session = Session(first, second) if self._initiator else Session(second, first)


class WrongPeer(RemoteProtocolError):
    """Somebody else answered than the peer that was dialled."""

    def __init__(self, expected: PeerId, found: PeerId) -> None:
        super().__init__(f"expected peer {peer_text(expected)}, found {peer_text(found)}")
        self.found = found


def _muxers_of(extensions: bytes) -> list[str]:
    """NoiseExtensions.stream_muxers; entries that are no text are skipped."""
    muxers: list[str] = []
    for number, value in protobuf.fields(extensions):
        if number == 2 and len(muxers) < MAX_MUXERS:
            name = protobuf.as_bytes(value, "Noise stream_muxers")
            muxers.append(name.decode("utf-8", "replace"))
    return muxers


def _framed(message: bytes) -> bytes:
    return _length(len(message)) + message


# --- the Noise protocol framework, as much of it as XX needs ---------------------------------------


class XX:
    """The handshake pattern XX on its own, without libp2p's payloads (Noise sections 5.2, 5.3).

    Call `write` and `read` in turn, the initiator beginning with `write`; after message 3, `split`.
    """

    __slots__ = (
        "_chaining",
        "_cipher",
        "_counter",
        "_ephemeral",
        "_initiator",
        "_remote_ephemeral",
        "_static",
        "hash",
        "remote_static",
        "step",
    )

    def __init__(
        self,
        initiator: bool,
        static: X25519PrivateKey,
        ephemeral: X25519PrivateKey,
        prologue: bytes = b"",
    ) -> None:
        self._initiator = initiator
        self._static = static
        self._ephemeral = ephemeral
        self._remote_ephemeral: X25519PublicKey | None = None
        self.remote_static: bytes | None = None
        self._cipher: ChaCha20Poly1305 | None = None
        self._counter = 0
        self._chaining = self.hash = _NAME  # exactly 32 bytes, so it is not hashed
        self.step = 0
        self._mix_hash(prologue)

    def write(self, payload: bytes) -> bytes:
        """The next message of ours."""
        if (self.step % 2 == 0) != self._initiator or self.step > 2:
            raise LocalProtocolError(f"Noise message {self.step + 1} is not ours to send")
        out = b""
        if self.step < 2:
            public = self._ephemeral.public_key().public_bytes_raw()
            self._mix_hash(public)
            out += public
        if self.step == 1:
            self._mix_key(self._ephemeral, self._remote_ephemeral)  # ee
        if self.step > 0:
            out += self._seal(self._static.public_key().public_bytes_raw())  # s
            self._mix_key(self._static, self._remote_ephemeral)  # es of a responder, se of an initiator
        out += self._seal(payload)
        self.step += 1
        return out

    def read(self, message: bytes) -> bytes:
        """The payload of the remote's next message. Raises RemoteProtocolError."""
        if (self.step % 2 == 0) == self._initiator or self.step > 2:
            raise LocalProtocolError(f"Noise message {self.step + 1} is not the remote's to send")
        at = 0
        if self.step < 2:
            if len(message) < 32:
                raise RemoteProtocolError(
                    f"Noise message {self.step + 1} of {len(message)} bytes; an e has 32"
                )
            self._remote_ephemeral = X25519PublicKey.from_public_bytes(message[:32])
            self._mix_hash(message[:32])
            at = 32
        if self.step == 1:
            self._mix_key(self._ephemeral, self._remote_ephemeral)  # ee
        if self.step > 0:
            if len(message) < at + 32 + _TAG:
                raise RemoteProtocolError(
                    f"Noise message {self.step + 1} of {len(message)} bytes has no s"
                )
            self.remote_static = self._open(message[at : at + 32 + _TAG])  # s
            at += 32 + _TAG
            remote_static = X25519PublicKey.from_public_bytes(self.remote_static)
            self._mix_key(self._ephemeral, remote_static)  # es of an initiator, se of a responder
        payload = self._open(message[at:])
        self.step += 1
        return payload

    def split(self) -> tuple[bytes, bytes]:
        """The keys for transport: the initiator sends with the first."""
        if self.step != 3:
            raise LocalProtocolError(f"Noise handshake is at message {self.step + 1}, not complete")
        return self._hkdf(b"")

    def _mix_hash(self, data: bytes) -> None:
        self.hash = hashlib.sha256(self.hash + data).digest()

    def _mix_key(self, private: X25519PrivateKey, public: X25519PublicKey | None) -> None:
        assert public is not None
        try:
            shared = private.exchange(public)
        except ValueError:
            raise RemoteProtocolError("Noise key of the remote is a point of low order") from None
        self._chaining, key = self._hkdf(shared)
        self._cipher = ChaCha20Poly1305(key)
        self._counter = 0

    def _hkdf(self, material: bytes) -> tuple[bytes, bytes]:
        secret = hmac.digest(self._chaining, material, "sha256")
        first = hmac.digest(secret, b"\x01", "sha256")
        return first, hmac.digest(secret, first + b"\x02", "sha256")

    def _seal(self, plaintext: bytes) -> bytes:
        out = plaintext
        if self._cipher is not None:
            out = self._cipher.encrypt(_nonce(self._counter), plaintext, self.hash)
            self._counter += 1
        self._mix_hash(out)
        return out

    def _open(self, data: bytes) -> bytes:
        plaintext = data
        if self._cipher is not None:
            try:
                plaintext = self._cipher.decrypt(_nonce(self._counter), data, self.hash)
            except InvalidTag:
                raise RemoteProtocolError(f"Noise message {self.step + 1} does not decrypt") from None
            self._counter += 1
        self._mix_hash(data)
        return plaintext


class Session:
    """The two cipher states after the handshake: whole messages in, whole messages out.

    The counters are 64 bits wide and there is no rekey: at a million messages per second they last
    for half a million years, and `struct` refuses to go beyond.
    """

    __slots__ = ("_received", "_receiving", "_sending", "_sent")

    def __init__(self, send_key: bytes, receive_key: bytes) -> None:
        self._sending = ChaCha20Poly1305(send_key).encrypt
        self._receiving = ChaCha20Poly1305(receive_key).decrypt
        self._sent = 0
        self._received = 0

    def seal(self, plaintext: bytes) -> bytes:
        """One message with its length in front. plaintext: at most 65519 bytes."""
        if len(plaintext) > MAX_PLAINTEXT:
            raise LocalProtocolError(f"Noise message of {len(plaintext)} bytes; limit {MAX_PLAINTEXT}")
        nonce = _nonce(self._sent)
        self._sent += 1
        return _length(len(plaintext) + _TAG) + self._sending(nonce, plaintext, None)

    def seal_all(self, pieces: Sequence[bytes | memoryview]) -> list[bytes]:
        """As few messages as sensible for pieces of at most 65519 bytes each, as they go on the wire.

        Small pieces travel together; large ones alone, uncopied.
        """
        out: list[bytes] = []
        small: list[bytes | memoryview] = []
        room = MAX_PLAINTEXT
        for piece in pieces:
            size = len(piece)
            if size >= LARGE or size > room:
                if small:
                    self._seal_into(out, b"".join(small))
                    small = []
                    room = MAX_PLAINTEXT
                if size >= LARGE:
                    self._seal_into(out, piece)
                    continue
            small.append(piece)
            room -= size
        if small:
            self._seal_into(out, b"".join(small))
        return out

    def _seal_into(self, out: list[bytes], plaintext: bytes | memoryview) -> None:
        counter = self._sent
        self._sent = counter + 1
        out.append(_length(len(plaintext) + _TAG))
        out.append(self._sending(_nonce(counter), plaintext, None))

    def open(self, data: bytes | memoryview) -> tuple[list[bytes], int]:
        """Decrypt every whole message in data: their plaintexts, and how many bytes they took.

        What is left over, at most 65536 bytes, belongs in front of the bytes that come next. Raises
        RemoteProtocolError on the first message that was not sealed by the remote.
        """
        plaintexts: list[bytes] = []
        at, end = 0, len(data)
        counter = self._received
        try:
            while end - at >= 2:
                start = at + 2
                stop = start + (data[at] << 8 | data[at + 1])
                if stop > end:
                    break
                plaintexts.append(self._receiving(_nonce(counter), data[start:stop], None))
                counter += 1
                at = stop
        except InvalidTag:
            raise RemoteProtocolError(f"Noise message {counter} does not decrypt") from None
        self._received = counter
        return plaintexts, at

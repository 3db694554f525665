"""From a bare byte stream to a secure one that knows its muxer: the upgrade of libp2p-wire.md 2.

multistream-select for security, Noise, then the muxer: agreed inside Noise, or by a second
multistream-select where the remote lists none (rust-libp2p). The initiator sends its first three
messages in one go, since it proposes nothing but Noise: an upgrade costs one round trip before the
initiator may send, and half a one more before the responder may.

A pure machine. Invariant: it holds at most one message of the phase it is in, and the bytes of
the last call behind it; see the limits of multistream.py and noise.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from grove_core.errors import RemoteProtocolError
from grove_core.identity import PublicKey
from grove_core.machine import PeerId
from grove_libp2p import multistream, noise


class Upgrade:
    """One side of an upgrade. Send `start()`, then what each `receive` returns, until `done`.

    inline: whether our Noise payload lists the muxers (tests switch it off to be like rust).
    """

    __slots__ = (
        "_buffer",
        "_choice",
        "_handshake",
        "_initiator",
        "_muxers",
        "_security",
        "done",
        "early",
        "muxer",
        "remainder",
        "session",
        "stage",
    )

    def __init__(
        self,
        *,
        initiator: bool,
        credentials: noise.Credentials,
        ephemeral: X25519PrivateKey,
        muxers: Sequence[str],
        expected: PeerId | None = None,
        inline: bool = True,
    ) -> None:
        self._initiator = initiator
        self._muxers = tuple(muxers)
        self._handshake = noise.Handshake(
            initiator=initiator,
            credentials=credentials,
            ephemeral=ephemeral,
            muxers=muxers if inline else (),
            expected=expected,
        )
        self._security: multistream.Initiator | multistream.Responder
        self._security = self._negotiation((noise.PROTOCOL,))
        self._choice: multistream.Initiator | multistream.Responder | None = None
        self._buffer = b""
        self.stage = "agreeing on Noise"
        """What is going on, for people: "timed out while …"."""
        self.done = False
        self.session: noise.Session | None = None
        """The cipher states, once the handshake is complete."""
        self.muxer = ""
        """The muxer agreed on, once done."""
        self.early = b""
        """Decrypted bytes that came behind the choice of a muxer: the muxer's first."""
        self.remainder = b""
        """Bytes still encrypted that came behind the upgrade."""

    @property
    def remote(self) -> PublicKey | None:
        """The identity that the remote has proven, once it has."""
        return self._handshake.remote

    def start(self) -> bytes:
        """What to send before anything has come."""
        return self._security.opening + self._handshake.start()

    def receive(self, data: bytes) -> bytes:
        """Take bytes of the remote, give bytes for it. Raises RemoteProtocolError."""
        assert not self.done, "the upgrade is over"
        out = b""
        if self._security.agreed is None:
            out += self._security.receive(data)
            if isinstance(self._security, multistream.Initiator) and self._security.refused:
                raise RemoteProtocolError(f"the remote does not speak {noise.PROTOCOL}")
            if self._security.agreed is None:
                return out
            self.stage = "in the Noise handshake"
            data = self._security.remainder
        if self.session is None:
            out += self._handshake.receive(data)
            if self._handshake.session is None:
                return out
            self.session = self._handshake.session
            data = self._handshake.remainder
            if self._handshake.muxer is not None:
                return out + self._finish(self._handshake.muxer, b"", data)
            self.stage = "agreeing on a muxer"
            self._choice = self._negotiation(self._muxers)
            out += self.session.seal(self._choice.opening)
        return out + self._choose(data)

    def _choose(self, data: bytes) -> bytes:
        """The second multistream-select, inside Noise."""
        assert self.session is not None
        assert self._choice is not None
        data = self._buffer + data
        at = 0
        out = b""
        while (end := at + 2 + int.from_bytes(data[at : at + 2], "big")) <= len(data) and end - at > 2:
            plaintexts, _ = self.session.open(data[at:end])
            at = end
            for plaintext in plaintexts:
                answer = self._choice.receive(plaintext)
                if answer:
                    out += self.session.seal(answer)
            if isinstance(self._choice, multistream.Initiator) and self._choice.refused:
                raise RemoteProtocolError(f"the remote speaks none of {', '.join(self._muxers)}")
            if self._choice.agreed is not None:
                return out + self._finish(self._choice.agreed, self._choice.remainder, data[at:])
        self._buffer = data[at:]
        if self._buffer[:2] == b"\0\0":
            raise RemoteProtocolError("Noise message of 0 bytes; its tag alone has 16")
        return out

    def _finish(self, muxer: str, early: bytes, remainder: bytes) -> bytes:
        self.done = True
        self.stage = "done"
        self.muxer = muxer
        self.early = early
        self.remainder = remainder
        self._buffer = b""
        return b""

    def _negotiation(self, protocols: Sequence[str]) -> multistream.Initiator | multistream.Responder:
        if self._initiator:
            return multistream.Initiator(protocols)
        return multistream.Responder(protocols.__contains__)

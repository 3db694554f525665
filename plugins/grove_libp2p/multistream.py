"""multistream-select 1.0: two ends of a byte stream agree on what they speak over it.

Source: libp2p/specs, connections/README.md and multistream-select; limits as in go-libp2p. Both ends
send the header. The initiator proposes ids one by one; the responder echoes the one it speaks or
answers ``na``. An initiator may send header, proposal and the protocol's own first bytes at once, so
whatever follows the agreement is kept and handed on.

Pure machines: bytes in, bytes out. Time limits and what an id means are the caller's.

1. No message longer than 1024 bytes is accepted, none longer than 256 is sent.
2. Nothing behind the agreed id is looked at: it is in `remainder`.
3. A responder answers at most 64 proposals; the next one is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from grove_core.errors import LocalProtocolError, RemoteProtocolError
from grove_libp2p.framing import Unframer, frame

MAX_MESSAGE: Final = 1024
"""Bytes of one message, newline included (go and js refuse longer ones)."""

MAX_PROTOCOL: Final = 254
"""Characters of an id we propose."""

MAX_PROPOSALS: Final = 64
"""Proposals of a remote that we answer. Guess: no source gives this; go-libp2p proposes about 10."""

_HEADER_LINE = b"/multistream/1.0.0\n"
HEADER: Final = frame(_HEADER_LINE)
"""What both ends send first."""

NA: Final = frame(b"na\n")
"""The responder does not speak the proposed protocol."""


def message(protocol: str) -> bytes:
    """A proposal of an id, or its echo. Raises LocalProtocolError for an id we must not send."""
    line = protocol.encode()
    if not 1 <= len(line) <= MAX_PROTOCOL or b"\n" in line:
        raise LocalProtocolError(
            f"protocol id {protocol!r}; one has 1 to {MAX_PROTOCOL} bytes and no newline"
        )
    return frame(line + b"\n")


class Initiator:
    """Proposes protocols in order of preference until one is agreed on.

    Send `opening` first; then send what each `receive` returns. Over when `agreed` is set, or when
    `refused` is: the remote speaks none of them.
    """

    __slots__ = (
        "_expected",
        "_greeted",
        "_proposals",
        "_unframer",
        "agreed",
        "opening",
        "refused",
        "remainder",
    )

    def __init__(self, protocols: Sequence[str]) -> None:
        if not protocols:
            raise LocalProtocolError("a negotiation needs at least one protocol to propose")
        self._proposals = list(protocols)
        self._unframer: Unframer | None = None
        self._greeted = False
        self.opening = HEADER + message(protocols[0])
        self._expected = self.opening
        self.agreed: str | None = None
        self.refused = False
        self.remainder = b""

    def receive(self, data: bytes) -> bytes:
        """Take bytes of the remote, give bytes for it. Raises RemoteProtocolError."""
        if self._unframer is None:
            if data.startswith(self._expected):  # The usual answer, whole, in one piece.
                self.agreed = self._proposals[0]
                self.remainder = data[len(self._expected) :]
                return b""
            self._unframer = Unframer(MAX_MESSAGE, "multistream message")
        unframer = self._unframer
        unframer.feed(data)
        out = b""
        while (line := unframer.next()) is not None:
            if not self._greeted:
                _check_header(line)
                self._greeted = True
            elif line == b"na\n":
                del self._proposals[0]
                if not self._proposals:
                    self.refused = True
                    return out
                out += message(self._proposals[0])
            elif line == self._proposals[0].encode() + b"\n":
                self.agreed = self._proposals[0]
                self.remainder = unframer.rest()
                return out
            else:
                raise RemoteProtocolError(
                    f"multistream answer {_shown(line)} to the proposal {self._proposals[0]!r}"
                )
        return out


class Responder:
    """Answers proposals. speaks: whether we speak an id; asked anew for each proposal.

    Send `opening` first; then send what each `receive` returns. Over when `agreed` is set.
    """

    __slots__ = ("_answered", "_greeted", "_speaks", "_unframer", "agreed", "remainder")

    opening: Final = HEADER

    def __init__(self, speaks: Callable[[str], bool]) -> None:
        self._speaks = speaks
        self._unframer = Unframer(MAX_MESSAGE, "multistream message")
        self._greeted = False
        self._answered = 0
        self.agreed: str | None = None
        self.remainder = b""

    def receive(self, data: bytes) -> bytes:
        """Take bytes of the remote, give bytes for it. Raises RemoteProtocolError."""
        unframer = self._unframer
        if not self._greeted and data.startswith(HEADER):
            self._greeted = True
            data = data[len(HEADER) :]
        unframer.feed(data)
        out = b""
        while (line := unframer.next()) is not None:
            if not self._greeted:
                _check_header(line)
                self._greeted = True
                continue
            if not line.endswith(b"\n"):
                raise RemoteProtocolError(f"multistream message {_shown(line)} does not end in a newline")
            if self._answered == MAX_PROPOSALS:
                raise RemoteProtocolError(f"more than {MAX_PROPOSALS} multistream proposals")
            self._answered += 1
            try:
                protocol = line[:-1].decode()
            except UnicodeDecodeError:
                protocol = ""
            if protocol and self._speaks(protocol):
                self.agreed = protocol
                self.remainder = unframer.rest()
                return out + frame(line)
            out += NA
        return out


def _check_header(line: bytes) -> None:
    if line != _HEADER_LINE:
        raise RemoteProtocolError(f"first message {_shown(line)} is not /multistream/1.0.0")


def _shown(line: bytes) -> str:
    return repr(line[:60]) + ("…" if len(line) > 60 else "")

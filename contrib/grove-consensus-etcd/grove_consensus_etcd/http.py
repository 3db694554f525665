"""As much HTTP/1.1 (RFC 9112) as etcd's gateway needs: POST, and a body of known length or in chunks.

One connection, one request at a time. Whatever the other end sends: RemoteProtocolError, or OSError
when it is gone; and nothing is read without a bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Sequence
from typing import Final
from urllib.parse import urlsplit

import msgspec

from grove_core.errors import RemoteProtocolError

MAX_HEAD: Final = 32 << 10
"""Bytes of status line and headers, and of a chunk's line."""

Header = tuple[str, str]


class Head(msgspec.Struct, frozen=True):
    """What comes before a body. length None: in chunks."""

    status: int
    length: int | None
    keeps: bool


def read_head(data: bytes) -> Head:
    """Status line and headers, with the empty line. Raises RemoteProtocolError, and nothing else."""
    lines = data.split(b"\r\n")
    version, _, rest = lines[0].partition(b" ")
    status = rest[:3]
    if version != b"HTTP/1.1" or not _is_number(status, 3) or rest[3:4] not in (b"", b" "):
        raise RemoteProtocolError(f"not an answer in HTTP/1.1: {lines[0][:64]!r}")
    lengths: list[bytes] = []
    codings: list[bytes] = []
    keeps = True
    for line in lines[1:]:
        if not line:
            continue
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip():
            raise RemoteProtocolError(f"not a header: {line[:64]!r}")
        match name.lower():
            case b"content-length":
                lengths.append(value.strip())
            case b"transfer-encoding":
                codings.append(value.strip().lower())
            case b"connection":
                keeps = b"close" not in value.lower()
    if codings:
        if codings != [b"chunked"] or lengths:
            raise RemoteProtocolError(f"a body in {codings!r} and of length {lengths!r}")
        return Head(int(status), None, keeps)
    if len(lengths) != 1 or not _is_number(lengths[0], 18):
        raise RemoteProtocolError(f"a body of length {lengths!r}")
    return Head(int(status), int(lengths[0]), keeps)


def read_chunk_size(line: bytes) -> int:
    """Bytes of the chunk that follows. Raises RemoteProtocolError, and nothing else."""
    digits = line.rstrip(b"\r\n").partition(b";")[0].strip()
    if not 1 <= len(digits) <= 15 or any(digit not in b"0123456789abcdefABCDEF" for digit in digits):
        raise RemoteProtocolError(f"not the size of a chunk: {line[:64]!r}")
    return int(digits, 16)


def _is_number(text: bytes, longest: int) -> bool:
    return 1 <= len(text) <= longest and text.isdigit()


class Connection:
    """A connection to one endpoint. After any error, or cancellation, it is of no use: close it."""

    def __init__(self, host: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._host = host
        self._reader = reader
        self._writer = writer
        self.keeps = True
        """Whether another request may follow."""

    @classmethod
    async def open(cls, endpoint: str, tls: ssl.SSLContext | None) -> Connection:
        """Raises OSError. endpoint: as `Config` has checked it."""
        url = urlsplit(endpoint)
        assert url.hostname is not None
        is_safe = url.scheme == "https"
        port = url.port or (443 if is_safe else 80)
        reader, writer = await asyncio.open_connection(
            url.hostname, port, ssl=tls if is_safe else None, limit=MAX_HEAD
        )
        return cls(url.netloc, reader, writer)

    async def post(
        self, path: str, body: bytes, limit: int, headers: Sequence[Header] = ()
    ) -> tuple[int, bytes]:
        """Status and body of at most `limit` bytes."""
        head = await self._ask(path, body, headers)
        self.keeps = head.keeps
        parts: list[bytes] = []
        size = 0
        async with contextlib.aclosing(self._body(head)) as body_parts:
            async for part in body_parts:
                size += len(part)
                if size > limit:
                    raise RemoteProtocolError(f"an answer of more than {limit:,} bytes")
                parts.append(part)
        return head.status, b"".join(parts)

    async def lines(
        self, path: str, body: bytes, limit: int, headers: Sequence[Header] = ()
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        """Status and one line after the other, for as long as the other end talks. limit: of a line."""
        head = await self._ask(path, body, headers)
        self.keeps = False
        rest = bytearray()
        async with contextlib.aclosing(self._body(head)) as parts:
            async for part in parts:
                start = len(rest)
                rest += part
                while (end := rest.find(b"\n", start)) >= 0:
                    line = bytes(rest[:end])
                    del rest[: end + 1]
                    start = 0
                    if line.strip():
                        yield head.status, line
                if len(rest) > limit:
                    raise RemoteProtocolError(f"a line of more than {limit:,} bytes")
        if rest.strip():
            yield head.status, bytes(rest)

    async def _ask(self, path: str, body: bytes, headers: Sequence[Header]) -> Head:
        lines = [
            f"POST {path} HTTP/1.1",
            f"Host: {self._host}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            *(f"{name}: {value}" for name, value in headers),
        ]
        self._writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        await self._writer.drain()
        return read_head(await self._until(b"\r\n\r\n"))

    async def _body(self, head: Head) -> AsyncGenerator[bytes, None]:
        if head.length is not None:
            left = head.length
            while left:
                part = await self._some(left)
                left -= len(part)
                yield part
            return
        while left := read_chunk_size(await self._until(b"\r\n")):
            while left:
                part = await self._some(left)
                left -= len(part)
                yield part
            if await self._until(b"\r\n") != b"\r\n":
                raise RemoteProtocolError("a chunk that is longer than it says")
        for _ in range(64):  # trailers
            if await self._until(b"\r\n") == b"\r\n":
                return
        raise RemoteProtocolError("more than 64 trailers")

    async def _some(self, most: int) -> bytes:
        part = await self._reader.read(min(most, 1 << 18))
        if not part:
            raise ConnectionResetError("closed in the middle of an answer")
        return part

    async def _until(self, mark: bytes) -> bytes:
        try:
            return await self._reader.readuntil(mark)
        except asyncio.IncompleteReadError as error:
            raise ConnectionResetError("closed before it answered") from error
        except asyncio.LimitOverrunError:
            raise RemoteProtocolError(f"a head of more than {MAX_HEAD:,} bytes") from None

    async def close(self) -> None:
        self.keeps = False
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1.0):
                await self._writer.wait_closed()

    def abort(self) -> None:
        """Close without a word."""
        self.keeps = False
        self._writer.transport.abort()

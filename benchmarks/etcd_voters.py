"""etcd for `consensus.py`: Debian's, with its defaults, and a client process that speaks gRPC to it.

    python -m benchmarks.etcd_voters PORT…

The client is ours: enough of HTTP/2 for gRPC's unary calls and no more, because Python's full gRPC
would cost more than the server does. Its headers are the same for every call, so they are encoded once;
of an answer only the DATA matters, since a call that failed has none. As etcd's own benchmark does,
16 calls at most share a connection, which also stays far below the server's flow control window.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.voters import START, VALUE, Group, Process, answer
from grove_core.testing.loopback import free_ports

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
SHARED = 16
"""Calls at a time on one connection."""
MANY = 1 << 30
"""Bytes the server may send us on a connection: more than it does in any load."""


def frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    """RFC 9113 §4.1: 24-bit length, type, flags, stream."""
    return len(body).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + body


def _text(value: bytes) -> bytes:
    return bytes((len(value),)) + value


def call_headers(path: bytes) -> bytes:
    """RFC 7541: POST and http by their index, the rest as literals that are not indexed."""
    return b"".join(
        (
            b"\x83\x86",
            b"\x04", _text(path),
            b"\x01", _text(b"127.0.0.1"),
            b"\x0f\x10", _text(b"application/grpc"),
            b"\x00", _text(b"te"), _text(b"trailers"),
        )
    )  # fmt: skip


PUT = call_headers(b"/etcdserverpb.KV/Put")


def put_request(key: bytes, value: bytes) -> bytes:
    """etcdserverpb.PutRequest: key = 1, value = 2; before it gRPC's flag and length."""
    length = len(value)
    body = b"\x0a" + _text(key) + b"\x12" + bytes((length & 127 | 128, length >> 7)) + value
    return b"\x00" + len(body).to_bytes(4, "big") + body


class Connection(asyncio.Protocol):
    """One HTTP/2 connection to a member."""

    def __init__(self) -> None:
        self._buffer = b""
        self._next = 1
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._answered: set[int] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        window = frame(WINDOW, 0, 0, MANY.to_bytes(4, "big"))
        transport.write(PREFACE + frame(SETTINGS, 0, 0) + window)

    def connection_lost(self, error: Exception | None) -> None:
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(ConnectionError("etcd closed the connection"))
        self._waiting.clear()

    @property
    def calls(self) -> int:
        """Under way."""
        return len(self._waiting)

    @property
    def is_open(self) -> bool:
        return not self._transport.is_closing()

    def put(self, key: bytes, value: bytes) -> asyncio.Future[None]:
        """Done when etcd says so."""
        stream, self._next = self._next, self._next + 2
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not self.is_open:
            future.set_exception(ConnectionError("not connected"))
            return future
        self._waiting[stream] = future
        self._transport.write(
            frame(HEADERS, END_HEADERS, stream, PUT)
            + frame(DATA, END_STREAM, stream, put_request(key, value))
        )
        return future

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data
        at = 0
        while len(buffer) - at >= 9:
            size = int.from_bytes(buffer[at : at + 3], "big")
            if len(buffer) - at - 9 < size:
                break
            kind, flags = buffer[at + 3], buffer[at + 4]
            stream = int.from_bytes(buffer[at + 5 : at + 9], "big")
            self._frame(kind, flags, stream, buffer[at + 9 : at + 9 + size])
            at += 9 + size
        self._buffer = buffer[at:]

    def _frame(self, kind: int, flags: int, stream: int, body: bytes) -> None:
        if kind == DATA:
            self._answered.add(stream)
        elif kind in (HEADERS, RESET):
            if kind == RESET or flags & END_STREAM:
                future = self._waiting.pop(stream, None)
                is_answered = stream in self._answered
                self._answered.discard(stream)
                if future is None or future.done():
                    return
                if is_answered and kind == HEADERS:
                    future.set_result(None)
                else:
                    future.set_exception(RuntimeError("etcd refused the put"))
        elif kind == SETTINGS and not flags & ACK:
            self._transport.write(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self._transport.write(frame(PING, ACK, 0, body))
        elif kind == GOAWAY:
            self._transport.close()


async def client(port: int) -> None:
    """A hand beside one member; finds it again when it was away."""
    value = os.urandom(VALUE)
    connections: list[Connection] = []
    loop = asyncio.get_running_loop()

    async def put(number: int) -> None:
        open_ones = [one for one in connections if one.is_open]
        free = min(open_ones, key=lambda one: one.calls, default=None)
        if free is None or free.calls >= SHARED:
            free = (await loop.create_connection(Connection, "127.0.0.1", port))[1]
            connections[:] = [*open_ones, free]
        await free.put(b"key-%d" % number, value)

    await answer(put, lambda: leads(port))


def leads(port: int) -> bool:
    """Whether a member leads, by its own word (the JSON face of the same API)."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v3/maintenance/status", b"{}", {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=1.0) as said:
            status: Mapping[str, Any] = json.load(said)
    except OSError:
        return False
    return bool(status.get("leader")) and status["leader"] == status["header"]["member_id"]


class Etcd(Group):
    """Members, and a client process beside each; the one beside the leader puts."""

    name = "etcd"
    promise = "fsync"
    durability = "fdatasync before every acknowledgement (its WAL); no encryption between members"
    place = "another process, at the leader: gRPC Put"

    def __init__(self, nodes: int, folder: Path, timeout: float | None = None) -> None:
        super().__init__(nodes, folder, timeout)
        ports = free_ports(2 * nodes)
        self.ports, peers = ports[:nodes], ports[nodes:]
        cluster = ",".join(f"n{number}=http://127.0.0.1:{port}" for number, port in enumerate(peers))
        self.members: list[Process] = []
        for number in range(nodes):
            own, peer = f"http://127.0.0.1:{ports[number]}", f"http://127.0.0.1:{peers[number]}"
            command = [
                "etcd", "--name", f"n{number}", "--data-dir", str(folder / f"etcd-{number}"),
                "--listen-client-urls", own, "--advertise-client-urls", own,
                "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                "--initial-cluster", cluster, "--log-level", "error", "--logger", "zap",
            ]  # fmt: skip
            if timeout is not None:  # it wants five heartbeats in an election timeout
                command += ["--election-timeout", f"{timeout * 1e3:.0f}"]
                command += ["--heartbeat-interval", f"{min(0.1, timeout / 5) * 1e3:.0f}"]
            self.members.append(Process(command, folder / f"etcd-{number}.log"))
            hand = [sys.executable, "-m", "benchmarks.etcd_voters", str(ports[number])]
            self.voters.append(Process(hand, folder / f"client-{number}.log"))

    @classmethod
    def missing(cls) -> str:
        return "" if shutil.which("etcd") else "etcd is not installed (apt-get install etcd-server)"

    async def start(self) -> None:
        for member in self.members:
            await member.begin()
        await super().start()

    async def fail_over(self) -> float:
        """As of any group; who is killed is the member, not the client beside it."""
        number = await self.leader()
        others = [voter for place, voter in enumerate(self.voters) if place != number]
        begin = time.monotonic()
        self.members[number].running.kill()
        said = await asyncio.gather(*(voter.ask(do="probe", every=0.02) for voter in others))
        gap = min(one["at"] for one in said) - begin
        await self.members[number].end()
        await self.members[number].begin()
        async with asyncio.timeout(START):
            for voter in self.voters:
                await voter.ask(do="probe", every=0.1)
        return gap

    def processes(self) -> list[Process]:
        return [*self.members, *self.voters]


if __name__ == "__main__":
    asyncio.run(client(int(sys.argv[1])))

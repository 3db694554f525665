"""A Raft node that Maelstrom can test: ``python -m grove_raft.maelstrom``, workload lin-kv.

Maelstrom's protocol (jepsen-io/maelstrom, doc/protocol.md): a node is a process that reads and writes
JSON, one message per line: {src, dest, body: {type, msg_id, in_reply_to, …}}; the first is `init`. The
machine is the one that runs over sockets and in the simulator; this file is one more driver for it.
Raft's own messages travel as {"type": "raft", "frame": <base64>}. Records are kept in memory: what is
lost with the process is the whole node, and Maelstrom kills none.

Errors, "definite" when the operation surely did not happen: 11 temporarily unavailable, 20 no such key,
22 precondition failed; what is not known is answered by silence, Maelstrom's timeout.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections import deque
from collections.abc import Hashable
from hashlib import sha256
from random import Random
from typing import IO, Any

from grove_core.errors import LocalProtocolError, RemoteProtocolError
from grove_core.events import Committed, ReadReady, Rejected
from grove_core.machine import Event, PeerId, Terms, Token
from grove_core.multibase import base58
from grove_raft.config import Config
from grove_raft.machine import Raft
from grove_raft.messages import CODEC

UNAVAILABLE, NO_KEY, FAILED, UNSUPPORTED = 11, 20, 22, 10


def peer_of(name: str) -> PeerId:
    """A peer id for a Maelstrom node name."""
    return PeerId(b"\x00\x24\x08\x01\x12\x20" + sha256(name.encode()).digest())


class Node:
    """One node: the context of its machine, and the key-value store on top."""

    def __init__(self, name: str, names: list[str], out: IO[str]) -> None:
        self.name = name
        self.names = {peer_of(other): other for other in names}
        self.me = peer_of(name)
        self.rng = Random(f"{name}")
        self.records: dict[str, bytes] = {}
        self.values: dict[str, Any] = {}
        self.asked: dict[bytes, tuple[str, dict[str, Any]]] = {}
        """Client requests without an answer: who asked, and the body."""
        self._out = out
        self._loop = asyncio.get_running_loop()
        self._timers: dict[Hashable, asyncio.TimerHandle] = {}
        self._events: deque[Event] = deque()
        self.machine = Raft(Config(voters=tuple(base58(peer) for peer in sorted(self.names))))
        self.machine.on_start(self)
        for peer in self.names:
            if peer != self.me:
                self.machine.on_peer_up(self, peer)
        self._settle()

    # What comes in.

    def receive(self, message: dict[str, Any]) -> None:
        """One line, decoded."""
        source, body = str(message["src"]), message["body"]
        kind = body["type"]
        if kind == "raft":
            try:
                msg = CODEC.decode(base64.b64decode(body["frame"]))
            except (RemoteProtocolError, ValueError):
                return
            self.machine.on_message(self, peer_of(source), msg)
        elif kind == "read":
            self.asked[self.machine.read(self)] = (source, body)
        elif kind in ("write", "cas"):
            command = json.dumps([kind, body["key"], body.get("from"), body.get("to", body.get("value"))])
            self.asked[self.machine.propose(self, command.encode())] = (source, body)
        elif "in_reply_to" not in body:
            self.answer(source, body, type="error", code=UNSUPPORTED, text=f"lin-kv has no {kind}")
        self._settle()

    def answer(self, to: str, asked: dict[str, Any], **body: Any) -> None:
        self.write(to, {**body, "in_reply_to": asked.get("msg_id")})

    def write(self, to: str, body: dict[str, Any]) -> None:
        self._out.write(json.dumps({"src": self.name, "dest": to, "body": body}) + "\n")
        self._out.flush()

    # The state machine.

    def _settle(self) -> None:
        while self._events:
            event = self._events.popleft()
            if isinstance(event, Committed):
                self._apply(event)
            elif isinstance(event, ReadReady) and event.id in self.asked:
                source, body = self.asked.pop(event.id)
                key = json.dumps(body["key"])
                if key in self.values:
                    self.answer(source, body, type="read_ok", value=self.values[key])
                else:
                    self.answer(source, body, type="error", code=NO_KEY, text="no such key")
            elif isinstance(event, Rejected) and event.id in self.asked:
                source, body = self.asked.pop(event.id)
                self.answer(source, body, type="error", code=UNAVAILABLE, text=event.reason)

    def _apply(self, event: Committed) -> None:
        kind, name, before, value = json.loads(event.command)
        key = json.dumps(name)
        code = 0
        if kind == "cas" and key not in self.values:
            code = NO_KEY
        elif kind == "cas" and self.values[key] != before:
            code = FAILED
        else:
            self.values[key] = value
        if event.id in self.asked:
            source, body = self.asked.pop(event.id)
            if code:
                text = "no such key" if code == NO_KEY else f"expected {before!r}"
                self.answer(source, body, type="error", code=code, text=text)
            else:
                self.answer(source, body, type=f"{kind}_ok")

    # The context (grove_core.machine.Context).

    @property
    def now(self) -> float:
        return self._loop.time()

    def record(self, peer: PeerId) -> bytes:
        return b""

    def terms(self, peer: PeerId) -> Terms:
        return Terms()

    def send(self, peer: PeerId, msg: Any) -> None:
        frame = base64.b64encode(CODEC.encode(msg)).decode()
        self.write(self.names[peer], {"type": "raft", "frame": frame})

    def request(self, peer: PeerId, msg: Any, key: Hashable, timeout: float) -> None:
        raise LocalProtocolError("raft asks no questions of its own")

    def reply(self, token: Token, msg: Any) -> None:
        raise LocalProtocolError("raft asks no questions of its own")

    def connect(self, peer: PeerId) -> None:
        """Maelstrom's network is always there."""

    def disconnect(self, peer: PeerId, reason: str = "") -> None:
        """Maelstrom's network is always there."""

    def save(self, key: str, value: bytes | None) -> None:
        if value is None:
            self.records.pop(key, None)
        else:
            self.records[key] = value

    def load(self, key: str) -> bytes | None:
        return self.records.get(key)

    def saved(self, prefix: str = "") -> tuple[str, ...]:
        return tuple(sorted(key for key in self.records if key.startswith(prefix)))

    def sign(self, data: bytes) -> bytes:
        raise LocalProtocolError("raft signs nothing")

    def set_timer(self, key: Hashable, delay: float) -> None:
        self.cancel_timer(key)
        self._timers[key] = self._loop.call_later(delay, self._fire, key)

    def cancel_timer(self, key: Hashable) -> None:
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()

    def emit(self, event: Event) -> None:
        self._events.append(event)

    def _fire(self, key: Hashable) -> None:
        self._timers.pop(key, None)
        self.machine.on_timer(self, key)
        self._settle()


async def serve(lines: asyncio.StreamReader, out: IO[str]) -> None:
    """Until the input ends."""
    node: Node | None = None
    while line := await lines.readline():
        message = json.loads(line)
        body = message["body"]
        if body["type"] == "init":
            node = Node(body["node_id"], body["node_ids"], out)
            node.answer(message["src"], body, type="init_ok")
        elif node is not None:
            node.receive(message)


async def main() -> None:
    lines = asyncio.StreamReader(limit=8 << 20)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin
    )
    await serve(lines, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main())

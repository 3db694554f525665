"""Ordered messages between a machine and its peers: one long-lived stream per side and protocol.

Each side opens a stream of its own to write on and reads from the one the remote opened, as
gossipsub does, so neither side ever waits for the other to open. A message is one frame: its length
as an unsigned varint, then its body. What a machine sends during one turn of the event loop leaves
in one write per peer.

Invariants:
1. Messages of one machine to one peer leave, and messages from one peer reach one machine, in order,
   also when some of them carry proofs that have to be verified first. What the spec calls urgent leaves
   ahead of what is not.
2. A frame longer than the codec's max_size is refused when its length is read, before its body.
3. What waits for a peer is bounded by the spec's `queue` messages and by QUEUE_BYTES; what waits for
   its turn with us is bounded by the stream's window, since credit returns only afterwards.
4. A machine that holds a peer keeps its stream open: the remote can see that it is wanted.
5. A stream that was lost while its connection lives is opened anew (at most once in REOPEN seconds), and
   the machine hears of the peer again: the remote may have forgotten what it was told, as js does.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

from grove_core import host, varint
from grove_core.drive.proofs import Checks
from grove_core.drive.turns import Turns
from grove_core.errors import GroveError, RemoteProtocolError
from grove_core.identity import short
from grove_core.machine import PeerId, Terms
from grove_core.node import Slot
from grove_core.transport import (
    PROTOCOL_VIOLATION,
    RESOURCE_LIMIT_EXCEEDED,
    Connection,
    ProtocolNotSupported,
    Stream,
)

log = logging.getLogger("grove.links")

QUEUE_BYTES = 4 * 1024 * 1024
"""Bytes that may wait for one peer on one protocol, whatever the number of messages. Guess: a
residential line moves this much in some seconds, and 64 such peers fit a small machine."""

WRITE_AHEAD = 256 * 1024
"""Bytes a stream may have buffered before we keep further frames in our own queue."""

INBOUND_STREAMS = 2
"""Streams one peer may have open to one machine's protocols; a further one takes the oldest's place."""

REOPEN = 1.0
"""Seconds between two attempts to open a stream that keeps getting lost."""

AT_ONCE = 64
"""Messages of one arrival that are delivered at once; further ones take turns with other peers."""

A_TURN = 16
"""Messages of one turn; a message with proofs is a turn of its own (a signature costs 95 µs), unless all
of them are known to hold: of five copies that gossip brings, four cost nothing of that."""

AT_LAST = 256
"""Messages of one stream that are still delivered when its connection is lost."""

STREAM_LIMIT = 0x1002
STREAM_VIOLATION = 0x1004
"""libp2p's codes for stream resets (`libp2p-wire.md` 2.8)."""


class Swarm(Protocol):
    """What messages need of the connections."""

    def best(self, peer: PeerId) -> Connection | None: ...
    def speaks(self, peer: PeerId) -> frozenset[str] | None: ...
    def reach(self, peer: PeerId) -> asyncio.Future[Connection]: ...
    def touch(self, peer: PeerId) -> None: ...
    def close_peer(self, peer: PeerId, code: int, reason: str) -> None: ...
    def is_holding(self, peer: PeerId, holder: object) -> bool: ...


Deliver = Callable[[PeerId, Any], None]
"""Hands an authenticated message to its machine."""

Forged = Callable[[PeerId, Any, tuple[int, ...]], None]
"""Hands a message to a machine that wants to know which of its proofs do not hold."""

Renewed = Callable[[PeerId], None]
"""Tells a machine that its stream to a peer was lost and is open again."""


def common(candidates: Sequence[str], spoken: frozenset[str] | None) -> list[str]:
    """Which protocols to propose, best first: all of them if we do not know what the remote speaks."""
    if spoken is None:
        return list(candidates)
    for candidate in candidates:
        if candidate in spoken:
            return [candidate]  # one candidate: negotiated lazily, without a round trip
    return []


class Links:
    """The message streams of all machines of a node."""

    def __init__(self, swarm: Swarm, counters: Counter[str]) -> None:
        self.swarm = swarm
        self.counters = counters
        self.checks = Checks()
        self.turns = Turns()
        self._loop = asyncio.get_running_loop()
        self._dirty: list[_Out] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def lane(self, slot: Slot, deliver: Deliver, forged: Forged, renewed: Renewed) -> Lane:
        """The streams of one machine."""
        return Lane(self, slot, deliver, forged, renewed)

    def mark(self, out: _Out) -> None:
        """Something waits: write it when this turn of the loop is over."""
        if not self._dirty:
            self._loop.call_soon(self.flush)
        self._dirty.append(out)

    def flush(self) -> None:
        """Write what was sent during this turn."""
        dirty, self._dirty = self._dirty, []
        for out in dirty:
            out.is_dirty = False
            out.flush()

    def spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Stop opening streams; what waits is dropped."""
        self._dirty = []
        for task in self._tasks:
            task.cancel()


class Lane:
    """One machine's streams to and from all its peers."""

    def __init__(
        self, links: Links, slot: Slot, deliver: Deliver, forged: Forged, renewed: Renewed
    ) -> None:
        self.links = links
        self.slot = slot
        self.spec = slot.spec
        self.deliver = deliver
        self.forged = forged
        self.renewed = renewed
        self.has_proofs = slot.spec.proofs is not None or bool(slot.part.hosted)
        self.is_open = True
        self._outs: dict[PeerId, _Out] = {}
        self._ins: dict[PeerId, list[_In]] = {}
        self.sent = f"sent.{slot.name}"
        self.received = f"received.{slot.name}"

    def send(self, peer: PeerId, frame: bytes, is_urgent: bool = False) -> None:
        """Queue a frame; see the spec's `overflow` for what happens when there is no room."""
        out = self._outs.get(peer)
        if out is None:
            out = self._outs[peer] = _Out(self, peer)
        if len(out.queue) >= self.spec.queue or out.size + len(frame) > out.most:
            self._overflow(peer)
            return
        if is_urgent and out.queue:
            out.queue.insert(out.urgent, frame)
            out.urgent += 1
        else:
            out.queue.append(frame)
            out.urgent += is_urgent
        out.size += len(frame)
        if not out.is_dirty:
            out.is_dirty = True
            self.links.mark(out)

    def open(self, peer: PeerId) -> None:
        """Open our stream to a peer before there is anything to say (invariant 4)."""
        if not self.spec.protocols:
            return
        out = self._outs.get(peer)
        if out is None:
            out = self._outs[peer] = _Out(self, peer)
        out.flush(eager=True)

    def terms(self, peer: PeerId) -> Terms:
        """What our stream to a peer speaks, or will propose, and who dialled whom from where."""
        swarm = self.links.swarm
        connection = swarm.best(peer)
        if connection is None:
            return Terms()
        out = self._outs.get(peer)
        spoken = swarm.speaks(peer)
        if out is not None and out.stream is not None:
            protocol = out.stream.protocol
        elif spoken is None:
            protocol = ""
        else:
            protocol = next(iter(common(self.spec.protocols, spoken)), "")
        remote = connection.remote
        host = "" if remote.is_circuit else remote.value("ip4") or remote.value("ip6") or ""
        return Terms(protocol, not connection.inbound, host)

    def accept(self, stream: Stream) -> None:
        """The remote opened its stream to us."""
        peer = stream.connection.peer
        if not self.is_open:
            stream.reset(STREAM_LIMIT)
            return
        ins = self._ins.setdefault(peer, [])
        if len(ins) >= INBOUND_STREAMS:
            self.links.counters["refused.streams"] += 1
            oldest = ins.pop(0)  # the newest is the one the remote writes on
            oldest.finish()
            oldest.stream.reset(STREAM_LIMIT)
        link = _In(self, peer, stream)
        ins.append(link)
        stream.attach(link)

    def lost(self, peer: PeerId) -> None:
        """The last connection to a peer is gone: deliver what came, forget what did not leave."""
        for link in tuple(self._ins.get(peer, ())):
            link.finish()
        out = self._outs.pop(peer, None)
        if out is not None:
            out.drop("lost")

    def sweep(self, now: float, idle: float) -> None:
        """Finish streams to peers that the machine does not hold and has not written to for long."""
        for peer, out in tuple(self._outs.items()):
            if (
                out.stream is not None
                and not out.queue
                and now - out.used >= idle
                and not self.links.swarm.is_holding(peer, self.slot.name)
            ):
                del self._outs[peer]
                out.finish()

    def close(self) -> None:
        """The machine is gone: reset everything."""
        self.is_open = False
        for out in self._outs.values():
            out.drop("stopped")
            if out.stream is not None:
                out.stream.reset()
        self._outs = {}
        for ins in tuple(self._ins.values()):
            for link in tuple(ins):
                link.stream.reset()
        self._ins = {}

    @property
    def is_quiet(self) -> bool:
        """Whether everything sent has left, as far as the streams can tell."""
        return not any(out.queue or out.buffered for out in self._outs.values())

    def _overflow(self, peer: PeerId) -> None:
        self.links.counters["dropped.queue"] += 1
        if self.spec.overflow == "disconnect":
            reason = f"{self.slot.name}: more than {self.spec.queue} messages wait for this peer"
            self.links.swarm.close_peer(peer, RESOURCE_LIMIT_EXCEEDED, reason)

    def forget_in(self, link: _In) -> None:
        ins = self._ins.get(link.peer)
        if ins is not None and link in ins:
            ins.remove(link)
            if not ins:
                del self._ins[link.peer]

    def forget_out(self, out: _Out) -> None:
        if self._outs.get(out.peer) is out:
            del self._outs[out.peer]


class _Out:
    """Our stream to one peer, and what waits for it. The stream's `Sink`: nothing should come back."""

    __slots__ = (
        "is_busy",
        "is_dirty",
        "is_lost",
        "lane",
        "most",
        "opened",
        "peer",
        "queue",
        "size",
        "stream",
        "urgent",
        "used",
    )

    def __init__(self, lane: Lane, peer: PeerId) -> None:
        self.lane = lane
        self.peer = peer
        self.queue: deque[bytes] = deque()
        self.urgent = 0  # frames at its head that are
        self.size = 0
        codec = lane.spec.codec
        self.most = QUEUE_BYTES + (codec.max_size + varint.MAX_BYTES if codec is not None else 0)
        self.stream: Stream | None = None
        self.is_dirty = False
        self.is_busy = False  # a task opens the stream or waits for room in it
        self.is_lost = False  # a stream was, and no other has been opened since
        self.opened = 0.0
        self.used = 0.0

    def flush(self, *, eager: bool = False) -> None:
        """Write what waits, if the stream has room; open the stream if there is none."""
        if self.is_busy or not (self.queue or eager):
            return
        links = self.lane.links
        if self.stream is None:
            self.is_busy = True
            links.spawn(self._open())
        elif self.queue:
            self._write(self.stream)

    def _write(self, stream: Stream) -> None:
        lane, queue = self.lane, self.queue
        self.used = lane.links._loop.time()
        try:
            while queue:
                if stream.buffered > WRITE_AHEAD:
                    self.is_busy = True
                    lane.links.spawn(self._drain(stream))
                    return
                if self.size <= WRITE_AHEAD:
                    count = len(queue)
                    data = queue[0] if count == 1 else b"".join(queue)
                    queue.clear()
                    self.size = self.urgent = 0
                else:
                    count, data = 1, queue.popleft()
                    self.size -= len(data)
                    self.urgent = max(self.urgent - 1, 0)
                stream.write(data)
                lane.links.counters[lane.sent] += count
        except GroveError as error:
            self.stream_lost(error)

    async def _drain(self, stream: Stream) -> None:
        with suppress(GroveError, TimeoutError):  # stream_lost tells
            await stream.drain()
        self.is_busy = False
        if self.stream is stream and self.queue:
            self._write(stream)

    async def _open(self) -> None:
        """Get a connection and a stream; what waits leaves on it, or is dropped."""
        lane, links = self.lane, self.lane.links
        try:
            wait = self.opened + REOPEN - links._loop.time()
            if self.opened and wait > 0:
                await asyncio.sleep(wait)
            connection = links.swarm.best(self.peer)
            if self.is_lost and not self.queue and connection is None:
                self.is_busy = False
                lane.forget_out(self)  # the connection went too; nobody is dialled for that
                return
            if connection is None or links.swarm.speaks(self.peer) is None:
                connection = await asyncio.shield(links.swarm.reach(self.peer))
            proposed = common(lane.spec.protocols, links.swarm.speaks(self.peer))
            if not proposed:
                raise ProtocolNotSupported(f"{short(self.peer)} does not speak {lane.slot.name}")
            stream = await connection.open_stream(proposed)
        except (GroveError, TimeoutError, OSError) as error:
            self.is_busy = False
            unsupported = isinstance(error, ProtocolNotSupported)
            self.drop("unsupported" if unsupported else "unreachable")
            lane.forget_out(self)
            return
        except Exception:  # a transport broke its word; its peer must not be stuck for it
            log.exception("opening a stream to %s", short(self.peer))
            self.is_busy = False
            self.drop("unreachable")
            lane.forget_out(self)
            return
        self.is_busy = False
        if not lane.is_open or lane._outs.get(self.peer) is not self:
            stream.reset()  # the machine or the peer went while we waited
            return
        self.stream = stream
        self.opened = self.used = links._loop.time()
        stream.attach(self)
        if self.is_lost and self.stream is stream:
            self.is_lost = False
            lane.renewed(self.peer)
        if self.queue and self.stream is stream:
            self._write(stream)

    @property
    def buffered(self) -> int:
        """Bytes that the stream has taken and that have not left."""
        return 0 if self.stream is None else self.stream.buffered

    def finish(self) -> None:
        """End the stream in order."""
        if self.stream is not None:
            stream, self.stream = self.stream, None
            stream.close_write()

    def drop(self, why: str) -> None:
        if self.queue:
            self.lane.links.counters[f"dropped.{why}"] += len(self.queue)
            self.queue.clear()
            self.size = self.urgent = 0

    def data_received(self, data: bytes) -> None:
        pass  # not ours to read; no credit is given back, so little of it can come

    def eof_received(self) -> None:
        pass  # the remote says nothing on this stream, as agreed

    def stream_lost(self, error: GroveError | None) -> None:
        """Frames that were written are lost; those that wait go on a new stream, if there is one."""
        self.stream = None
        if isinstance(error, ProtocolNotSupported):
            self.drop("unsupported")
            self.lane.forget_out(self)
            return
        self.is_lost = True
        links = self.lane.links
        if (
            self.lane.is_open
            and not self.is_busy
            and self.lane._outs.get(self.peer) is self
            and links.swarm.best(self.peer) is not None
        ):
            self.is_busy = True
            links.spawn(self._open())


class _In:
    """The remote's stream to us, as its `Sink`: bytes in, messages out."""

    __slots__ = (
        "_at", "_buffer", "_held", "_is_lost", "_later", "_need", "_owed", "_read", "is_waiting", "lane",
        "peer", "stream",
    )  # fmt: skip

    def __init__(self, lane: Lane, peer: PeerId, stream: Stream) -> None:
        self.lane = lane
        self.peer = peer
        self.stream = stream
        self.is_waiting = False  # for its turn
        self._buffer = b""
        self._at = 0  # where in the buffer the next frame begins
        self._later: list[bytes] = []  # what came behind the buffer
        self._held = 0  # bytes from _at on, in the buffer and behind it
        self._need = 0  # bytes of the next frame, as far as we know them
        self._owed = 0  # bytes that came and for which no credit was given back
        self._read: Any = None  # the next frame's message, whose proofs wait for their turn
        self._is_lost = False

    def data_received(self, data: bytes) -> None:
        self._owed += len(data)
        if not self._held:  # nothing is left of what came before: the common case
            self._buffer, self._at = data, 0
            self._held = len(data)
        else:
            self._held += len(data)
            self._later.append(data)
        if self.is_waiting:
            return
        if self._held < self._need:
            self._give_back()
        elif self.lane.has_proofs or self.work(
            AT_ONCE, with_proofs=False
        ):  # proofs wait for a turn anyway
            self.is_waiting = True
            self.lane.links.turns.add(self)

    def step(self) -> bool:
        """See `turns.Worker`."""
        self.is_waiting = self.work(A_TURN, with_proofs=True)
        if not self.is_waiting and self._is_lost:
            self.lane.forget_in(self)
        return self.is_waiting

    def work(self, count: int, *, with_proofs: bool, each: int = A_TURN) -> bool:
        """Deliver up to count messages; whether there is more to do now.

        One that carries proofs to check counts as `each`; without with_proofs it ends the work.
        """
        lane = self.lane
        codec = lane.spec.codec
        assert codec is not None, f"{lane.slot.name} has protocols but no codec"
        is_more = lane.is_open
        try:
            while is_more and count:
                data, at = self._buffer, self._at
                if at < len(data) and data[at] < 0x80:
                    size, start = data[at], at + 1
                elif (found := header(data, at)) is not None:
                    size, start = found
                else:
                    self._need = 0
                    is_more = self._refill()
                    continue
                if size > codec.max_size:
                    raise RemoteProtocolError(f"frame of {size} bytes; limit {codec.max_size}")
                if len(data) - start < size:
                    self._need = start - at + size
                    is_more = self._refill()
                    continue
                msg = self._read
                if msg is None:
                    msg = codec.decode(data[start : start + size])
                bad: tuple[int, ...] = ()
                if lane.has_proofs and (proofs := tuple(host.proofs(lane.slot.part, msg))):
                    checks = lane.links.checks
                    if not all(map(checks.knows, proofs)):
                        if not with_proofs or count < each:
                            self._read = msg
                            break
                        count -= each - 1
                        bad = tuple(n for n, proof in enumerate(proofs) if not checks.holds(proof))
                    if bad:
                        lane.links.counters["refused.forged"] += 1
                        if lane.spec.forged == "disconnect":
                            raise RemoteProtocolError(
                                f"a {type(msg).__name__} whose signature does not hold"
                            )
                self._read = None
                self._at = start + size
                self._held -= self._at - at
                self._need = 0  # the next frame may be smaller
                count -= 1
                lane.links.counters[lane.received] += 1
                if bad:
                    lane.forged(self.peer, msg, bad)
                else:
                    lane.deliver(self.peer, msg)
                if not lane.is_open:
                    return False
        except RemoteProtocolError as error:
            self.violated(f"{lane.slot.name}: {error}")
            return False
        except Exception:  # the codec broke its word to raise nothing else; the bytes are still theirs
            log.exception("the codec of %s failed", lane.slot.name)
            self.violated(f"{lane.slot.name}: its codec failed")
            return False
        lane.links.swarm.touch(self.peer)
        self._give_back(self._held if is_more else 0)
        return is_more and self._held > 0

    def _refill(self) -> bool:
        """Join what came to what is left, if that may complete a frame."""
        if not self._later or self._held < self._need:
            return False
        rest = self._buffer[self._at :]
        self._buffer = b"".join((rest, *self._later)) if rest or len(self._later) > 1 else self._later[0]
        self._at = 0
        self._later = []
        return True

    def _give_back(self, kept: int = 0) -> None:
        """Give credit for all that came but the last so many bytes, which wait for their turn."""
        if self._owed > kept:
            owed, self._owed = self._owed - kept, kept
            self.stream.grant(owed)

    def violated(self, reason: str) -> None:
        """The remote broke the protocol: what it still says is of no interest."""
        self._forget()
        lane = self.lane
        lane.links.counters["refused.message"] += 1
        log.warning("%s sent what it may not: %s", short(self.peer), reason)
        lane.forget_in(self)
        self.stream.reset(STREAM_VIOLATION)
        lane.links.swarm.close_peer(self.peer, PROTOCOL_VIOLATION, reason)

    def eof_received(self) -> None:
        self.stream.close_write()

    def stream_lost(self, error: GroveError | None) -> None:
        self._is_lost = True
        if not self.is_waiting:
            self.lane.forget_in(self)

    def finish(self) -> None:
        """The connection is gone: deliver what came, within reason."""
        self.work(AT_LAST, with_proofs=True, each=1)
        self._forget()
        self.lane.forget_in(self)

    def _forget(self) -> None:
        self._buffer, self._later, self._read = b"", [], None
        self._at = self._held = self._need = self._owed = 0


def header(data: bytes, at: int) -> tuple[int, int] | None:
    """The varint at an offset, and the offset behind it; None if it is cut short."""
    rest = len(data) - at
    if rest and data[at] < 0x80:
        return data[at], at + 1
    if rest < varint.MAX_BYTES and all(byte & 0x80 for byte in data[at:]):
        return None
    return varint.decode(data, at)

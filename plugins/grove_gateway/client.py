"""A program's side of the local door, in asyncio; `Blocking` is the same for scripts without a loop.

    async with Client("~/.local/share/grove") as door:
        await door.publish("village", b"hello")
        async with door.subscribe("village") as events:
            async for event in events:
                print(event["author"], event["data"])

Replies and events are plain maps; `verbs.py` says what is in them. When the node ends, everything
that waits here ends at once with NotRunning: nothing hangs on a dead node.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

from grove_core.errors import GroveError, NotRunning, RemoteProtocolError, Unreachable
from grove_gateway import frames
from grove_gateway.place import find

HELLO: Final = 5.0  # s until a node that does not answer is given up
PATIENCE: Final = 90.0  # s until an answer is given up; the node itself gives up after 60
BACKLOG: Final = 1024  # events a subscription keeps for a slow reader


class DoorError(GroveError):
    """The node answered ERROR. code: the machine-readable word; exit_code: as the shell reports it."""

    def __init__(self, code: str, text: str, exit_code: int = 1) -> None:
        super().__init__(text)
        self.code = code
        self.exit_code = exit_code


class Busy(GroveError):
    """The node answered BUSY: a bound is reached. Ask again after retry seconds."""

    def __init__(self, limit: str, bound: int, retry: float) -> None:
        super().__init__(
            f"the node is busy: {bound} {limit} are open, its limit; try again in {retry:g} s"
        )
        self.limit, self.bound, self.retry = limit, bound, retry


class Client:
    """One connection to the door of the node at a data folder. Use as an async context manager."""

    def __init__(self, data: Path | str) -> None:
        self.data = Path(data).expanduser().absolute()
        self.node: dict[str, Any] = {}
        """What the node said to `hello`: version, peer, agent, verbs."""
        self._serial = 0
        self._waiting: dict[bytes, asyncio.Future[dict[str, Any]]] = {}
        self._subscriptions: dict[bytes, Subscription] = {}
        self._over: GroveError | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._context: zmq.asyncio.Context | None = None
        self._socket: zmq.asyncio.Socket

    async def open(self) -> None:
        """Connect and say hello. Raises NotRunning at once if no node is behind the door."""
        note = find(self.data)
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RECONNECT_IVL, -1)  # a node that comes back is another life
        self._socket.setsockopt(zmq.MAXMSGSIZE, frames.MAX_BODY)
        monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED)
        self._socket.connect(note.endpoint)
        self._tasks = [
            asyncio.create_task(self._read(), name="door answers"),
            asyncio.create_task(self._watch(monitor), name="door life"),
        ]
        try:
            self.node = await self.request("hello", timeout=HELLO)
        except TimeoutError:
            await self.close()
            raise NotRunning(
                f"the node at {self.data} (process {note.pid}) holds its door but has not answered "
                f"for {HELLO:g} s; it is stopped or overloaded"
            ) from None
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """End the connection; whatever still waits ends with NotRunning. Idempotent."""
        self._finish(NotRunning(f"the connection to the node at {self.data} was closed"))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        if self._context is not None:
            self._socket.disable_monitor()
            self._socket.close()
            self._context.destroy(linger=0)
            self._context = None

    async def __aenter__(self) -> Client:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def request(
        self, verb: str, body: dict[str, Any] | None = None, *, timeout: float = PATIENCE
    ) -> dict[str, Any]:
        """The node's answer to a verb. timeout: seconds.

        Raises Busy, DoorError (Unreachable when that is the code), NotRunning, or TimeoutError.
        """
        answer, _ = await self._ask(verb, body or {}, timeout)
        return answer

    def subscribe(self, *topics: str, events: tuple[str, ...] = ()) -> Subscription:
        """Events of these topics, and other events by name: "connected", "neighbor_up" …"""
        return Subscription(self, topics, events)

    async def publish(self, topic: str, data: bytes) -> str:
        """Publish to all subscribers of a topic in the village; the message's id in hex."""
        answer = await self.request("publish", {"topic": topic, "data": data})
        return str(answer["id"])

    async def status(self) -> dict[str, Any]:
        return await self.request("status")

    async def peers(self) -> list[dict[str, Any]]:
        """One map per connected peer: path, transport, rtt_ms, agent, link …"""
        rows: list[dict[str, Any]] = (await self.request("peers"))["peers"]
        return rows

    async def links(self) -> dict[str, list[str]]:
        """Peers by the kind of broadcast link: {"eager": […], "lazy": […]}."""
        links: dict[str, list[str]] = (await self.request("links"))["links"]
        return links

    async def ping(self, peer: str) -> dict[str, Any]:
        return await self.request("ping", {"peer": peer})

    async def ticket(self) -> str:
        return str((await self.request("ticket"))["ticket"])

    async def join(self, ticket: str) -> dict[str, Any]:
        return await self.request("join", {"ticket": ticket})

    async def connect(self, target: str) -> dict[str, Any]:
        return await self.request("connect", {"target": target})

    async def disconnect(self, peer: str) -> dict[str, Any]:
        return await self.request("disconnect", {"peer": peer})

    async def _ask(
        self,
        verb: str,
        body: dict[str, Any],
        timeout: float,
        prepare: Callable[[bytes], None] | None = None,
    ) -> tuple[dict[str, Any], bytes]:
        if self._over is not None:
            raise self._over
        self._serial += 1
        id = self._serial.to_bytes(8, "big")
        parts = frames.encode_request(id, verb, body)
        if prepare is not None:
            prepare(id)
        self._waiting[id] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout):
                await self._socket.send_multipart(parts)
                return await self._waiting[id], id
        finally:
            self._waiting.pop(id, None)

    async def _read(self) -> None:
        while True:
            parts = await self._socket.recv_multipart()
            try:
                self._take(frames.decode_answer(parts))
            except RemoteProtocolError as error:
                self._finish(error)
                return

    def _take(self, answer: frames.Answer) -> None:
        subscription = self._subscriptions.get(answer.id)
        if answer.kind in ("EVENT", "ALIVE", "END"):
            if subscription is not None:
                subscription._take(answer)
            return
        waiting = self._waiting.get(answer.id)
        if waiting is None or waiting.done():
            return
        if answer.kind == "OK":
            waiting.set_result(answer.body)
        elif answer.kind == "BUSY":
            waiting.set_exception(_busy(answer.body))
        else:
            waiting.set_exception(_error(answer.body))

    async def _watch(self, monitor: zmq.asyncio.Socket) -> None:
        """Without this, ZeroMQ would quietly wait for a dead node to come back."""
        await recv_monitor_message(monitor)
        for _ in range(BACKLOG):  # what the node said last is read first
            if not await self._socket.poll(0):
                break
            await asyncio.sleep(0)
        self._finish(NotRunning(f"the node at {self.data} has stopped"))

    def _finish(self, error: GroveError) -> None:
        self._over = self._over or error
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(error)
        for subscription in list(self._subscriptions.values()):
            subscription._finish(error)


class Subscription:
    """Events as they come: `async with door.subscribe("village") as events: async for event in events`.

    missed: events lost so far, by the gaps in their numbers. Iteration ends with NotRunning when the
    node does.
    """

    def __init__(self, client: Client, topics: tuple[str, ...], events: tuple[str, ...]) -> None:
        self.missed = 0
        self._client = client
        self._ask = {"topics": topics, "events": events}
        self._id = b""
        self._seq = 0
        self._events: deque[dict[str, Any]] = deque()
        self._arrived = asyncio.Event()
        self._over: GroveError | None = None

    async def __aenter__(self) -> Subscription:
        await self._client._ask("subscribe", self._ask, PATIENCE, self._register)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._over is None and self._client._over is None:
            await self._client.request("unsubscribe", {"subscription": self._id})
        self._client._subscriptions.pop(self._id, None)

    def __aiter__(self) -> Subscription:
        return self

    async def __anext__(self) -> dict[str, Any]:
        return await self.next()

    async def next(self) -> dict[str, Any]:
        """The next event; waits without bound (use asyncio.timeout). Raises NotRunning at the end."""
        while not self._events:
            if self._over is not None:
                raise self._over
            self._arrived.clear()
            await self._arrived.wait()
        return self._events.popleft()

    def _register(self, id: bytes) -> None:
        """Before the request leaves: the first event may come with the answer."""
        self._id = id
        self._client._subscriptions[id] = self

    def _take(self, answer: frames.Answer) -> None:
        seq = answer.body.get("seq")
        if not isinstance(seq, int):
            raise RemoteProtocolError(f"{answer.kind} without its number")
        expected = self._seq + (answer.kind == "EVENT")
        self.missed += max(0, seq - expected)
        self._seq = seq
        if answer.kind == "EVENT":
            if len(self._events) < BACKLOG:
                self._events.append(answer.body)
                self._arrived.set()
            else:
                self.missed += 1
        elif answer.kind == "END":
            self._finish(NotRunning(f"the node ended the subscription: {answer.body.get('reason', '')}"))

    def _finish(self, error: GroveError) -> None:
        self._over = self._over or error
        self._arrived.set()


class Blocking:
    """The same door for programs without an event loop: `with Blocking(data) as door: …`."""

    def __init__(self, data: Path | str) -> None:
        self._client = Client(data)
        self._runner = asyncio.Runner()

    def __enter__(self) -> Blocking:
        try:
            self._runner.run(self._client.open())
        except BaseException:
            self._runner.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.run(self._client.close())
        self._runner.close()

    def request(self, verb: str, body: dict[str, Any] | None = None, *, timeout: float = PATIENCE) -> Any:
        return self._runner.run(self._client.request(verb, body, timeout=timeout))

    def publish(self, topic: str, data: bytes) -> str:
        return self._runner.run(self._client.publish(topic, data))

    @contextmanager
    def subscribe(self, *topics: str, events: tuple[str, ...] = ()) -> Iterator[Iterator[dict[str, Any]]]:
        """`with door.subscribe("village") as events: for event in events: …`"""
        subscription = self._client.subscribe(*topics, events=events)
        self._runner.run(subscription.__aenter__())
        try:
            yield iter(lambda: self._runner.run(subscription.next()), None)
        finally:
            self._runner.run(subscription.__aexit__(None, None, None))


def _error(body: dict[str, Any]) -> GroveError:
    code, text, exit_code = body.get("code"), body.get("text"), body.get("exit")
    if code == "unreachable":
        return Unreachable(str(text))
    return DoorError(str(code), str(text), exit_code if isinstance(exit_code, int) else 1)


def _busy(body: dict[str, Any]) -> Busy:
    bound, retry = body.get("bound"), body.get("retry_ms")
    return Busy(
        str(body.get("limit")),
        bound if isinstance(bound, int) else 0,
        retry / 1000 if isinstance(retry, int) else 0.1,
    )

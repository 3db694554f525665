"""The machine's companion: carries what it asks to the cluster, and brings what the cluster says.

It decides nothing but where to ask. One endpoint is used until it fails; what could not even be sent
is tried at each of the others, and what was sent is not: whether it took place is unknown, and what
to do about that is the machine's business. Everything the machine asked is answered once.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from contextlib import aclosing
from pathlib import Path
from typing import Any

from grove_consensus_etcd import wire
from grove_consensus_etcd.api import Answer, Ended, Failed, Heard, Request
from grove_consensus_etcd.config import Config
from grove_consensus_etcd.events import Asked, Watched
from grove_consensus_etcd.http import Connection, Header
from grove_core.errors import GroveError, RemoteProtocolError
from grove_core.roles import Consensus
from grove_core.service import LiveNode

log = logging.getLogger("grove.etcd")

BACKLOG = 65_536
"""Requests of the machine that may wait for the event loop. The machine has far fewer open."""

FAREWELL = 0.5
"""Seconds for giving up the leader's lease when the node stops."""


class Link:
    """A `grove_core.specs.Service`."""

    def __init__(self, node: LiveNode, handle: Consensus) -> None:
        self._node = node
        self._handle = handle
        self.config: Config = handle.machine.config
        self._at = sum(node.peer) % len(self.config.endpoints)  # nodes spread over the members
        self._idle: dict[str, list[Connection]] = {}
        self._tls: ssl.SSLContext | None = None
        self._token = ""
        self._login = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._pump: asyncio.Task[None] | None = None

    # A life.

    async def start(self) -> None:
        """Begins to listen to the machine. An unreachable cluster is no reason not to start."""
        if any(endpoint.startswith("https:") for endpoint in self.config.endpoints):
            try:
                self._tls = ssl.create_default_context(cafile=self.config.ca_file or None)
            except (OSError, ssl.SSLError) as error:
                raise GroveError(f"plugins.etcd.ca_file {self.config.ca_file!r}: {error}") from None
        ready = asyncio.Event()
        self._pump = asyncio.create_task(self._listen(ready))
        await ready.wait()
        self._handle.call(lambda machine, ctx: machine.linked(ctx))

    async def stop(self) -> None:
        """Gives up what the machine holds in etcd, as far as that works at once."""
        try:
            last = self._handle.call(lambda machine, ctx: machine.unlinked(ctx))
        except GroveError:
            last = None
        if last is not None:
            try:
                async with asyncio.timeout(FAREWELL):
                    await self._carry(last)
            except TimeoutError:
                log.info("etcd was not told that this node leads no longer; the lease will run out")
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.gather(self._pump, return_exceptions=True)

    async def _listen(self, ready: asyncio.Event) -> None:
        try:
            async with self._node.watch(Asked, Watched, limit=BACKLOG) as events:
                ready.set()
                async for event in events:
                    if isinstance(event, Asked):
                        self._spawn(self._answer(event))
                    elif isinstance(event, Watched):
                        self._rewatch(event)
        finally:
            tasks = list(self._tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for connections in self._idle.values():
                for connection in connections:
                    await connection.close()

    def _spawn(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            if isinstance(error, GroveError):
                log.info("the machine does not listen: %s", error)  # the node is stopping
            else:
                log.error("a request to etcd came to a bad end", exc_info=error)

    # Requests.

    async def _answer(self, asked: Asked) -> None:
        answer = await self._carry(asked.request)
        self._handle.call(lambda machine, ctx: machine.answered(ctx, asked.number, answer))

    async def _carry(self, request: Request) -> Answer:
        path, body = wire.encode(request)
        status, told = await self._post(path, body, is_known=False)
        if isinstance(told, Failed):
            return told
        if status == 200:
            try:
                return wire.decode(request, told)
            except RemoteProtocolError as error:
                return Failed("unknown", str(error))
        failed, code = wire.failure(status, told)
        if code == wire.WRONG_USER and self.config.user:
            self._token = ""  # forgotten by etcd; the machine asks again
            return Failed("unknown", failed.reason)
        if failed.kind == "unknown":
            self._pass_over(self._endpoint)  # it has no leader, perhaps
        return failed

    @property
    def _endpoint(self) -> str:
        return self.config.endpoints[self._at]

    def _pass_over(self, endpoint: str) -> None:
        """Ask another member from now on, unless that was decided already."""
        if endpoint == self._endpoint:
            self._at = (self._at + 1) % len(self.config.endpoints)
            for connection in self._idle.pop(endpoint, []):
                connection.abort()

    async def _post(self, path: str, body: bytes, *, is_known: bool) -> tuple[int, bytes | Failed]:
        """Status and body from the first endpoint that can be sent to."""
        problems: list[str] = []
        for _ in self.config.endpoints:
            endpoint = self._endpoint
            try:
                connection = await self._connect(endpoint)
            except (OSError, TimeoutError) as error:
                problems.append(f"{endpoint}: {_why(error)}")
                self._pass_over(endpoint)
                continue
            try:
                async with asyncio.timeout(self.config.request_timeout):
                    headers = () if is_known else await self._headers()
                    status, told = await connection.post(path, body, wire.MAX_BODY, headers)
            except (OSError, TimeoutError, RemoteProtocolError) as error:
                connection.abort()
                self._pass_over(endpoint)
                return 0, Failed("unknown", f"{endpoint}: {_why(error)}")
            except BaseException:
                connection.abort()
                raise
            if connection.keeps and endpoint == self._endpoint:
                self._idle.setdefault(endpoint, []).append(connection)
            else:
                connection.abort()
            return status, told
        return 0, Failed("unsent", "; ".join(problems))

    async def _connect(self, endpoint: str) -> Connection:
        idle = self._idle.get(endpoint)
        if idle:
            return idle.pop()
        async with asyncio.timeout(self.config.connect_timeout):
            return await Connection.open(endpoint, self._tls)

    async def _headers(self) -> tuple[Header, ...]:
        """Who we are, if etcd wants to know. Raises OSError if it does not believe us."""
        if not self.config.user:
            return ()
        async with self._login:
            if not self._token:
                try:
                    password = Path(self.config.password_file).expanduser().read_text().splitlines()[0]
                except (OSError, UnicodeDecodeError, IndexError):
                    raise OSError(
                        f"plugins.etcd.password_file {self.config.password_file}: not read"
                    ) from None
                path, body = wire.authenticate(self.config.user, password)
                status, told = await self._post(path, body, is_known=True)
                if isinstance(told, Failed):
                    raise OSError(told.reason)
                if status != 200:
                    raise OSError(f"user {self.config.user!r}: {wire.failure(status, told)[0].reason}")
                self._token = wire.decode_token(told)
        return (("Authorization", self._token),)

    # The watch.

    def _rewatch(self, wanted: Watched) -> None:
        if self._watch is not None and not self._watch.done():
            self._watch.cancel()
            self._pass_over(self._endpoint)  # it kept silent
        self._watch = self._spawn(self._follow(wanted))

    async def _follow(self, wanted: Watched) -> None:
        number, endpoint = wanted.number, self._endpoint
        path, body = wire.watch(wanted.key, wanted.end, wanted.revision)
        over = Ended(f"{endpoint}: the watch ended")
        connection: Connection | None = None
        try:
            async with asyncio.timeout(self.config.request_timeout):
                headers = (*await self._headers(), wire.HAS_LEADER)
                connection = await Connection.open(endpoint, self._tls)
            async with aclosing(connection.lines(path, body, wire.MAX_BODY, headers)) as lines:
                async for status, line in lines:
                    if status != 200:
                        over = Ended(f"{endpoint}: {wire.failure(status, line)[0].reason}")
                        break
                    told = wire.decode_watch(line, wanted.key, wanted.end)
                    if isinstance(told, Ended):
                        over = Ended(f"{endpoint}: {told.reason}", told.compacted)
                        break
                    if told is not None:
                        self._hand(number, told)
        except (OSError, TimeoutError, RemoteProtocolError) as error:
            over = Ended(f"{endpoint}: {_why(error)}")
        finally:
            if connection is not None:
                connection.abort()
        if not over.compacted:
            self._pass_over(endpoint)
        self._handle.call(lambda machine, ctx: machine.ended(ctx, number, over))

    def _hand(self, number: int, told: Heard) -> None:
        self._handle.call(lambda machine, ctx: machine.heard(ctx, number, told))


def _why(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ssl.SSLError):
        return error.strerror
    return str(error) or type(error).__name__
